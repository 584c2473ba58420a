"""Which images a command names, and what their results are called."""

from __future__ import annotations

import asyncio
import io
import os
import threading
import tracemalloc
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from comet_async._images.discovery import Found, output_name, scan
from comet_async._images.load import load
from comet_async.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let relative paths mean the test's own folder."""
    monkeypatch.chdir(tmp_path)


def touch(*names: str) -> None:
    """Make files, and the folders that they lie in."""
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def stems(*sources: str, out: str = "out", stdin: str = "") -> dict[str, str]:
    """Return the names that the results of *sources* get, by source."""
    found = list(scan(sources, out=out, stdin=io.StringIO(stdin)))
    names = {each.source: str(each.stem) for each in found}
    assert len(names) == len(found)
    return names


def test_folder_is_read_with_its_subfolders() -> None:
    """Results keep the subfolders of their sources; files come before folders, by name."""
    touch("photos/dog.png", "photos/cat.jpg", "photos/trip/sea.webp", "photos/trip/day 2/sea.png")
    assert list(stems("photos").items()) == [
        ("photos/cat.jpg", "cat"),
        ("photos/dog.png", "dog"),
        ("photos/trip/sea.webp", "trip/sea"),
        ("photos/trip/day 2/sea.png", "trip/day 2/sea"),
    ]


@pytest.mark.parametrize("source", ["photos", "photos/", "./photos", "photos/../photos"])
def test_spelling_of_the_folder_is_kept(source: str) -> None:
    """A source below a folder can be found by what the user typed."""
    touch("photos/dog.png")
    (found,) = scan([source], out="out")
    assert found.source == found.image == os.path.join(source, "dog.png")  # noqa: PTH118 - text is compared
    assert found.stem == PurePosixPath("dog")


def test_what_a_folder_leaves_out() -> None:
    """Hidden things silently, other files with a count, the output folder altogether."""
    touch("photos/dog.PNG", "photos/.hidden.png", "photos/.git/x.png", "photos/notes.txt")
    touch("photos/wide/dog.png", "photos/wide/.comet-async/x.png", "photos/Thumbs.db")
    scanned = scan(["photos"], out="photos/wide")
    assert [found.source for found in scanned] == ["photos/dog.PNG"]
    assert scanned.skipped == 2


def test_suffixes_that_are_images() -> None:
    """What can be prepared is offered, whatever the case of its name."""
    words = "jpg jpeg png webp heic heif tif tiff gif bmp avif JPG Png HEIC"
    touch(*(f"photos/{number}.{word}" for number, word in enumerate(words.split())))
    assert len(stems("photos")) == 14


def test_file_named_by_itself_is_taken() -> None:
    """Whatever it is called, and whether it is there: loading it will say what is wrong."""
    touch("scan.dat", ".secret.png")
    assert stems("scan.dat", ".secret.png", "gone.png", "a/../b/x.jpg") == {
        "scan.dat": "scan",
        ".secret.png": "_secret",
        "gone.png": "gone",
        "a/../b/x.jpg": "x",
    }


@pytest.mark.parametrize(
    ("url", "stem"),
    [
        ("https://example.com/photos/dog.png", "dog"),
        ("https://example.com/my%20dog.v2.jpg?Signature=a/b.png", "my dog.v2"),
        ("https://example.com/a%2Fb.png", "b"),
        ("https://example.com/%2e%2e%2f%2e%2e", "_"),
        ("https://example.com/render.php?id=7", "render.php"),
        ("https://example.com/", "example.com"),
        ("https://example.com/dog.png#top", "dog"),
        ("data:image/png;base64,AAAA", "image"),
    ],
)
def test_url_gives_its_last_part(url: str, stem: str) -> None:
    """A URL's result is called like the file that it seems to be."""
    assert stems(url) == {url: stem}


# ---------------------------------------------------------------------------- names of their own


def test_same_name_is_told_apart_by_extension() -> None:
    """Only those that would share a name change it."""
    touch("photos/a.jpg", "photos/a.png", "photos/b.png", "photos/trip/a.jpg")
    assert stems("photos") == {
        "photos/a.jpg": "a-jpg",
        "photos/a.png": "a-png",
        "photos/b.png": "b",
        "photos/trip/a.jpg": "trip/a",
    }


