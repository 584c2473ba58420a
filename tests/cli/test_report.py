"""The page of all images, before and after, as a command."""

from __future__ import annotations

import re
import sys
import webbrowser
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from comet_async.sandbox import Sandbox

Command = Callable[..., Awaitable[Any]]  # the fixture `comet`


def addresses(page: Path) -> list[str]:
    """Return where the images of a page are."""
    return re.findall(r'<img [^>]*src="([^"]+)"', page.read_text())


async def test_the_page_holds_its_images(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """By default it is one file that can be sent: no image is anywhere else."""
    out = photos.parent / "wide"
    await comet("expand", photos, "--out", out, "--left", 0.5, "-n", 2, "--prompt", "<b>sun</b>")
    ended = await comet("report", out)
    assert (ended.status, ended.out) == (0, f"{out / 'report.html'}\n")
    shown = addresses(out / "report.html")
    assert len(shown) == 9
    assert all(address.startswith("data:image/webp;base64,") for address in shown)
    assert "&#8220;&lt;b&gt;sun&lt;/b&gt;&#8221;" in (out / "report.html").read_text()
    assert len(sandbox.ledger.charges) == 3


async def test_links(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """With --link, every address leads from the page to a file."""
    out = photos.parent / "wide"
    await comet("expand", photos, "--out", out, "--left", 0.5)
    assert (await comet("report", out, "--link")).status == 0
    shown = addresses(out / "report.html")
    assert len(shown) == 6
    assert all((out / unquote(address)).is_file() for address in shown)
    assert sandbox.ledger.charges


async def test_the_source_lies_where_it_belongs(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """An image that grew by half of its width at the left begins at a third of the canvas."""
    out = photos.parent / "wide"
    await comet("expand", photos / "dog.png", "--out", out, "--left", 0.5)
    await comet("report", out)
    page = (out / "report.html").read_text()
    assert "left: 33.333%; top: 0.0%; width: 66.667%; height: 100.0%" in page
    assert "left&#160;50%" in page
    assert sandbox.ledger.charges


async def test_a_source_that_is_gone(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """Its result is shown all the same."""
    out = photos.parent / "wide"
    await comet("expand", photos / "dog.png", "--out", out, "--left", 0.5)
    (photos / "dog.png").unlink()
    assert (await comet("report", out)).status == 0
    assert len(addresses(out / "report.html")) == 1
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
    assert "exists and is not a report" in ended.err
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


async def test_what_is_not_done_and_what_was_copied(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """Invalid sources are there with their reasons, copied ones with their file."""
    (photos / "notes.png").write_text("not an image")
    out = photos.parent / "wide"
    ended = await comet("expand", photos, "--out", out, "--to", "1:1")
    reason = re.search(r"notes.png: (.*)", ended.err)
    assert reason is not None
    assert (await comet("report", out)).status == 0
    page = (out / "report.html").read_text()
    outcomes = re.findall(r'data-outcome="(\w+)" data-properties="(.*?)" data-name="(.*?)"', page)
    assert ("invalid", "", "notes.png") in outcomes
    assert f'<p class="reason">{reason[1]}</p>' in page.replace("&#39;", "'")
    copied = sum("copied" in properties for _, properties, _ in outcomes)
    assert copied == len(outcomes) - 1 - len(sandbox.ledger.charges)


async def test_a_second_run_says_what_was_there(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """Results of an earlier run are marked, and nothing else."""
    out = photos.parent / "wide"
    words = ("expand", photos, "--out", out, "--left", 0.5, "--report")
    await comet(*words)
    assert "already there" not in (out / "report.html").read_text()
    await comet(*words)
    page = (out / "report.html").read_text()
    assert page.count('data-properties="already there') == len(sandbox.ledger.charges) == 3


async def test_opens_the_browser(
    comet: Command, sandbox: Sandbox, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--open shows the page by an absolute address."""
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    out = photos.parent / "wide"
    await comet("expand", photos / "dog.png", "--out", out, "--left", 0.5)
    assert (await comet("report", out, "--open")).status == 0
    assert opened == [(out / "report.html").absolute().as_uri()]
    assert sandbox.ledger.charges


async def test_no_journal(comet: Command, tmp_path: Path) -> None:
    """A folder without a journal has no report."""
    assert (await comet("report", tmp_path)).status == 2


@pytest.mark.parametrize(("module", "name"), [("jinja2", "Jinja2"), ("PIL", "Pillow")])
async def test_a_missing_extra(
    comet: Command,
    sandbox: Sandbox,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    name: str,
) -> None:
    """The error names what to install."""
    out = photos.parent / "wide"
    await comet("expand", photos / "dog.png", "--out", out, "--left", 0.5)
    monkeypatch.setitem(sys.modules, module, None)
    ended = await comet("report", out)
    assert ended.status == 2
    assert f"a report needs {name}" in ended.err
    assert "comet-async[report]" in ended.err
    assert not (out / "report.html").exists()
    assert sandbox.ledger.charges


@pytest.mark.parametrize("module", ["jinja2", "PIL"])
async def test_a_missing_extra_is_noticed_before_paying(
    comet: Command,
    sandbox: Sandbox,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
) -> None:
    """An order that ends with a report is refused when no report can be written."""
    monkeypatch.setitem(sys.modules, module, None)
    ended = await comet(
        "expand", photos / "dog.png", "--out", photos.parent / "wide", "--left", 0.5, "--report"
    )
    assert ended.status == 2
    assert "comet-async[report]" in ended.err
    assert not sandbox.ledger.posts
