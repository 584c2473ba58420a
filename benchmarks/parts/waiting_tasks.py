"""Many tasks waiting in one process: what each of them holds, and what polling them costs.

As a program, ``python -m benchmarks.parts.waiting_tasks`` with ``hold WAY COUNT TRACED`` or with
``poll CLIENT ROOT COUNT ENDS``, it measures one way to wait.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import json
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterable

import attrs

from benchmarks.clients import BASE
from benchmarks.core import images
from benchmarks.core.bench import Bench, in_rounds, ratio, table
from benchmarks.core.meter import LoopLag, cpu_seconds, forget_peak
from benchmarks.core.programs import last_line
from benchmarks.core.report import Section, Table, median
from benchmarks.core.server import running
from benchmarks.core.shapes import NEVER
from benchmarks.parts.polls import raw
from comet_async import CometSession, Gateway, Task, TaskStatus, TaskWaiter
from comet_async._polling.streams import TaskStream
from comet_async.clock import SYSTEM_CLOCK
from comet_async.models import TaskPage

COUNT = 100_000
_WORKERS = 32
_LONG = 3600.0
_GLANCE = 0.01
_MIB = 1024 * 1024

# -------------------------------------------------------------------------------- holding


class _Handle:
    """The least that a task needs."""

    __slots__ = ("due", "task_id", "watch")

    def __init__(self, task_id: str, due: float) -> None:
        self.task_id = task_id
        self.due = due
        self.watch = None


async def _heap(ids: list[str]) -> object:
    heap: list[tuple[float, int, _Handle]] = []
    now = asyncio.get_running_loop().time()
    for number, task_id in enumerate(ids):
        heapq.heappush(heap, (now + _LONG, number, _Handle(task_id, now + _LONG)))
    return heap


async def _futures(ids: list[str]) -> object:
    heap: list[tuple[float, int, str, asyncio.Future[None]]] = []
    loop = asyncio.get_running_loop()
    for number, task_id in enumerate(ids):
        heapq.heappush(heap, (loop.time() + _LONG, number, task_id, loop.create_future()))
    return heap


async def _started(work: Iterable[Awaitable[object]]) -> list[asyncio.Future[object]]:
    """Start tasks, and let all of them come to where they wait."""
    tasks = [asyncio.ensure_future(one) for one in work]
    await asyncio.sleep(0)
    return tasks


async def _loops(ids: list[str]) -> object:
    async def poll(task_id: str) -> str:
        while True:
            await asyncio.sleep(_LONG)
            if not task_id:
                return task_id

    return await _started(poll(task_id) for task_id in ids)


async def _tenacity(ids: list[str]) -> object:
    import tenacity  # noqa: PLC0415 - a process pays for one way

    async def poll(task_id: str) -> str:
        return "" if task_id else "done"

    def unfinished(answer: str) -> bool:
        return not answer

    def one(task_id: str) -> Awaitable[object]:
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_result(unfinished),
            wait=tenacity.wait_fixed(_LONG),
        )
        return retrying(poll, task_id)

    return await _started(one(task_id) for task_id in ids)


class _Quiet:
    """A server in memory whose tasks never end: what is measured is the waiting alone."""

    def __init__(self) -> None:
        self.clock = SYSTEM_CLOCK
        self.schedule = _LONG

    async def poll(self, task_id: str, *, kind: str, timeout: float | None) -> Task:  # noqa: ARG002 - the protocol's signature
        return Task(id=task_id, status=TaskStatus.PROCESSING, kind=kind)

    async def poll_page(self, number: int, size: int, *, kind: str) -> TaskPage:
        raise NotImplementedError


async def _wait(ids: list[str]) -> object:
    waiter = TaskWaiter(_Quiet(), use_list=False)
    return waiter, await _started(waiter.wait(task_id) for task_id in ids)


async def _as_completed(ids: list[str]) -> object:
    waiter = TaskWaiter(_Quiet(), use_list=False)
    stream = waiter.as_completed(ids, prefetch=len(ids))
    first = asyncio.ensure_future(anext(stream))
    await _until(lambda: waiter.waiting == len(ids))
    return waiter, stream, first


async def _until(there: Callable[[], bool]) -> None:
    while not there():  # noqa: ASYNC110 - nothing signals it
        await asyncio.sleep(_GLANCE)


_WAYS: dict[str, Callable[[list[str]], Awaitable[object]]] = {
    "heap entry and handle": _heap,
    "a future each, one poller": _futures,
    "a coroutine each, which sleeps and polls": _loops,
    "tenacity, AsyncRetrying each": _tenacity,
    "comet_async, wait() in a task each": _wait,
    "comet_async, as_completed()": _as_completed,
}


@attrs.frozen(kw_only=True)
class Held:
    """What waiting tasks cost.

    Attributes:
        resident: Growth of the process, bytes a task.
        traced: What Python's allocator gave out, bytes a task.
        setup: CPU time to begin, µs a task.
        collect: One full garbage collection, ms.
    """

    resident: float
    traced: float
    setup: float
    collect: float


async def _held(way: str, count: int, *, traced: bool) -> Held:
    ids = [f"{860_000_000_000 + number}" for number in range(count)]
    kept = [await _WAYS[way](ids[:1])]  # what is loaded and made once
    empty = _collection()
    if traced:
        tracemalloc.start()
    before = forget_peak()
    begin = cpu_seconds()
    kept.append(await _WAYS[way](ids))
    setup = cpu_seconds() - begin
    if isinstance(waiter := _first(kept[-1]), TaskWaiter):
        await _until(lambda: waiter.polls >= count)  # each was polled once
    return Held(
        resident=(forget_peak() - before) * _MIB / count,
        traced=tracemalloc.get_traced_memory()[0] / count if traced else 0.0,
        setup=1e6 * setup / count,
        collect=1000 * (_collection() - empty),
    )


def _first(kept: object) -> object:
    return kept[0] if isinstance(kept, tuple) else None


def _collection() -> float:
    """Return the CPU seconds of a full garbage collection."""
    gc.collect()
    begin = time.process_time()
    gc.collect()
    return time.process_time() - begin


# --------------------------------------------------------------------------------- polling


@attrs.define(eq=False)
class _Meter:
    """What was used since all tasks were waiting, and since then how late the loop was.

    Attributes:
        taking: Longest delay of the loop until then, ms.
    """

    lag: LoopLag
    taking: float = 0.0
    _cpu: float = 0.0
    _done: int = 0

    def begin(self, done: int = 0) -> None:
        """Begin to measure; *done* polls were made before."""
        self.taking = self.lag.worst()
        self.lag.late.clear()
        self._cpu, self._done = cpu_seconds(), done

    def end(self, done: int) -> Polled:
        """Return what the polls since then cost."""
        cpu = 1e6 * (cpu_seconds() - self._cpu) / (done - self._done)
        worst, p99 = self.lag.worst(), self.lag.p99()
        return Polled(cpu=cpu, worst=worst, p99=p99, taking=self.taking)


@attrs.frozen(kw_only=True)
class Polled:
    """What one poll costs while many tasks wait.

    Attributes:
        cpu: CPU time, µs.
        worst: Longest delay of the event loop, ms.
        p99: The delay that one in a hundred exceeds, ms.
        taking: Longest delay while the tasks were taken in, ms.
    """

    cpu: float
    worst: float
    p99: float
    taking: float


async def _raw(root: str, ids: list[str], meter: _Meter) -> Polled:
    left = iter(ids)
    async with raw(root) as poll:

        async def work() -> None:
            for task_id in left:
                await poll(task_id)

        meter.begin()
        await asyncio.gather(*(work() for _ in range(_WORKERS)))
        return meter.end(len(ids))


async def _ours(root: str, ids: list[str], meter: _Meter) -> Polled:
    async with CometSession("key", gateway=Gateway.comet(root)) as comet:
        waiter = TaskWaiter(comet, use_list=False, concurrency=_WORKERS)
        async with waiter.as_completed(ids, prefetch=len(ids)) as stream:
            taker = asyncio.create_task(_drain(stream))
            await _until(lambda: waiter.waiting + waiter.finished == len(ids))
            meter.begin(waiter.polls)
            await _until(lambda: waiter.polls >= len(ids))
            polled = meter.end(waiter.polls)
            taker.cancel()
            await asyncio.wait({taker})
        return polled


async def _drain(stream: TaskStream) -> None:
    async for _ in stream:
        pass


_CLIENTS = {BASE: _raw, "comet_async": _ours}


async def _polled(client: str, root: str, count: int, *, ends: bool) -> Polled:
    prefix = "" if ends else f"{NEVER}-"
    ids = [f"{prefix}{860_000_000_000 + number}" for number in range(count)]
    async with LoopLag() as lag:
        return await _CLIENTS[client](root, ids, _Meter(lag))


# ------------------------------------------------------------------------------- the part


def _hold_table(bench: Bench) -> Table:
    count = bench.count(COUNT, 2000)
    rows = []
    for way in _WAYS:
        number = count // 10 if way.startswith("tenacity") else count
        found = [
            Held(**json.loads(last_line("parts.waiting_tasks", "hold", way, str(number), traced)))
            for traced in ("", "traced")
        ]
        cells = [f"{found[0].resident:,.0f}", f"{found[1].traced:,.0f}"]
        collect = found[0].collect * count / number
        rows.append([way, *cells, f"{found[0].setup:.1f}", f"{collect:,.0f}"])
    head = ("way to wait", "bytes a task", "allocated", "set-up µs", "full collection ms")
    return table(f"{count:,} tasks waiting", head, rows)


def _poll_table(bench: Bench, root: str, *, ends: bool) -> Table:
    count = bench.count(COUNT, 500)
    words = (root, str(count), "ends" if ends else "")

    def measured(client: str) -> Polled:
        return Polled(**json.loads(last_line("parts.waiting_tasks", "poll", client, *words)))

    what = f"{count:,} {'finished' if ends else 'running'} tasks, each polled once"
    found = in_rounds(list(_CLIENTS), measured, rounds=bench.count(3, 1), what=what)
    rows = []
    for name, samples in found.items():
        times = ratio(found, name, lambda sample: sample.cpu)
        keys = ("cpu", "taking", "worst", "p99")
        facts = [median([getattr(s, key) for s in samples.values()]) for key in keys]
        lags = ["–" if name == BASE else f"{facts[1]:.0f}", f"{facts[2]:.0f}", f"{facts[3]:.1f}"]
        rows.append([name, f"{facts[0]:.0f}", f"{times:.2f}", *lags])
    head = ("client", "CPU µs a poll", "× raw", "worst ms, taken in", "worst ms", "p99 ms")
    return table(what, head, rows)


def waiting_tasks(bench: Bench) -> Section:
    """Measure what many waiting tasks hold, and what it costs to poll them."""
    result = bench.scratch / "result.png"
    result.write_bytes(images.png(20_000))
    with running(result, polls=1) as server:
        polled = [_poll_table(bench, server.root, ends=ends) for ends in (False, True)]
    return Section(
        name="waiting_tasks",
        title="Many tasks waiting",
        words="What each of them holds: growth of the process, and what Python's allocator gave "
        "out; tenacity with a tenth of the tasks. Then polls about all of them, 32 at a time, "
        "through one `as_completed()`; *raw aiohttp* polls the same from 32 workers and knows "
        "nothing of waiting. The delays are those of another task in the loop, which sleeps for "
        "5 ms again and again; *taken in* is while the tasks are handed over, when the longest is "
        "a full garbage collection of Python's.",
        limit="Python's garbage collector, whose full collections look at all that waits. Polls "
        "cause none, but what the program itself makes does; a program that waits for so "
        "many can call `gc.freeze()` once they are taken in.",
        tables=[_hold_table(bench), *polled],
    )


def main(what: str, *words: str) -> None:
    """Measure one way, and print."""
    if what == "hold":
        way, count, traced = words
        found: Held | Polled = asyncio.run(_held(way, int(count), traced=bool(traced)))
    else:
        client, root, count, ends = words
        found = asyncio.run(_polled(client, root, int(count), ends=bool(ends)))
    sys.stdout.write(json.dumps(attrs.asdict(found)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
