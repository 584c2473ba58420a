"""Make a task's images on this machine, off the event loop.

Pillow is imported inside functions only: a sandbox starts at once, and the engine ``stub`` works
without it.
"""
# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import attrs

from comet_async.geometry import canvas_size
from comet_async.sandbox._api.checks import Order, Source
from comet_async.sandbox._painting import painter, stub
from comet_async.sandbox._painting.painter import Engine, Output
from comet_async.sandbox.outgoing import Fetch
from comet_async.sandbox.results import Results
from comet_async.sandbox.tasks import BAD_PIXELS, UNREACHABLE, BadImageError, SandboxTask

if TYPE_CHECKING:
    from PIL import Image

EngineChoice: TypeAlias = Literal["auto", "stub"] | Engine
"""Which engine paints: ``auto`` takes the best that is installed, ``stub`` makes grey images."""

# Kling's limits for the image to start from, which are checked once the task runs.
_MIN_SIDE = 300
_MAX_SHAPE = 2.5

_AT_ONCE = 2  # paintings; each keeps a core busy for about a second
_THUMB = (720, 240)
_REMEMBERED = 32  # images
_REMEMBERED_BYTES = 64 * 1024 * 1024  # of results; that of a large photo has 50 MB
_GENERATED_PIXELS = 1_000_000
_HEAD = 1024  # bytes of a PNG from here that hold its size

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


@attrs.frozen(kw_only=True)
class _Made:
    """One image and what goes with it; the engine ``stub`` makes no thumbnail."""

    png: bytes
    marked: bytes | None
    thumb: bytes | None
    engine: str

    @property
    def size(self) -> int:
        return len(self.png) + len(self.marked or b"")


@attrs.frozen(kw_only=True)
class _Seen:
    """A source image that passed the checks."""

    digest: bytes
    thumb: bytes | None


