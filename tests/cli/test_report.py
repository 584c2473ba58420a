"""The page of all images, before and after."""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from comet_async._tools.report import Box, Pair, Shot, render
from comet_async.errors import MissingExtraError
from comet_async.sandbox import Sandbox

Command = Callable[..., Awaitable[Any]]  # the fixture `comet`


async def test_shows_before_and_after(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """Every address on the page leads from the page to a file."""
    out = photos.parent / "wide"
    await comet("expand", photos, "--out", out, "--left", 0.5, "-n", 2, "--prompt", "<b>sun</b>")
    ended = await comet("report", out)
    assert (ended.status, ended.out) == (0, f"{out / 'report.html'}\n")
    page = (out / "report.html").read_text()
    addresses = re.findall(r'<img src="([^"]+)"', page)
    assert len(addresses) == 9
    assert all((out / unquote(address)).is_file() for address in addresses)
    assert "“&lt;b&gt;sun&lt;/b&gt;”" in page
    assert len(sandbox.ledger.charges) == 3


async def test_the_source_lies_where_it_belongs(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """An image that grew by half of its width at the left begins at a third of the canvas."""
    out = photos.parent / "wide"
    await comet("expand", photos / "dog.png", "--out", out, "--left", 0.5)
    await comet("report", out)
    page = (out / "report.html").read_text()
    assert "left: 33.3333%; top: 0.0000%; width: 66.6667%; height: 100.0000%" in page
    assert sandbox.ledger.charges


async def test_a_source_that_is_gone(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """Its result is shown all the same."""
    out = photos.parent / "wide"
    await comet("expand", photos / "dog.png", "--out", out, "--left", 0.5)
    (photos / "dog.png").unlink()
    assert (await comet("report", out)).status == 0
    assert "the source can't be shown from here" in (out / "report.html").read_text()
    assert sandbox.ledger.charges


async def test_replaces_only_a_page_of_its_own(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """A file of the same name that is somebody else's stays."""
    out = photos.parent / "wide"
    await comet("expand", photos / "dog.png", "--out", out, "--left", 0.5, "--report")
    assert (await comet("report", out)).status == 0
    (out / "report.html").write_text("mine")
    ended = await comet("report", out)
    assert ended.status == 2
    assert (out / "report.html").read_text() == "mine"
    words = ("expand", photos / "dog.png", "--out", out, "--left", 0.5, "--report")
    ended = await comet(*words)
    assert ended.status == 0  # the images are there; a page is no reason to fail
    assert "is not a page of ours" in ended.err
    assert sandbox.ledger.charges


async def test_a_page_that_cannot_be_written(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """What the disk refuses is said in a line."""
    out = photos.parent / "wide"
    await comet("expand", photos / "dog.png", "--out", out, "--left", 0.5)
    (out / ".report.html.part").mkdir()
    ended = await comet("report", out)
    assert ended.status == 2
    assert "can't be written" in ended.err
    assert sandbox.ledger.charges


async def test_no_journal(comet: Command, tmp_path: Path) -> None:
    """A folder without a journal has no report."""
    assert (await comet("report", tmp_path)).status == 2


def test_nothing_on_the_page_can_run() -> None:
    """Names and prompts are text, whatever they look like, and nothing remote is loaded."""
    evil = "<script>alert(1)</script>"
    shot = Shot(address="a.png", width=3, height=2)
    box = Box(left=0, top=0, width=50, height=100)
    pair = Pair(
        source=evil, before=shot, after=[shot], box=box, margins="left 1", prompt=evil, key="k"
    )
    page = render([pair], title=evil, practice=True)
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert "painted by the sandbox" in page


def test_jinja_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the error names what to install."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match="Jinja2") as caught:
        render([], title="")
    assert caught.value.extra == "report"
