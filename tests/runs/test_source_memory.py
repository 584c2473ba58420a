"""A run over finished work: which source files are read again, and which are not."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Collection
from io import BytesIO
from pathlib import Path

import attrs
import pytest

from comet_async import CometSession, InputError, Margins
from comet_async._images import load as loading
from comet_async._images.source import FileIdentity, SourceImage
from comet_async._jobs import loader
from comet_async._journal.memory import MemoryJournal
from comet_async._runs import source_memory
from comet_async._runs.source_memory import SourceMemory
from comet_async.journal import SqliteJournal
from comet_async.outcomes import Outcome
from comet_async.sandbox import DEFAULT_KEY, Sandbox
from comet_async.testing import VirtualClock
from tests.support.images import make_png

WIDE = Margins(left=0.5, right=0.5)
LATER = 10_000_000_000  # nanoseconds


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that are loaded, and have all of them be of long ago."""
    names: list[str] = []
    real = loader.load

    async def load(image: object, **options: object) -> object:
        names.append(Path(str(image)).name)
        return await real(image, **options)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(loader, "load", load)
    now = time.time_ns
    monkeypatch.setattr(loading.time, "time_ns", lambda: now() + LATER)
    return names


async def run(comet: CometSession, photos: Path, out: Path, **options: object) -> list[Outcome]:
    """Expand a folder; the outcomes by source."""
    outcomes = [o async for o in comet.expand_folder(photos, out, WIDE, **options)]  # type: ignore[arg-type]  # its options
    return sorted(outcomes, key=lambda outcome: outcome.source)


async def test_what_is_done_is_not_read_again(
    comet: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path, read: list[str]
) -> None:
    """The second run has the same outcomes as the first one and reads no source."""
    out = tmp_path / "out"
    first = await run(comet, photos, out)
    assert len(read) == 3
    second = await run(comet, photos, out)
    assert len(read) == 3
    for was, now in zip(first, second, strict=True):
        assert (now.source, now.status, now.files, now.external_task_id, now.notes, now.error) == (
            was.source, "done", was.files, was.external_task_id, was.notes, None,
        )  # fmt: skip
        assert now.task is not None
        assert was.task is not None
        assert now.task.id == was.task.id
    assert len(sandbox.ledger.posts) == 3


