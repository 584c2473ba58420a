"""Other clients of media services, each in the way of its own documentation.

Each speaks to a server of its own shape (`benchmarks.core.shapes`), polls as often as we do, and
gets the same image as Base64 in JSON; openai's ``videos`` alone sends files as they are, a quarter
less. Where a client can't save a result, the file is fetched with the HTTP library it is built
on.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from benchmarks.clients import INTERVAL, Jobs, OneByOne, Site
from benchmarks.core.shapes import KLING

_MARGINS = {"left_expansion_ratio": 0.25, "right_expansion_ratio": 0.25, "n": 1}


def _base64(source: Path) -> str:
    return base64.b64encode(source.read_bytes()).decode()


@asynccontextmanager
async def naive_httpx(site: Site) -> AsyncIterator[Jobs]:
    """Open httpx, as one writes it first."""
    async with httpx.AsyncClient(timeout=site.patience) as client:

        async def job(source: Path, target: Path) -> None:
            url = site.root + KLING
            answer = await client.post(url, json={"image": _base64(source), **_MARGINS})
            task_id = answer.json()["data"]["task_id"]
            while True:
                await asyncio.sleep(INTERVAL)
                task = (await client.get(f"{url}/{task_id}")).json()["data"]
                if task["task_status"] == "succeed":
                    break
            result = await client.get(task["task_result"]["images"][0]["url"])
            target.write_bytes(result.content)

        yield OneByOne(job, site.concurrency)


@asynccontextmanager
async def cometapi(site: Site) -> AsyncIterator[Jobs]:
    """Open CometAPI's official client: it has no media, so by its plain ``post`` and ``get``."""
    library = importlib.import_module("cometapi")
    base = f"{site.root}/kling/v1"
    async with library.AsyncCometAPI(api_key="key", base_url=base, timeout=site.patience) as client:

        async def job(source: Path, target: Path) -> None:
            path = KLING.removeprefix("/kling/v1")
            body = {"image": _base64(source), **_MARGINS}
            made = await client.post(path, body=body, cast_to=dict[str, object])
            task_id = made["data"]["task_id"]
            while True:
                await asyncio.sleep(INTERVAL)
                answer = await client.get(f"{path}/{task_id}", cast_to=dict[str, object])
                if answer["data"]["task_status"] == "succeed":
                    break
            url = answer["data"]["task_result"]["images"][0]["url"]
            result = await client.get(url, cast_to=httpx.Response)
            target.write_bytes(result.content)

        yield OneByOne(job, site.concurrency)


@asynccontextmanager
async def openai(site: Site) -> AsyncIterator[Jobs]:
    """Open openai's client: its ``videos`` are upload, poll, download."""
    library = importlib.import_module("openai")
    base = f"{site.root}/openai/v1"
    async with library.AsyncOpenAI(api_key="key", base_url=base, timeout=site.patience) as client:

        async def job(source: Path, target: Path) -> None:
            video = await client.videos.create(prompt="wide", input_reference=source)
            await asyncio.sleep(INTERVAL)
            await client.videos.poll(video.id, poll_interval_ms=int(1000 * INTERVAL))
            result = await client.videos.download_content(video.id)
            result.write_to_file(target)

        yield OneByOne(job, site.concurrency)


@asynccontextmanager
async def runway(site: Site) -> AsyncIterator[Jobs]:
    """Open Runway's client; its pause between polls is set to ours (6 s by default)."""
    library = importlib.import_module("runwayml")
    polling = importlib.import_module("runwayml.lib.polling")
    polling.POLL_TIME, polling.POLL_JITTER = INTERVAL, 0  # type: ignore[attr-defined]  # a module by name
    async with (
        library.AsyncRunwayML(
            api_key="key", base_url=f"{site.root}/runway", timeout=site.patience
        ) as client,
        httpx.AsyncClient(timeout=site.patience) as files,
    ):

        async def job(source: Path, target: Path) -> None:
            task = await client.text_to_image.create(
                model="gen4_image",
                prompt_text="wide",
                ratio="1920:1080",
                reference_images=[{"uri": f"data:image/png;base64,{_base64(source)}"}],
            )
            done = await task.wait_for_task_output()
            target.write_bytes((await files.get(done.output[0])).content)

        yield OneByOne(job, site.concurrency)


@asynccontextmanager
async def fal(site: Site) -> AsyncIterator[Jobs]:
    """Open fal's client; it sends one request more than others, for the result itself."""
    library = importlib.import_module("fal_client.client")
    library.QUEUE_URL_FORMAT = f"{site.root}/fal/"  # type: ignore[attr-defined]  # a module by name
    client = library.AsyncClient(key="key", default_timeout=site.patience)
    async with httpx.AsyncClient(timeout=site.patience) as files:

        async def job(source: Path, target: Path) -> None:
            image = library.encode_file(source)
            handle = await client.submit("bench/expand", {"image_url": image, **_MARGINS})
            await asyncio.sleep(INTERVAL)
            result = await handle.get(interval=INTERVAL)
            target.write_bytes((await files.get(result["images"][0]["url"])).content)

        yield OneByOne(job, site.concurrency)


@asynccontextmanager
async def replicate(site: Site) -> AsyncIterator[Jobs]:
    """Open Replicate's client; it can't be closed."""
    library = importlib.import_module("replicate")
    helpers = importlib.import_module("replicate.helpers")
    client = library.Client(
        api_token="key",  # noqa: S106 - no secret
        base_url=f"{site.root}/replicate",
        timeout=site.patience,
    )
    client.poll_interval = INTERVAL

    async def job(source: Path, target: Path) -> None:
        prediction = await client.predictions.async_create(
            version="1", input={"image": source, **_MARGINS}, file_encoding_strategy="base64"
        )
        await prediction.async_wait()
        with target.open("wb") as file:
            async for piece in helpers.FileOutput(prediction.output, client):
                file.write(piece)

    yield OneByOne(job, site.concurrency)
