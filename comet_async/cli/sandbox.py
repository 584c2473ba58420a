"""``comet-async sandbox``: the local server, for programs in other processes."""

# ruff: noqa: PLC0415 - imported when the command runs: `--help` must be there at once

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from comet_async.cli.console import DONE, Screen
from comet_async.cli.options import whole
from comet_async.cli.runtime import CURRENT
from comet_async.errors import ConfigError, InputError

if TYPE_CHECKING:
    from comet_async.sandbox import Sandbox


_FAULTS = Group("Faults", sort_key=1)
_LAST_PORT = 65535


async def sandbox(
    *,
    port: Annotated[
        int,
        Parameter(converter=whole, help="Where to listen, 8765 by default; 0 takes a free port."),
    ] = 8765,
    host: Annotated[
        str, Parameter(help="Address to listen on; only this machine by default.")
    ] = "127.0.0.1",
    key: Annotated[
        str | None, Parameter(help="The API key that is taken; sandbox-key by default.")
    ] = None,
    speed: Annotated[
        float, Parameter(help="How many times faster than the service, whose tasks take 8 to 40 s.")
    ] = 1.0,
    fault: Annotated[
        str,
        Parameter(
            group=_FAULTS,
            help="What goes wrong: [CALL.]KIND[=CHANCE], several with commas between.",
        ),
    ] = "",
    seed: Annotated[
        int | None,
        Parameter(group=_FAULTS, converter=whole, help="Makes durations and chances repeatable."),
    ] = None,
) -> int:
    """Serve until a signal comes."""
    from comet_async.sandbox import DEFAULT_KEY, Faults, Sandbox, serve

    _check(port, speed)
    invocation = CURRENT.get()
    chosen = key or DEFAULT_KEY
    server = Sandbox(
        port, host, key=chosen, speed=speed, seed=seed, faults=Faults.parse(fault, seed=seed)
    )
    serving = asyncio.ensure_future(
        serve(server, ready=lambda running: _announce(running, chosen, invocation.screen))
    )
    invocation.on_signal = serving.cancel
    refusal = ""
    try:
        await serving
    except asyncio.CancelledError:
        if not invocation.interrupted:
            raise
    except OSError as error:
        refusal = error.strerror or type(error).__name__
    if refusal:
        msg = f"the sandbox can't listen on {host} port {port}: {refusal}"
        raise ConfigError(msg, hint="choose another --port; 0 takes a free one")
    invocation.screen.say(f"{len(server.ledger.charges)} tasks charged, none of them for real")
    return DONE  # a signal is how it ends


def _check(port: int, speed: float) -> None:
    """Refuse what can't be a port or a speed.

    Raises:
        InputError: One of them can't.
    """
    if not 0 <= port <= _LAST_PORT:
        msg = f"--port {port} is no port"
        raise InputError(msg, field="port", value=port, hint=f"choose one from 0 to {_LAST_PORT}")
    if not (math.isfinite(speed) and speed > 0):
        msg = f"--speed {speed} must be a number above 0"
        raise InputError(msg, field="speed", value=speed, hint="1 is as fast as the service")


def _announce(server: Sandbox, key: str, screen: Screen) -> None:
    # To be copied into a shell, so on standard output and without anything hidden: this key
    # opens nothing but this sandbox.
    print(f"export COMETAPI_API_ROOT={server.url}", flush=True)  # noqa: T201 - the result
    print(f"export COMETAPI_KEY={key}", flush=True)  # noqa: T201 - the result
    screen.say(f"the sandbox is at {server.url} (open it in a browser); Ctrl-C ends it")
