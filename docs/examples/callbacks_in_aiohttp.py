"""A service that hears callbacks on the port that it has: the receiver is one of its parts."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import ClientSession, web

from comet_async import CallbackReceiver, CometError, CometSession, Margins

PORT = 8332
COMET = web.AppKey("comet", CometSession)


async def widen(request: web.Request) -> web.Response:
    """Expand the image in the body, and answer with the address of the result."""
    try:
        task = await request.app[COMET].expand(await request.read(), Margins.for_aspect("2:1"))
    except CometError as error:
        raise web.HTTPBadGateway(text=str(error)) from error
    return web.json_response({"task": task.id, "url": task.images[0].url})


def make_app(public_url: str) -> web.Application:
    """Return the application; *public_url* is how the outside reaches its ``/hooks``."""
    receiver = CallbackReceiver(public_url=public_url)

    async def session(app: web.Application) -> AsyncIterator[None]:
        async with CometSession(callbacks=receiver) as app[COMET]:
            yield

    app = web.Application(client_max_size=11 * 1024 * 1024)
    app.add_subapp("/hooks", receiver.app())
    app.cleanup_ctx.append(session)
    app.router.add_post("/widen", widen)
    return app


async def main() -> None:
    """Serve, and ask for one image."""
    runner = web.AppRunner(make_app(f"http://127.0.0.1:{PORT}/hooks"), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", PORT).start()
    photo = Path("photos/chelsea.jpg").read_bytes()
    async with (
        ClientSession() as client,
        client.post(f"http://127.0.0.1:{PORT}/widen", data=photo) as answer,
    ):
        print(answer.status, await answer.text())
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