@attrs.define(eq=False, kw_only=True)
class Studio:
    """Makes images, two at a time.

    Args:
        results: Where they are kept.
        fetch: Fetches an image that the request names by address.
        engine: What paints.
        output: Exact pixels, or of the size that the paid service answers with.
    """

    results: Results
    fetch: Fetch
    engine: EngineChoice
    output: Output
    _seen: dict[bytes, _Seen] = attrs.field(factory=dict, init=False, repr=False)
    _made: dict[tuple[object, ...], _Made] = attrs.field(factory=dict, init=False, repr=False)
    _threads: ThreadPoolExecutor = attrs.field(
        factory=lambda: ThreadPoolExecutor(_AT_ONCE, "sandbox-painter"), init=False
    )

    async def make(self, task: SandboxTask, images: Sequence[bytes] = ()) -> str:
        """Make the images of *task*, or take *images*; keep them, and return the engine's name.

        Raises:
            BadImageError: The task must fail.
        """
        if images:
            return await self._keep_canned(task, images)
        files = [await self._load(source) for source in task.order.sources]
        seen = [
            await self._look(source, file)
            for source, file in zip(task.order.sources, files, strict=True)
        ]
        if seen and seen[0].thumb is not None:
            await self.results.keep(task.id, "before.jpg", seen[0].thumb)
        jobs = (self._draw(task.order, files, seen, i) for i in range(task.order.n))
        made = await asyncio.gather(*jobs)
        for index, image in enumerate(made):
            await self._keep(task, index, image)
        task.size = stub.image_size(made[0].png[:_HEAD]) or task.size
        return made[0].engine

    async def close(self) -> None:
        """Drop what is queued, and wait for what is being painted, which can't be stopped."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._threads.shutdown)

    async def _run(self, call: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *args)

    async def _load(self, source: Source) -> bytes:
        data = source.data if source.data is not None else await self.fetch(source.url)
        if data is None:
            raise BadImageError(UNREACHABLE)
        return data

    async def _keep(self, task: SandboxTask, index: int, made: _Made) -> None:
        await self.results.keep(task.id, f"{index}.png", made.png)
        if made.thumb is not None:
            await self.results.keep(task.id, f"{index}.jpg", made.thumb)
        if made.marked is not None:
            await self.results.keep(task.id, f"{index}-watermark.png", made.marked)

    async def _keep_canned(self, task: SandboxTask, images: Sequence[bytes]) -> str:
        for index in range(task.order.n):
            image = images[min(index, len(images) - 1)]
            await self.results.keep(task.id, f"{index}.png", image)
            if task.order.watermark:
                await self.results.keep(task.id, f"{index}-watermark.png", image)
        task.size = stub.image_size(images[0]) or task.size
        return "canned"

    async def _look(self, source: Source, file: bytes) -> _Seen:
        digest = await self._run(_digest, file)
        seen = self._seen.get(digest)
        if seen is None:
            plain = self.engine == "stub"
            _check(source, await self._run(stub.image_size if plain else _size, file))
            seen = _Seen(digest=digest, thumb=None if plain else await self._run(_reduce, file))
            _remember(self._seen, digest, seen)
        return seen

    async def _draw(self, order: Order, files: list[bytes], seen: list[_Seen], index: int) -> _Made:
        # The same request gives the same image, and tests send the same ones all the time.
        names = tuple(item.digest for item in seen)
        key = (order.kind, order.margins, order.aspect, order.watermark, names, index)
        made = self._made.get(key)
        if made is None:
            made = await self._run(self._draw_new, order, files, index)
            _remember(self._made, key, made)
            while sum(each.size for each in self._made.values()) > _REMEMBERED_BYTES:
                del self._made[next(iter(self._made))]
        return made

    def _draw_new(self, order: Order, files: list[bytes], index: int) -> _Made:
        if self.engine == "stub":
            return self._draw_stub(order, files, index)
        if order.kind == "expand":
            return self._expand(order, files[0], index)
        image = _try_on(files) if order.kind == "try_on" else _generate(order, index)
        return _Made(png=_png(image), marked=None, thumb=_thumb(image), engine="pillow")

    def _draw_stub(self, order: Order, files: list[bytes], index: int) -> _Made:
        size = _stub_size(order, files)
        if self.output == "cloudlike":
            size = painter.cloudlike_size(*size)
        label = " ".join(_digest(file).hex() for file in files)
        png = stub.grey_png(*size, variant=index, label=label)
        marked = stub.grey_png(*size, variant=index, label=f"{label} watermark")
        return _Made(png=png, marked=marked if order.watermark else None, thumb=None, engine="stub")

    def _expand(self, order: Order, file: bytes, index: int) -> _Made:
        paint = functools.partial(
            painter.paint,
            file,
            order.margins,
            variant=index,
            engine="pillow" if self.engine == "stub" else self.engine,
            output=self.output,
        )
        marked = paint(watermark=True).png if order.watermark else None
        made = paint()
        # Not from the file: a canvas may be larger than the photos that are decoded here.
        return _Made(png=made.png, marked=marked, thumb=_thumb(made.image), engine=made.engine)


def _digest(file: bytes) -> bytes:
    return hashlib.sha256(file).digest()


def _remember(memory: dict[K, V], key: K, value: V) -> None:
    memory[key] = value
    if len(memory) > _REMEMBERED:
        del memory[next(iter(memory))]


def _size(file: bytes) -> tuple[int, int] | None:
    try:
        return painter.photo_size(file)
    except painter.PhotoError:
        return None


def _stub_size(order: Order, files: list[bytes]) -> tuple[int, int]:
    if order.kind == "generation":
        return _generated_size(order)
    width, height = stub.image_size(files[0]) or (1, 1)
    return canvas_size(width, height, order.margins)


def _check(source: Source, size: tuple[int, int] | None) -> None:
    if size is None:
        raise BadImageError(UNREACHABLE if source.url else BAD_PIXELS)
    width, height = size
    long, short = max(width, height), min(width, height)
    if short < _MIN_SIDE or long > _MAX_SHAPE * short:
        raise BadImageError(BAD_PIXELS)


def _decode(file: bytes) -> Image.Image:
    try:
        return painter.load_photo(file).image
    except painter.PhotoError:
        raise BadImageError(BAD_PIXELS) from None


def _reduce(file: bytes) -> bytes:
    """Return a small JPEG of the image, for the front page."""
    return _thumb(_decode(file))


def _thumb(image: Image.Image) -> bytes:
    """Return a small JPEG of *image*, which is reduced itself."""
    image.thumbnail(_THUMB)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()


def _generated_size(order: Order) -> tuple[int, int]:
    across, down = map(int, order.aspect.split(":"))
    height = round((_GENERATED_PIXELS * down / across) ** 0.5)
    return round(height * across / down), height


def _generate(order: Order, index: int) -> Image.Image:
    """Return a gradient of the wanted shape: a stand-in, not an image of the prompt."""
    from PIL import Image, ImageOps

    slope = Image.linear_gradient("L").resize(_generated_size(order))
    sky, ground = (
        f"hsl({40 * index + hue}, 60%, {light}%)" for hue, light in ((200, 80), (30, 45))
    )
    return ImageOps.colorize(slope, sky, ground)


def _try_on(files: list[bytes]) -> Image.Image:
    """Return the person with the garment pasted on: a stand-in, not a fitting."""
    human, cloth = (_decode(file) for file in files)
    cloth.thumbnail((human.width // 2, human.height // 2))
    human.paste(cloth, ((human.width - cloth.width) // 2, human.height // 3))
    return human


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()
