"""Sources and results in S3: runs over a real server, and what can go wrong between the two."""

from __future__ import annotations

import errno
import io
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import attrs
import pytest

from comet_async import (
    CometSession,
    JournalRequiredError,
    Margins,
    OutcomeStatus,
    ResultImage,
    stores,
)
from comet_async.errors import InputError, SaveError
from comet_async.outcomes import Outcome
from comet_async.sandbox import DEFAULT_KEY, Sandbox
from comet_async.stores import LocalStore, ObjectReader, ObjectStore, Store, spool
from comet_async.testing import VirtualClock
from tests.support.images import make_png
from tests.support.s3 import Bucket

WIDE = Margins(left=0.5, right=0.5)


@attrs.define(eq=False)
class Watched:
    """A store that counts, and does what a test wants in between."""

    inner: Store
    opened: list[str] = attrs.field(factory=list)
    changing: bytes | None = None
    losing: bool = False
    read_only: bool = False

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def open(self, name: str) -> ObjectReader:
        """Count, and change the object while it is read if that is wanted."""
        self.opened.append(name)
        reader = self.inner.open(name)
        if self.changing is not None:
            assert isinstance(self.inner, ObjectStore)
            self.inner.inner.put(name, self.changing)
        return reader

    def put(self, name: str, file: BinaryIO, *, size: int) -> None:
        """Write, unless that is refused, and lose the answer if that is wanted."""
        if self.read_only:
            raise PermissionError(errno.EACCES, "the store refuses access", name)
        self.inner.put(name, file, size=size)
        if self.losing and not name.endswith(".comet-async"):
            raise OSError(errno.EIO, "the answer was lost", name)


@pytest.fixture
def watched(bucket: Bucket) -> Watched:
    """Return the bucket with three images in it, two of them in a folder of their own."""
    for tint, name in enumerate(("in/dog.png", "in/trip/sea.png", "in/trip/sky.png")):
        bucket.write(name, make_png(320, 300, tint))
    bucket.write("in/notes.txt", b"no image")
    bucket.write("in/.hidden.png", b"hidden")
    return Watched(bucket.store)


@pytest.fixture
async def stored(
    sandbox: Sandbox, clock: VirtualClock, tmp_path: Path, watched: Watched
) -> AsyncIterator[CometSession]:
    """Return a session with a journal that knows the bucket."""
    async with CometSession(
        DEFAULT_KEY,
        gateway=sandbox.url,
        clock=clock,
        journal=tmp_path / "jobs.sqlite3",
        stores={"s3": lambda _bucket: watched},  # type: ignore[dict-item, return-value]  # it is one
    ) as session:
        yield session


async def run(comet: CometSession, source: str, out: str, **options: object) -> list[Outcome]:
    """Expand a folder; the outcomes by source."""
    outcomes = [o async for o in comet.expand_folder(source, out, WIDE, **options)]  # type: ignore[arg-type]  # its options, from a table
    return sorted(outcomes, key=lambda outcome: outcome.source)


async def test_from_a_bucket_into_a_bucket(
    stored: CometSession, sandbox: Sandbox, bucket: Bucket
) -> None:
    """Each image becomes one object, and nothing else is left here or there."""
    outcomes = await run(stored, f"{bucket.address}/in", f"{bucket.address}/out/")
    assert [(o.status, o.files, o.urls) for o in outcomes] == [
        ("done", (), (f"{bucket.address}/out/dog.png",)),
        ("done", (), (f"{bucket.address}/out/trip/sea.png",)),
        ("done", (), (f"{bucket.address}/out/trip/sky.png",)),
    ]
    assert [name for name in bucket.names() if name.startswith("out/")] == [
        "out/.comet-async",
        "out/dog.png",
        "out/trip/sea.png",
        "out/trip/sky.png",
    ]
    assert bucket.read("out/dog.png").startswith(b"\x89PNG")
    del outcomes
    assert list(spool().iterdir()) == []
    sandbox.assert_charged(3)


async def test_without_a_client_of_ours(
    sandbox: Sandbox, clock: VirtualClock, watched: Watched, bucket: Bucket, tmp_path: Path
) -> None:
    """Credentials and the server's address come from the environment."""
    del watched
    session = CometSession(
        DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=tmp_path / "jobs.sqlite3"
    )
    async with session as comet:
        task = await comet.expand(
            f"{bucket.address}/in/dog.png", WIDE, out=f"{bucket.address}/wide/dog.png"
        )
        assert task.succeeded
    assert "wide/dog.png" in bucket.names()


