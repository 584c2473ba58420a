"""What clients do when something goes wrong: how often they pay, and whether a wait survives.

As a program, ``python -m benchmarks.parts.faults CASE``, it runs one client against one fault, with
a server of its own in the same process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
from aiohttp import web

from benchmarks.clients import PEERS, Site, open_client
from benchmarks.core import images
from benchmarks.core.bench import Bench, installed, scratch, table
from benchmarks.core.programs import last_line
from benchmarks.core.report import Section, Table
from benchmarks.core.shapes import KLING, Shape, Tasks, shapes

HTML = "<html><head><title>502 Bad Gateway</title></head><body><h1>nginx</h1></body></html>"
SUBMITS = {
    "drop": "read, then the connection is closed",
    "hang": "read, never answered",
    "500 after": "HTTP 500 after the task was made",
    "500": "HTTP 500",
    "503": "HTTP 503, Retry-After: 1",
    "429": "HTTP 429, Retry-After: 1",
}
"""Faults of the paid POST."""

_ACCEPTED = {"drop", "hang", "500 after"}

POLLS = (
    *("drop", "hang", "500", "502 + HTML", "503", "524", "429", "404"),
    *("200 + HTML", "half a JSON", "new state"),
)
"""Faults of the third poll about a task."""

_PATIENCE = 1.0
_LIMIT = 40.0
_THIRD = 3
_CLIENTS = ["comet_async", "comet_async, journal", "plain aiohttp", *PEERS]


@attrs.frozen(kw_only=True)
class Case:
    """One client and one fault.

    Attributes:
        client: The client.
        fault: The fault.
        where: ``submit`` (each POST), ``once`` (the first POST) or ``poll`` (the third poll).
    """

    client: str
    fault: str
    where: str


@attrs.frozen(kw_only=True)
class Found:
    """What came of it.

    Attributes:
        posts: How many paid requests reached the server.
        paid: How many tasks it made.
        saved: Whether the program got its image.
    """

    posts: int
    paid: int
    saved: bool


@attrs.define(eq=False)
class _Server:
    """Answers as `benchmarks.core.shapes` says, except where the case wants a fault."""

    case: Case
    image: bytes
    tasks: Tasks
    posts: int = 0
    paid: int = 0
    polls: int = 0
    answers: dict[str, Shape] = attrs.field(factory=dict)
    own_ids: dict[str, str] = attrs.field(factory=dict)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/files") or request.path.endswith("/content"):
            if not self.tasks.finished:  # a client that takes any new word for the end
                return web.Response(status=404)
            return web.Response(body=self.image, content_type="image/png")
        body = await request.read()
        if request.method == "POST":
            return await self._submit(request, body)
        last = request.path.rpartition("/")[2]
        if self.case.where != "poll" and self._is_lookup(request):
            return self._lookup(last)
        self.polls += 1
        if self.case.where == "poll" and self.polls == _THIRD:
            return await self._fail(request)
        return web.json_response(body=self._answer(request))

    def _answer(self, request: web.Request) -> bytes:
        return self.answers[request.path.split("/")[1]](request.method, request.path_qs)

    async def _submit(self, request: web.Request, body: bytes) -> web.StreamResponse:
        self.posts += 1
        faulty = self.case.where == "submit" or (self.case.where == "once" and self.posts == 1)
        if faulty and self.case.fault not in _ACCEPTED:
            return await self._fail(request)
        self.paid += 1
        answer = self._answer(request)
        with contextlib.suppress(ValueError, KeyError, AttributeError):
            own = json.loads(body)["external_task_id"]
            self.own_ids[own] = json.loads(answer)["data"]["task_id"]
        return await self._fail(request) if faulty else web.json_response(body=answer)

    def _is_lookup(self, request: web.Request) -> bool:
        """Return True if a task is looked up by the client's own id, in any of the forms."""
        external = request.query.get("external_task_id")
        last = request.path.rpartition("/")[2]
        return request.path.startswith(KLING) and (bool(external) or not last.isdigit())

    def _lookup(self, last: str) -> web.StreamResponse:
        task_id = self.own_ids.get(last)
        if task_id is None:
            refusal = {"code": 1203, "message": "task not found", "request_id": "r"}
            return web.json_response(refusal, status=404)
        task = json.loads(self.answers["kling"]("GET", f"{KLING}/{task_id}"))
        task["data"]["task_info"] = {"external_task_id": last}
        return web.json_response(task)

    async def _fail(self, request: web.Request) -> web.StreamResponse:
        fault = self.case.fault
        if fault == "drop":
            if request.transport is not None:
                request.transport.close()
            return web.Response()
        if fault == "hang":
            await asyncio.sleep(_LIMIT)
        if fault == "new state":
            text = self._answer(request).decode()
            for known in ("processing", "queued", "RUNNING", "IN_PROGRESS"):
                text = text.replace(f'"{known}"', '"reviewing"')
            return web.Response(text=text, content_type="application/json")
        if fault == "half a JSON":
            whole = self._answer(request)
            return web.Response(body=whole[: len(whole) // 2], content_type="application/json")
        status = int(fault.split()[0]) if fault[0].isdigit() else 200
        if "HTML" in fault:
            return web.Response(status=status, text=HTML, content_type="text/html")
        headers = {"Retry-After": "1"} if status in {429, 503} else {}
        error = {"error": {"message": "try again later", "type": "error"}}
        return web.json_response(error, status=status, headers=headers)


async def _bought(case: Case, folder: Path) -> Found:
    server = _Server(case, images.png(20_000), Tasks(polls=5, root=""))
    app = web.Application(client_max_size=10**8)
    app.router.add_route("*", "/{path:.*}", server.__call__)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    root = f"http://127.0.0.1:{runner.addresses[0][1]}"
    server.tasks.root = root
    server.answers = shapes(server.tasks)
    source, out = folder / "dog.png", folder / "out"
    source.write_bytes(images.png(20_000, 7))
    out.mkdir()
    place = Site(root=root, concurrency=1, folder=folder, patience=_PATIENCE)
    # Whatever a client raises: what counts is whether it has the image.
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_LIMIT), open_client(case.client, place) as client:
            await client.run([source], out)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            await runner.cleanup()
    saved = any(path.stat().st_size for path in out.glob("*.png"))
    return Found(posts=server.posts, paid=server.paid, saved=saved)


def _in_process(case: Case) -> Found:
    facts: dict[str, Any] = json.loads(last_line("parts.faults", json.dumps(attrs.asdict(case))))
    return Found(**facts)


def run_all(cases: Sequence[Case]) -> dict[Case, Found]:
    """Run *cases*, a few at a time: they mostly wait."""
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(cases, pool.map(_in_process, cases), strict=True))


