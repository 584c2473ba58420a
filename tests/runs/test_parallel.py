"""Works from a stream: so many at a time, results as they end, nothing left running."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any, TypeAlias, TypeVar

import attrs
import pytest

from comet_async._runs.parallel import in_parallel

X = TypeVar("X")
Work: TypeAlias = Callable[[], Awaitable[float]]


async def do(work: Work) -> float:
    """Do a work."""
    return await work()


@attrs.define
class Shop:
    """Makes works that take so many seconds, and watches them."""

    running: int = 0
    most: int = 0
    begun: list[float] = attrs.field(factory=list)
    ended: list[float] = attrs.field(factory=list)
    cancelled: list[float] = attrs.field(factory=list)

    def work(self, seconds: float, error: Exception | None = None) -> Work:
        """Return a work that takes *seconds*, then raises *error* if there is one."""

        async def do() -> float:
            self.begun.append(seconds)
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                await asyncio.sleep(1)  # cleaning up takes a while
                self.cancelled.append(seconds)
                raise
            finally:
                self.running -= 1
            if error is not None:
                raise error
            self.ended.append(seconds)
            return seconds

        return do

    def works(self, *seconds: float) -> AsyncGenerator[Work, None]:
        """Return a stream of works."""
        return stream(self.work(each) for each in seconds)


async def stream(works: Iterable[Work], pause: float = 0) -> AsyncGenerator[Work, None]:
    """Yield *works*, with a pause before each."""
    for work in works:
        await asyncio.sleep(pause)
        yield work


async def collect(works: AsyncGenerator[Work, None], workers: int) -> list[float]:
    """Return all results in order of completion."""
    return [result async for result in in_parallel(works, do, workers)]


async def test_order_of_completion() -> None:
    """What ends first comes first."""
    assert await collect(Shop().works(3, 1, 2), 3) == [1, 2, 3]


@pytest.mark.parametrize("workers", [1, 2, 5])
async def test_so_many_at_a_time(workers: int) -> None:
    """All workers have something to do, and never more than they can do."""
    shop = Shop()
    assert sorted(await collect(shop.works(*range(1, 9)), workers)) == list(range(1, 9))
    assert shop.most == workers


async def test_empty_stream() -> None:
    """No works, no results, no waiting forever."""
    assert await collect(Shop().works(), 2) == []


async def test_stream_is_not_read_ahead() -> None:
    """A work is taken from the stream when there is somebody to do it, not before."""
    shop, taken = Shop(), []

    async def works() -> AsyncGenerator[Work, None]:
        for number in range(100):
            taken.append(number)
            yield shop.work(1)

    async with aclosing(in_parallel(works(), do, 3)) as results:
        await anext(results)
        assert len(taken) <= 3 + 1


async def test_slow_stream_does_not_hold_up_results() -> None:
    """A result is given while the stream is still looking for the next work."""
    shop = Shop()
    begin = asyncio.get_running_loop().time()
    async with aclosing(in_parallel(stream([shop.work(1)] * 2, pause=60), do, 4)) as results:
        assert await anext(results) == 1
        assert asyncio.get_running_loop().time() - begin == pytest.approx(61, abs=1)


async def test_slow_consumer_is_waited_for() -> None:
    """While the consumer thinks, no new work begins."""
    shop = Shop()
    async with aclosing(in_parallel(shop.works(*[1] * 20), do, 2)) as results:
        await anext(results)
        await asyncio.sleep(100)
        assert len(shop.begun) == 2


async def test_work_that_fails_ends_it() -> None:
    """What a work raises comes out, once the others are cancelled and gone."""
    shop = Shop()
    works = stream([shop.work(1, ValueError("no")), shop.work(500), shop.work(600)])
    with pytest.raises(ValueError, match="no"):
        await collect(works, 3)
    assert sorted(shop.cancelled) == [500, 600]
    assert shop.running == 0


async def test_works_that_fail_together(caplog: pytest.LogCaptureFixture) -> None:
    """Of three failures at once, one comes out and the others are not shouted about."""
    gc.collect()  # what other tests left behind is not this one's
    caplog.clear()
    signal = asyncio.Event()

    async def fail() -> float:
        await signal.wait()
        raise ValueError("no")

    asyncio.get_running_loop().call_later(5, signal.set)
    with pytest.raises(ValueError, match="no"):
        await collect(stream([fail] * 3), 3)
    gc.collect()
    assert caplog.messages == []


async def test_stream_that_fails_ends_it() -> None:
    """What the stream raises comes out, once the works are cancelled and gone."""
    shop = Shop()

    async def works() -> AsyncGenerator[Work, None]:
        yield shop.work(500)
        await asyncio.sleep(1)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await collect(works(), 3)
    assert shop.cancelled == [500]


@pytest.mark.parametrize("pause", [0, 60], ids=["all-taken", "stream-waits"])
async def test_leaving_early(pause: float) -> None:
    """Leaving the iteration early leaves nothing running, in the works or in the stream."""
    shop = Shop()
    works = stream([shop.work(70), shop.work(500), shop.work(600)], pause)
    async with aclosing(in_parallel(works, do, 3)) as results:
        async for _ in results:
            break
    assert shop.running == 0
    assert shop.cancelled
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others


async def test_leaving_early_closes_both_streams() -> None:
    """What a stream holds open is closed by then, not when the stream is collected some day."""
    closed: list[str] = []

    async def named(name: str, *values: X) -> AsyncGenerator[X, None]:
        try:
            for value in values:
                yield value
        finally:
            await asyncio.sleep(1)
            closed.append(name)

    works, others = named("works", *[Shop().work(70)] * 9), named("others", [0.0], [0.0])
    async with aclosing(in_parallel(works, do, 1, others)) as results:
        await anext(results)
    assert sorted(closed) == ["others", "works"]


@pytest.mark.parametrize("pause", [0, 60], ids=["all-taken", "stream-waits"])
async def test_a_consumer_that_is_cancelled_twice_leaves_nothing_running(pause: float) -> None:
    """The second time comes while the works clean up, and so does the stream."""
    shop = Shop()

    async def slow_to_close() -> AsyncGenerator[Work, None]:
        try:
            for work in (shop.work(500), shop.work(600)):
                yield work
                await asyncio.sleep(pause)
        finally:
            await asyncio.sleep(1)

    works = slow_to_close()

    async def consume() -> None:
        async with aclosing(works):  # as whoever opened the stream does
            await collect(works, 3)

    task = asyncio.create_task(consume())
    await asyncio.sleep(5)
    task.cancel()
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert shop.running == 0
    assert not asyncio.all_tasks() - {asyncio.current_task()}


async def test_cancelled_consumer() -> None:
    """A consumer that is cancelled takes the works along."""
    shop = Shop()
    task: asyncio.Task[Any] = asyncio.create_task(collect(shop.works(500, 600), 2))
    await asyncio.sleep(5)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert sorted(shop.cancelled) == [500, 600]
