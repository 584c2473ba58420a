"""Which images a command names, and what their results are called."""

from __future__ import annotations

import asyncio
import io
import os
import re
import threading
import tracemalloc
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from comet_async._images.discovery import Found, Selection, SkipReport, scan
from comet_async._images.load import load
from comet_async._images.naming import output_name
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
    assert found.stem == "dog"


def test_what_a_folder_leaves_out() -> None:
    """Hidden images and other files with a count, the output folder altogether."""
    touch("photos/dog.PNG", "photos/.hidden.png", "photos/.git/x.png", "photos/notes.txt")
    touch("photos/wide/dog.png", "photos/wide/.comet-async/x.png", "photos/a.CR2", "photos/b.cr2")
    touch("photos/.DS_Store", "photos/README")
    scanned = scan(["photos"], out="photos/wide")
    assert [found.source for found in scanned] == ["photos/dog.PNG"]
    assert scanned.skipped == SkipReport(
        other_types=Counter({".cr2": 2, ".txt": 1, "": 1}),
        hidden=2,
    )
    assert scanned.skipped.total == 6
    assert str(scanned.skipped) == "4 other files (2 .cr2, 1 .txt, 1 without suffix), 2 hidden"
    scanned.skipped.other_types.update((".a", ".b", ".c"))
    assert str(scanned.skipped).startswith("7 other files (2 .cr2, 1 .a, 1 .b, 1 .c, 1 .txt, …)")


def test_every_reason_is_named() -> None:
    """One line says what was left out."""
    report = SkipReport(broken_links=1, links=2, excluded=3)
    report.system_folders["@eaDir"] += 1
    report.other_types[".mp4"] += 1
    assert str(report) == (
        "1 other file (1 .mp4), 1 broken link, 2 links out of the folder, "
        "1 system folder (@eaDir), 3 excluded"
    )
    assert report.total == 8
    assert not str(SkipReport())


def test_suffixes_that_are_images() -> None:
    """What can be sent or converted is offered, whatever the case of its name."""
    words = (
        "jpg jpeg png webp heic heif tif tiff gif bmp avif JPG Png HEIC jfif jpe jif jfi pjpeg "
        "pjp hif mpo apng JFIF"
    )
    touch(*(f"photos/{number}.{word}" for number, word in enumerate(words.split())))
    assert len(stems("photos")) == len(words.split())


@pytest.mark.parametrize(
    "folder",
    [
        *("@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "#snapshot", "lost+found"),
        *("System Volume Information", "@Recently-Snapshot", ".snapshot", "__MACOSX"),
        *(".Trash-1000", ".Trashes", ".thumbnails", ".AppleDouble", "$Recycle.Bin", "~snapshot"),
    ],
)
def test_system_folders_are_left_out(folder: str) -> None:
    """Thumbnails, deleted files and snapshots are not bought; what is named by itself is."""
    touch("nas/a.jpg", f"nas/{folder}/a.jpg/SYNOPHOTO_THUMB_XL.jpg", f"nas/b/{folder}/c.jpg")
    scanned = scan(["nas"], out="out")
    assert [found.source for found in scanned] == ["nas/a.jpg"]
    assert scanned.skipped == SkipReport(system_folders=Counter({folder: 2}))
    assert len(stems(f"nas/{folder}")) == 1


def taken(selection: Selection) -> list[str]:
    """Return what of the folder ``photos`` is taken, without the folder's name."""
    scanned = scan(["photos"], out="out", selection=selection)
    return sorted(found.source.removeprefix("photos/") for found in scanned)


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (["*.png"], [], ["2024/b.PNG", "a.png", "drafts/d.png"]),
        ([], ["*.png"], ["2024/x/c.jpg"]),
        ([], ["drafts"], ["2024/b.PNG", "2024/x/c.jpg", "a.png"]),
        ([], ["2024/*"], ["a.png", "drafts/d.png"]),
        ([], ["2024/x/"], ["2024/b.PNG", "a.png", "drafts/d.png"]),
        (["2024/*"], ["*.JPG"], ["2024/b.PNG"]),
        (["b*", "c*"], [], ["2024/b.PNG", "2024/x/c.jpg"]),
        ([], ["a", "nothing"], ["2024/b.PNG", "2024/x/c.jpg", "a.png", "drafts/d.png"]),
    ],
)
def test_patterns(include: list[str], exclude: list[str], expected: list[str]) -> None:
    """Names, or paths below the source folder, in any case."""
    touch("photos/a.png", "photos/2024/b.PNG", "photos/2024/x/c.jpg", "photos/drafts/d.png")
    assert taken(Selection(include=include, exclude=exclude)) == expected


