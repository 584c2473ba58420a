"""The images that were made: where they are kept, and the addresses they are fetched from."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import secrets
import tempfile
from contextvars import ContextVar
from pathlib import Path

import attrs

from comet_async.clock import Clock
from comet_async.sandbox.options import Options
from comet_async.sandbox.tasks import SandboxTask

REACHED_AT: ContextVar[str] = ContextVar("REACHED_AT", default="")
"""Root under which the client of this exchange reached the sandbox; empty for its usual one."""

_IN_MEMORY = 256 * 1024 * 1024  # bytes; what comes later goes to files


@attrs.frozen(kw_only=True)
class Leak:
    """A request for a result that carried the API's Authorization: a key given to a stranger.

    Attributes:
        path: What was asked for.
        header: Name of the header.
    """

    path: str
    header: str


@attrs.define(eq=False, kw_only=True)
class Results:
    """Files of tasks, and signed addresses for them.

    Args:
        clock: Says when an address expires.
        options: The sandbox's switches.
        folder: Keep all files here, as ``<task>-<name>``; None keeps them in memory and, beyond
            256 MiB, in a temporary folder.
    """

    clock: Clock
    options: Options
    folder: Path | None = None
    root: str = ""
    _memory: dict[str, bytes] = attrs.field(factory=dict, init=False, repr=False)
    _held: int = attrs.field(default=0, init=False)
    _spill: tempfile.TemporaryDirectory[str] | None = attrs.field(default=None, init=False)
    _secret: bytes = attrs.field(factory=lambda: secrets.token_bytes(16), init=False, repr=False)

    async def keep(self, task_id: str, name: str, data: bytes) -> None:
        """Keep a file of a task."""
        key = f"{task_id}-{name}"
        # Small copies stay in memory in any case: the front page asks for them all the time.
        if name.endswith(".jpg") or (self.folder is None and self._held < _IN_MEMORY):
            self._memory[key] = data
            self._held += len(data)
        else:
            await asyncio.to_thread(_write, self._open_folder() / key, data)

    async def read(self, task_id: str, name: str) -> bytes | None:
        """Return a file of a task, or None if there is none."""
        key = f"{task_id}-{name}"
        if key in self._memory or (self.folder is None and self._spill is None):
            return self._memory.get(key)
        return await asyncio.to_thread(_read, self._open_folder() / key)

    def url(self, task: SandboxTask, index: int, watermark: bool) -> str:  # noqa: FBT001 - a callback
        """Return the address of an image; it stays the same until it expires."""
        name = f"{index}-watermark.png" if watermark else f"{index}.png"
        born, lifetime = task.updated_ms / 1000, self.options.url_lifetime
        # Not below 0: the moment of the last change is rounded to milliseconds.
        spans = max(0, math.floor((self.clock.time() - born) / lifetime)) + 1
        expires = math.ceil((born + spans * lifetime) * 1000)
        token = self._sign(task.id, name, str(expires))
        root = self.options.results_root or REACHED_AT.get() or self.root
        return f"{root}/results/{task.id}/{name}?expires={expires}&token={token}"

    def opens(self, task_id: str, name: str, expires: str, token: str) -> bool:
        """Whether the address with these query values still works."""
        wanted = self._sign(task_id, name, expires)
        if not hmac.compare_digest(token.encode("utf-8", "replace"), wanted.encode()):
            return False
        return self.clock.time() * 1000 < int(expires)

    def gone(self, task: SandboxTask) -> bool:
        """Whether the task's images were cleared for their age."""
        return self.clock.time() >= task.updated_ms / 1000 + self.options.result_lifetime

    async def close(self) -> None:
        """Forget all files; those in the user's own folder stay."""
        self._memory.clear()
        if self._spill is not None:
            await asyncio.to_thread(self._spill.cleanup)

    def _sign(self, task_id: str, name: str, expires: str) -> str:
        text = f"{task_id}/{name}/{expires}".encode("utf-8", "replace")
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:32]

    def _open_folder(self) -> Path:
        if self.folder is not None:
            return self.folder
        if self._spill is None:
            self._spill = tempfile.TemporaryDirectory(prefix="comet-sandbox-")
        return Path(self._spill.name)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
