"""Which files of a folder are taken, and what is said about the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Awaitable[Any]]  # the fixture `comet`


@pytest.fixture
def mixed(photos: Path) -> Path:
    """Return a folder of images and of what else lies in such folders."""
    (photos / "raw.cr2").write_bytes(b"raw")
    (photos / "clip.mp4").write_bytes(b"clip")
    (photos / ".hidden.png").write_bytes((photos / "dog.png").read_bytes())
    (photos / "broken.png").symlink_to(photos / "nowhere.png")
    outside = photos.parent / "outside.png"
    outside.write_bytes((photos / "cat.png").read_bytes() + b"")
    (photos / "link.png").symlink_to(outside)
    return photos


def taken(lines: list[dict[str, str]]) -> set[str]:
    """Return the names of the sources of a plan."""
    return {Path(line["source"]).name for line in lines}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ((), {"dog.png", "cat.png", "sea.png"}),
        (("--include", "*o*.png"), {"dog.png"}),
        (("--exclude", "trip"), {"dog.png", "cat.png"}),
        (("--exclude", "dog.*", "--exclude", "cat.*"), {"sea.png"}),
        (("--follow-links",), {"dog.png", "cat.png", "sea.png", "link.png"}),
    ],
    ids=["all", "include", "exclude a folder", "twice", "links"],
)
async def test_what_is_taken(
    comet: Command, mixed: Path, words: tuple[str, ...], names: set[str]
) -> None:
    """By patterns, and with links if they are wanted."""
    out = mixed.parent / "wide"
    ended = await comet("expand", mixed, "--out", out, "--to", "2:1", "--dry-run", "--json", *words)
    assert {name for name in taken(ended.lines) if name != "broken.png"} == names


async def test_what_is_left_out_is_counted(comet: Command, mixed: Path) -> None:
    """A photographer with two hundred raw files learns why nothing happens to them."""
    ended = await comet("expand", mixed, "--out", mixed.parent / "w", "--to", "2:1", "--dry-run")
    assert "left out of folders: 2 other files (1 .cr2, 1 .mp4)" in ended.err
    assert "1 hidden" in ended.err
    assert "1 broken link" in ended.err


async def test_a_folder_of_other_files_says_so(comet: Command, mixed: Path) -> None:
    """Where nothing is left, the reason is what was left out."""
    words = ("--include", "*.cr2", "--out", mixed.parent / "w", "--to", "2:1", "--dry-run")
    ended = await comet("expand", mixed, *words)
    assert ended.status == 2
    assert "no image was found" in ended.err
    assert "left out: 2 other files" in ended.err


async def test_an_empty_pattern_is_refused(comet: Command, mixed: Path) -> None:
    """It would match nothing or everything."""
    ended = await comet(
        "expand", mixed, "--out", mixed.parent / "w", "--to", "2:1", "--exclude", "", "--dry-run"
    )
    assert ended.status == 2
    assert "--exclude" in ended.err


async def test_the_size_of_a_url_is_not_known(comet: Command, tmp_path: Path) -> None:
    """The way out is one that the command line has."""
    words = ("https://example.com/dog.png", "--out", tmp_path / "w", "--to", "2:1", "--dry-run")
    ended = await comet("expand", *words, "--sandbox")
    assert "give shares, like --up 0.5; or download it first" in ended.out
    assert "CometSession" not in ended.out