def test_patterns_are_counted_and_spare_what_is_named() -> None:
    """What is left out is reported; a file named by itself is meant."""
    touch("photos/a.png", "photos/b.png")
    scanned = scan(["photos", "photos/b.png"], out="out", selection=Selection(exclude=["*"]))
    assert [found.source for found in scanned] == ["photos/b.png"]
    assert scanned.skipped.excluded == 2


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
    """Named one by one, equal names keep their folders, whatever the order."""
    touch("a/dog.jpg", "b/dog.jpg", "c/dog.png", "c/cat.png")
    sources = ["a/dog.jpg", "b/dog.jpg", "c/dog.png", "c/cat.png"]
    names = stems(*sources)
    assert names == {
        "a/dog.jpg": "a/dog",
        "b/dog.jpg": "b/dog",
        "c/dog.png": "c/dog",
        "c/cat.png": "cat",
    }
    assert stems(*reversed(sources)) == names
    assert stems("-", stdin="\n".join(sources)) == names


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["a/x/pic.jpg", "b/x/pic.jpg"], ["a/x/pic", "b/x/pic"]),
        (["a/pic.jpg", "a/pic.png"], ["pic-jpg", "pic-png"]),
        (["a/pic.jpg", "a/pic.png", "b/pic.jpg"], ["a/pic-jpg", "a/pic-png", "b/pic"]),
        (["a/pic.jpg", "a/b/pic.jpg"], ["a/pic", "b/pic"]),
        (["https://h/a/1.png", "https://h/b/1.png"], ["a/1", "b/1"]),
        (["https://h/1.png", "https://g/1.png"], ["h/1", "g/1"]),
        (["https://h/r.php?id=7", "https://h/r.php?id=8"], ["r.php-id=7", "r.php-id=8"]),
        ([".hidden/pic.jpg", "CON/pic.jpg"], ["_hidden/pic", "_CON/pic"]),
    ],
)
def test_readable_names(sources: list[str], expected: list[str]) -> None:
    """Where folders, extensions or queries tell sources apart, no hash is needed."""
    assert list(stems(*sources).values()) == expected


def test_several_folders_get_a_folder_each() -> None:
    """As copying them would do; those of equal names keep the folders around them."""
    touch("2024/dog.png", "2025/dog.png", "old/2024/dog.png")
    assert stems("2024", "2025/") == {"2024/dog.png": "2024/dog", "2025/dog.png": "2025/dog"}
    here = Path.cwd().name
    names = stems("2024", "old/2024")
    assert names == {"2024/dog.png": f"{here}/2024/dog", "old/2024/dog.png": "old/2024/dog"}
    assert stems("old/2024", "2024") == names


def test_a_folder_that_is_called_like_the_parent_of_another() -> None:
    """Neither is put into the other: two of their images would want the same name."""
    touch("p/a/dog/1.png", "q/b/dog/1.png", "z/a/dog/1.png")
    found = stems("p/a/dog", "q/b/dog", "z/a")
    assert found["p/a/dog/1.png"] == "a/dog/1"
    assert found["q/b/dog/1.png"] == "b/dog/1"
    assert re.fullmatch(r"a-[0-9a-f]{8}/dog/1", found["z/a/dog/1.png"])


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
    assert "among the sources" in found["album/a/a"].message  # type: ignore[union-attr]  # not None
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
        assert each.stem
        for part in each.stem.split("/"):  # none leads up, or to the root
            assert part not in {"", ".", ".."}
            assert not set(part) & set('<>:"/\\|?*\0\n')
            assert not part.startswith(".")
            assert not part.endswith((".", " "))


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


def linked() -> None:
    """Make a folder with links of all kinds."""
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


def test_links() -> None:
    """A link inside the folder is a file; all others are left out, and counted."""
    linked()
    scanned = scan(["photos"], out="out")
    assert [found.source for found in scanned] == [
        "photos/dog.png",
        "photos/inside.png",
        "photos/trip/sea.png",
    ]
    assert scanned.skipped == SkipReport(broken_links=2, links=4)


def test_links_are_followed_if_asked() -> None:
    """Photo libraries may consist of links; a folder is read once, however it is reached."""
    linked()
    scanned = scan(["photos"], out="out", selection=Selection(follow_links=True))
    sources = [found.source for found in scanned]
    assert {"photos/outside.png", "photos/beside.png", "photos/folder/secret.png"} < set(sources)
    assert len(sources) == len(set(sources)) < 12
    assert scanned.skipped.broken_links >= 2
    assert scanned.skipped.links == 0


def test_an_earlier_name_is_known() -> None:
    """A file that appears later must not rename the results of another."""
    touch("photos/trip/a.jpg", "photos/trip/a.png", "photos/b.png")
    found = by_source(scan(["photos"], out="out"))
    assert found["photos/trip/a.jpg"].stem == "trip/a-jpg"
    assert found["photos/trip/a.jpg"].others == ("trip/a",)
    assert found["photos/b.png"].others == ()
    named = by_source(scan(["photos/trip/a.jpg", "photos/trip/a.png"], out="out"))
    assert named["photos/trip/a.jpg"].others == ("a",)
    (url,) = scan(["https://example.com/a.png"], out="out")
    assert url.others == ()


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


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfcat.png\r\ndog.png\r\n",
        b"cat.png\ndog.png",
        "\ufeffcat.png\r\ndog.png".encode("utf-16-le"),
        "\ufeffcat.png\ndog.png\n".encode("utf-16-be"),
    ],
    ids=["UTF-8 with BOM", "plain", "PowerShell", "big end first"],
)
def test_lists_of_other_systems(data: bytes) -> None:
    """A byte order mark and line ends of two letters are not part of a name."""
    found = list(scan(["-"], out="out", stdin=io.BytesIO(data)))
    assert [each.source for each in found] == ["cat.png", "dog.png"]


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