def test_a_joined_name_meets_no_other() -> None:
    """Who has the name by right keeps it; who has it by joining gives way."""
    touch("photos/a.jpg", "photos/a.png", "photos/a-jpg.gif")
    names = stems("photos")
    assert names["photos/a-jpg.gif"] == "a-jpg"
    assert names["photos/a.png"] == "a-png"
    assert names["photos/a.jpg"].startswith("a-jpg-")


def test_case_makes_no_difference() -> None:
    """Many disks hold only one of Dog.png and dog.png, or of two spellings of an umlaut."""
    touch("photos/Dog.png", "photos/dog.png", "photos/o\u0308l.png", "photos/\u00f6l.png")
    touch("photos/Trip/x.png", "photos/trip/x.png")
    folded = {name.casefold().replace("o\u0308", "\u00f6") for name in stems("photos").values()}
    assert len(folded) == 6


def test_result_and_folder_do_not_meet() -> None:
    """The result of a.jpg may be called a.png, which here is a folder."""
    touch("photos/a.jpg", "photos/a.png/b.jpg")
    assert stems("photos") == {"photos/a.jpg": "a", "photos/a.png/b.jpg": "a-png/b"}


def test_files_of_several_folders() -> None:
    """Named one by one, equal names are told apart, whatever the order."""
    touch("a/dog.jpg", "b/dog.jpg", "c/dog.png", "c/cat.png")
    sources = ["a/dog.jpg", "b/dog.jpg", "c/dog.png", "c/cat.png"]
    names = stems(*sources)
    assert len(set(names.values())) == 4
    assert (names["c/dog.png"], names["c/cat.png"]) == ("dog-png", "cat")
    assert names["a/dog.jpg"].startswith("dog-jpg-")
    assert stems(*reversed(sources)) == names


def test_several_folders_get_a_folder_each() -> None:
    """As copying them would do; those of equal names are told apart."""
    touch("2024/dog.png", "2025/dog.png", "old/2024/dog.png")
    assert stems("2024", "2025/") == {"2024/dog.png": "2024/dog", "2025/dog.png": "2025/dog"}
    names = stems("2024", "old/2024")
    assert stems("old/2024", "2024") == names
    assert len(set(names.values())) == 2


def test_file_beside_a_folder_of_the_same_name() -> None:
    """A file named by itself has the plain name, and is not found twice."""
    touch("photos/dog.png", "photos/cat.png", "dog.jpg")
    expected = {"photos/dog.png": "dog-png", "photos/cat.png": "cat", "dog.jpg": "dog"}
    assert stems("photos", "dog.jpg") == expected
    assert stems("dog.jpg", "photos") == expected
    assert stems("photos/dog.png", "photos") == {"photos/dog.png": "dog", "photos/cat.png": "cat"}


def test_source_named_twice_is_taken_once() -> None:
    """However it is spelled."""
    touch("photos/dog.png")
    assert stems("photos/dog.png", "./photos/dog.png", "photos/../photos/dog.png") == {
        "photos/dog.png": "dog"
    }
    assert stems("photos", "photos/") == {"photos/dog.png": "dog"}


def test_empty_text_is_not_this_folder() -> None:
    """An unset variable on a command line must not buy whatever lies around."""
    touch("dog.png")
    assert stems("") == {"": "image"}


def test_result_does_not_replace_its_source() -> None:
    """A file in the output folder leaves its own name alone."""
    touch("dog.png")
    assert stems("dog.png", out=".") == {"dog.png": "dog-png"}


def test_other_output_folders_are_no_sources() -> None:
    """What was bought by another run is not bought again, unless its folder is named."""
    touch("photos/dog.png", "photos/tall/dog.png", "photos/tall/.comet-async/journal.sqlite3")
    touch("photos/tall/trip/sea.png")
    assert stems("photos", out="photos/wide") == {"photos/dog.png": "dog"}
    assert stems("photos/tall", out="photos/wide") == {
        "photos/tall/dog.png": "dog",
        "photos/tall/trip/sea.png": "trip/sea",
    }


