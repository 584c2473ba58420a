"""A server whose tasks take their time, a fixed number of them at once; in its own process.

``python -m benchmarks.core.quota IMAGE QUOTA MEDIAN LIST`` prints its address and serves until its
standard input ends. One request too many is refused as Kling does (429, code 1303).
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, cast

import attrs
from aiohttp import web

from benchmarks.core.programs import ENVIRONMENT, ROOT
from benchmarks.core.shapes import KLING, kling_task

_SPREAD = 0.15  # of the logarithms of the durations


@attrs.define(eq=False)
class Tasks:
    """The tasks of one server.

    Attributes:
        image: What every result is.
        quota: Most tasks at once.
        median: How long they take, in seconds.
        lists: Whether the list works.
        now: The server's clock.
    """

    image: bytes
    quota: int
    median: float
    lists: bool
    now: Callable[[], float] = time.time
    root: str = ""
    begun: float = 0.0
    ended: float = 0.0
    refused: int = 0
    polls: int = 0
    _made: int = 0
    _lives: dict[str, tuple[float, float]] = attrs.field(factory=dict)
    _random: random.Random = attrs.field(factory=lambda: random.Random(7))  # noqa: S311 - repeatable, no secret

    async def create(self, request: web.Request) -> web.Response:
        """Answer a paid request."""
        await request.read()
        now = self.now()
        self.begun = self.begun or now
        if sum(end > now for _, end in self._lives.values()) >= self.quota:
            self.refused += 1
            return web.json_response({"code": 1303, "message": "parallel task over"}, status=429)
        takes = self.median * math.exp(_SPREAD * self._random.gauss(0, 1))
        self._made += 1
        task_id = f"{860_000_000_000 + self._made}"
        self._lives[task_id] = now, now + takes
        return self._answer(self._task(task_id, now))

    async def get(self, request: web.Request) -> web.Response:
        """Answer a poll of one task."""
        self.polls += 1
        return self._answer(self._task(request.match_info["id"], self.now()))

    async def page(self, request: web.Request) -> web.Response:
        """Answer a page of the list, the newest first."""
        self.polls += 1
        if not self.lists:
            return web.json_response({"code": None, "message": "404"}, status=404)
        newest = list(self._lives)[::-1][: int(request.query.get("pageSize", 30))]
        return self._answer([self._task(task_id, self.now()) for task_id in newest])

    async def file(self, _request: web.Request) -> web.Response:
        """Answer with the result."""
        self.ended = self.now()
        return web.Response(body=self.image, content_type="image/png")

    async def facts(self, _request: web.Request) -> web.Response:
        """Answer what happened so far."""
        facts = {"span": self.ended - self.begun, "least": self._least()}
        counts = {"tasks": len(self._lives), "refused": self.refused, "polls": self.polls}
        return web.json_response({**facts, **counts})

    def forget(self) -> None:
        """Forget all tasks that have ended."""
        now = self.now()
        self._lives = {key: life for key, life in self._lives.items() if life[1] > now}

    def _least(self) -> float:
        """Return how long these tasks take, in this order, if no slot is ever free."""
        slots = [0.0] * self.quota
        for created, end in self._lives.values():
            heapq.heapreplace(slots, slots[0] + end - created)
        return max(slots)

    def _task(self, task_id: str, now: float) -> dict[str, object]:
        created, end = self._lives[task_id]
        over = end <= now
        status = "succeed" if over else "submitted" if now == created else "processing"
        task = kling_task(task_id, status, f"{self.root}/file" if over else None)
        moments = {"created_at": created, "updated_at": end if over else created}
        return {**task, **{name: int(1000 * moment) for name, moment in moments.items()}}

    def _answer(self, data: object) -> web.Response:
        return web.json_response({"code": 0, "message": "SUCCEED", "request_id": "r", "data": data})


@contextlib.asynccontextmanager
async def serving(tasks: Tasks) -> AsyncIterator[str]:
    """Serve *tasks* in the running loop; gives the address."""
    app = web.Application(client_max_size=2**28)
    app.router.add_post(KLING, tasks.create)
    app.router.add_get(KLING, tasks.page)
    app.router.add_get(f"{KLING}/{{id}}", tasks.get)
    app.router.add_get("/file", tasks.file)
    app.router.add_get("/facts", tasks.facts)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = cast("Any", site._server).sockets[0].getsockname()[1]  # noqa: SLF001 - no other way
    tasks.root = f"http://127.0.0.1:{port}"
    try:
        yield tasks.root
    finally:
        await runner.cleanup()


async def _serve(image: Path, quota: int, median: float, *, lists: bool) -> None:
    async with serving(Tasks(image.read_bytes(), quota, median, lists)) as root:
        sys.stdout.write(f"{root}\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def limited(image: Path, *, quota: int, median: float, lists: bool) -> Iterator[str]:
    """Run such a server; gives its address."""
    words = [str(image), str(quota), str(median), "list" if lists else ""]
    command = [sys.executable, "-m", "benchmarks.core.quota", *words]
    with Popen(  # noqa: S603 - ours
        command, stdin=PIPE, stdout=PIPE, text=True, cwd=ROOT, env=ENVIRONMENT
    ) as process:
        try:
            yield cast("Any", process.stdout).readline().strip()
        finally:
            process.terminate()


if __name__ == "__main__":
    asyncio.run(
        _serve(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), lists=bool(sys.argv[4]))
    )
