"""When to poll again: requests a task, and how long it takes to notice that it ended."""

# ruff: noqa: S311 - seeded draws; nothing is guarded by them
from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.core import plots
from benchmarks.core.bench import Bench
from benchmarks.core.report import Section, Table
from benchmarks.parts.strategies import (
    ONE_HUMP,
    PEERS,
    TWO_HUMPS,
    DurationHistogram,
    Hump,
    Make,
    optimum,
    optimum_with,
    ours,
)
from benchmarks.parts.trials import (
    CALLBACK,
    CHUNK,
    LEARNED,
    SEED,
    Found,
    Run,
    Setting,
    merged,
    really,
    really_in_chunks,
    simulate,
    simulate_ours,
)

_KNOWN = (ONE_HUMP, TWO_HUMPS)
_UNKNOWN = (0.5, 1, 2, 5, 10, 20, 60, 180, 600)
_AIMS = (3, 4, 5, 6, 8, 10, 12)
_ROUND_TRIP = 0.1
_CROWD = 1000


def _cells(found: Found) -> list[str]:
    return [
        f"{found.each:.3g}" if found.each < 100 else f"{found.each:.0f}",  # noqa: PLR2004 - three digits
        f"{found.delay:.2f}",
        f"{100 * found.added:.1f}",
        f"{found.late():.1f}",
        f"{found.score:.3f}",
    ]


_HEAD = ("requests a task", "mean delay s", "added %", "p95 delay s", "score")


def _singles(durations: DurationHistogram, count: int) -> dict[str, Found]:
    """Poll each task by itself."""
    found = {
        name: simulate(make(random.Random(SEED)), durations, count, random.Random(SEED))
        for name, make in PEERS.items()
    }
    found["comet_async, schedule"] = mine = simulate_ours(durations, count)
    found["comet_async, one at a time"] = really_in_chunks(Setting(), durations, count)
    found["comet_async, 32 in flight"] = really_in_chunks(Setting(in_flight=32), durations, count)
    best = optimum_with(durations, mine.each)
    found["best possible"] = simulate(best, durations, count, random.Random(SEED))
    return found


def _singles_table(durations: DurationHistogram, found: dict[str, Found]) -> Table:
    rows = [_strong(name, _cells(each)) for name, each in found.items()]
    return Table(title=f"One by one; {durations.name}", head=("strategy", *_HEAD), rows=rows)


def _strong(name: str, cells: Sequence[str]) -> list[str]:
    row = [name, *cells]
    return [f"**{cell}**" for cell in row] if name.startswith("comet_async") else row


def _cold_table(runs: int) -> Table:
    """Wait for the first tasks of all, of which nothing is known."""
    rows = []
    for median in _UNKNOWN:
        durations = DurationHistogram("", (Hump(median, 0.5),))
        cells: list[str] = []
        for in_flight in (1, 8, LEARNED):
            setting = Setting(in_flight=in_flight)
            found = merged(
                really(setting, durations, LEARNED, seed=seed, learned=0)[0] for seed in range(runs)
            )
            cells += [f"{found.each:.1f}", f"{100 * found.added:.1f}"]
        rows.append([f"{median:g} s", *cells])
    head = [f"{what}, {how}" for how in ("1", "8", "all") for what in ("requests", "added %")]
    title = f"Nothing known: the first {LEARNED} tasks, one at a time, eight, and all at once"
    return Table(title=title, head=("median", *head), rows=rows)


def _lists(count: int) -> dict[str, tuple[Found, ...]]:
    """Use a server whose list works, read once a second."""
    found = {}
    for in_flight in (8, 32, 128):
        setting = Setting(in_flight=in_flight, lists=True, round_trip=_ROUND_TRIP)
        found[f"comet_async, list, {in_flight} in flight"] = tuple(
            really(setting, durations, count, learned=4 * in_flight)[0] for durations in _KNOWN
        )
    return found


def _shared_table(title: str, found: dict[str, tuple[Found, ...]]) -> Table:
    rows = []
    for name, parts in found.items():
        cells = [(f"{p.each:.2f}", f"{p.delay:.2f}", f"{p.late():.1f}") for p in parts]
        row = [cell for part in cells for cell in part]
        rows.append([name.removeprefix("comet_async, list, "), *row])
    names = ("requests", "mean delay s", "p95 s")
    head = [f"{what}, {which}" for which in ("one hump", "two") for what in names]
    return Table(title=title, head=("", *head), rows=rows)


def _callbacks(durations: DurationHistogram, lost: int, count: int) -> tuple[Found, Run]:
    """Use a server that calls back, and loses one of so many callbacks."""
    setting = Setting(in_flight=16, callbacks=True, lost=lost, round_trip=_ROUND_TRIP)
    return really(setting, durations, count)


