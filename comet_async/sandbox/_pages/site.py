"""What is fetched without a key: results, and the sandbox's own pages."""

from __future__ import annotations

import contextlib

import attrs
from aiohttp import web

from comet_async._assets import read
from comet_async._images.formats import sniff
from comet_async.sandbox._api.answers import (
    NOT_FOUND_PAGE,
    Answer,
    Dialect,
    html_answer,
    json_answer,
)
from comet_async.sandbox._faults.injection import response
from comet_async.sandbox._pages.page import Facts, Query, asset, render
from comet_async.sandbox.results import Leak
from comet_async.sandbox.state import State

# The page shows what clients sent. Nothing of it may run or load anything.
_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src-elem 'self'; "
    "style-src-attr 'unsafe-inline'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'"
)
_LONGEST = 7  # digits of a page's number
_ASSETS = {
    "compare.css": (read, "text/css"),
    "compare.js": (read, "text/javascript"),
    "front.css": (asset, "text/css"),
    "front.js": (asset, "text/javascript"),
}


@attrs.define(eq=False)
class Site:
    """Handlers of pages and files.

    Args:
        state: What all handlers share.
    """

    state: State

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/", self.front),
            web.get("/events", self.events),
            web.get("/assets/{name}", self.asset),
            web.get("/ledger.json", self.ledger),
            web.get(r"/results/{task}/{name:\d(-watermark)?\.png}", self.result),
            web.get(r"/thumbs/{task}/{name:(before|\d)\.jpg}", self.thumb),
            web.route("*", "/{path:.*}", self.unknown),
        ]

    async def front(self, request: web.Request) -> web.StreamResponse:
        """Show tasks, charges and images."""
        page = request.query.get("page", "1")
        query = Query(
            status=request.query.get("status", ""),
            words=request.query.get("q", ""),
            page=int(page) if page.isascii() and page.isdigit() and len(page) < _LONGEST else 1,
        )
        state = self.state
        facts = Facts(
            now=state.clock.time(),
            tasks=state.tasks.all(),
            in_flight=state.tasks.in_flight,
            limit=state.tasks.limit,
            ledger=state.ledger,
            faults=len(state.faults.injected),
            callbacks=len(state.callbacks.deliveries),
            leaks=len(state.leaks),
            url=state.results.url,
        )
        answer = html_answer(render(facts, query), 200)
        policy = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
        return response(answer.with_headers(policy))

    async def asset(self, request: web.Request) -> web.StreamResponse:
        """Send a style sheet or a script of the front page."""
        name = request.match_info["name"]
        if name not in _ASSETS:
            return response(html_answer(NOT_FOUND_PAGE, 404))
        source, kind = _ASSETS[name]
        return response(Answer(body=source(name).encode(), content_type=f"{kind}; charset=utf-8"))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Send an event whenever something changed, as a stream (server-sent events)."""
        stream = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await stream.prepare(request)
        async with contextlib.aclosing(self.state.changes.stream()) as changes:
            async for _ in changes:
                await stream.write(b"event: change\ndata: 1\n\n")
        return stream

    async def ledger(self, _request: web.Request) -> web.StreamResponse:
        """Return the ledger as JSON, for programs in other processes."""
        return response(json_answer(self.state.ledger.as_dict()))

    async def thumb(self, request: web.Request) -> web.StreamResponse:
        """Send a small image of the front page."""
        info = request.match_info
        # An id from here, and not a path: "%2F" in the address would be a slash in it.
        known = self.state.tasks.get(info["task"]) is not None
        data = await self.state.results.read(info["task"], info["name"]) if known else None
        if data is None:
            return response(html_answer(NOT_FOUND_PAGE, 404))
        jpeg = Answer(body=data, content_type="image/jpeg")
        return response(jpeg.with_headers({"Cache-Control": "max-age=86400"}))

    async def result(self, request: web.Request) -> web.StreamResponse:
        """Send an image that was made."""
        for header in ("Authorization", "X-Api-Key"):
            if header in request.headers:
                self.state.leaks.append(Leak(path=request.path, header=header))
                self.state.note_unexpected(request, f"a request for a result carried {header}")
        task = self.state.tasks.get(request.match_info["task"])
        fault = self.state.take("result", task, request.match_info["task"])
        answer = await self._image(request)
        # Results come from a file server, which is neither of the two services.
        dialect = self.state.dialect("kling")
        return await self.state.send(request, dialect, answer, fault)

    async def _image(self, request: web.Request) -> Answer:
        task_id, name = request.match_info["task"], request.match_info["name"]
        expires, token = (request.query.get(key, "") for key in ("expires", "token"))
        task = self.state.tasks.get(task_id)
        if not self.state.results.opens(task_id, name, expires, token):
            return html_answer("<h1>403 Forbidden</h1>", 403)
        data = await self.state.results.read(task_id, name)
        if data is None or task is None or self.state.results.gone(task):
            return html_answer(NOT_FOUND_PAGE, 404)
        return Answer(body=data, content_type=f"image/{sniff(data[:32]) or 'png'}")

    async def unknown(self, request: web.Request) -> web.StreamResponse:
        """Answer a path that does not exist, as the service below it would."""
        self.state.note_unexpected(request, "unknown path")
        comet = request.path.startswith("/kling/")
        dialect: Dialect = self.state.dialect("comet" if comet else "kling")
        return response(dialect.unknown_path(request.path))
