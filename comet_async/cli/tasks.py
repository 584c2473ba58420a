"""``comet-async status``, ``wait`` and ``list``: single tasks, whoever submitted them."""

# ruff: noqa: PLC0415 - aiohttp and all that needs it is imported when a command runs: `--help`
# must be there at once

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from comet_async.cli.console import DONE, NOT_DONE, Screen
from comet_async.cli.endpoint import find_endpoint
from comet_async.cli.options import OUTPUT, SERVICE, check_seconds, whole
from comet_async.cli.runtime import CURRENT
from comet_async.errors import CometError, InputError, WaitTimeoutError

if TYPE_CHECKING:
    from datetime import datetime

    from comet_async.models import Task
    from comet_async.session import CometSession

_GATEWAY = Parameter(
    group=SERVICE, help="comet, kling, or an address; by default as the environment says."
)
_ID = Parameter(help="The provider's task id, or our own (ce1-…), the key in the journal.")
_JSON = Parameter(group=OUTPUT, help="One JSON object a line on standard output.")
_PAGE = 30


async def status(
    task_id: Annotated[str, _ID],
    /,
    *,
    gateway: Annotated[str | None, _GATEWAY] = None,
    json: Annotated[bool, _JSON] = False,
) -> int:
    """Show one task."""
    screen = _screen(json=json)
    async with _session(gateway, screen) as comet:
        task = await _find(comet, task_id)
    _show(task, screen)
    if task.images and not screen.json:
        screen.say(f"to save it: comet-async wait {task_id} --out DIR", style="dim")
    return NOT_DONE if task.failed else DONE


async def wait(
    task_id: Annotated[str, _ID],
    /,
    *,
    timeout: Annotated[
        float | None, Parameter(help="Seconds to wait; no limit by default.", group=SERVICE)
    ] = None,
    out: Annotated[
        Path | None, Parameter(help="Save the images in this folder.", group=OUTPUT)
    ] = None,
    gateway: Annotated[str | None, _GATEWAY] = None,
    json: Annotated[bool, _JSON] = False,
) -> int:
    """Wait for one task."""
    from comet_async.waiter import TaskWaiter

    screen = _screen(json=json)
    seconds = check_seconds("timeout", timeout)
    async with _session(gateway, screen) as comet:
        task = await _find(comet, task_id)
        try:
            async with aclosing(TaskWaiter(comet, timeout=seconds).transitions(task)) as changes:
                async for changed in changes:
                    task = changed
                    screen.say(f"{task.id}: {task.status}")
        except WaitTimeoutError as error:
            screen.complain(error)
            screen.say(f"to wait on: {CURRENT.get().command_line}")
            return NOT_DONE
        _show(task, screen)
        if out is not None and task.succeeded:
            await _save(comet, task, out, screen)
    return DONE if task.succeeded else NOT_DONE


async def list_tasks(
    *,
    pages: Annotated[
        int, Parameter(converter=whole, help=f"How many pages of {_PAGE} tasks; 1 by default.")
    ] = 1,
    gateway: Annotated[str | None, _GATEWAY] = None,
    json: Annotated[bool, _JSON] = False,
) -> int:
    """List tasks."""
    screen = _screen(json=json)
    if pages < 1:
        msg = f"--pages {pages} must be at least 1"
        raise InputError(msg, field="pages", value=pages, limit="at least 1")
    tasks: list[Task] = []
    async with (
        _session(gateway, screen) as comet,
        aclosing(comet.list_tasks(page_size=_PAGE)) as listed,  # type: ignore[type-var]
    ):
        async for task in listed:
            tasks.append(task)
            if len(tasks) == pages * _PAGE:
                break
    if screen.json:
        for task in tasks:
            screen.emit(_as_record(task, screen))
    elif tasks:
        screen.table(("status", "task", "our id", "created", "images"), list(map(_row, tasks)))
    else:
        screen.say("the account has no task of this kind")
    return DONE


def _screen(*, json: bool) -> Screen:
    screen = CURRENT.get().screen
    screen.json = json
    return screen


@asynccontextmanager
async def _session(gateway: str | None, screen: Screen) -> AsyncGenerator[CometSession, None]:
    from comet_async.session import CometSession

    endpoint = find_endpoint(gateway)
    screen.hide(endpoint.credentials.secrets)
    async with CometSession(endpoint.credentials, gateway=endpoint.gateway) as comet:
        yield comet


async def _find(comet: CometSession, task_id: str) -> Task:
    """Ask for a task by the provider's id, or by ours if it looks like one of ours."""
    from comet_async._idempotency import is_own_key

    return await (comet.find(task_id) if is_own_key(task_id) else comet.get(task_id))


async def _save(comet: CometSession, task: Task, out: Path, screen: Screen) -> None:
    from comet_async._images.discovery import output_name

    for image in task.images:
        # What the bytes are is known once they are here; the API makes PNG.
        name = output_name(task.id, image.index, len(task.images), "png")
        try:
            screen.tell(str(await comet.download(image, out / name)))
        except CometError as error:
            error.hint = error.hint or f"the task is paid and safe: {CURRENT.get().command_line}"
            raise


def _show(task: Task, screen: Screen) -> None:
    if screen.json:
        screen.emit(_as_record(task, screen))
        return
    facts = [
        ("task", task.id),
        ("status", str(task.status)),
        ("our id", task.external_task_id),
        ("created", _moment(task.created_at)),
        ("changed", _moment(task.updated_at)),
        ("charged", None if task.units is None else f"{task.units} units"),
        ("message", task.message or None),
        *((f"image {image.index}", image.url) for image in task.images),
    ]
    for name, value in facts:
        if value is not None:
            screen.tell(f"{name:<10} {value}")


def _row(task: Task) -> tuple[str, ...]:
    return (
        str(task.status),
        task.id,
        task.external_task_id or "-",
        _moment(task.created_at) or "-",
        str(len(task.images)) if task.done else "-",
    )


def _as_record(task: Task, screen: Screen) -> dict[str, object]:
    return {
        "task_id": task.id,
        "status": str(task.status),
        "external_task_id": task.external_task_id,
        "message": screen.clean(task.message),
        "created_at": _moment(task.created_at),
        "updated_at": _moment(task.updated_at),
        "units": None if task.units is None else str(task.units),
        "images": [{"index": image.index, "url": screen.clean(image.url)} for image in task.images],
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%d %H:%M:%SZ}"
