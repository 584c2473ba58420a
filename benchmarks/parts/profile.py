"""Where the time of one job goes: a profile of the event loop's thread, by library and room.

As a program, ``python -m benchmarks.parts.profile CLIENT SOURCES COUNT ROOT``, it profiles one
client and prints microseconds and calls for each group.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import pstats
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any, cast

import attrs

from benchmarks.clients import BASE, Site, open_client
from benchmarks.core.bench import Bench, scratch
from benchmarks.core.programs import last_line
from benchmarks.core.report import Section, Table
from benchmarks.parts.jobs import LARGE, SMALL, Load, prepared

_GROUPS = (
    ("waiting for events", r"'poll' of 'select"),
    ("sockets", r"'(send|sendmsg|recv|recv_into)' of '_socket"),
    ("Base64", r"b2a_base64|b64encode"),
    ("JSON", r"[/ ]json[./]|scan_once|c_make_encoder"),
    ("files", r"posix\.|of '_io\.|_io\.open|FileIO|UnchangedFile"),
    ("the benchmark", r"/benchmarks/"),
    ("asyncio", r"/asyncio/|'run' of '_contextvars|_asyncio"),
    ("aiohttp", r"/aiohttp/|/multidict/|/yarl/|/propcache/|/frozenlist/|/aiosignal/"),
)
_ROOM = re.compile(r"/comet_async/(\w+)")
_SHOWN = 14


@attrs.frozen(kw_only=True)
class Share:
    """What one group of functions took, for one job."""

    micros: float
    calls: float


def _group(file: str, function: str) -> str:
    text = f"{file} {function}"
    for name, pattern in _GROUPS:
        if re.search(pattern, text):
            return name
    room = _ROOM.search(text)
    return f"comet_async.{room[1]}" if room else "Python's own and the rest"


async def _profiled(client: str, root: str, sources: list[Path], folder: Path) -> cProfile.Profile:
    site = Site(root=root, concurrency=32, folder=folder)
    out = folder / "out"
    out.mkdir()
    profile = cProfile.Profile()
    async with open_client(client, site) as jobs:
        await jobs.run(sources[:1], folder)
        profile.enable()
        await jobs.run(sources[1:], out)
        profile.disable()
    return profile


def _shares(profile: cProfile.Profile, jobs: int) -> dict[str, tuple[float, float]]:
    micros: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    facts = cast(
        "dict[tuple[str, int, str], tuple[Any, ...]]", cast("Any", pstats.Stats(profile)).stats
    )
    for (file, _, function), (_, count, own, *_rest) in facts.items():
        name = _group(file, function)
        micros[name] += 1e6 * own / jobs
        calls[name] += count / jobs
    return {name: (micros[name], calls[name]) for name in micros}


def _table(bench: Bench, title: str, load: Load) -> Table:
    found: dict[str, dict[str, Share]] = {}
    with prepared(bench, load) as (server, spec):
        for client in (BASE, "comet_async"):
            words = (client, spec.sources, str(load.count), server.root)
            facts = json.loads(last_line("parts.profile", *words))
            found[client] = {n: Share(micros=m, calls=c) for n, (m, c) in facts.items()}
    ours, theirs = found["comet_async"], found[BASE]
    for shares in (ours, theirs):
        shares.pop("waiting for events", None)
    names = sorted({*ours, *theirs}, key=lambda n: -ours.get(n, Share(micros=0, calls=0)).micros)
    nothing = Share(micros=0.0, calls=0.0)
    rows = []
    for name in names[:_SHOWN]:
        pair = [shares.get(name, nothing) for shares in (theirs, ours)]
        rows.append([name, *(f"{share.micros:,.0f}" for share in pair)])
        rows[-1] += [f"{share.calls:,.0f}" for share in pair]
    head = ("where", "µs: raw", "µs: ours", "calls: raw", "calls: ours")
    return Table(title=title, head=head, rows=rows)


def where(bench: Bench) -> Section:
    """Profile one small and one large job of ours, and of hand-tuned aiohttp."""
    small = Load(size=SMALL, count=bench.count(400, 20))
    large = Load(size=LARGE, count=bench.count(60, 4))
    return Section(
        name="where",
        title="Where the time goes",
        words="A profile (cProfile) of the event loop's thread while jobs run, 32 at a time, for "
        "one job. The profiler makes Python functions look dearer than they are, so compare "
        "lines, not sums; hashing, checking and writing files happens in other threads.",
        tables=[
            _table(bench, "One small job (20 kB)", small),
            _table(bench, "One large job (5 MB)", large),
        ],
    )


def main(client: str, sources: str, count: str, root: str) -> None:
    """Profile and print."""
    paths = sorted(Path(sources).iterdir())[: int(count)]
    with scratch() as folder:
        profile = asyncio.run(_profiled(client, root, paths, folder))
    sys.stdout.write(json.dumps(_shares(profile, len(paths) - 1)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
