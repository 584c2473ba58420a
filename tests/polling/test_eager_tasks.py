"""Waiting in a loop whose tasks start at once, as `asyncio.eager_task_factory` makes them."""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from comet_async.models import Task
from comet_async.testing import VirtualClock
from comet_async.waiter import TaskWaiter
from tests.support.task_server import TaskServer

Factory = Callable[..., asyncio.Task[Any]]


def entering_factory(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Any, Any, Any],
    *,
    context: contextvars.Context | None = None,
    **options: Any,
) -> asyncio.Task[Any]:
    """Enter the context while a task is created, as an eager task does, on every Python."""
    context = contextvars.copy_context() if context is None else context
    context.run(lambda: None)
    return asyncio.Task(coro, loop=loop, context=context, **options)


FACTORIES: list[Factory] = [entering_factory]
if sys.version_info >= (3, 12):
    FACTORIES.append(asyncio.eager_task_factory)


@pytest.fixture(params=FACTORIES, ids=lambda factory: factory.__name__)
async def _eager(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Set the task factory of the test's loop."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(request.param)
    yield
    loop.set_task_factory(None)


@pytest.fixture
def server(clock: VirtualClock) -> TaskServer:
    """Return a server of tasks in memory."""
    return TaskServer(clock=clock)


@pytest.mark.usefixtures("_eager")
@pytest.mark.parametrize("latency", [0.05, None], ids=["answers later", "answers at once"])
@pytest.mark.parametrize("lists", ["on", "off", "empty"])
async def test_every_wait_ends(server: TaskServer, lists: str, latency: float | None) -> None:
    """Timers, poll workers and list calls start tasks, and none of them hangs."""
    server.latency, server.lists = latency, lists
    waiter = TaskWaiter(server, concurrency=3, rng=random.Random(1))  # noqa: S311 - not a secret
    tasks = [server.submit(float(n)) for n in range(1, 21)]
    async with asyncio.timeout(600.0):
        done = await asyncio.gather(*map(waiter.wait, tasks))
    assert all(task.succeeded for task in done)
    assert server.busiest <= 3 + 1  # a list call goes beside the polls
    assert waiter.list_calls > 1 or lists != "on"


@pytest.mark.usefixtures("_eager")
async def test_an_async_source_is_read(server: TaskServer) -> None:
    """One that never waits is over before the task that reads it was returned."""

    async def source() -> AsyncIterator[Task]:
        yield server.submit(60.0)
        yield server.submit(2.0)

    stream = TaskWaiter(server).as_completed(source())
    async with asyncio.timeout(600.0):
        assert [task.id async for task in stream] == ["t1", "t0"]


@pytest.mark.parametrize("lists", ["on", "off"])
async def test_a_task_that_can_not_start_ends_the_wait(server: TaskServer, lists: str) -> None:
    """The error of the task factory comes to each one who waits, instead of silence."""
    server.lists = lists
    waiter = TaskWaiter(server)
    tasks = [server.submit(20.0) for _ in range(10)]
    waits = asyncio.gather(*map(waiter.wait, tasks), return_exceptions=True)
    loop = asyncio.get_running_loop()
    broken = False

    def factory(
        loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        if broken:
            raise RuntimeError("out of tasks")
        return asyncio.Task(coro, loop=loop, **options)

    loop.set_task_factory(factory)
    try:
        await asyncio.sleep(4.0)
        broken = True
        results = await waits
    finally:
        loop.set_task_factory(None)
    assert [str(result) for result in results] == ["out of tasks"] * 10
    assert waiter.waiting == 0
