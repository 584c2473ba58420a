"""``comet-async doctor``: is everything ready? Nothing is paid unless ``--paid`` asks for it."""

# ruff: noqa: PLC0415 - aiohttp and all that needs it is imported when the command runs: `--help`
# must be there at once

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from comet_async.cli.console import ACCOUNT, DONE, NOT_DONE, Screen
from comet_async.cli.endpoint import open_endpoint
from comet_async.cli.options import OUTPUT, USUAL_CONNECTION, Connection
from comet_async.cli.runtime import CURRENT
from comet_async.errors import ConfigError

if TYPE_CHECKING:
    from comet_async._tools.doctor import Check

_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "red"}


async def doctor(
    *,
    connection: Connection = USUAL_CONNECTION,
    json: Annotated[
        bool, Parameter(group=OUTPUT, help="One JSON object a line for each check.")
    ] = False,
    paid: Annotated[
        bool, Parameter(help="Buy one small image and see what it proves; asks first.")
    ] = False,
    yes: Annotated[bool, Parameter(help="Agree to --paid beforehand.")] = False,
) -> int:
    """Check everything."""
    from comet_async._tools.doctor import examine, examine_paid
    from comet_async.session import CometSession

    screen = CURRENT.get().screen
    screen.json = json
    problems, account = 0, False
    async with open_endpoint(connection, screen) as endpoint:
        async with aclosing(examine(endpoint.gateway, endpoint.credentials)) as checks:
            async for check in checks:
                problems += check.verdict == "problem"
                account = account or check.account_wide
                _tell(screen, check)
        if yes and not paid:
            msg = "--yes agrees to --paid, which is not there"
            raise ConfigError(msg, hint="give both, or neither")
        paid = paid and not problems and (yes or await _agreed(screen))
        if paid:
            async with (
                CometSession(endpoint.credentials, gateway=endpoint.gateway) as session,
                aclosing(examine_paid(session)) as checks,
            ):
                async for check in checks:
                    problems += check.verdict == "problem"
                    _tell(screen, check)
    verdict = "one image was paid" if paid else "nothing was paid"
    screen.say(f"{problems} to mend" if problems else f"ready; {verdict}")
    if not problems:
        return DONE
    return ACCOUNT if account else NOT_DONE


def _tell(screen: Screen, check: Check) -> None:
    if screen.json:
        text = screen.clean(check.text)
        line = {"check": check.name, "verdict": check.verdict, "text": text, "hint": check.hint}
        screen.emit(line)
        return
    word = f"{check.verdict:<7}"
    screen.say(f"{check.name}: {check.text}", word=word, style=_STYLES[check.verdict])
    if check.hint:
        screen.say(f"        {check.hint}", style="dim")


async def _agreed(screen: Screen) -> bool:
    """Ask before money is spent; where nobody can be asked, the answer is no."""
    from comet_async.requests import EXPAND

    screen.say(f"buying one image, about ${EXPAND.price} by the list (an estimate)")
    if not sys.stdin.isatty():
        screen.say("not bought: nobody can be asked here; --yes agrees beforehand")
        return False
    screen.say("buy it? [y/N]")
    answer = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    return answer.strip().lower() in {"y", "yes"}
