"""What one poll costs, and one page of the list.

As a program, ``python -m benchmarks.parts.polls NAME ROOT CALLS``, it measures one client.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import aiohttp
from yarl import URL

from benchmarks.clients import BASE
from benchmarks.core import images
from benchmarks.core.bench import Bench, in_rounds, installed, ratio, table
from benchmarks.core.meter import cpu_seconds
from benchmarks.core.programs import last_line
from benchmarks.core.report import Section, Table, median
from benchmarks.core.server import running
from benchmarks.core.shapes import KLING, NEVER

PAGE = 500
_WORKERS = 32
HEADERS = {"Authorization": "Bearer key", "Accept": "application/json"}

Poll = Callable[[str], Awaitable[object]]


@asynccontextmanager
async def raw(root: str) -> AsyncIterator[Poll]:
    """Open aiohttp, tuned by hand."""
    connector = aiohttp.TCPConnector(limit=_WORKERS + 1)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar) as session:
        url = URL(root + KLING)

        async def poll(task_id: str) -> object:
            async with session.get(url / task_id, headers=HEADERS) as answer:
                return json.loads(await answer.read())["data"]["task_status"]

        yield poll


@asynccontextmanager
async def _raw_page(root: str) -> AsyncIterator[Poll]:
    async with aiohttp.ClientSession() as session:
        url = URL(root + KLING).with_query(pageNum=1, pageSize=PAGE)

        async def poll(_: str) -> object:
            async with session.get(url, headers=HEADERS) as answer:
                tasks = json.loads(await answer.read())["data"]
                return [task["task_status"] for task in tasks]

        yield poll


@asynccontextmanager
async def _ours(root: str) -> AsyncIterator[Poll]:
    from comet_async import CometSession, Gateway  # noqa: PLC0415 - a process pays for one client

    async with CometSession("key", gateway=Gateway.comet(root)) as comet:
        yield comet.get


@asynccontextmanager
async def _our_page(root: str) -> AsyncIterator[Poll]:
    from comet_async import CometSession, Gateway  # noqa: PLC0415 - a process pays for one client

    async with CometSession("key", gateway=Gateway.comet(root)) as comet:

        async def poll(_: str) -> object:
            # The benchmark's server has full pages without end: one is enough.
            async with aclosing(comet.list_tasks(page_size=PAGE)) as tasks:
                return await anext(tasks)

        yield poll


@asynccontextmanager
async def _httpx(root: str) -> AsyncIterator[Poll]:
    async with importlib.import_module("httpx").AsyncClient() as client:

        async def poll(task_id: str) -> object:
            answer = await client.get(f"{root}{KLING}/{task_id}", headers=HEADERS)
            return answer.json()["data"]["task_status"]

        yield poll


@asynccontextmanager
async def _openai(root: str) -> AsyncIterator[Poll]:
    library = importlib.import_module("openai")
    async with library.AsyncOpenAI(api_key="key", base_url=f"{root}/openai/v1") as client:
        yield client.videos.retrieve


@asynccontextmanager
async def _runway(root: str) -> AsyncIterator[Poll]:
    library = importlib.import_module("runwayml")
    async with library.AsyncRunwayML(api_key="key", base_url=f"{root}/runway") as client:
        yield client.tasks.retrieve


@asynccontextmanager
async def _replicate(root: str) -> AsyncIterator[Poll]:
    library = importlib.import_module("replicate")
    client = library.Client(api_token="key", base_url=f"{root}/replicate")  # noqa: S106 - no secret
    yield client.predictions.async_get


_POLLS = {
    BASE: raw,
    "comet_async": _ours,
    "httpx": _httpx,
    "openai": _openai,
    "runwayml": _runway,
    "replicate": _replicate,
}
_PAGES = {"raw aiohttp, page": _raw_page, "comet_async, page": _our_page}


async def _measure(name: str, root: str, calls: int) -> float:
    """Return the CPU time of one call, in µs."""
    async with {**_POLLS, **_PAGES}[name](root) as poll:
        await _many(poll, max(_WORKERS, calls // 10))
        begin = cpu_seconds()
        await _many(poll, calls)
        return 1e6 * (cpu_seconds() - begin) / calls


async def _many(poll: Poll, calls: int) -> None:
    numbers = iter(range(calls))

    async def work() -> None:
        for number in numbers:
            await poll(f"{NEVER}-{number}")

    async with asyncio.TaskGroup() as group:
        for _ in range(_WORKERS):
            group.create_task(work())


def _in_process(name: str, root: str, calls: int) -> float:
    return float(last_line("parts.polls", name, root, str(calls)))


def _table(found: dict[str, dict[int, float]], base: str, unit: str, scale: float = 1.0) -> Table:
    rows = []
    for name, samples in found.items():
        times = ratio(found, name, lambda value: value, base)
        rows.append([name, f"{scale * median(list(samples.values())):.0f}", f"{times:.2f}"])
    return table("", ("client", unit, "× raw"), rows)


def polls(bench: Bench) -> Section:
    """Measure single polls and whole pages."""
    result = bench.scratch / "result.png"
    result.write_bytes(images.png(20_000))
    calls, pages, rounds = bench.count(3000, 100), bench.count(100, 40), bench.count(5, 1)
    with running(result) as server:
        names = [name for name in installed([*_POLLS]) if name in _POLLS]
        one = in_rounds(
            names,
            lambda name: _in_process(name, server.root, calls),
            rounds=rounds,
            what=f"{calls} polls",
        )
        page = in_rounds(
            list(_PAGES),
            lambda name: _in_process(name, server.root, pages),
            rounds=rounds,
            what=f"{pages} pages of {PAGE} tasks",
        )
    return Section(
        name="polls",
        title="Polls and lists",
        words="CPU of one poll about a task, 32 at a time, connections kept: sent, "
        f"answered, decoded. Below, one page of the list with {PAGE} finished tasks, decoded.",
        limit="the layers around aiohttp: the key must not be in any answer, error or log, and "
        "any answer must be read.",
        tables=[
            _table(one, BASE, "CPU µs a poll"),
            _table(page, "raw aiohttp, page", "CPU µs a task", 1 / PAGE),
        ],
    )


if __name__ == "__main__":
    spent = asyncio.run(_measure(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    sys.stdout.write(f"{spent}\n")
