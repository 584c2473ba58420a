"""When a task counts as finished: what its status says, and the images that it shows."""

from __future__ import annotations

import attrs

from comet_async._polling.watch import ResultCheck, WatchedTask
from comet_async.errors import ResultMissingError
from comet_async.models import Task, TaskStatus

RESULT_WAIT = 60.0
"""Seconds that a task that succeeded is given to show a readable image."""

# Images count as complete when two answers this far apart, seconds, show as many of them.
_STABLE = 0.9
# A task without its result is polled after 1, 2, 4, 8 and then each 16 seconds.
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 16.0


def has_result(task: Task) -> bool:
    """Return True if there is nothing left to wait for: *task* failed, or shows its images."""
    return task.failed or (task.succeeded and bool(task.images))


def finished(entry: WatchedTask, task: Task, now: float) -> Task | None:
    """Return *task* in its final state, or None if it is not finished.

    "The server says that it succeeded" is not yet "we have it": without a readable image, or with
    fewer than it should have, it is polled again. A status that is unknown to us, beside all
    images, counts as success as soon as the next answer shows no more of them.

    As long as the end is unclear, ``entry.result_check`` is set.
    """
    if task.failed:
        return task
    count = len(task.images)
    enough = count >= entry.n
    unknown = not isinstance(task.status, TaskStatus)
    if not (task.succeeded or (unknown and enough)):
        entry.result_check = None
        return None
    check = entry.result_check
    stable = check is not None and count == check.images and now - check.counted_at >= _STABLE
    if (task.succeeded and enough) or (count and stable):
        return attrs.evolve(task, status=TaskStatus.SUCCEED) if unknown else task
    if check is None:
        check = entry.result_check = ResultCheck(since=now, counted_at=now, images=count)
    elif count != check.images:
        check.counted_at, check.images = now, count
    check.polls += 1
    return None


def next_result_poll(check: ResultCheck, now: float) -> float:
    """Return when to look for the result again."""
    wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (check.polls - 1))
    latest = check.since + RESULT_WAIT
    return min(now + wait, latest) if now < latest else now + wait


def missing_result(entry: WatchedTask, task: Task, now: float) -> ResultMissingError | None:
    """Return the error to give up with if *task* has been without a readable image too long."""
    check = entry.result_check
    if check is None or not task.succeeded or task.images or now < check.since + RESULT_WAIT:
        return None
    return ResultMissingError(
        f"task {entry.id} succeeded, but has shown no readable image for {now - check.since:.0f} s",
        task=task,
        task_id=entry.id,
        external_task_id=task.external_task_id,
        request_id=task.request_id,
    )
