"""A service with one session: the same image is bought once, however often it is asked for."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import ClientSession, web

from comet_async import CometError, CometSession, InputError, Margins

COMET = web.AppKey("comet", CometSession)


async def widen(request: web.Request) -> web.Response:
    """Expand the image in the body, and answer with the address of the result."""
    try:
        task = await request.app[COMET].expand(await request.read(), Margins.for_aspect("2:1"))
    except InputError as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    except CometError as error:
        raise web.HTTPBadGateway(text=str(error)) from error
    return web.json_response({"task": task.id, "url": task.images[0].url})


def make_app(journal: Path) -> web.Application:
    """Return the application; its session lives as long as it does."""

    async def session(app: web.Application) -> AsyncIterator[None]:
        async with CometSession(journal=journal) as app[COMET]:
            yield

    app = web.Application(client_max_size=11 * 1024 * 1024)
    app.cleanup_ctx.append(session)
    app.router.add_post("/widen", widen)
    return app


async def main() -> None:
    """Serve, ask twice for the same image, and see one task."""
    with tempfile.TemporaryDirectory() as folder:
        runner = web.AppRunner(make_app(Path(folder) / "journal.sqlite3"))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 8330)
        await site.start()
        photo = Path("photos/chelsea.jpg").read_bytes()
        async with ClientSession() as client:
            for _ in range(2):
                async with client.post("http://127.0.0.1:8330/widen", data=photo) as answer:
                    print(answer.status, (await answer.json())["task"])
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
