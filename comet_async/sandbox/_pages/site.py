"""What is fetched without a key: results, and the sandbox's own pages."""

from __future__ import annotations

import attrs
from aiohttp import web

from comet_async._images.formats import sniff
from comet_async.sandbox._api.answers import NOT_FOUND_PAGE, Answer, Voice, html_answer, json_answer
from comet_async.sandbox._faults.injection import response
from comet_async.sandbox._pages.page import Facts, render
from comet_async.sandbox.results import Leak
from comet_async.sandbox.state import State

# The page shows what clients sent. Nothing of it may run or load anything.
_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'"
)


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
            web.get("/ledger.json", self.ledger),
            web.get(r"/results/{task}/{name:\d(-watermark)?\.png}", self.result),
            web.get(r"/thumbs/{task}/{name:(before|\d)\.jpg}", self.thumb),
            web.route("*", "/{path:.*}", self.unknown),
        ]

    async def front(self, _request: web.Request) -> web.StreamResponse:
        """Show tasks, charges and images."""
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
        page = html_answer(render(facts), 200)
        policy = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}
        return response(page.with_headers(policy))

    async def ledger(self, _request: web.Request) -> web.StreamResponse:
        """Return the ledger as JSON, for programs in other processes."""
        return response(json_answer(self.state.ledger.as_dict()))

    async def thumb(self, request: web.Request) -> web.StreamResponse:
        """Send a small image of the front page."""
        info = request.match_info
        data = await self.state.results.read(info["task"], info["name"])
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
        voice = self.state.voice("kling")
        return await self.state.send(request, voice, answer, fault)

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
        voice: Voice = self.state.voice("comet" if comet else "kling")
        return response(voice.unknown_path(request.path))
