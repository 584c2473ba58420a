"""``comet-async expand``: its options."""

# ruff: noqa: PLC0415 - what the command does is imported when it runs: `--help` must be there soon

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from comet_async.cli.expand.options import (
    OutputOptions,
    RequestOptions,
    RerunOptions,
    SourceOptions,
    SpendingOptions,
    TimingOptions,
    make_plan,
)
from comet_async.cli.options import (
    NO_GEOMETRY,
    OUTPUT,
    USUAL,
    USUAL_CONNECTION,
    Connection,
    General,
    Geometry,
    Named,
    folder,
)

# Frozen, so that all calls can share them.
_REQUEST, _TIMING, _SPENDING = RequestOptions(), TimingOptions(), SpendingOptions()
_RERUN, _OUTPUT, _SOURCES = RerunOptions(), OutputOptions(), SourceOptions()


async def expand(  # noqa: PLR0913 - the groups of options, as --help shows them
    sources: Annotated[
        tuple[Named, ...],
        Parameter(
            name="SOURCE",
            help="Files, folders, URLs, or - to read them from standard input, one per line.",
            allow_leading_hyphen=True,  # for "-" itself; `make_plan` refuses the others
        ),
    ],
    /,
    *,
    out: Annotated[
        Path,
        Parameter(
            name=("--out", "-o"),
            metavar="DIR",
            group=OUTPUT,
            converter=folder,
            help="The folder for the results; created if it does not exist.",
        ),
    ],
    choice: SourceOptions = _SOURCES,
    geometry: Geometry = NO_GEOMETRY,
    request: RequestOptions = _REQUEST,
    connection: Connection = USUAL_CONNECTION,
    timing: TimingOptions = _TIMING,
    spending: SpendingOptions = _SPENDING,
    rerun: RerunOptions = _RERUN,
    output: OutputOptions = _OUTPUT,
    general: General = USUAL,  # noqa: ARG001 - read by the program before the command runs
) -> int:
    """Expand images, and save the results."""
    from comet_async.cli.expand.run import carry_out
    from comet_async.cli.runtime import CURRENT

    screen = CURRENT.get().screen
    screen.json, screen.events = output.json, output.json_progress
    output.check()
    plan = make_plan(
        sources=tuple(map(str, sources)),
        out=out,
        choice=choice,
        geometry=geometry,
        request=request,
        timing=timing,
        spending=spending,
        rerun=rerun,
    )
    return await carry_out(plan, connection, output)