async def test_what_is_done_is_not_read_again(
    stored: CometSession, watched: Watched, bucket: Bucket, sandbox: Sandbox
) -> None:
    """Objects are recognised by their versions; a new version is another image."""
    source, out = f"{bucket.address}/in", f"{bucket.address}/out"
    first = await run(stored, source, out)
    assert len(watched.opened) == 3
    second = await run(stored, source, out)
    assert [(o.source, o.status, o.urls) for o in second] == [
        (o.source, o.status, o.urls) for o in first
    ]
    assert len(watched.opened) == 3
    bucket.write("in/dog.png", make_png(320, 300, 99))
    again = await run(stored, source, out)
    assert watched.opened[3:] == ["in/dog.png"]
    assert again[0].status is OutcomeStatus.INVALID  # out/dog.png is another image's result
    sandbox.assert_charged(3)


async def test_a_machine_without_room_for_copies_is_an_error_of_saving(
    stored: CometSession, photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is paid: it stays at the server until there is room."""

    def full() -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/copies")  # noqa: S108 - not made

    with monkeypatch.context() as patch:
        patch.setattr(stores, "_new_folder", full)
        stores._spool.cache_clear()
        outcomes = await run(stored, str(photos / "dog.png"), f"{bucket.address}/out")
        assert [type(outcome.error) for outcome in outcomes] == [SaveError]
    outcomes = await run(stored, str(photos / "dog.png"), f"{bucket.address}/out")
    assert [outcome.status for outcome in outcomes] == ["done"]


async def test_a_folder_for_copies_that_was_removed_is_made_again(
    stored: CometSession, bucket: Bucket
) -> None:
    """A service runs for longer than what cleans temporary folders leaves them alone."""
    shutil.rmtree(spool())
    outcomes = await run(stored, f"{bucket.address}/in", f"{bucket.address}/out")
    assert [outcome.status for outcome in outcomes] == ["done"] * 3
    assert spool().is_dir()


async def test_what_killed_processes_left_is_removed_in_a_thread(
    stored: CometSession, photos: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be gigabytes: the event loop does not wait for it."""
    threads: list[threading.Thread] = []
    monkeypatch.setattr(
        stores, "_remove_abandoned", lambda: threads.append(threading.current_thread())
    )
    stores._spool.cache_clear()
    outcomes = await run(stored, str(photos), f"{bucket.address}/out")
    assert [outcome.status for outcome in outcomes] == ["done"] * 3
    assert threads
    assert threading.main_thread() not in threads


async def test_into_a_folder_of_this_machine(
    stored: CometSession, bucket: Bucket, tmp_path: Path
) -> None:
    """A source in a store changes nothing about results here."""
    outcomes = await run(stored, f"{bucket.address}/in/trip", str(tmp_path / "out"))
    assert [o.files for o in outcomes] == [
        (tmp_path / "out" / "sea.png",),
        (tmp_path / "out" / "sky.png",),
    ]


async def test_from_a_folder_of_this_machine(
    stored: CometSession, bucket: Bucket, photos: Path
) -> None:
    """Nor the other way round."""
    outcomes = await run(stored, str(photos), f"{bucket.address}/wide")
    assert [o.urls for o in outcomes] == [
        (f"{bucket.address}/wide/cat.png",),
        (f"{bucket.address}/wide/dog.png",),
        (f"{bucket.address}/wide/trip/sea.png",),
    ]


async def test_objects_of_others_are_not_replaced(
    stored: CometSession, bucket: Bucket, sandbox: Sandbox
) -> None:
    """They are seen before anything is paid."""
    bucket.write("out/dog.jpg", b"mine")
    bucket.write("out/trip/sea.png", b"mine, too")
    outcomes = await run(stored, f"{bucket.address}/in", f"{bucket.address}/out")
    assert [str(o.status) for o in outcomes] == ["invalid", "invalid", "done"]
    assert f"{bucket.address}/out/dog.jpg exists already" in str(outcomes[0].error)
    assert bucket.read("out/trip/sea.png") == b"mine, too"
    sandbox.assert_charged(1)


async def test_an_object_that_appears_while_its_result_is_made(
    stored: CometSession, bucket: Bucket, sandbox: Sandbox
) -> None:
    """It stays; the paid result is saved once the name is free."""
    source, target = f"{bucket.address}/in/dog.png", f"{bucket.address}/out/dog.png"

    def appear(_task: object) -> None:
        bucket.write("out/dog.png", b"mine")

    with pytest.raises(SaveError, match="is another object"):
        await stored.expand(source, WIDE, out=target, on_submitted=appear)
    assert bucket.read("out/dog.png") == b"mine"
    bucket.store.inner.delete("out/dog.png")
    await stored.expand(source, WIDE, out=target)
    assert bucket.read("out/dog.png").startswith(b"\x89PNG")
    sandbox.assert_charged(1)


async def test_a_lost_answer_to_a_write(
    stored: CometSession, watched: Watched, bucket: Bucket, sandbox: Sandbox
) -> None:
    """The next run finds the object by its hash; nothing is paid or fetched again."""
    watched.losing = True
    source, out = f"{bucket.address}/in/trip", f"{bucket.address}/out"
    first = await run(stored, source, out)
    assert [str(o.status) for o in first] == ["pending", "pending"]
    assert "the answer was lost" in str(first[0].error)
    watched.losing = False
    again = await run(stored, source, out)
    assert [o.urls for o in again] == [(f"{out}/sea.png",), (f"{out}/sky.png",)]
    sandbox.assert_charged(2)


async def test_a_result_that_was_removed_is_fetched_again(
    stored: CometSession, bucket: Bucket, sandbox: Sandbox
) -> None:
    """As for files: it is paid, and the server still has it."""
    source, out = f"{bucket.address}/in/dog.png", f"{bucket.address}/out"
    await run(stored, source, out)
    bucket.store.inner.delete("out/dog.png")
    (outcome,) = await run(stored, source, out)
    assert outcome.done
    assert "out/dog.png" in bucket.names()
    sandbox.assert_charged(1)


async def test_an_object_that_changes_while_it_is_read(
    stored: CometSession, watched: Watched, bucket: Bucket, sandbox: Sandbox
) -> None:
    """It is refused, and the next run takes it as it is then."""
    watched.changing = make_png(320, 300, 77)
    (outcome,) = await run(stored, f"{bucket.address}/in/dog.png", f"{bucket.address}/out")
    assert outcome.status is OutcomeStatus.INVALID
    assert "changed while it was read" in str(outcome.error)
    sandbox.assert_charged(0)
    watched.changing = None
    (outcome,) = await run(stored, f"{bucket.address}/in/dog.png", f"{bucket.address}/out")
    assert outcome.done


async def test_a_change_between_planning_and_sending(
    stored: CometSession, watched: Watched, bucket: Bucket, sandbox: Sandbox
) -> None:
    """A job is sent with the image that it was planned for, or not at all."""
    source = f"{bucket.address}/in/dog.png"
    (outcome,) = await run(stored, source, f"{bucket.address}/out", max_jobs=0)
    key = outcome.external_task_id
    assert key is not None
    bucket.write("in/dog.png", make_png(320, 300, 88))
    with pytest.raises(InputError, match="not the image that was planned"):
        await stored.run_job(key)
    sandbox.assert_charged(0)
    bucket.write("in/dog.png", make_png(320, 300, 0))
    again = await stored.run_job(key)
    assert again.urls == (f"{bucket.address}/out/dog.png",)
    assert watched.opened.count("in/dog.png") == 3


async def test_output_folders_are_no_sources(
    stored: CometSession, bucket: Bucket, sandbox: Sandbox
) -> None:
    """Neither the run's own nor that of an earlier run: results are not bought again."""
    source = f"{bucket.address}/in"
    await run(stored, f"{source}/dog.png", f"{source}/wide")
    outcomes = await run(stored, source, f"{source}/tall")
    assert [o.source.rpartition("/")[2] for o in outcomes] == ["dog.png", "sea.png", "sky.png"]
    (refused,) = await run(stored, source, source)
    assert "is the output folder" in str(refused.error)
    sandbox.assert_charged(3)


async def test_what_is_left_out_is_counted(stored: CometSession, bucket: Bucket) -> None:
    """As in folders of this machine."""
    work = stored.expand_folder(
        f"{bucket.address}/in", f"{bucket.address}/out", WIDE, exclude=["trip"]
    )
    outcomes = [o.source async for o in work]
    assert outcomes == [f"{bucket.address}/in/dog.png"]
    assert str(work.skipped) == "1 other file (1 .txt), 1 hidden, 1 excluded"


@pytest.mark.parametrize("source", ["nothing", "nothing.png"])
async def test_a_source_that_is_not_there(
    stored: CometSession, bucket: Bucket, source: str
) -> None:
    """A folder or an object: one outcome says so."""
    (outcome,) = await run(stored, f"{bucket.address}/{source}", f"{bucket.address}/out")
    assert outcome.status is OutcomeStatus.INVALID
    assert "is not in the store" in str(outcome.error)


@pytest.mark.parametrize("out", ["gs://bucket/wide", "file:///tmp/wide", "https://x.example/y.png"])
async def test_an_address_of_no_store_is_not_taken_for_a_folder(
    stored: CometSession,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    out: str,
) -> None:
    """It is refused before anything is paid; it would become folders such as ``gs:``."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    image = ResultImage(index=0, url="https://x.example/y.png")
    with pytest.raises(InputError, match="is not a path"):
        stored.expand_folder("photos", out, WIDE)
    with pytest.raises(InputError, match="is not a path"):
        stored.expand_many([], out=out)
    with pytest.raises(InputError, match="is not a path"):
        await stored.expand(make_png(320, 300), WIDE, out=out)
    with pytest.raises(InputError, match="is not a path"):
        await stored.download(image, out)
    assert list((tmp_path / "here").iterdir()) == []
    assert sandbox.ledger.posts == []


async def test_results_in_a_store_need_a_journal(comet: CometSession, bucket: Bucket) -> None:
    """A bucket is no place for one."""
    with pytest.raises(JournalRequiredError, match="session with a journal"):
        comet.expand_folder("photos", f"{bucket.address}/out", WIDE)


async def test_a_bucket_that_can_not_be_written(
    stored: CometSession, watched: Watched, bucket: Bucket, sandbox: Sandbox
) -> None:
    """It is said at once, for all images together."""
    watched.read_only = True
    with pytest.raises(InputError, match="can't be written: the store refuses access"):
        await run(stored, f"{bucket.address}/in", f"{bucket.address}/out")
    sandbox.assert_charged(0)


async def test_an_image_that_needs_no_expansion_is_copied(
    stored: CometSession, bucket: Bucket, sandbox: Sandbox
) -> None:
    """Byte for byte, and once."""
    source, out = f"{bucket.address}/in/dog.png", f"{bucket.address}/out"
    for _ in range(2):
        (outcome,) = [o async for o in stored.expand_folder(source, out, "16:15")]
        assert outcome.urls == (f"{out}/dog.png",)
        assert bucket.read("out/dog.png") == bucket.read("in/dog.png")
    sandbox.assert_charged(0)


async def test_a_store_of_your_own(
    sandbox: Sandbox, clock: VirtualClock, photos: Path, tmp_path: Path
) -> None:
    """A share that is mounted somewhere else on each machine has one address."""
    async with CometSession(
        DEFAULT_KEY,
        gateway=sandbox.url,
        clock=clock,
        journal=tmp_path / "jobs.sqlite3",
        stores={"share": lambda name: LocalStore(tmp_path / name)},
    ) as comet:
        outcomes = await run(comet, f"share://{photos.name}", "share://wide")
        below = await run(comet, f"share://{photos.name}/trip", "share://other")
    assert [o.urls for o in outcomes] == [
        ("share://wide/cat.png",),
        ("share://wide/dog.png",),
        ("share://wide/trip/sea.png",),
    ]
    assert (tmp_path / "wide" / "trip" / "sea.png").is_file()
    assert [o.urls for o in below] == [("share://other/sea.png",)]


async def test_equal_images_are_paid_once(
    stored: CometSession, bucket: Bucket, sandbox: Sandbox
) -> None:
    """The second one's result is a copy, within the store."""
    bucket.store.put("in/twin.png", io.BytesIO(bucket.read("in/dog.png")), size=1)
    outcomes = await run(
        stored, f"{bucket.address}/in", f"{bucket.address}/out", exclude=["trip"], concurrency=1
    )
    assert [o.urls for o in outcomes] == [
        (f"{bucket.address}/out/dog.png",),
        (f"{bucket.address}/out/twin.png",),
    ]
    assert bucket.read("out/dog.png") == bucket.read("out/twin.png")
    sandbox.assert_charged(1)
