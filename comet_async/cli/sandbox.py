"""``comet-async sandbox``: the local server, for programs in other processes."""

# ruff: noqa: PLC0415 - imported when the command runs: `--help` must be there at once

from __future__ import annotations

import asyncio
import errno
import math
import os
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from comet_async.cli.console import DONE, Screen, counted
from comet_async.cli.options import USUAL, General, whole
from comet_async.cli.runtime import CURRENT
from comet_async.errors import ConfigError, InputError

if TYPE_CHECKING:
    from comet_async.sandbox import Sandbox


_FAULTS = Group("Faults", sort_key=1)
_LAST_PORT = 65535


async def sandbox(  # noqa: PLR0913 - the arguments and options, as --help shows them
    *,
    port: Annotated[
        int,
        Parameter(
            metavar="PORT",
            converter=whole,
            help="The port to listen on, 8765 by default; 0 takes a free one.",
        ),
    ] = 8765,
    host: Annotated[
        str,
        Parameter(
            metavar="ADDRESS",
            help="The address to listen on; by default, only this machine can connect.",
        ),
    ] = "127.0.0.1",
    key: Annotated[
        str | None,
        Parameter(metavar="KEY", help="The API key to accept; sandbox-key by default."),
    ] = None,
    speed: Annotated[
        float,
        Parameter(
            metavar="TIMES",
            help="How many times faster than the service, whose tasks take 8 to 40 s; 1 by "
            "default.",
        ),
    ] = 1.0,
    engine: Annotated[
        Literal["auto", "patchmatch", "pillow", "stub"],
        Parameter(
            help="What paints; the best one installed by default. stub makes plain grey images, "
            "without Pillow."
        ),
    ] = "auto",
    limit: Annotated[
        int,
        Parameter(
            metavar="COUNT",
            converter=whole,
            help="How many images may be in flight, 20 by default; 0 for any number.",
        ),
    ] = 20,
    option: Annotated[
        list[str] | None,
        Parameter(
            metavar="NAME=VALUE",
            negative="",
            help="Change a setting of the sandbox, such as 'task_seconds=[0, 1]'; can be repeated.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        Parameter(
            metavar="NAME",
            negative="",
            help="Accept requests to this host name, such as a container's; can be repeated.",
        ),
    ] = None,
    admin_token: Annotated[
        str | None,
        Parameter(
            metavar="TOKEN",
            help="Allow requests to /admin that carry this bearer token.",
        ),
    ] = None,
    fault: Annotated[
        str,
        Parameter(
            metavar="SPEC",
            group=_FAULTS,
            help="Faults to simulate: [CALL.]KIND[=CHANCE], separated by commas.",
        ),
    ] = "",
    seed: Annotated[
        int | None,
        Parameter(
            metavar="NUMBER",
            group=_FAULTS,
            converter=whole,
            help="Make durations and chances repeatable.",
        ),
    ] = None,
    general: General = USUAL,  # noqa: ARG001 - read by the program before the command runs
) -> int:
    """Serve until a signal comes."""
    from comet_async.sandbox import DEFAULT_KEY, Faults, Options, Sandbox, serve

    _check(port, speed, limit)
    invocation = CURRENT.get()
    chosen = key or DEFAULT_KEY
    server = Sandbox(
        port,
        host,
        key=chosen,
        speed=speed,
        seed=seed,
        engine=engine,
        limit=limit or None,
        faults=Faults.parse(fault, seed=seed),
        options=Options.parse(option or ()),
        allowed_hosts=allow_host or (),
        admin_token=admin_token,
    )
    serving = asyncio.ensure_future(
        serve(server, ready=lambda running: _announce(running, host, chosen, invocation.screen))
    )
    invocation.on_signal = serving.cancel
    refusal, hint = "", ""
    try:
        await serving
    except asyncio.CancelledError:
        if not invocation.interrupted:
            raise
    except OSError as error:
        # asyncio's text repeats the address; a name that leads nowhere has a number of its own.
        code = error.errno or 0
        known = code in errno.errorcode
        refusal = os.strerror(code) if known else error.strerror or type(error).__name__
        by_port = code in {errno.EADDRINUSE, errno.EACCES}
        hint = "choose another --port; 0 takes a free one" if by_port else "choose another --host"
    if refusal:
        msg = f"the sandbox can't listen on {host} port {port}: {refusal}"
        raise ConfigError(msg, hint=hint)
    invocation.screen.say(
        f"{counted(len(server.ledger.charges), 'simulated charge')}; nothing was billed"
    )
    return DONE  # a signal is how it ends


def _check(port: int, speed: float, limit: int) -> None:
    """Refuse what can't be a port, a speed or a limit.

    Raises:
        InputError: One of them can't.
    """
    if not 0 <= port <= _LAST_PORT:
        raise InputError(
            f"--port {port} is not a valid port",
            field="port",
            value=port,
            limit=f"0 to {_LAST_PORT}",
            hint=f"choose one from 0 to {_LAST_PORT}",
        )
    if not (math.isfinite(speed) and speed > 0):
        raise InputError(
            f"--speed {speed:g} must be a number above 0",
            field="speed",
            value=speed,
            limit="above 0",
            hint="1 is as fast as the service",
        )
    if limit < 0:
        raise InputError(
            f"--limit {limit} must be at least 0",
            field="limit",
            value=limit,
            limit="at least 0",
            hint="0 is for any number",
        )


def _announce(server: Sandbox, host: str, key: str, screen: Screen) -> None:
    # To be copied into a shell, so on standard output and without anything hidden: this key
    # opens nothing but this sandbox.
    print(f"export COMETAPI_API_ROOT={server.url}", flush=True)  # noqa: T201 - the result
    print(f"export COMETAPI_KEY={key}", flush=True)  # noqa: T201 - the result
    screen.say(f"the sandbox is at {server.url} (open it in a browser); Ctrl-C stops it")
    if host not in {"127.0.0.1", "::1", "localhost"}:
        screen.say(
            f"it listens on {host}: other machines reach it by this machine's address, and by a "
            "name that --allow-host allows; comet_async itself sends a key unencrypted to this "
            "machine only, so give it a tunnel (ssh -L)"
        )
