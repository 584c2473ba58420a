"""Whole jobs, upload to file: small, large, many at a time, and what they do to the loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import attrs

from benchmarks.clients import BASE, PEERS
from benchmarks.core import images, plots
from benchmarks.core.bench import Bench, in_rounds, installed, ratio, table
from benchmarks.core.child import Sample, Spec, measure
from benchmarks.core.report import Section, Table, median
from benchmarks.core.server import Server, running

SMALL = 20_000
LARGE = 5_000_000
_WARM = 20_001  # another size, so that no warm-up image is one of those measured
_CRAMPED = 128
_KEPT = 50_000_000  # bytes of results that are left until the end


@attrs.frozen(kw_only=True)
class Load:
    """A number of jobs.

    Attributes:
        size: Bytes of each image, up and down.
        count: How many jobs.
        concurrency: How many at a time.
        lag: Look at the event loop too.
        one_core: Keep the client on one core.
    """

    size: int
    count: int
    concurrency: int = 32
    lag: bool = False
    one_core: bool = False

    @property
    def words(self) -> str:
        """What it is, in words."""
        size = f"{self.size / 1e6:g} MB" if self.size >= 1e6 else f"{self.size / 1e3:g} kB"  # noqa: PLR2004 - a megabyte
        cores = ", the client on one core" if self.one_core else ""
        return f"{self.count:,} × {size} up and down, {self.concurrency} at a time{cores}"


@contextlib.contextmanager
def prepared(bench: Bench, load: Load) -> Iterator[tuple[Server, Spec]]:
    """Have images and a server for *load*; the spec lacks only the client."""
    sources = bench.scratch / f"images-{load.size}"
    warm = bench.scratch / "warm"
    images.make(sources, load.count, load.size)
    images.make(warm, max(_CRAMPED, load.concurrency) + 1, _WARM)
    result = bench.scratch / f"result-{load.size}.png"
    result.write_bytes(images.png(load.size, -1))
    with running(result) as server:
        yield (
            server,
            Spec(
                client="",
                root=server.root,
                sources=str(sources),
                count=load.count,
                warm=str(warm),
                concurrency=load.concurrency,
                lag=load.lag,
                one_core=load.one_core,
                scratch=str(bench.scratch),
                keep=load.size * load.count <= _KEPT,
            ),
        )


def _checked(server: Server, spec: Spec) -> Sample:
    """Measure, and make sure that the server saw what was meant."""
    server.counts(reset=True)
    sample = measure(spec)
    counts = server.counts()
    jobs = spec.count + spec.concurrency + 1  # and those of the warm-up
    if counts["POST"] != jobs or counts["files"] != jobs or counts["GET"] < 3 * jobs:
        message = f"{spec.client}: the server saw {counts} for {jobs} jobs"
        raise RuntimeError(message)
    return attrs.evolve(sample, connections=counts["connections"])


def compared(
    bench: Bench, load: Load, names: Sequence[str], *, rounds: int, peer_rounds: int = 2
) -> dict[str, dict[int, Sample]]:
    """Measure *load* with each client that is installed."""
    with prepared(bench, load) as (server, spec):
        return in_rounds(
            installed(names),
            lambda name: _checked(server, attrs.evolve(spec, client=name)),
            rounds=bench.count(rounds, 1),
            peer_rounds=peer_rounds,
            what=load.words,
        )


def _figures(samples: dict[str, dict[int, Sample]]) -> dict[str, Mapping[str, float]]:
    def medians(name: str) -> dict[str, float]:
        found = list(samples[name].values())
        facts = [attrs.asdict(sample) for sample in found]
        return {key: median([fact[key] for fact in facts]) for key in facts[0]}

    return {name: medians(name) for name in samples}


def _cost_table(title: str, samples: dict[str, dict[int, Sample]]) -> Table:
    figures = _figures(samples)
    rows = []
    for name, found in figures.items():
        times = ratio(samples, name, lambda sample: sample.cpu)
        cells = [f"{found['cpu']:.2f}", f"{times:.2f}", f"{found['growth']:,.0f}"]
        rows.append([name, *cells, f"{found['connections']:.0f}", str(len(samples[name]))])
    head = ("client", "CPU ms a job", "× raw", "memory growth MiB", "connections", "rounds")
    return table(title, head, rows)


def _drawn(
    bench: Bench, file: str, samples: dict[str, dict[int, Sample]], alt: str
) -> list[tuple[str, str]]:
    if bench.plots is None:
        return []
    figures = _figures(samples)
    panels = [
        ("CPU, ms a job", {name: found["cpu"] for name, found in figures.items()}),
        ("Memory growth, MiB", {name: max(0.0, f["growth"]) for name, f in figures.items()}),
    ]
    return [(file, alt)] if plots.bars(bench.plots / file, panels) else []


_OWN = ("comet_async", "comet_async, journal", "comet_async, folder")


def small(bench: Bench) -> Section:
    """Small images: what a job costs beside its bytes."""
    load = Load(size=SMALL, count=bench.count(1000, 100))
    names = ["floor", BASE, "plain aiohttp", *_OWN, *PEERS]
    samples = compared(bench, load, names, rounds=5, peer_rounds=1)
    alone = attrs.evolve(load, one_core=True)
    one_core = compared(bench, alone, ["floor", BASE, *_OWN], rounds=5)
    return Section(
        name="small",
        title="Small images",
        words="Whole jobs, each 1 upload, 3 polls and 1 download into a file. "
        "Ours also hashes, checks both images and puts results safely on the disk; "
        "*journal* is `expand` and `download` with a journal at full durability, *folder* is "
        "`expand_folder`, which also scans, names, and records every file.",
        limit="the Python of five exchanges and of a job's six moves (some 3,600 function calls, "
        "of which 1,600 are aiohttp's and the program's own); then the new file and its "
        "`fsync`.",
        tables=[_cost_table(load.words, samples), _cost_table(alone.words, one_core)],
        plots=_drawn(bench, "small.png", samples, "Small images: CPU and memory by client"),
    )


def large(bench: Bench) -> Section:
    """Large images, 32 and 128 at a time: what the bytes cost."""
    ours = ("comet_async", "comet_async, no pybase64", "comet_async, folder")
    names = ["floor", BASE, "plain aiohttp", *ours, *PEERS]
    tables, drawn = [], []
    for concurrency in (32, 128):
        load = Load(size=LARGE, count=bench.count(200, 8), concurrency=concurrency)
        samples = compared(bench, load, names, rounds=3, peer_rounds=1)
        tables.append(_cost_table(load.words, samples))
        file, alt = f"large-{concurrency}.png", f"{load.words}: CPU and memory by client"
        drawn += _drawn(bench, file, samples, alt)
    return Section(
        name="large",
        title="Large images",
        words="The same with large images. Bodies are encoded while they are sent and results "
        "written while they come, so memory follows neither the size nor the number of "
        "images; `pybase64` is the extra `speed`.",
        limit="Base64, the sockets, and the checksums of the images; a folder also hashes each "
        "image and its result.",
        tables=tables,
        plots=drawn,
    )


def lag(bench: Bench) -> Section:
    """How long others wait for the event loop while large images go up and down."""
    load = Load(size=LARGE, count=bench.count(100, 8), lag=True)
    ours = ["comet_async", "comet_async, no pybase64"]
    names = ["floor", BASE, "plain aiohttp", *ours, "httpx", "openai"]
    samples = compared(bench, load, names, rounds=3, peer_rounds=1)
    tables = [_lag_table(load, samples)]
    for other in (attrs.evolve(load, concurrency=128), attrs.evolve(load, one_core=True)):
        found = compared(bench, other, [BASE, *ours, "comet_async, folder"], rounds=3)
        tables.append(_lag_table(other, found))
    figures = _figures(samples)
    drawn = []
    if bench.plots is not None:
        panel = ("Worst delay of the event loop, ms", {n: f["worst"] for n, f in figures.items()})
        if plots.bars(bench.plots / "lag.png", [panel], form="{:.0f}"):
            drawn.append(("lag.png", "Worst delay of the event loop by client"))
    return Section(
        name="lag",
        title="What else runs in the loop",
        words="How late a task that sleeps 5 ms wakes up meanwhile. Medians of the rounds; a busy "
        "machine adds its own delays to every line.",
        limit="one step reads, encodes and sends 192 KiB; what is longer comes from other "
        "programs on the same cores.",
        tables=tables,
        plots=drawn,
    )


def _lag_table(load: Load, samples: dict[str, dict[int, Sample]]) -> Table:
    figures = _figures(samples)
    rows = [[n, f"{f['worst']:.0f}", f"{f['p99']:.1f}"] for n, f in figures.items()]
    return table(load.words, ("client", "worst ms", "p99 ms"), rows)


def growth(bench: Bench) -> Section:
    """Memory over the number of jobs."""
    counts = (10, 20, 40) if bench.quick else (100, 1000, 10_000)
    names = [BASE, *_OWN]
    found: dict[str, dict[int, float]] = {name: {} for name in names}
    for count in counts:
        load = Load(size=SMALL, count=count)
        samples = compared(bench, load, names, rounds=1 if count > 1000 else 3)  # noqa: PLR2004 - minutes
        for name, figures in _figures(samples).items():
            found[name][count] = max(0.0, figures["growth"])
    rows = [[name, *(f"{found[name][count]:.1f}" for count in counts)] for name in names]
    head = ("client", *(f"{count:,} jobs: MiB" for count in counts))
    drawn = []
    title = "Memory growth over the number of jobs"
    if bench.plots is not None and plots.lines(
        bench.plots / "growth.png", title, found, across="jobs", up="MiB"
    ):
        drawn.append(("growth.png", title))
    return Section(
        name="growth",
        title="Memory and the number of jobs",
        words="Growth of the peak, 20 kB images, 32 at a time. A session keeps nothing of a job "
        "that has ended; with a journal the growth is SQLite's cache (8 MiB at most) and the "
        "allocator's reserve, for a folder also the names in it (0.4 kB each).",
        limit="SQLite's cache and what the allocator keeps.",
        tables=[table("", head, rows)],
        plots=drawn,
    )
