"""A session measures what it expands."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from comet_async import CometSession, LocalStore
from comet_async.sandbox import DEFAULT_KEY, Sandbox
from comet_async.testing import VirtualClock


@pytest.mark.parametrize("prepare", [False, True])
async def test_images_in_stores_are_measured_too(
    sandbox: Sandbox, clock: VirtualClock, tmp_path: Path, photo: bytes, *, prepare: bool
) -> None:
    """An address in a store is measured, and what is returned can be expanded."""
    (tmp_path / "dog.png").write_bytes(photo)
    async with CometSession(
        DEFAULT_KEY,
        gateway=sandbox.url,
        clock=clock,
        prepare=prepare,
        stores={"mem": lambda _: LocalStore(tmp_path)},
    ) as comet:
        image = await comet.measure("mem://photos/dog.png")
        assert (image.width, image.height, image.address) == (400, 300, "mem://photos/dog.png")
        task = await comet.expand(image, "2:1")
    assert task.succeeded


async def test_images_are_measured_as_they_are_converted(
    sandbox: Sandbox, clock: VirtualClock
) -> None:
    """A session that converts images measures those that the API would refuse."""
    webp = io.BytesIO()
    Image.new("RGB", (400, 300)).save(webp, "WEBP")
    async with CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, prepare=True) as comet:
        image = await comet.measure(webp.getvalue())
        assert (image.width, image.height, image.format) == (400, 300, "jpeg")
        task = await comet.expand(image, "2:1")
    assert task.succeeded
