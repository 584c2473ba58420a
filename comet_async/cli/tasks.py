"""``comet-async status``, ``wait`` and ``list``: single tasks, also those of other programs."""

# ruff: noqa: PLC0415 - aiohttp and all that needs it is imported when a command runs: `--help`
# must be there at once

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from comet_async._tools.amounts import money
from comet_async.cli.console import DONE, NOT_DONE, Screen
from comet_async.cli.endpoint import find_endpoint
from comet_async.cli.options import (
    OUTPUT,
    PROXY,
    SERVICE,
    USUAL,
    General,
    check_seconds,
    folder,
    whole,
)
from comet_async.cli.runtime import CURRENT
from comet_async.errors import CometError, InputError, WaitTimeoutError

if TYPE_CHECKING:
    from datetime import datetime

    from comet_async.models import Task
    from comet_async.session import CometSession

_GATEWAY = Parameter(
    metavar="NAME|URL",
    group=SERVICE,
    help="comet, kling, or an address; by default what the environment or the configuration file "
    "says.",
)
_ID = Parameter(
    name="ID", help="The provider's task id, or our own (ce1-…), the key in the journal."
)
_JSON = Parameter(group=OUTPUT, help="Print one JSON object per line on standard output.")
_PAGE = 30


async def status(
    task_id: Annotated[str, _ID],
    /,
    *,
    gateway: Annotated[str | None, _GATEWAY] = None,
    proxy: Annotated[str | None, PROXY] = None,
    json: Annotated[bool, _JSON] = False,
    general: General = USUAL,  # noqa: ARG001 - read by the program before the command runs
) -> int:
    """Show one task."""
    screen = _screen(json=json)
    async with _session(gateway, proxy, screen) as comet:
        task = await _find(comet, task_id)
    _show(task, screen)
    if task.images and not screen.json:
        screen.say(f"to save it: comet-async wait {task_id} --out DIR", style="dim")
    return NOT_DONE if task.failed else DONE


async def wait(  # noqa: PLR0913 - the options, as --help shows them
    task_id: Annotated[str, _ID],
    /,
    *,
    timeout: Annotated[
        float | None,
        Parameter(
            metavar="SECONDS",
            help="Stop waiting after this time; no limit by default.",
            group=SERVICE,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        Parameter(
            name=("--out", "-o"),
            metavar="DIR",
            converter=folder,
            help="Save the images in this folder.",
            group=OUTPUT,
        ),
    ] = None,
    gateway: Annotated[str | None, _GATEWAY] = None,
    proxy: Annotated[str | None, PROXY] = None,
    json: Annotated[bool, _JSON] = False,
    general: General = USUAL,  # noqa: ARG001 - read by the program before the command runs
) -> int:
    """Wait for one task."""
    from comet_async.waiter import TaskWaiter

    screen = _screen(json=json)
    seconds = check_seconds("timeout", timeout)
    async with _session(gateway, proxy, screen) as comet:
        task = await _find(comet, task_id)
        try:
            async with aclosing(TaskWaiter(comet, timeout=seconds).transitions(task)) as changes:
                async for changed in changes:
                    if not changed.done:  # its end is shown below, with everything else
                        screen.say(f"{task.id}: {changed.status}")
                    task = changed
        except WaitTimeoutError as error:
            screen.complain(error)
            screen.say(f"to continue waiting: {CURRENT.get().command_line}", problem=True)
            return NOT_DONE
        _show(task, screen)
        if out is not None and task.succeeded:
            await _save(comet, task, out, screen)
    return DONE if task.succeeded else NOT_DONE


async def list_tasks(
    *,
    pages: Annotated[
        int,
        Parameter(
            metavar="NUMBER",
            converter=whole,
            help=f"How many pages of {_PAGE} tasks; 1 by default.",
        ),
    ] = 1,
    gateway: Annotated[str | None, _GATEWAY] = None,
    proxy: Annotated[str | None, PROXY] = None,
    json: Annotated[bool, _JSON] = False,
    general: General = USUAL,  # noqa: ARG001 - read by the program before the command runs
) -> int:
    """List tasks."""
    screen = _screen(json=json)
    if pages < 1:
        raise InputError(
            f"--pages {pages} must be at least 1",
            field="pages",
            value=pages,
            limit="at least 1",
            hint="write it like --pages 3",
        )
    tasks: list[Task] = []
    async with (
        _session(gateway, proxy, screen) as comet,
        aclosing(comet.list_tasks(page_size=_PAGE)) as listed,
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
        screen.say("the account has no expansion task")
    return DONE


def _screen(*, json: bool) -> Screen:
    screen = CURRENT.get().screen
    screen.json = json
    return screen


@asynccontextmanager
async def _session(
    gateway: str | None, proxy: str | None, screen: Screen
) -> AsyncGenerator[CometSession, None]:
    from comet_async.session import CometSession

    endpoint = find_endpoint(gateway, proxy)
    screen.hide(endpoint.credentials.secrets)
    async with CometSession(
        endpoint.credentials, gateway=endpoint.gateway, network=endpoint.network
    ) as comet:
        yield comet


async def _find(comet: CometSession, task_id: str) -> Task:
    """Look a task up by the provider's id, or by ours if it looks like one of ours."""
    from comet_async._journal.keys import is_own_key

    return await (comet.find(task_id) if is_own_key(task_id) else comet.get(task_id))


async def _save(comet: CometSession, task: Task, out: Path, screen: Screen) -> None:
    from comet_async._images.naming import output_name

    for image in task.images:
        # What the bytes are is known once they are here; the API makes PNG.
        name = output_name(task.id, image.index, len(task.images), "png")
        try:
            screen.tell(str(await comet.download(image, out / name)))
        except CometError as error:
            error.hint = (
                error.hint
                or f"the task is billed and safe; try again: {CURRENT.get().command_line}"
            )
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
        ("charged", _charge(task)),
        ("message", task.message or None),
        *((f"image {image.index}", image.url) for image in task.images),
    ]
    for name, value in facts:
        if value is not None:
            screen.tell(f"{name:<10} {value}")


def _charge(task: Task) -> str | None:
    """Return what the server says it charged; a unit means nothing to most people."""
    from comet_async.requests import EXPAND

    if task.units is None:
        return None
    if EXPAND.price is None or task.kind != EXPAND.name or not task.images:
        return f"{task.units} units"
    return f"{task.units} units (about {money(EXPAND.price * len(task.images))} by the list)"


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