async def test_a_new_image_goes_before_all_that_are_known(
    comet: CometSession,
    sandbox: Sandbox,
    photos: Path,
    tmp_path: Path,
    read: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is read, to be sent, before the first known one is looked up in the journal."""
    out = tmp_path / "out"
    await run(comet, photos, out)
    read.clear()
    (photos / "zebra.png").write_bytes((photos / "dog.png").read_bytes() + b"another")
    saved = SqliteJournal.saved

    async def noted(journal: SqliteJournal, keys: Collection[str]) -> object:
        read.append(f"{len(keys)} looked up")
        return await saved(journal, keys)

    monkeypatch.setattr(SqliteJournal, "saved", noted)
    outcomes = await run(comet, photos, out)
    assert read[:2] == ["zebra.png", "3 looked up"]
    assert [outcome.status for outcome in outcomes] == ["done"] * 4
    assert len(sandbox.ledger.posts) == 4


@pytest.mark.usefixtures("read")
async def test_a_plan_looks_up_known_images_together(
    comet: CometSession, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run over finished work asks the journal for none of them alone."""
    out = tmp_path / "out"
    await run(comet, photos, out)
    asked: list[str] = []
    destinations = SqliteJournal.destinations

    async def noted(journal: SqliteJournal, key: str) -> object:
        asked.append(key)
        return await destinations(journal, key)

    monkeypatch.setattr(SqliteJournal, "destinations", noted)
    assert len([each async for each in comet.expand_folder(photos, out, WIDE).plan()]) == 3
    assert asked == []
    (out / "dog.png").unlink()
    assert len([each async for each in comet.expand_folder(photos, out, WIDE).plan()]) == 3
    assert len(set(asked)) == 1


@pytest.mark.parametrize("known", [True, False])
async def test_a_scaled_image_is_known_with_its_own_size(
    comet: CometSession,
    sandbox: Sandbox,
    tmp_path: Path,
    read: list[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    known: bool,
) -> None:
    """A rule in pixels means the same in each run; facts without that size are not trusted."""
    small, out = tmp_path / "small.png", tmp_path / "out"
    small.write_bytes(make_png(200, 200))
    if not known:
        facts = source_memory.known_source
        monkeypatch.setattr(
            source_memory,
            "known_source",
            lambda image, variant: facts(attrs.evolve(image, scaled_from=None), variant),
        )
    for _ in range(2):
        each = comet.expand_folder(small, out, Margins.for_size(300, 300), prepare=True)
        assert [str(outcome.status) async for outcome in each] == ["done"]
    assert len(read) == (1 if known else 2)
    (post,) = sandbox.ledger.posts
    assert post.body["left_expansion_ratio"] == post.body["down_expansion_ratio"] == 0.25


async def test_a_dry_run_reads_nothing_either(
    comet: CometSession, photos: Path, tmp_path: Path, read: list[str]
) -> None:
    """The plan says that all is done, and keeps nothing."""
    out = tmp_path / "out"
    await run(comet, photos, out)
    plan = [planned async for _, planned in comet.expand_folder(photos, out, WIDE).plan()]
    assert len(read) == 3
    states = {p.record.state for p in plan if not isinstance(p, Exception) and p.record}
    assert states == {"done"}


async def test_checksum_reads_everything(
    comet: CometSession, photos: Path, tmp_path: Path, read: list[str]
) -> None:
    """On request no file is trusted."""
    await run(comet, photos, tmp_path / "out")
    await run(comet, photos, tmp_path / "out", checksum=True)
    assert len(read) == 6


@pytest.mark.parametrize("change", ["content", "times", "another file"])
async def test_only_what_changed_is_read(
    comet: CometSession,
    sandbox: Sandbox,
    photos: Path,
    tmp_path: Path,
    read: list[str],
    change: str,
) -> None:
    """A changed file is read, and bought only if it is another image."""
    out, dog = tmp_path / "out", photos / "dog.png"
    await run(comet, photos, out)
    if change == "content":
        dog.write_bytes((photos / "cat.png").read_bytes())
    elif change == "times":
        os.utime(dog, (1, 1))
    else:
        (photos / "new").write_bytes(dog.read_bytes())
        (photos / "new").replace(dog)
    read.clear()
    outcomes = await run(comet, photos, out)
    assert read == ["dog.png"]
    assert len(sandbox.ledger.posts) == 3
    states = {"done"} if change != "content" else {"done", "pending"}
    assert {outcome.status for outcome in outcomes} <= states
    read.clear()
    await run(comet, photos, out)
    assert read == []


async def test_a_missing_result_is_fetched_again(
    comet: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path, read: list[str]
) -> None:
    """That a source is known says nothing about its result."""
    out = tmp_path / "out"
    await run(comet, photos, out)
    (out / "dog.png").unlink()
    (out / "cat.png").write_bytes(b"cut")
    outcomes = await run(comet, photos, out)
    assert [outcome.status for outcome in outcomes if "dog" in outcome.source] == ["done"]
    assert (out / "dog.png").stat().st_size > 100
    assert len(sandbox.ledger.posts) == len(read) == 3


@pytest.fixture
async def lasting(
    sandbox: Sandbox, clock: VirtualClock, tmp_path: Path
) -> AsyncIterator[CometSession]:
    """Return a session whose journal serves several output folders."""
    async with CometSession(
        DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=tmp_path / "jobs.sqlite3"
    ) as session:
        yield session


async def test_what_is_sent_is_read(
    lasting: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path, read: list[str]
) -> None:
    """Another shape is another purchase: recognising the file is not enough for it."""
    await run(lasting, photos, tmp_path / "wide")
    tall = lasting.expand_folder(photos, tmp_path / "tall", Margins(up=0.5))
    assert [outcome.status async for outcome in tall] == ["done"] * 3
    assert len(read) == len(sandbox.ledger.posts) == 6


@pytest.mark.usefixtures("read")
async def test_a_change_without_a_trace_is_not_sent(
    lasting: CometSession,
    sandbox: Sandbox,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If a recognised file turns out to be another image, nothing is sent under its name."""
    of = FileIdentity.of

    def blind(path: str, found: os.stat_result) -> FileIdentity:
        return attrs.evolve(of(path, found), ctime_ns=1, mtime_ns=1, size=1)

    monkeypatch.setattr(FileIdentity, "of", blind)
    await run(lasting, photos, tmp_path / "wide")
    dog = photos / "dog.png"
    dog.write_bytes((photos / "cat.png").read_bytes())
    for expected in ([InputError], []):
        tall = lasting.expand_folder(photos, tmp_path / "tall", Margins(up=0.5))
        errors = [outcome.error async for outcome in tall if outcome.error is not None]
        assert [type(error) for error in errors] == expected
        assert all("changed, although its size and times did not" in str(e) for e in errors)
        assert all("checksum=True" in str(error) for error in errors)
    assert len(sandbox.ledger.posts) == 5


async def test_a_converted_image_is_recognised(
    comet: CometSession, photos: Path, tmp_path: Path, read: list[str]
) -> None:
    """What was done to it is reported again; as it is, it is another reading."""
    image = pytest.importorskip("PIL.Image")
    data = BytesIO()
    image.new("RGB", (400, 300), "red").save(data, "BMP")
    (photos / "red.bmp").write_bytes(data.getvalue())
    out = tmp_path / "out"
    first = await run(comet, photos, out, prepare=True)
    assert any(outcome.notes for outcome in first)
    second = await run(comet, photos, out, prepare=True)
    assert len(read) == 4
    assert [outcome.notes for outcome in second] == [outcome.notes for outcome in first]
    await run(comet, photos, out)
    assert len(read) == 8


async def test_a_url_is_not_looked_for_on_the_disk(
    comet: CometSession, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Only files can be recognised by what the file system says."""
    url = f"{sandbox.url}/samples/dog.png"
    for _ in range(2):
        sources = comet.expand_folder([url], tmp_path / "out", WIDE)
        assert [outcome.source async for outcome in sources] == [url]


SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("mtime", "ctime", "read_at", "trusted"),
    [
        (5 * SECOND + 1, 5 * SECOND + 1, 6 * SECOND, True),
        (5 * SECOND + 1, 5 * SECOND + 1, 5 * SECOND + 2, False),
        (5 * SECOND + 1, 6 * SECOND - 1, 6 * SECOND, False),
        (7 * SECOND + 1, 5 * SECOND + 1, 6 * SECOND, False),
        (5 * SECOND, 5 * SECOND, 6 * SECOND, False),
        (5 * SECOND, 5 * SECOND, 8 * SECOND, True),
    ],
    ids=["old", "same moment", "renamed just now", "future", "whole seconds", "old whole seconds"],
)
async def test_what_was_written_while_it_was_read_is_not_trusted(
    mtime: int, ctime: int, read_at: int, *, trusted: bool
) -> None:
    """A second change within a tick of the clock would leave no trace."""
    memory = SourceMemory(MemoryJournal(), prepare=False)
    identity = FileIdentity("/photos/dog.png", 7, mtime, ctime, 1)
    image = SourceImage(
        source="dog.png", sha256="00", size=7, width=4, height=3, format="png",
        identity=identity, read_at_ns=read_at,
    )  # fmt: skip
    await memory.remember([image])
    await memory.flush()
    found = await memory.known({identity.path: identity})
    assert bool(found) is trusted
    for name in ("size", "mtime_ns", "ctime_ns", "inode"):
        changed = attrs.evolve(identity, **{name: 9})
        assert not await memory.known({identity.path: changed})
