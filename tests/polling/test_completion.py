"""Ends that are not plain: no image beside a success, and images beside an unknown status."""

# ruff: noqa: S311 - seeded jitter; nothing is guarded by it
from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable

import attrs
import pytest

from comet_async.errors import DecodeError, ResultMissingError, TaskFailedError, WaitTimeoutError
from comet_async.models import ResultImage, Task, TaskStatus
from comet_async.testing import VirtualClock
from comet_async.waiter import TaskWaiter
from tests.support.task_server import TaskServer

Answer = Callable[[Task, int], Task]


@pytest.fixture
def server(clock: VirtualClock) -> TaskServer:
    """Return a server of tasks in memory."""
    return TaskServer(clock=clock)


@pytest.fixture
def waiter(server: TaskServer) -> TaskWaiter:
    """Return a waiter with a fixed schedule, so that the times below are exact enough."""
    return TaskWaiter(server, schedule=5, rng=random.Random(1))


def images(count: int) -> tuple[ResultImage, ...]:
    """Return as many images."""
    return tuple(ResultImage(index=k, url=f"https://cdn.example/{k}.png") for k in range(count))


def answering(server: TaskServer, answer: Answer) -> list[float]:
    """Change what *server* says of tasks that ended; return when it does, one entry a poll."""
    moments: list[float] = []

    def fault(task_id: str, _number: int) -> Task | None:
        now = server.clock.monotonic()
        task = server.snapshot(server.scripts[task_id], now)
        if not task.done:
            return None
        moments.append(now)
        return answer(task, len(moments))

    server.fault = fault
    return moments


def without_images(task: Task, _number: int) -> Task:
    """Return a success without a result."""
    return attrs.evolve(task, images=())


