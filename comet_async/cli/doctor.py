"""``comet-async doctor``: is everything ready? Nothing is billed unless ``--paid`` is given."""

# ruff: noqa: PLC0415 - aiohttp and all that needs it is imported when the command runs: `--help`
# must be there at once

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import attrs
from cyclopts import Parameter

from comet_async.cli.console import ACCOUNT, DONE, NOT_DONE, USAGE, Screen, counted
from comet_async.cli.endpoint import Endpoint, open_endpoint
from comet_async.cli.hints import in_options
from comet_async.cli.options import OUTPUT, USUAL, USUAL_CONNECTION, Connection, General
from comet_async.cli.runtime import CURRENT
from comet_async.cli.settings import own_file
from comet_async.errors import ConfigError, InputError

if TYPE_CHECKING:
    from comet_async._tools.doctor import Check

_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "red"}


async def doctor(
    *,
    connection: Connection = USUAL_CONNECTION,
    json: Annotated[
        bool, Parameter(group=OUTPUT, help="Print one JSON object per line, one for each check.")
    ] = False,
    paid: Annotated[
        bool, Parameter(help="Buy one small image, and see what it proves; asks first.")
    ] = False,
    yes: Annotated[bool, Parameter(help="Confirm --paid in advance.")] = False,
    general: General = USUAL,  # noqa: ARG001 - read by the program before the command runs
) -> int:
    """Check everything."""
    screen = CURRENT.get().screen
    screen.json = json
    if yes and not paid:
        raise ConfigError("--yes confirms --paid, which is missing", hint="give both, or neither")
    examination = _Examination(screen)
    await examination.machine(connection)
    bought = False
    try:
        async with open_endpoint(connection, screen) as endpoint:
            await examination.server(endpoint)
            if paid and not examination.problems and (yes or await _agreed(screen)):
                bought = True
                await examination.paid(endpoint)
    except (ConfigError, InputError) as error:
        examination.refused(error)
    return examination.end(bought=bought)


@attrs.define(eq=False)
class _Examination:
    """Shows checks one by one, and remembers what is wrong."""

    screen: Screen
    problems: list[Check] = attrs.field(factory=list, init=False)
    _unusable: bool = attrs.field(default=False, init=False)

    async def machine(self, connection: Connection) -> None:
        """Check what needs neither a key nor a server."""
        from comet_async._tools.doctor import examine_machine

        config = own_file()
        checks = await asyncio.to_thread(
            examine_machine, Path.cwd(), config, proxy_from=_proxy_from(connection, config)
        )
        for check in checks:
            self._show(check)

    async def server(self, endpoint: Endpoint) -> None:
        """Check the key and the server."""
        from comet_async._tools.doctor import examine

        await self._show_all(
            examine(endpoint.gateway, endpoint.credentials, network=endpoint.network)
        )

    async def paid(self, endpoint: Endpoint) -> None:
        """Buy one image, and show what it proves."""
        from comet_async._tools.doctor import examine_paid
        from comet_async.session import CometSession

        async with CometSession(
            endpoint.credentials, gateway=endpoint.gateway, network=endpoint.network
        ) as session:
            await self._show_all(examine_paid(session))

    async def _show_all(self, checks: AsyncGenerator[Check, None]) -> None:
        async with aclosing(checks):
            async for check in checks:
                self._show(check)

    def refused(self, error: ConfigError | InputError) -> None:
        """Show why the server was not contacted at all."""
        from comet_async._tools.doctor import Check

        self._unusable = True
        if all(error.message != shown.text for shown in self.problems):
            name = "key" if error.field in {"", "api_key"} else error.field
            self._show(Check(name=name, verdict="problem", text=error.message, hint=error.hint))
        text = "not checked without a usable key and gateway"
        self._show(Check(name="server", verdict="note", text=text))

    def _show(self, check: Check) -> None:
        if check.verdict == "problem":
            self.problems.append(check)
        screen, hint = self.screen, None if check.hint is None else in_options(check.hint)
        if screen.json:
            facts = {"check": check.name, "verdict": check.verdict}
            texts = {"text": screen.clean(check.text), "hint": hint and screen.clean(hint)}
            screen.emit({**facts, **texts})
            return
        bad = check.verdict in {"problem", "warning"}
        style = _STYLES[check.verdict]
        text = f"{check.name}: {check.text}"
        screen.answer(text, word=f"{check.verdict:<7}", style=style, problem=bad)
        if hint:
            screen.answer(f"        {hint}", style="dim", problem=bad)

    def end(self, *, bought: bool) -> int:
        """Say what to do next, and return the exit status."""
        verdict = "one image was billed" if bought else "nothing was billed"
        if not self.problems:
            self.screen.answer(f"ready; {verdict}")
            self.screen.answer("next: comet-async expand DIR --out OUT --to 16:9 --dry-run")
            return DONE
        first = self.problems[0]
        self.screen.answer(
            f"{counted(len(self.problems), 'problem')} found; {verdict}", problem=True
        )
        step = in_options(first.hint) if first.hint else f"solve the problem of the {first.name}"
        step = step.removeprefix("nothing was sent; ")  # the line above says so
        self.screen.answer(f"next: {step}", problem=True)
        if self._unusable:
            return USAGE
        return ACCOUNT if any(check.account_wide for check in self.problems) else NOT_DONE


def _proxy_from(connection: Connection, path: Path) -> str | None:
    """Return what names the proxy, or None if that is left to the environment."""
    from comet_async.config import Config

    if connection.proxy is not None:
        return "--proxy"
    try:
        named = Config.read(path).proxy is not None
    except ConfigError:  # shown when the endpoint is looked for
        return None
    return "the configuration file" if named else None


async def _agreed(screen: Screen) -> bool:
    """Ask before money is spent; without a terminal to confirm on, the answer is no."""
    from comet_async.requests import EXPAND

    screen.say(f"buying one image, about ${EXPAND.price} by the list (an estimate)", problem=True)
    if not sys.stdin.isatty():
        text = "not bought: no terminal to confirm on; pass --yes to confirm in advance"
        screen.say(text, problem=True)
        return False
    screen.say("buy it? [y/N]", problem=True)
    return (await _typed_line()).strip().lower() in {"y", "yes"}


async def _typed_line() -> str:
    """Return a line from the terminal.

    No thread waits for it: after Ctrl-C, the program could not end before that thread does.
    """
    loop, typed = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(sys.stdin, typed.set)
    except (NotImplementedError, OSError, ValueError):  # on Windows, where Ctrl-C ends a read
        return sys.stdin.readline()
    try:
        await typed.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return sys.stdin.readline()