def _callbacks_table(found: dict[tuple[DurationHistogram, int], tuple[Found, Run]]) -> Table:
    rows = []
    for (durations, lost), (all_of_them, run) in found.items():
        told, late = run.notified, run.unnotified
        cells = [f"{all_of_them.each:.2f}", f"{told.delay:.2f}", f"{told.late(1.0):.2f}"]
        cells += [f"{late.delay:.0f}", f"{late.late(1.0):.0f}"] if late.delays else ["–", "–"]
        rows.append([f"{durations.name}; {'each tenth' if lost else 'none'} lost", *cells])
    delays = ("delivered: mean delay s", "longest s", "lost: mean delay s", "longest s")
    head = ("callbacks", "requests a task", *delays)
    return Table(title="The server calls back; 16 in flight", head=head, rows=rows)


def _busiest(moments: Sequence[float], span: float = 0.1) -> int:
    """Return the most *moments* that lie within *span*."""
    ordered, first, most = sorted(moments), 0, 0
    for place, moment in enumerate(ordered):
        while ordered[first] < moment - span:
            first += 1
        most = max(most, place - first + 1)
    return most


def _crowd_table() -> Table:
    """Submit many tasks at one moment."""
    setting = Setting(in_flight=_CROWD)
    ways: dict[str, tuple[int, Make]] = {
        "every 5 s, as clients do": (0, lambda _: _Metronome()),
        "comet_async, every 5 s": (0, PEERS["every 5 s"]),
        "comet_async, nothing known": (0, ours),
        "comet_async, 64 learned": (LEARNED, ours),
        "comet_async, 1,000 learned": (_CROWD, ours),
    }
    rows = []
    for name, (learned, make) in ways.items():
        cells = []
        for durations in _KNOWN:
            _, run = really(setting, durations, _CROWD, learned=learned, make=make)
            cells.append(f"{100 * _busiest(run.server.moments) / _CROWD:.1f} %")
        rows.append(_strong(name, cells))
    title = f"{_CROWD:,} tasks submitted at one moment: share of them in the busiest 0.1 s"
    return Table(title=title, head=("strategy", "one hump", "two"), rows=rows)


class _Metronome:
    """Every five seconds, and nothing that spreads tasks of one moment."""

    def first(self, n: int = 1) -> float:
        """Return the interval."""
        del n
        return 5.0

    def next(self, age: float, attempt: int, n: int = 1) -> float:
        """Return the interval."""
        del age, attempt, n
        return 5.0

    def learn(self, duration: float, n: int = 1) -> None:
        """Do nothing."""


# --------------------------------------------------------------------------- the part


def _panel(
    durations: DurationHistogram, singles: dict[str, Found], shared: dict[str, Found], count: int
) -> plots.Panel:
    """Return what is drawn for one kind of durations."""

    def point(found: Found) -> tuple[float, float]:
        return found.each, found.delay

    prices = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0)
    best = [optimum(durations, price) for price in prices]
    return plots.Panel(
        title=durations.name,
        points={name: point(singles[name]) for name in PEERS}
        | {name: point(found) for name, found in shared.items()},
        curve={aim: point(simulate_ours(durations, count, aim)) for aim in _AIMS},
        limit=[(each.polls, each.delay) for each in best],
    )


_WORDS = (
    "Requests a task, and the delay between its end and the moment when it is noticed. Simulated "
    "with seeds, on a clock that jumps; {count:,} tasks a line of the first two tables. There "
    "each {chunk} tasks are waited for by a new schedule of ours, which has learned from 64 "
    "others. *schedule* is it alone; all other lines of ours are the real `TaskWaiter` and a "
    "server in memory. Score is (requests less ½) × mean delay ÷ mean duration: any fixed "
    "interval has 0.50, less is better. *best possible* is the optimum for as many requests, "
    "were the durations known exactly. The network takes no time there; with lists and callbacks "
    "an exchange takes {trip:g} s, and a callback comes {callback:g} s after the end."
)


def waiting(bench: Bench) -> Section:
    """Simulate all strategies."""
    count = bench.count(20_000, 1_000)
    singles = {durations: _singles(durations, count) for durations in _KNOWN}
    lists = _lists(bench.count(5_000, 500))
    called = {
        (durations, lost): _callbacks(durations, lost, bench.count(10_000, 500))
        for durations in _KNOWN
        for lost in (0, 10)
    }
    drawn = []
    if bench.plots is not None:
        panels = [
            _panel(
                durations,
                singles[durations],
                {name: parts[place] for name, parts in lists.items()}
                | {"comet_async, callbacks": called[durations, 0][0]},
                bench.count(6_000, 400),
            )
            for place, durations in enumerate(_KNOWN)
        ]
        if plots.front(bench.plots / "waiting.png", panels):
            drawn.append(("waiting.png", "Requests a task and mean delay, by strategy"))
    return Section(
        name="waiting",
        title="When to poll again",
        words=_WORDS.format(count=count, chunk=CHUNK, trip=_ROUND_TRIP, callback=CALLBACK),
        limit="how often a server may be polled; at the same number of polls little is left to "
        "gain.",
        tables=[
            *(_singles_table(durations, found) for durations, found in singles.items()),
            _cold_table(bench.count(30, 2)),
            _shared_table("The server's list works", lists),
            _callbacks_table(called),
            _crowd_table(),
        ],
        plots=drawn,
    )
