"""One real, paid task that proves what a gateway can do: ``comet-async doctor --paid``.

It shows what no free question can: whether an id of ours that travelled with a request finds its
task again, at once, and whether the list shows it. Nothing of it needs to be remembered: each
run tries its lookups on a task that it knows to exist before it believes them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncGenerator

import attrs

from comet_async.api import Api
from comet_async.doctor import Check
from comet_async.errors import CometError, NotFoundError
from comet_async.expand import ExpandRequest
from comet_async.geometry import Margins
from comet_async.keys import random_key
from comet_async.models import Task
from comet_async.session import CometSession
from comet_async.waiter import TaskWaiter

SIDE = 300
"""The smallest picture that the API takes, in pixels."""

_FEW = 30


def sample() -> bytes:
    """Return a small picture of a sky, as PNG."""
    rows = b"".join(
        b"\0" + bytes((90 + y * 100 // SIDE, 150 + y * 80 // SIDE, 230)) * SIDE for y in range(SIDE)
    )
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@attrs.define(eq=False)
class _Trial:
    api: Api
    task: Task

    async def lookup(self, form: str) -> Check:
        """Ask for the task by our own id, and for an id that was never used."""
        name, key = f"lookup ({form})", self.task.external_task_id or ""
        try:
            found = await self._find(key, form)
            other = await self._find(random_key(), form)
        except CometError as error:
            text = f"does not answer: {error.message}"
            return Check(name=name, verdict="note", text=text)
        if found is None or found.id != self.task.id:
            return Check(name=name, verdict="note", text="does not find the task")
        if other is not None:
            text = "shows a task for any id: it proves nothing"
            return Check(name=name, verdict="warning", text=text)
        text = "finds the task, and nothing for an id that was never used"
        return Check(name=name, verdict="ok", text=text)

    async def _find(self, key: str, form: str) -> Task | None:
        try:
            return await self.api.find(key, kind=ExpandRequest.kind, form=form)  # type: ignore[arg-type]  # one of the gateway's own
        except NotFoundError:
            return None

    async def listed(self) -> Check:
        """Look for the task in the list, and at the list's order."""
        try:
            page = await self.api.page(1, _FEW, kind=ExpandRequest.kind)
        except CometError as error:
            return Check(name="list", verdict="note", text=f"can't be read: {error.message}")
        shown = next((task for task in page.tasks if task.id == self.task.id), None)
        if shown is None:
            return Check(name="list", verdict="warning", text="does not show the task")
        made = [task.created_at for task in page.tasks if task.created_at is not None]
        order = "newest first" if made == sorted(made, reverse=True) else "in no order by time"
        named = "by its own id" if shown.external_task_id else "without its own id"
        text = f"shows the task {named}, {order}"
        return Check(name="list", verdict="ok" if shown.external_task_id else "warning", text=text)


async def examine_paid(session: CometSession) -> AsyncGenerator[Check, None]:
    """Buy one small expansion, and yield what it proves.

    Args:
        session: An open session; the task is billed to its account.

    Raises:
        CometError: It was not accepted, or it failed.
    """
    margins = Margins(right=0.1)
    task = await session.submit(ExpandRequest(image=sample(), margins=margins))
    yield Check(name="submit", verdict="ok", text=f"task {task.id} was accepted")
    # The questions one by one, as no program needs them: not a part of the public session.
    api = session._api  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    trial = _Trial(api, task)
    for form in session.gateway.lookup_forms:
        yield await trial.lookup(form)
    yield await trial.listed()
    done = await TaskWaiter(session).wait(task)
    took = ""
    if done.created_at is not None and done.updated_at is not None:
        took = f" after {(done.updated_at - done.created_at).total_seconds():.0f} s"
    charged = "" if done.units is None else f"; the server says it charged {done.units} units"
    yield Check(name="result", verdict="ok", text=f"it succeeded{took}{charged}")
