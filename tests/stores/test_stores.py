"""Stores by themselves: what a folder and an object store promise alike."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from comet_async import InputError
from comet_async.stores import CREATE, PIECE, LocalStore, Store, Stores, open_s3
from tests.support.s3 import Bucket


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return an empty store of each kind."""
    if request.param == "folder":
        return LocalStore(tmp_path / "store")
    bucket: Bucket = request.getfixturevalue("bucket")
    return bucket.store


def put(store: Store, name: str, data: bytes) -> None:
    """Write an object."""
    store.put(name, io.BytesIO(data), size=len(data))


def read(store: Store, name: str) -> bytes:
    """Return an object's bytes."""
    with store.open(name) as reader:
        return b"".join(iter(lambda: reader.read(1000), b""))


@pytest.mark.parametrize("size", [0, 10, PIECE + 1, CREATE + 1])
def test_what_is_put_is_read(store: Store, size: int) -> None:
    """Small objects and those that are written in parts."""
    data = bytes(range(256)) * (size // 256 + 1)
    put(store, "in/dog.png", data[:size])
    assert read(store, "in/dog.png") == data[:size]
    found = store.find("in/dog.png")
    assert found is not None
    assert (found.name, found.size) == ("in/dog.png", size)
    assert found.version


@pytest.mark.parametrize("size", [10, CREATE + 1])
def test_nothing_is_replaced(store: Store, size: int) -> None:
    """Neither by a small object nor by one that is written in parts."""
    put(store, "dog.png", b"first")
    with pytest.raises(FileExistsError):
        put(store, "dog.png", bytes(size))
    assert read(store, "dog.png") == b"first"


def test_what_is_not_there(store: Store) -> None:
    """It is not found, can't be opened, and a folder that is not there is empty."""
    assert store.find("nothing") is None
    with pytest.raises(FileNotFoundError):
        read(store, "nothing")
    assert store.list("nothing").objects == ()


@pytest.mark.parametrize("folder", ["in", "in/"])
def test_folders_are_listed_one_at_a_time(store: Store, folder: str) -> None:
    """With what identifies each object, as `find` returns it."""
    for name in ("in/a b.png", "in/ü#?.png", "in/100%.png", "in/sub/deep/c.png", "inner.png"):
        put(store, name, b"x")
    listing = store.list(folder)
    names = {each.name for each in listing.objects}
    assert names == {"in/a b.png", "in/ü#?.png", "in/100%.png"}
    assert listing.folders == ("sub",)
    assert all(store.find(each.name) == each for each in listing.objects)
    assert {each.name for each in store.list("").objects} == {"inner.png"}
    assert store.find("in") is None


def test_a_file_that_is_removed_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may write there: its temporary files come and go while it is listed."""
    names = {f"{number}.png" for number in range(5)}
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    scandir, removed = os.scandir, set[str]()

    @contextlib.contextmanager
    def listed(folder: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
        with scandir(folder) as entries:
            yield map(remove_first, entries)

    def remove_first(entry: os.DirEntry[str]) -> os.DirEntry[str]:
        if not removed:
            removed.add(entry.name)
            Path(entry.path).unlink()
        return entry

    monkeypatch.setattr(os, "scandir", listed)
    listing = LocalStore(tmp_path).list("")
    assert {each.name for each in listing.objects} == names - removed


def test_a_new_content_is_a_new_version(tmp_path: Path, bucket: Bucket) -> None:
    """Also if it has the same size."""
    folder = LocalStore(tmp_path)
    for store, write in (
        (bucket.store, lambda data: bucket.write("a", data)),
        (folder, (tmp_path / "a").write_bytes),
    ):
        write(b"first")
        first = store.find("a")
        write(b"other")
        other = store.find("a")
        assert first is not None
        assert other is not None
        assert first.version != other.version


def test_a_change_while_an_object_is_read_is_an_error(tmp_path: Path, bucket: Bucket) -> None:
    """It is found at the end: what was read may be of either version."""
    data = bytes(3 * PIECE)
    folder = LocalStore(tmp_path)
    for store, write in (
        (bucket.store, lambda data: bucket.write("a", data)),
        (folder, (tmp_path / "a").write_bytes),
    ):
        write(data)
        with store.open("a") as reader:
            reader.read(PIECE)
            write(data + b"more")
            with pytest.raises(OSError, match="changed while it was read") as caught:
                list(iter(lambda: reader.read(PIECE), b""))
        assert caught.value.errno == errno.ESTALE


@pytest.mark.parametrize("name", ["../secret", "link/secret", "a/../../secret", "/etc/passwd"])
def test_a_folder_is_not_left(tmp_path: Path, name: str) -> None:
    """Neither by dots, nor by a link, nor by a name in full."""
    (tmp_path / "secret").write_text("secret")
    store = LocalStore(tmp_path / "store")
    store.folder.mkdir()
    (store.folder / "link").symlink_to(tmp_path)
    for use in (store.find, store.open, lambda name: put(store, name, b"x")):
        with pytest.raises(PermissionError):
            use(name)


@pytest.mark.parametrize("name", ["circle", "circle/dog.png", "a\0b"])
def test_what_can_not_be_a_file_is_an_oserror(tmp_path: Path, name: str) -> None:
    """As `Store` promises, whatever `Path` raises."""
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    store = LocalStore(tmp_path)
    for use in (store.find, store.open, store.list, lambda name: put(store, name, b"x")):
        with pytest.raises(OSError):  # noqa: PT011 - the system's words
            use(name)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    """No part of a file is left behind."""

    class Broken(io.BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, "broken")

    store = LocalStore(tmp_path)
    with pytest.raises(OSError, match="broken"):
        store.put("a", Broken(), size=5)
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_that_is_not_there(bucket: Bucket) -> None:
    """What is written there fails."""
    missing = open_s3(f"{bucket.name}-missing")
    with pytest.raises(OSError, match="no such bucket"):
        put(missing, "a", b"x")


def test_plain_http_goes_to_this_machine_only(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key to a bucket does not leave it in the clear; the error is one line."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://files.example:9000")
    elsewhere = open_s3(bucket.name)
    with pytest.raises(OSError, match="HTTP") as caught:
        elsewhere.find("a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "https", "data", "file", "S3", "a-b", ""])
def test_schemes_that_mean_something_else(scheme: str) -> None:
    """What is a URL already can't be a store."""
    with pytest.raises(InputError, match="scheme of a store"):
        Stores({scheme: LocalStore})


def test_addresses_are_taken_apart(tmp_path: Path) -> None:
    """Up to the first slash it is the store's name; nothing is decoded."""
    opened: list[str] = []

    def share(name: str) -> LocalStore:
        opened.append(name)
        return LocalStore(tmp_path / name)

    stores = Stores({"share": share})
    store, name = stores.at("share://one/a%20b/ü?.png")
    assert name == "a%20b/ü?.png"
    assert stores.at("share://one")[0] is store
    assert opened == ["one"]
    assert stores.knows("s3://bucket/a")
    assert not stores.knows("https://example.com/a")
    assert not stores.knows("photos/a.png")
    with pytest.raises(InputError, match="names no bucket"):
        stores.at("s3:///a")
