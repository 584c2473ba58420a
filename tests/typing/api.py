"""What a type checker sees of the public names. Checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, assert_type

from comet_async import (
    CallbackReceiver,
    CometError,
    CometSession,
    ExpandRequest,
    Margins,
    Outcome,
    OutcomeStatus,
    OutcomeUnknownError,
    ResultImage,
    ResultMissingError,
    Run,
    Task,
    TaskFailedError,
    TaskStatus,
    TaskWaiter,
    WaitTimeoutError,
)


async def one_image() -> None:
    """Submit, wait and download."""
    async with CometSession() as comet:
        assert_type(comet, CometSession)
        task = await comet.expand("dog.png", Margins(left=0.65, right=0.65), prompt="white sun")
        assert_type(task, Task)
        assert_type(task.images[0], ResultImage)
        assert_type(await comet.download(task.images[0], "dog-wide.png"), Path)


async def in_steps(comet: CometSession) -> None:
    """Submit here, wait there."""
    request = ExpandRequest(image=Path("dog.png"), margins=Margins(up=0.3), n=2)
    assert_type(await comet.submit(request), Task)
    assert_type(await comet.get("t-1"), Task)
    assert_type(await comet.find("photo-1"), Task)
    async for task in comet.list_tasks():
        assert_type(task, Task)


async def waiting(comet: CometSession, tasks: list[Task], ids: AsyncIterator[str]) -> None:
    """Tasks and task ids are waited for alike."""
    waiter = TaskWaiter(comet, timeout=600, schedule=2)
    async for snapshot in waiter.transitions("t-1"):
        assert_type(snapshot, Task)
    assert_type(await waiter.wait(tasks[0]), Task)
    async for done in waiter.as_completed(tasks):
        assert_type(done, Task)
    async for done in waiter.as_completed(ids):
        assert_type(done, Task)


async def callbacks() -> None:
    """A receiver is given to the session and to the waiter."""
    async with CallbackReceiver(host="127.0.0.1", port=0) as receiver:
        assert_type(str(receiver.url), str)
        async with CometSession("key", callbacks=receiver) as comet:
            TaskWaiter(comet, callbacks=receiver)


async def folders(comet: CometSession) -> None:
    """Rules that need the image's size stand wherever margins do."""
    rules = (
        Margins.for_aspect("16:9"),
        Margins.for_size(1920, 1080, anchor="bottom"),
        Margins.uniform(0.3),
    )
    for rule in rules:
        assert_type(rule.resolve(640, 480), Margins)
        async for outcome in comet.expand_folder("photos/", "wide/", rule, concurrency=16):
            assert_type(outcome, Outcome)
            assert_type(outcome.status, OutcomeStatus)
            assert_type(outcome.task, Task | None)
            assert_type(outcome.error, CometError | None)
            assert_type(outcome.files, tuple[Path, ...])
    request = ExpandRequest(image=b"...", margins=Margins.for_aspect("16:9"))
    run = comet.expand_many([request], out="wide/", max_jobs=10)
    assert_type(run, Run)
    async for outcome in run:
        assert_type(outcome, Outcome)
    assert_type(await comet.run_job("key"), Outcome)


def facts(task: Task) -> None:
    """Snapshots are typed to the last field."""
    assert_type(task.id, str)
    assert_type(task.status, TaskStatus | str)
    assert_type(task.images, tuple[ResultImage, ...])
    assert_type(task.created_at, datetime | None)
    assert_type(task.units, Decimal | None)
    assert_type(task.raw, Mapping[str, Any])
    assert_type((task.done, task.succeeded, task.failed), tuple[bool, bool, bool])


def errors(error: CometError) -> None:
    """Errors say what to do next, in fields."""
    assert_type(error.hint, str | None)
    assert_type(error.sent, bool | None)
    assert_type(error.retryable, bool)
    assert_type(error.task_id, str | None)
    assert_type(error.retry_after, float | None)
    if isinstance(error, TaskFailedError):
        assert_type(error.task, Task)
    if isinstance(error, WaitTimeoutError | ResultMissingError):
        assert_type(error.task, Task | None)
    if isinstance(error, WaitTimeoutError | OutcomeUnknownError):
        assert_type(error.external_task_id, str | None)
