"""``comet-async doctor``: is everything ready? Nothing is paid."""

# ruff: noqa: PLC0415 - aiohttp and all that needs it is imported when the command runs: `--help`
# must be there at once

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

from cyclopts import Parameter

from comet_async.cli.connecting import open_door
from comet_async.cli.invocation import CURRENT
from comet_async.cli.options import OUTPUT, USUAL_CONNECTION, Connection
from comet_async.cli.output import ACCOUNT, DONE, NOT_DONE

_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "red"}


async def doctor(
    *,
    connection: Connection = USUAL_CONNECTION,
    json: Annotated[
        bool, Parameter(group=OUTPUT, help="One JSON object a line for each check.")
    ] = False,
) -> int:
    """Check everything."""
    from comet_async.doctor import examine

    screen = CURRENT.get().screen
    screen.json = json
    problems, account = 0, False
    async with (
        open_door(connection, screen) as door,
        aclosing(examine(door.gateway, door.credentials)) as checks,
    ):
        async for check in checks:
            problems += check.verdict == "problem"
            account = account or check.account_wide
            if json:
                screen.emit(
                    {
                        "check": check.name,
                        "verdict": check.verdict,
                        "text": screen.clean(check.text),
                        "hint": check.hint,
                    }
                )
                continue
            word = f"{check.verdict:<7}"
            screen.say(f"{check.name}: {check.text}", word=word, style=_STYLES[check.verdict])
            if check.hint:
                screen.say(f"        {check.hint}", style="dim")
    screen.say(f"{problems} to mend" if problems else "ready; nothing was paid")
    if not problems:
        return DONE
    return ACCOUNT if account else NOT_DONE