def test_sources_in_the_output_folder() -> None:
    """They are fine, as long as results stay out of them: the next run would buy those."""
    touch("album/a/x.jpg", "album/a/a/y.jpg", "album/b/z.jpg")
    assert stems("album/b", out="album") == {"album/b/z.jpg": "z"}
    found = {each.source: each.error for each in scan(["album/a"], out="album")}
    assert found["album/a/x.jpg"] is None
    assert "among the sources" in found["album/a/a"].message  # type: ignore[union-attr]
    both = list(scan(["album/a", "album/b"], out="album"))
    assert [each.source for each in both] == ["album/a/", "album/a/a", "album/b/"]
    assert all(each.error for each in both)
    assert len(stems("album", "album/b", out="album")) == 2


def test_output_folder_is_no_source() -> None:
    """Results would be found as sources, and paid for again and again."""
    touch("photos/dog.png")
    (found,) = scan(["photos/"], out="./photos")
    assert found.source == "photos/"
    assert isinstance(found.error, InputError)
    assert "photos/ is the output folder" in found.error.message


NASTY = st.lists(
    st.sampled_from([*'ab.-_ /\\:*?"<>|\0\n\x1b~%é\udcff', "ö", "o\u0308", "CON", ".png"]),
    min_size=1,
    max_size=12,
).map("".join)


@given(st.lists(NASTY, max_size=8), st.booleans())
def test_names_stay_inside_and_apart(names: list[str], as_urls: bool) -> None:
    """Whatever sources are called, each has a name of its own below the output folder."""
    sources = [f"https://h/{name}" if as_urls else f"/none/{name}" for name in names]
    found = list(scan(sources, out="out"))
    folded = {str(each.stem).casefold() for each in found}
    assert len(folded) == len(found) == len({each.source for each in found})
    for each in found:
        (only,) = each.stem.parts  # one part, and none that leads up
        assert only not in {".", ".."}
        assert not set(only) & set('<>:"/\\|?*\0\n')
        assert not only.startswith(".")
        assert not only.endswith((".", " "))


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("12:30 <dog>?.png", "12_30 _dog__"),
        ("dog\x1b[31m.png", "dog_[31m"),
        ("dog. .png", "dog"),
        ("con.png", "_con"),
        ("Lpt1.photo.png", "_Lpt1.photo"),
        ("holiday.2024.png", "holiday.2024"),
        ("-rf.png", "-rf"),
    ],
)
def test_odd_names_are_made_plain(name: str, stem: str) -> None:
    """Results can be copied to any disk."""
    touch(f"photos/{name}")
    assert list(stems("photos").values()) == [stem]


def test_long_names_are_cut() -> None:
    """There is room for an index, an extension and the marks of an unfinished file."""
    names = stems(*(f"/none/{letter}{'ö' * 120}{letter}.png" for letter in "ab"))
    assert len(names) == 2
    assert all(len(stem.encode()) < 170 for stem in names.values())


def test_undecodable_names() -> None:
    """A name that is not text is still a file."""
    os.makedirs("photos")  # noqa: PTH103 - as below
    Path(os.fsdecode(b"photos/dog\xff.png")).write_bytes(b"")
    assert list(stems("photos").values()) == ["dog_"]


@pytest.mark.parametrize(
    ("index", "n", "format", "name"),
    [
        (0, 1, "png", "trip/dog.v2.png"),
        (0, 3, "png", "trip/dog.v2-0.png"),
        (2, 3, "jpeg", "trip/dog.v2-2.jpg"),
        (0, 1, "webp", "trip/dog.v2.webp"),
    ],
)
def test_output_name(index: int, n: int, format: str, name: str) -> None:  # noqa: A002 - the word of the field
    """The index is named if there are several; the extension is what the bytes are."""
    assert output_name("trip/dog.v2", index, n, format) == name
    assert output_name(PurePosixPath("trip/dog.v2"), index, n, format) == name


# ---------------------------------------------------------------------------- links and rights


def by_source(found: Iterable[Found]) -> dict[str, Found]:
    """Return what was found, by source."""
    return {each.source: each for each in found}


