"""``comet-async expand``: its options.

Rule of this file: what the command does is imported when it runs, so that its help is there soon.
"""

# ruff: noqa: PLC0415 - the rule above

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from comet_async.cli.options import NO_GEOMETRY, OUTPUT, USUAL_CONNECTION, Connection, Geometry
from comet_async.cli.order import Again, Pace, Purse, Shown, Wish, make_order

_WISH, _PACE, _PURSE, _AGAIN, _SHOWN = Wish(), Pace(), Purse(), Again(), Shown()


async def expand(  # noqa: PLR0913 - the groups of options, as --help shows them
    sources: Annotated[
        tuple[str, ...],
        Parameter(
            help="Files, folders, URLs, or - for one of them on each line of the input.",
            allow_leading_hyphen=True,  # for "-" itself; `make_order` refuses the others
        ),
    ],
    /,
    *,
    out: Annotated[
        Path,
        Parameter(group=OUTPUT, help="The folder for the results; made if it is not there."),
    ],
    geometry: Geometry = NO_GEOMETRY,
    wish: Wish = _WISH,
    connection: Connection = USUAL_CONNECTION,
    pace: Pace = _PACE,
    purse: Purse = _PURSE,
    again: Again = _AGAIN,
    shown: Shown = _SHOWN,
) -> int:
    """Expand images, and save the results."""
    from comet_async.cli.expanding import carry_out
    from comet_async.cli.invocation import CURRENT

    CURRENT.get().screen.json = shown.json
    order = make_order(
        sources=sources,
        out=out,
        geometry=geometry,
        wish=wish,
        pace=pace,
        purse=purse,
        again=again,
    )
    return await carry_out(order, connection, shown)
