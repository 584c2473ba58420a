"""One client, measured: this module is the program of a fresh process.

``python -m benchmarks.core.child SPEC``: *SPEC* is a `Spec` as JSON; the last line that it prints
is the measured `Sample`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs

from benchmarks.clients import Site, open_client
from benchmarks.core.meter import LoopLag, cpu_seconds, forget_peak, peak_mib
from benchmarks.core.programs import last_line


@attrs.frozen(kw_only=True)
class Spec:
    """What to measure.

    Attributes:
        client: Name of the client.
        root: Address of the server.
        sources: Folder with the images.
        count: How many of them to take.
        warm: Folder with other, small images for the warm-up.
        concurrency: Jobs at a time.
        lag: Measure the delays of the event loop too, which costs a little CPU.
        one_core: Keep the client on one core, as in a small container (where the system allows it).
        scratch: Where the results' folder is made.
        keep: Leave it there. A file system may be slow to make new files just after many were
            removed (ext4 does not use their inodes again at once), and the next client pays.
    """

    client: str
    root: str
    sources: str
    count: int
    warm: str
    concurrency: int
    lag: bool = False
    one_core: bool = False
    scratch: str
    keep: bool = False


@attrs.frozen(kw_only=True)
class Sample:
    """What was measured.

    Attributes:
        cpu: CPU time a job, in ms.
        wall: Time of the whole run, in s.
        growth: Growth of the peak of memory, in MiB.
        worst: The longest delay of the event loop, in ms.
        p99: The delay that 1 % exceed, in ms.
        connections: How many connections the server saw.
    """

    cpu: float
    wall: float
    growth: float
    worst: float = 0.0
    p99: float = 0.0
    connections: int = 0


def measure(spec: Spec) -> Sample:
    """Run *spec* in a fresh process.

    Raises:
        RuntimeError: It failed.
    """
    given = json.dumps(attrs.asdict(spec))
    return Sample(**json.loads(last_line("core.child", given)))


async def _measured(spec: Spec, folder: Path) -> Sample:
    site = Site(root=spec.root, concurrency=spec.concurrency, folder=folder)
    out = folder / "out"
    out.mkdir()
    sources = sorted(Path(spec.sources).iterdir())[: spec.count]
    warm = sorted(Path(spec.warm).iterdir())[: spec.concurrency + 1]
    async with open_client(spec.client, site) as client, contextlib.AsyncExitStack() as stack:
        # One alone first: it opens what all share.
        await client.run(warm[:1], folder)
        await client.run(warm[1:], folder)
        lag = await stack.enter_async_context(LoopLag()) if spec.lag else LoopLag()
        held, cpu, begin = forget_peak(), cpu_seconds(), time.perf_counter()
        lag.late.clear()
        await client.run(sources, out)
        used, wall = cpu_seconds() - cpu, time.perf_counter() - begin
        growth = peak_mib() - held
    saved = len(list(out.glob("*.png")))
    if saved != len(sources):
        message = f"{saved} results of {len(sources)}"
        raise RuntimeError(message)
    return Sample(
        cpu=1000 * used / len(sources),
        wall=wall,
        growth=growth,
        worst=lag.worst(),
        p99=lag.p99(),
    )


def main(text: str) -> None:
    """Measure and print."""
    given: dict[str, Any] = json.loads(text)
    spec = Spec(**given)
    if spec.one_core and sys.platform == "linux":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    folder = Path(tempfile.mkdtemp(dir=spec.scratch))
    try:
        sample = asyncio.run(_measured(spec, folder))
    finally:
        if not spec.keep:
            shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(json.dumps(attrs.asdict(sample)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