def test_links() -> None:
    """A link inside the folder is a file; one out of it is refused, and links to folders go."""
    touch("photos/dog.png", "photos/trip/sea.png", "private/secret.png", "photos2/x.png")
    for name, target in {
        "inside.png": "trip/sea.png",
        "outside.png": "../private/secret.png",
        "beside.png": "../photos2/x.png",
        "circle.png": "circle.png",
        "broken.png": "gone.png",
        "folder": "../private",
        "up": "..",
    }.items():
        Path("photos", name).symlink_to(target)
    scanned = scan(["photos"], out="out")
    found = by_source(scanned)
    assert [name for name, each in found.items() if each.error is None] == [
        "photos/dog.png",
        "photos/inside.png",
        "photos/trip/sea.png",
    ]
    refused = {name: str(each.error) for name, each in found.items() if each.error}
    assert set(refused) == {"photos/outside.png", "photos/beside.png"}
    assert "is a link out of its folder" in refused["photos/outside.png"]
    assert scanned.skipped == 4


def test_a_folder_may_be_named_through_a_link() -> None:
    """What the user names is meant."""
    touch("real/dog.png", "real/out/x.png")
    Path("link").symlink_to("real")
    assert stems("link", out="real/out") == {"link/dog.png": "dog"}


def test_unreadable_folder_is_one_bad_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others go on."""
    touch("photos/a.png", "photos/locked/b.png", "photos/z/c.png")
    real = os.scandir

    def listing(path: str) -> object:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", listing)
    found = by_source(scan(["photos"], out="out"))
    assert list(found) == ["photos/a.png", "photos/locked", "photos/z/c.png"]
    assert "photos/locked can't be listed: Permission denied" in str(found["photos/locked"].error)


# ---------------------------------------------------------------------------- the standard input


def test_lines_are_sources() -> None:
    """One path, folder or URL a line; empty lines say nothing."""
    touch("photos/dog.png", "cat.png")
    lines = "photos\r\n\ncat.png\n  \nhttps://example.com/sea.png\nlast.png"
    assert stems("-", stdin=lines) == {
        "photos/dog.png": "dog",
        "cat.png": "cat",
        "https://example.com/sea.png": "sea",
        "last.png": "last",
    }


def test_lines_from_a_pipe() -> None:
    """Any bytes can be a path; sources around the dash are kept."""
    reading, writing = os.pipe()
    with open(reading, "rb") as stdin, open(writing, "wb") as pipe:  # noqa: PTH123 - descriptors
        pipe.write(b"b\xff.png\n")
        pipe.close()
        found = list(scan(["a.png", "-", "c.png"], out="out", stdin=stdin))
    assert [each.source for each in found] == ["a.png", os.fsdecode(b"b\xff.png"), "c.png"]


def test_waiting_for_a_line_can_be_ended() -> None:
    """A thread that waits for somebody to type does not hold up the end of the program."""
    reading, writing = os.pipe()
    with open(reading, "rb") as stdin, open(writing, "wb"):  # noqa: PTH123 - descriptors
        scanned = scan(["-"], out="out", stdin=stdin)
        found: list[Found] = []
        thread = threading.Thread(target=lambda: found.extend(scanned))
        thread.start()
        scanned.close()
        thread.join(5)
        assert not thread.is_alive()
    assert found == []


def test_no_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program without one has nothing to say."""
    monkeypatch.setattr("sys.stdin", None)
    assert list(scan(["-"], out="out")) == []


# ---------------------------------------------------------------------------- many


def test_folders_are_read_when_they_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first image does not wait for the last folder."""
    touch("photos/a/1.png", "photos/b/2.png", "photos/c/3.png")
    read: list[str] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (read.append(path), real(path))[1])
    scanned = scan(["photos"], out="out")
    assert next(scanned).source == "photos/a/1.png"
    assert len(read) == 2
    scanned.close()
    assert list(scanned) == []


def test_memory_does_not_grow_with_the_tree() -> None:
    """What was read is forgotten."""
    touch(*(f"photos/{folder}/{name}.png" for folder in range(40) for name in range(50)))
    tracemalloc.start()
    try:
        assert sum(1 for _ in scan(["photos"], out="out")) == 2000
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()


async def test_found_images_can_be_loaded(photos: Path) -> None:
    """What is found is what `load` takes, also from a thread."""
    scanned = scan([str(photos)], out="out")
    loop = asyncio.get_running_loop()
    names: list[str] = []
    while found := await loop.run_in_executor(None, next, scanned, None):
        assert (await load(found.image)).width == 320
        names.append(str(found.stem))
    assert names == ["cat", "dog", "trip/sea"]