async def test_a_result_that_comes_later_is_waited_for(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """Two answers say "succeed" and nothing else; the third has the image."""
    moments = answering(server, lambda task, k: attrs.evolve(task, images=images(k > 2)))
    done = await waiter.wait(server.submit(20.0))
    assert len(done.images) == 1
    gaps = [later - sooner for sooner, later in itertools.pairwise(moments)]
    assert gaps == pytest.approx([1.0, 2.0], abs=0.2)


async def test_a_result_that_never_comes_is_an_error(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """After a minute, with ids that resume the wait, and few polls."""
    moments = answering(server, without_images)
    task = server.submit(20.0, external_task_id="mine")
    with pytest.raises(ResultMissingError, match="no readable image for 6") as caught:
        await waiter.wait(task)
    assert moments[-1] - moments[0] == pytest.approx(60.0, abs=1.0)
    assert len(moments) <= 8
    error = caught.value
    assert (error.task_id, error.external_task_id) == ("t0", "mine")
    assert error.task.status == TaskStatus.SUCCEED
    assert error.hint is not None
    assert "do not submit it again" in error.hint
    assert waiter.waiting == 0


async def test_a_wait_for_a_missing_result_can_be_resumed(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """By the error's id, or by the snapshot in it."""
    moments = answering(server, lambda task, k: attrs.evolve(task, images=images(k > 9)))
    with pytest.raises(ResultMissingError) as caught:
        await waiter.wait(server.submit(20.0))
    assert (await waiter.wait(caught.value.task)).images
    assert (await waiter.wait(caught.value.task_id or "")).images
    assert len(moments) > 9


@pytest.mark.parametrize("way", ["wait", "transitions", "as_completed"])
async def test_a_snapshot_without_images_is_not_a_result(
    server: TaskServer, waiter: TaskWaiter, way: str
) -> None:
    """Given as it was found in a list or in the answer to the request, it is polled at once."""
    server.submit(1.0)
    await asyncio.sleep(5.0)
    bare = without_images(server.snapshot(server.scripts["t0"], server.clock.monotonic()), 0)
    began = server.clock.monotonic()
    match way:
        case "wait":
            found = [await waiter.wait(bare)]
        case "transitions":
            found = [task async for task in waiter.transitions(bare)]
        case _:
            found = [task async for task in waiter.as_completed([bare])]
    assert [(task.status, len(task.images)) for task in found] == [("succeed", 1)]
    assert server.clock.monotonic() - began < 1.0


async def test_transitions_yield_a_success_with_its_images_only(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """Until then the task counts as going on."""
    answering(server, lambda task, k: attrs.evolve(task, images=images(k > 3)))
    seen = [task async for task in waiter.transitions(server.submit(20.0))]
    assert [(str(task.status), len(task.images)) for task in seen] == [
        ("submitted", 0),
        ("processing", 0),
        ("succeed", 1),
    ]


async def test_a_deadline_ends_the_wait_for_a_result(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """It does not say that the task is going on."""
    answering(server, without_images)
    with pytest.raises(WaitTimeoutError, match="successful, but shows no complete result"):
        await waiter.wait(server.submit(5.0), timeout=20)


async def test_one_without_a_result_leaves_the_others(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """The iterator raises the error for one task and can be iterated on."""
    answering(server, lambda task, _k: without_images(task, 0) if task.id == "t0" else task)
    stream = waiter.as_completed([server.submit(5.0), server.submit(100.0)])
    with pytest.raises(ResultMissingError):
        await anext(stream)
    assert [task.id async for task in stream] == ["t1"]


@pytest.mark.parametrize("lists", ["on", "off"])
async def test_a_crowd_without_images_in_the_list(server: TaskServer, lists: str) -> None:
    """A list without images is not evidence: each task is polled by itself."""
    server.lists = lists
    waiter = TaskWaiter(server, rng=random.Random(1))
    done = await asyncio.gather(*(waiter.wait(server.submit(10.0 + k)) for k in range(20)))
    assert all(task.images for task in done)


async def test_fewer_images_than_asked_for_are_kept(server: TaskServer, waiter: TaskWaiter) -> None:
    """As soon as the next answer shows no more of them."""
    moments = answering(server, lambda task, _k: attrs.evolve(task, images=images(2)))
    done = await waiter.wait(server.submit(20.0), n=3)
    assert len(done.images) == 2
    assert moments[-1] - moments[0] == pytest.approx(1.0, abs=0.2)


async def test_images_that_come_one_after_the_other_are_waited_for(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """A success that grows is complete when it has all of them."""
    answering(server, lambda task, k: attrs.evolve(task, images=images(min(k, 4))))
    assert len((await waiter.wait(server.submit(20.0), n=4)).images) == 4


async def test_whoever_waits_for_all_images_gets_them_though_others_wait_for_one(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """A hook that waits with the default must not cut a job's result short."""
    answering(server, lambda task, k: attrs.evolve(task, images=images(min(k, 4))))
    task = server.submit(20.0)
    tasks = await asyncio.gather(waiter.wait(task), waiter.wait(task, n=4), waiter.wait(task))
    assert [len(done.images) for done in tasks] == [4, 4, 4]


async def test_an_unknown_word_beside_all_images_is_success(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """The second answer that shows no more images makes it one."""
    moments = answering(
        server, lambda task, _k: attrs.evolve(task, status="ready", images=images(2))
    )
    seen = [task async for task in waiter.transitions(server.submit(20.0), n=2)]
    assert [str(task.status) for task in seen] == ["submitted", "processing", "ready", "succeed"]
    assert len(seen[-1].images) == 2
    assert moments[-1] - moments[0] < 2.0


async def test_previews_beside_an_unknown_word_are_not_the_result(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """One image of two is a task that goes on; images that grow are waited for."""
    answering(
        server,
        lambda task, k: (
            attrs.evolve(task, status="rendering", images=images(1 + k // 5)) if k < 20 else task
        ),
    )
    done = await waiter.wait(server.submit(20.0), n=2)
    assert done.status == TaskStatus.SUCCEED
    assert len(done.images) == 2


async def test_an_unknown_word_without_images_is_not_success(
    server: TaskServer, waiter: TaskWaiter
) -> None:
    """It is tolerated within the error budget, and no longer."""
    moments = answering(server, lambda task, _k: attrs.evolve(task, status="ready", images=()))
    with pytest.raises(DecodeError, match="'ready'"):
        await waiter.wait(server.submit(20.0))
    assert moments[-1] - moments[0] == pytest.approx(300.0, abs=10.0)


async def test_an_end_in_other_words_is_the_end(server: TaskServer, waiter: TaskWaiter) -> None:
    """`TaskStatus.parse` knows the families; the wait is over at once, with the reason."""
    status = TaskStatus.parse("canceled_by_platform")
    answering(server, lambda task, _k: attrs.evolve(task, status=status, message="no capacity"))
    with pytest.raises(TaskFailedError, match="no capacity"):
        await waiter.wait(server.submit(20.0))
