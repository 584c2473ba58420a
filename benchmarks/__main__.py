"""The one command: ``python -m benchmarks [--quick] [--only NAME]``.

A full run takes an hour and a half and writes ``docs/explanation/benchmarks.md`` with its plots;
a part that was not run keeps its old section there. A quick run only prints.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping

from benchmarks.core.bench import Bench, scratch
from benchmarks.core.programs import ROOT
from benchmarks.core.report import Section, say, write
from benchmarks.parts.decode import decode
from benchmarks.parts.faults import faults
from benchmarks.parts.fleet import fleet, fleet_large
from benchmarks.parts.jobs import growth, lag, large, small
from benchmarks.parts.journal import journal
from benchmarks.parts.makespan import makespan
from benchmarks.parts.polls import polls
from benchmarks.parts.profile import where
from benchmarks.parts.rerun import rerun
from benchmarks.parts.soak import soak
from benchmarks.parts.startup import startup
from benchmarks.parts.waiting import waiting
from benchmarks.parts.waiting_tasks import waiting_tasks

PAGE = ROOT / "docs" / "explanation" / "benchmarks.md"
PLOTS = ROOT / "docs" / "_static" / "bench"

PARTS: Mapping[str, Callable[[Bench], Section]] = {
    "small": small,
    "large": large,
    "growth": growth,
    "lag": lag,
    "where": where,
    "makespan": makespan,
    "polls": polls,
    "waiting": waiting,
    "waiting_tasks": waiting_tasks,
    "journal": journal,
    "rerun": rerun,
    "fleet": fleet,
    "fleet_large": fleet_large,
    "soak": soak,
    "decode": decode,
    "startup": startup,
    "faults": faults,
}


def main() -> None:
    """Run the parts that are named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--only", action="append", choices=PARTS, help="one part; repeatable")
    given = parser.parse_args()
    wanted = given.only or list(PARTS)
    os.chdir(ROOT)
    with scratch() as folder:
        bench = Bench(quick=given.quick, plots=None if given.quick else PLOTS, scratch=folder)
        for name in wanted:
            say(f"\n-- {name}")
            section = PARTS[name](bench)
            say("\n" + section.plain())
            if not given.quick:  # at once: a later part that fails takes nothing along
                write(PAGE, [section], list(PARTS), f"nox -s bench -- --only {name}")


if __name__ == "__main__":
    main()
