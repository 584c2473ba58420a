"""Names that wait together: one ``fsync`` of their folder, and an answer for each."""

from __future__ import annotations

import asyncio
import errno
import gc
import threading
from typing import TYPE_CHECKING

import pytest

from comet_async._results import files
from comet_async._results.files import FsyncBatcher
from comet_async.errors import SaveError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the folders that were made durable, in order."""
    seen: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", seen.append)
    return seen


@pytest.fixture
def gate() -> threading.Event:
    """Return what holds the thread in `held`."""
    return threading.Event()


async def held(batcher: FsyncBatcher, gate: threading.Event) -> asyncio.Task[bool]:
    """Keep the thread busy until *gate* is set."""
    task = asyncio.create_task(batcher.do(lambda: gate.wait(30)))
    await asyncio.sleep(0)
    return task


async def test_what_waits_together_shares_a_sync(
    synced: list[Path], gate: threading.Event, tmp_path: Path
) -> None:
    """Each folder once, after all that is done in it, and before anybody is told."""
    batcher, done = FsyncBatcher(), list[int]()

    async def name(number: int) -> int:
        folder = tmp_path / str(number % 2)
        await batcher.do(lambda: done.append(number), folder=folder)
        assert synced.count(folder) == 1
        return number

    busy = await held(batcher, gate)
    names = [asyncio.create_task(name(number)) for number in range(10)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*names) == done == list(range(10))
    assert sorted(synced) == [tmp_path / "0", tmp_path / "1"]
    assert await busy


async def test_what_waits_together_is_written_then_synced_then_named(
    gate: threading.Event,
) -> None:
    """The file system writes its own notes once for all; no file has a name before it is safe."""
    batcher, done = FsyncBatcher(), list[str]()

    async def write(name: str) -> None:
        await batcher.do(
            lambda: done.append(f"write {name}"),
            sync=lambda: done.append(f"sync {name}"),
            then=lambda _: done.append(f"name {name}"),
        )

    busy = await held(batcher, gate)
    both = [asyncio.create_task(write(name)) for name in "ab"]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*both, busy)
    assert done == [f"{step} {name}" for step in ("write", "sync", "name") for name in "ab"]


async def test_what_is_not_safe_gets_no_name(gate: threading.Event) -> None:
    """A sync that fails ends that file, and no other."""
    batcher, named = FsyncBatcher(), list[int]()

    def broken() -> None:
        raise OSError(errno.EIO, "Input/output error")

    busy = await held(batcher, gate)
    calls = [
        asyncio.create_task(batcher.do(lambda: 1, sync=broken, then=named.append)),
        asyncio.create_task(batcher.do(lambda: 2, sync=lambda: None, then=named.append)),
    ]
    await asyncio.sleep(0)
    gate.set()
    first, second = await asyncio.gather(*calls, return_exceptions=True)
    assert await busy
    assert isinstance(first, SaveError)
    assert (second, named) == (2, [2])


async def test_what_changes_no_name_syncs_nothing(synced: list[Path]) -> None:
    """A look costs no fsync; results come back."""
    assert await FsyncBatcher().do(lambda: 7) == 7
    assert synced == []


async def test_one_that_fails_is_no_harm_to_the_others(
    synced: list[Path], gate: threading.Event, tmp_path: Path
) -> None:
    """Errors reach their own callers; the disk's are reported as such."""
    batcher = FsyncBatcher()

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "dog.png")

    busy = await held(batcher, gate)
    calls = [
        asyncio.create_task(batcher.do(full, folder=tmp_path)),
        asyncio.create_task(batcher.do(lambda: 1 // 0, folder=tmp_path)),
        asyncio.create_task(batcher.do(lambda: 3, folder=tmp_path)),
    ]
    await asyncio.sleep(0)
    gate.set()
    refused, wrong, good = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(refused, SaveError)
    assert "No space left on device: dog.png" in str(refused)
    assert isinstance(wrong, ZeroDivisionError)
    assert (good, synced, await busy) == (3, [tmp_path], True)


async def test_a_folder_that_is_not_safe_fails_all_its_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody is told of success before the disk has confirmed the name."""

    def broken(_folder: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "sync_folder", broken)
    batcher = FsyncBatcher()
    calls = (batcher.do(lambda: 1, folder=tmp_path), batcher.do(lambda: 2, folder=tmp_path))
    results = await asyncio.gather(*calls, batcher.do(lambda: 3), return_exceptions=True)
    assert [type(result) for result in results] == [SaveError, SaveError, int]


async def test_a_cancelled_caller_waits_for_what_it_began(
    synced: list[Path], gate: threading.Event, tmp_path: Path
) -> None:
    """When it leaves, the name is there, and safe: whoever cleans up must know."""
    batcher, done = FsyncBatcher(), list[int]()
    busy = await held(batcher, gate)
    task = asyncio.create_task(batcher.do(lambda: done.append(1), folder=tmp_path))
    await asyncio.sleep(0)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (done, synced, await busy) == ([1], [tmp_path], True)


def test_a_loop_that_ends_leaves_nobody_waiting(gate: threading.Event) -> None:
    """All its tasks are cancelled, also the one that answers the others."""
    batcher = FsyncBatcher()

    async def leave() -> None:
        await held(batcher, gate)
        asyncio.get_running_loop().call_later(0.01, gate.set)

    asyncio.run(leave())
    assert asyncio.run(batcher.do(lambda: 5)) == 5


def test_a_loop_that_ends_at_the_first_question_ends() -> None:
    """Nothing else has to be begun in it, so a caller is not left waiting forever."""
    batcher, done, tasks = FsyncBatcher(), list[int](), list[asyncio.Task[None]]()

    async def late(begin: asyncio.Event) -> None:
        await begin.wait()
        await batcher.do(lambda: done.append(1))

    async def leave() -> None:
        begin = asyncio.Event()
        tasks.append(asyncio.create_task(late(begin)))
        await asyncio.sleep(0)
        begin.set()

    asyncio.run(leave())
    assert done == [1]
    assert tasks[0].cancelled()


def test_nothing_is_left_in_the_loop() -> None:
    """Who closes the loop after the last answer leaves no task pending."""

    async def two() -> int:
        batcher = FsyncBatcher()
        await asyncio.gather(batcher.do(lambda: 1), batcher.do(lambda: 2))
        return len(asyncio.all_tasks())

    assert asyncio.run(two()) == 1


async def test_what_fails_after_its_caller_was_cancelled_is_silent(gate: threading.Event) -> None:
    """The caller waits for the end, and asyncio prints no traceback."""

    def fail() -> None:
        gate.wait(30)
        raise OSError(errno.ENOSPC, "full")

    reported: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, about: reported.append(about))
    task = asyncio.create_task(files.finished(loop.run_in_executor(None, fail)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.wait({task})
    assert task.cancelled()
    del task
    gc.collect()
    assert reported == []
