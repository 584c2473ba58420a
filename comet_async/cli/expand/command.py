"""``comet-async expand``: its options.

Rule of this file: what the command does is imported when it runs, so that its help is there soon.
"""

# ruff: noqa: PLC0415 - the rule above

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from comet_async.cli.expand.options import (
    OutputOptions,
    RequestOptions,
    RerunOptions,
    SpendingOptions,
    TimingOptions,
    make_plan,
)
from comet_async.cli.options import NO_GEOMETRY, OUTPUT, USUAL_CONNECTION, Connection, Geometry

# Frozen, so that all calls can share them.
_REQUEST, _TIMING, _SPENDING = RequestOptions(), TimingOptions(), SpendingOptions()
_RERUN, _OUTPUT = RerunOptions(), OutputOptions()


async def expand(  # noqa: PLR0913 - the groups of options, as --help shows them
    sources: Annotated[
        tuple[str, ...],
        Parameter(
            help="Files, folders, URLs, or - for one of them on each line of the input.",
            allow_leading_hyphen=True,  # for "-" itself; `make_plan` refuses the others
        ),
    ],
    /,
    *,
    out: Annotated[
        Path,
        Parameter(group=OUTPUT, help="The folder for the results; made if it is not there."),
    ],
    geometry: Geometry = NO_GEOMETRY,
    request: RequestOptions = _REQUEST,
    connection: Connection = USUAL_CONNECTION,
    timing: TimingOptions = _TIMING,
    spending: SpendingOptions = _SPENDING,
    rerun: RerunOptions = _RERUN,
    output: OutputOptions = _OUTPUT,
) -> int:
    """Expand images, and save the results."""
    from comet_async.cli.expand.run import carry_out
    from comet_async.cli.runtime import CURRENT

    CURRENT.get().screen.json = output.json
    plan = make_plan(
        sources=sources,
        out=out,
        geometry=geometry,
        request=request,
        timing=timing,
        spending=spending,
        rerun=rerun,
    )
    return await carry_out(plan, connection, output)
