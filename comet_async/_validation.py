"""Checks of arguments that several entry points share."""

from __future__ import annotations

from comet_async.errors import InputError
from comet_async.models import Task


def check_task(task: object) -> None:
    """Refuse what is no *task*: programs without a type checker give numbers and None.

    Raises:
        InputError: It is neither a `Task` nor an id.
    """
    if not isinstance(task, Task | str) or not task:
        msg = f"{task!r} is neither a task nor a task's id"
        raise InputError(msg, field="task", value=task, hint="give a Task, or its id as text")


def check_timeout(timeout: float | None) -> None:
    """Refuse a *timeout* that is none, before anything is paid for it.

    Raises:
        InputError: It is no number, or negative.
    """
    if timeout is not None:
        check_least("timeout", timeout, 0)


def check_least(name: str, value: object, least: int) -> None:
    """Refuse a setting that is no number, or under *least*.

    Raises:
        InputError: It is.
    """
    if not isinstance(value, int | float):
        raise InputError(f"{name}={value!r} is no number", field=name, value=value)
    if not value >= least:
        raise InputError(
            f"{name}={value} is under {least}", field=name, value=value, limit=f">= {least}"
        )


def check_concurrency(value: object) -> int:
    """Return *value* if it is a whole number of at least 1.

    Raises:
        InputError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        msg = f"concurrency={value!r} must be a whole number, at least 1"
        raise InputError(msg, field="concurrency", value=value, limit="at least 1")
    return value
