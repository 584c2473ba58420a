"""``comet-async preview``: images of the canvas before anything is paid."""

# ruff: noqa: PLC0415 - imported when the command runs: `--help` must be there at once

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from comet_async._images.rules import without_source
from comet_async.cli.console import DONE, NOT_DONE, STYLES, Screen, describe_os_error
from comet_async.cli.expand.progress import shown
from comet_async.cli.hints import message_of, with_option
from comet_async.cli.options import (
    NO_GEOMETRY,
    OUTPUT,
    REQUEST,
    USUAL,
    General,
    Geometry,
    Named,
    folder,
)
from comet_async.cli.runtime import CURRENT
from comet_async.errors import InputError

if TYPE_CHECKING:
    from comet_async._images.discovery import Found
    from comet_async.geometry import MarginRule

_FOR_ALL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""What the disk refuses not only this image."""


async def preview(
    sources: Annotated[tuple[Named, ...], Parameter(name="SOURCE", help="Files or folders.")],
    /,
    *,
    out: Annotated[
        Path,
        Parameter(
            name=("--out", "-o"),
            metavar="DIR",
            group=OUTPUT,
            converter=folder,
            help="The folder for the previews; the current one by default.",
        ),
    ] = Path(),
    geometry: Geometry = NO_GEOMETRY,
    prepare: Annotated[
        bool, Parameter(group=REQUEST, help="Convert images as `expand --prepare` does.")
    ] = False,
    general: General = USUAL,  # noqa: ARG001 - read by the program before the command runs
) -> int:
    """Draw the canvases."""
    from comet_async._images.discovery import scan

    screen = CURRENT.get().screen
    rule = geometry.rule()
    loop = asyncio.get_running_loop()
    # Not `out`: the current folder may hold the sources.
    found = scan(tuple(map(str, sources)), out=out / ".comet-async")
    many = failed = 0
    while (each := await loop.run_in_executor(None, next, found, None)) is not None:
        many += 1
        failed += not await _draw(each, rule, out, screen, prepare=prepare)
    if not many:
        raise InputError("no image was found", field="sources", hint="name a file or a folder")
    return NOT_DONE if failed else DONE


async def _draw(
    found: Found, rule: MarginRule, out: Path, screen: Screen, *, prepare: bool
) -> bool:
    """Draw one preview, and say where it is; False when the image can't be drawn.

    Raises:
        InputError: No image can be saved: the disk is full or may not be written.
    """
    from comet_async._images.load import load
    from comet_async._tools.preview import render

    target = out / f"{found.stem}-preview.png"
    try:
        if found.error is not None:
            raise found.error
        image = await load(found.image, prepare=prepare)
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(None, render, image, rule)
        await loop.run_in_executor(None, _save, data, target)
    except InputError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FOR_ALL:
            raise
        screen.say(
            f"{shown(found.source)}: {without_source(message_of(error), found.source)}",
            word="invalid",
            style=STYLES["invalid"],
            problem=True,
        )
        if hint := with_option(error):
            screen.say(f"        {hint}", problem=True)
        return False
    screen.tell(str(target))
    return True


def _save(data: bytes, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    except OSError as error:
        raise InputError(
            f"{target} can't be written: {describe_os_error(error)}",
            field="out",
            value=str(target),
            hint="choose another --out",
        ) from error
