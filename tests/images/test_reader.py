"""The threads that read images."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from comet_async._images.reader import Reader

pytestmark = pytest.mark.real_loop


async def test_many_reads_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that takes no time is not handed to a thread one by one."""
    loop = asyncio.get_running_loop()
    started, run = 0, loop.run_in_executor

    def counted(*args: Any) -> asyncio.Future[Any]:
        nonlocal started
        started += 1
        return run(*args)

    monkeypatch.setattr(loop, "run_in_executor", counted)
    reader = Reader()
    found = await asyncio.gather(*(reader.read(lambda n=n: n) for n in range(1000)))
    assert found == list(range(1000))
    assert 1 <= started < 100


async def test_errors_go_to_their_own_callers() -> None:
    """The others get what they asked for."""
    reader = Reader()
    ends = await asyncio.gather(
        *(reader.read(lambda n=n: 1 // n) for n in (1, 0, 1)), return_exceptions=True
    )
    assert [type(end) for end in ends] == [int, ZeroDivisionError, int]


async def test_a_long_one_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read before it in the same thread is handed over before it ends."""
    monkeypatch.setattr("comet_async._images.reader._HAND_OVER", 0)
    reader, gate = Reader(), threading.Event()
    both = [asyncio.ensure_future(reader.read(gate.wait)) for _ in range(2)]
    short = [asyncio.ensure_future(reader.read(lambda: 1)) for _ in range(3)]
    both[0].cancel()  # a thread can't be stopped, and nobody waits for its result
    last = asyncio.ensure_future(reader.read(gate.wait))
    gate.set()
    assert await asyncio.gather(*short, last) == [1, 1, 1, True]
    assert both[0].cancelled()
    assert await both[1]


async def test_a_thread_that_cannot_be_started_ends_the_reads_of_that_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They get the error; later ones are read once the machine has threads to spare again."""
    pool = ThreadPoolExecutor(2)
    monkeypatch.setattr("comet_async._images.reader._pool", lambda _pid: pool)
    reader = Reader()

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await reader.read(lambda: 1)
    async with asyncio.timeout(30):
        assert await reader.read(lambda: 2) == 2
    pool.shutdown()


async def test_a_thread_that_runs_serves_those_that_got_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One thread is enough: a second one that can't be started is no error."""
    pool = ThreadPoolExecutor(2)
    monkeypatch.setattr("comet_async._images.reader._pool", lambda _pid: pool)
    reader, gate = Reader(), threading.Event()
    first = asyncio.ensure_future(reader.read(gate.wait))
    await asyncio.sleep(0)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    second = asyncio.ensure_future(reader.read(lambda: 2))
    await asyncio.sleep(0)
    gate.set()
    async with asyncio.timeout(30):
        assert await asyncio.gather(first, second) == [True, 2]
    pool.shutdown()


async def test_what_nobody_waits_for_is_not_read() -> None:
    """A caller that is cancelled before its turn costs nothing."""
    reader, gate, read = Reader(), threading.Event(), list[int]()
    threads = [asyncio.ensure_future(reader.read(gate.wait)) for _ in range(2)]
    await asyncio.sleep(0)

    def note(number: int) -> Callable[[], None]:
        return lambda: read.append(number)

    waiting = [asyncio.ensure_future(reader.read(note(number))) for number in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    gate.set()
    await asyncio.gather(*threads, waiting[1])
    assert read == [1]
