"""How long a folder takes against a server with a quota, measured by the least that is possible.

As a program, ``python -m benchmarks.parts.makespan ROOT SOURCES QUOTA OUT``, it runs one folder.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import urllib.request
from typing import Any, cast

import attrs

from benchmarks.core import images
from benchmarks.core.bench import Bench
from benchmarks.core.programs import last_line
from benchmarks.core.quota import limited
from benchmarks.core.report import Section, Table, median

_QUOTA = 16


@attrs.frozen(kw_only=True)
class Case:
    """One folder."""

    title: str
    count: int
    size: int
    takes: float
    lists: bool


_CASES = (
    Case(title="small images, the list works", count=96, size=20_000, takes=3.0, lists=True),
    Case(title="small images, no list", count=96, size=20_000, takes=3.0, lists=False),
    Case(title="5 MB images, the list works", count=96, size=5_000_000, takes=3.0, lists=True),
    Case(title="5 MB images, no list", count=96, size=5_000_000, takes=3.0, lists=False),
    Case(title="20 s a task, the list works", count=64, size=20_000, takes=20.0, lists=True),
)


def run_case(bench: Bench, case: Case) -> dict[str, float]:
    """Run one folder, nothing learned; return the server's facts and the time by the least."""
    sources = bench.scratch / f"images-{case.size}-{case.count}"
    images.make(sources, case.count, case.size)
    result = bench.scratch / f"result-{case.size}.png"
    result.write_bytes(images.png(case.size, -1))
    with limited(result, quota=_QUOTA, median=case.takes, lists=case.lists) as root:
        with tempfile.TemporaryDirectory(dir=bench.scratch) as out:
            wall = float(last_line("parts.makespan", root, str(sources), str(_QUOTA), out))
        with urllib.request.urlopen(f"{root}/facts", timeout=30) as answer:  # noqa: S310 - ours
            facts = cast("dict[str, Any]", json.loads(answer.read()))
    return {**facts, "wall": wall, "ratio": facts["span"] / facts["least"]}


def makespan(bench: Bench) -> Section:
    """Measure folders."""
    rows = []
    for case in _CASES[: 1 if bench.quick else None]:
        case = attrs.evolve(case, count=32, takes=0.5) if bench.quick else case  # noqa: PLW2901 - the same case, smaller
        found = [run_case(bench, case) for _ in range(bench.count(3, 1))]
        middle = {key: median([each[key] for each in found]) for key in found[0]}
        cells = [f"{middle['least']:.1f}", f"{middle['span']:.1f}", f"**{middle['ratio']:.2f}**"]
        rows.append([case.title, *cells, f"{middle['polls'] / middle['tasks']:.1f}"])
    head = ("folder", "shortest possible s", "took s", "×", "polls a task")
    return Section(
        name="makespan",
        title="A folder against a quota",
        words=f"`expand_folder` with a new session, against a server that works on {_QUOTA} tasks "
        "at once and refuses more. From the first request to the last file; the shortest possible "
        "time is what these tasks take in this order if no place is ever empty.",
        limit="a place at the server is empty from the end of a task until it is seen (on average "
        "half of the list's interval, which follows how long tasks take) and while the next "
        "image is on its way.",
        tables=[Table(title="", head=head, rows=rows)],
    )


async def _run(root: str, sources: str, quota: int, out: str) -> float:
    from comet_async import CometSession, Gateway, Margins  # noqa: PLC0415 - the program only

    loop = asyncio.get_running_loop()
    async with CometSession("key", gateway=Gateway.comet(root), concurrency=quota) as comet:
        begin = loop.time()
        async for outcome in comet.expand_folder(sources, out, Margins(left=0.25, right=0.25)):
            if not outcome.done:
                raise RuntimeError(outcome)
        return loop.time() - begin


if __name__ == "__main__":
    root, sources, quota, out = sys.argv[1:]
    sys.stdout.write(f"{asyncio.run(_run(root, sources, int(quota), out))}\n")
