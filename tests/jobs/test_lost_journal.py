"""A run whose journal is lost: it stops sending, and the next one continues only on purpose."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from comet_async import AuthenticationError, CometSession, JournalLostError, Margins
from comet_async.outcomes import Outcome
from comet_async.runs import JOURNAL_NAME
from comet_async.sandbox import DEFAULT_KEY, Fault, Options, Sandbox
from comet_async.testing import VirtualClock

WIDE = Margins(left=0.5, right=0.5)


async def run(comet: CometSession, photos: Path, out: Path, **options: object) -> list[Outcome]:
    """Expand a folder, one image at a time."""
    return [o async for o in comet.expand_folder(photos, out, WIDE, concurrency=1, **options)]  # type: ignore[arg-type]  # its options, from a table


def bought(sandbox: Sandbox) -> Counter[object]:
    """Return how often each image was bought."""
    return Counter(post.body["external_task_id"] for post in sandbox.ledger.posts)


@pytest.mark.parametrize("what", ["folder", "journal"])
async def test_a_run_stops_when_its_journal_is_removed(
    comet: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path, what: str
) -> None:
    """Nothing is bought without a memory, and nothing twice afterwards."""
    out = tmp_path / "out"
    outcomes = []
    stream = comet.expand_folder(photos, out, WIDE, concurrency=1)
    async for outcome in stream:
        outcomes.append(outcome)
        if len(outcomes) == 1:
            shutil.rmtree(out if what == "folder" else (out / JOURNAL_NAME).parent)
    assert len(sandbox.ledger.posts) < 3
    assert isinstance(stream.stopped, JournalLostError)
    errors = [outcome.error for outcome in outcomes if not outcome.done]
    assert errors
    assert all(isinstance(error, JournalLostError) for error in errors)
    assert all("verify_remote=True" in str(error) for error in errors)
    with pytest.raises(JournalLostError, match="verify_remote=True"):
        await run(comet, photos, out)
    again = await run(comet, photos, out, verify_remote=True)
    assert [outcome.status for outcome in again] == ["done"] * 3
    assert set(bought(sandbox).values()) == {1}
    assert [outcome.status for outcome in await run(comet, photos, out)] == ["done"] * 3
    assert len(sandbox.ledger.posts) == 3


async def test_a_stopped_run_leaves_the_journal_distrusted(
    comet: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path
) -> None:
    """What was not looked up may still be missing."""
    out = tmp_path / "out"
    await run(comet, photos, out)
    (out / JOURNAL_NAME).unlink()
    limited = comet.expand_folder(photos, out, WIDE, verify_remote=True)
    async for _ in limited:
        limited.interrupt()
    with pytest.raises(JournalLostError):
        await run(comet, photos, out)
    plan = [planned async for planned in comet.expand_folder(photos, out, WIDE).plan()]
    assert len(plan) == len(sandbox.ledger.posts) == 3


@pytest.mark.parametrize(
    "part", [{"include": "dog.png"}, {"exclude": ["trip"]}, {"max_jobs": 0}], ids=repr
)
async def test_a_run_over_a_part_leaves_the_journal_distrusted(
    comet: CometSession,
    sandbox: Sandbox,
    photos: Path,
    make_photo: Callable[..., bytes],
    tmp_path: Path,
    part: dict[str, object],
) -> None:
    """The others were bought as well, and are looked up before the next run buys them again."""
    out = tmp_path / "out"
    await run(comet, photos, out)
    (out / JOURNAL_NAME).unlink()
    (photos / "dog-2.png").write_bytes(make_photo(300, 300, 9))
    assert await run(comet, photos, out, verify_remote=True, **part)
    with pytest.raises(JournalLostError):
        await run(comet, photos, out)
    assert len(await run(comet, photos, out, verify_remote=True)) == 4
    assert {outcome.status for outcome in await run(comet, photos, out)} == {"done"}
    assert set(bought(sandbox).values()) == {1}


async def test_a_run_over_single_files_leaves_the_journal_distrusted(
    clock: VirtualClock, photos: Path, tmp_path: Path
) -> None:
    """Others may have been bought; they are looked up, too, unless all that was sent was found."""
    out, options = tmp_path / "out", Options(unique_external_ids=False)
    files = sorted(path for path in photos.rglob("*.*") if path.suffix in {".png", ".jpg"})

    async with (
        Sandbox(clock=clock, seed=1, engine="stub", options=options) as sandbox,
        CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock) as comet,
    ):

        async def statuses(sources: object, **options: bool) -> set[str]:
            found = comet.expand_folder(sources, out, WIDE, **options)  # type: ignore[arg-type]  # several kinds
            return {outcome.status async for outcome in found}

        assert await statuses(photos) == {"done"}
        (out / JOURNAL_NAME).unlink()
        for path in out.rglob("*.png"):
            path.unlink()
        assert await statuses(files[:1], verify_remote=True) == {"done"}
        with pytest.raises(JournalLostError):
            await statuses(photos)
        assert await statuses(files, verify_remote=True) == await statuses(photos) == {"done"}
        assert set(bought(sandbox).values()) == {1}


async def test_a_resumption_leaves_the_journal_distrusted(
    sandbox: Sandbox, clock: VirtualClock, photos: Path, tmp_path: Path
) -> None:
    """It goes through the jobs that are known; those that were lost are not among them."""
    path, out = tmp_path / "jobs.sqlite3", tmp_path / "out"

    def session(**options: bool) -> CometSession:
        return CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=path, **options)

    async with session() as comet:
        await run(comet, photos, out)
    path.unlink()
    async with session(verify_remote=True) as comet:
        assert [outcome async for outcome in comet.resume()] == []
    with pytest.raises(JournalLostError):
        await session().__aenter__()


@pytest.mark.parametrize(("seconds", "statuses"), [(30, ["done"] * 3), (math.inf, ["pending"] * 2)])
async def test_nothing_is_sent_while_the_server_can_not_be_asked(
    clock: VirtualClock, photos: Path, tmp_path: Path, seconds: float, statuses: list[str]
) -> None:
    """A short outage is waited out; a long one stops the run, and the journal stays distrusted."""
    out, options = tmp_path / "out", Options(unique_external_ids=False)
    async with (
        Sandbox(clock=clock, seed=1, engine="stub", options=options) as sandbox,
        CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock) as comet,
    ):
        await run(comet, photos, out)
        (out / JOURNAL_NAME).unlink()
        for call in ("find", "list"):
            sandbox.faults.add(Fault("503", on=call, times=None))
        if seconds < math.inf:
            asyncio.get_running_loop().call_later(seconds, sandbox.faults.clear)
        again = await run(comet, photos, out, verify_remote=True)
        assert [outcome.status for outcome in again] == statuses
        if seconds == math.inf:
            with pytest.raises(JournalLostError):
                await run(comet, photos, out)
        sandbox.faults.clear()
        again = await run(comet, photos, out, verify_remote=True)
        assert [outcome.status for outcome in again] == ["done"] * 3
        assert len(sandbox.ledger.charges) == 3


async def test_a_run_whose_lookups_are_refused_leaves_the_journal_distrusted(
    comet: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path
) -> None:
    """It ends like one whose requests are refused, and has looked nothing up."""
    out = tmp_path / "out"
    await run(comet, photos, out)
    (out / JOURNAL_NAME).unlink()
    refused = sandbox.faults.add(Fault("401", on="find", times=None))
    stopped = comet.expand_folder(photos, out, WIDE, verify_remote=True)
    assert {outcome.done async for outcome in stopped} == {False}
    assert isinstance(stopped.stopped, AuthenticationError)
    sandbox.faults.remove(refused)
    with pytest.raises(JournalLostError):
        await run(comet, photos, out)
    assert len(sandbox.ledger.posts) == 3


async def test_an_image_that_could_not_be_read_leaves_the_journal_distrusted(
    comet: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path
) -> None:
    """It may be there again in the next run, and was bought."""
    out, away = tmp_path / "out", tmp_path / "away.png"
    names = [photos / "dog.png", photos / "cat.png"]

    async def statuses(**options: bool) -> set[str]:
        return {o.status async for o in comet.expand_folder(names, out, WIDE, **options)}

    assert await statuses() == {"done"}
    (out / JOURNAL_NAME).unlink()
    names[0].rename(away)
    assert await statuses(verify_remote=True) == {"done", "invalid"}
    away.rename(names[0])
    with pytest.raises(JournalLostError):
        await statuses()
    assert await statuses(verify_remote=True) == await statuses() == {"done"}
    assert len(sandbox.ledger.posts) == 2