def _grid(title: str, clients: Sequence[str], faults: Sequence[str], cell: Any) -> Table:  # noqa: ANN401 - a function of two names
    rows = [[client, *(cell(client, fault) for fault in faults)] for client in clients]
    return table(title, ("client", *faults), rows)


def faults(bench: Bench) -> Section:
    """Run every client against every fault."""
    clients = installed(_CLIENTS[:3] if bench.quick else _CLIENTS)
    submits, polls = list(SUBMITS), list(POLLS)
    if bench.quick:
        submits, polls = submits[:1], polls[:1]
    wanted = [("submit", submits), ("once", submits), ("poll", polls)]
    cases = [
        Case(client=client, fault=fault, where=where)
        for where, names in wanted
        for fault in names
        for client in clients
    ]
    found = run_all(cases)

    def at(where: str, client: str, fault: str) -> Found:
        return found[Case(client=client, fault=fault, where=where)]

    def posts(client: str, fault: str) -> str:
        return str(at("submit", client, fault).posts)

    def once(client: str, fault: str) -> str:
        one = at("once", client, fault)
        return f"{one.paid}, {'yes' if one.saved else 'no'}"

    def survives(client: str, fault: str) -> str:
        return "yes" if at("poll", client, fault).saved else "no"

    always = f"POSTs of one job that reached the server in {_LIMIT:.0f} s, each answered like this"
    return Section(
        name="faults",
        title="When something goes wrong",
        words="One job against a server with one fault; the time limit of each client is 1 s where "
        "it can be set. A task that was accepted is paid, answer or not ("
        + "; ".join(f"*{name}*: {words}" for name, words in SUBMITS.items())
        + "). HTTP 429 says that nothing was accepted, so sending again is safe, and a matter of "
        "patience. A 500, or a 503 that is not in the API's own words, may come from a proxy that "
        "had passed the request on: ours sends again only when a lookup proves that there is no "
        "task. A server that holds no other task can't prove it, so here the job stays "
        "`uncertain`.",
        tables=[
            _grid(always, clients, submits, posts),
            _grid("Only the first POST is: tasks paid, image got", clients, submits, once),
            _grid("The third poll about a task is: image got?", clients, polls, survives),
        ],
    )


def main(text: str) -> None:
    """Run one case and print what came of it."""
    logging.disable()
    case = Case(**json.loads(text))
    with scratch() as folder:
        found = asyncio.run(_bought(case, folder))
    sys.stdout.write(json.dumps(attrs.asdict(found)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
