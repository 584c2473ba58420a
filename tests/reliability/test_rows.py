"""Rows of the fault table that need more than a rule of the sandbox: disks, clocks, addresses."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from comet_async import (
    CallbackReceiver,
    CometSession,
    DownloadError,
    ExpandRequest,
    Margins,
    Outcome,
    ResultExpiredError,
    WaitTimeoutError,
)
from comet_async._results import files
from comet_async.errors import IdempotencyConflictError, JournalError
from comet_async.runs import JOURNAL_NAME
from comet_async.sandbox import CallbackOptions, Fault, Options, Sandbox
from comet_async.testing import VirtualClock
from tests.reliability.conftest import small_png
from tests.reliability.simulation import Simulation
from tests.reliability.test_cancellation import Check, Simulate, folder, script, states
from tests.reliability.test_crashes import GATEWAYS, drive, open_cell
from tests.reliability.victim import DONE

MARGINS = Margins(left=0.25, right=0.25)
HONEST = Options(unique_external_ids=False)  # a second charge must show


# ------------------------------------------------------------------------------ sending


@pytest.mark.failure("F01", "F13")
@pytest.mark.parametrize("fate", ["not_sent", "5001", "1303"])
def test_what_was_not_accepted_is_sent_again(
    fate: str, simulate: Simulate, verdict: Check, images: list[bytes]
) -> None:
    """A server that can't be reached, or says "not now", is tried again, with longer pauses."""
    simulation = simulate(fate=script(*[fate] * 4))
    simulation.boot(folder(images[:1]))
    moments = [at for at, what in simulation.world.trace if what.startswith("post ce1-")]
    arrivals = [at for at, what in simulation.world.trace if what.endswith(" arrives")][:5]
    pauses = [after - before for before, after in itertools.pairwise(arrivals)]
    assert len(simulation.provider.posts) == 5
    assert pauses[0] >= 0.9
    assert pauses[3] > pauses[0] * 2
    assert moments
    assert verdict(simulation) == []
    assert states(simulation) == {"succeeded"}


@pytest.mark.failure("F19")
async def test_a_connection_that_was_closed_meanwhile_sends_nothing_twice(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """A peer that drops a kept connection at its second request gets that request once."""
    async with Sandbox(clock=clock, seed=1, engine="stub", options=HONEST) as sandbox:
        sandbox.faults.add(Fault("drop_after_charge", nth=2))
        async with CometSession("sandbox-key", gateway=sandbox.url, clock=clock) as comet:
            requests = [ExpandRequest(image=small_png(tint), margins=MARGINS) for tint in range(3)]
            run = comet.expand_many(requests, out=tmp_path, concurrency=1)
            assert {str(outcome.status) async for outcome in run} == {"done"}
        assert len(sandbox.ledger.posts) == len(sandbox.ledger.charges) == 3


@pytest.mark.failure("F27")
def test_a_control_of_yesterday_proves_nothing_today(
    simulate: Simulate, verdict: Check, images: list[bytes]
) -> None:
    """A gateway that found tasks once and finds none now is not believed."""
    simulation = simulate()
    simulation.boot(folder(images[:1]))
    simulation.provider.forms, simulation.provider.list_works = frozenset(), False
    simulation.provider.fate = script("lost_after", "lost_before")
    simulation.boot(folder(images[1:3]))
    assert verdict(simulation) == []
    assert states(simulation) == {"succeeded", "uncertain"}
    assert len(simulation.provider.posts) == 3


def test_a_control_that_the_server_has_cleared_is_replaced(
    simulate: Simulate, images: list[bytes]
) -> None:
    """Servers forget tasks after 30 days; a task of this run is as good a control."""
    simulation = simulate()
    simulation.boot(folder(images[:1]))
    simulation.provider.tasks.clear()
    simulation.provider.fate = script("lost_before", "1303")
    outcomes = simulation.boot(folder(images[1:3]))
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert states(simulation) == {"succeeded"}
    assert simulation.provider.charged_twice() == []


@pytest.mark.failure("F29")
async def test_an_id_of_yours_is_not_used_for_another_request(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """An external id that stands for one purchase can't become another one."""
    async with Sandbox(clock=clock, seed=1, engine="stub", options=HONEST) as sandbox:
        async with CometSession(
            "sandbox-key", gateway=sandbox.url, clock=clock, journal=tmp_path / "j.sqlite3"
        ) as comet:
            await comet.expand(small_png(1), MARGINS, external_task_id="order-17")
            await comet.expand(small_png(1), MARGINS, external_task_id="order-17")
            with pytest.raises(IdempotencyConflictError):
                await comet.expand(small_png(1), Margins(up=0.5), external_task_id="order-17")
        assert len(sandbox.ledger.posts) == 1


# ------------------------------------------------------------------------------ disks


@pytest.mark.failure("F48")
def test_disk_that_is_full_at_any_write_of_the_journal(
    simulate: Simulate, verdict: Check, images: list[bytes]
) -> None:
    """Whichever write fails, and all after it: what was paid is known when there is room again."""
    for number in itertools.count(1):
        simulation = simulate(seed=number, fate=script("ok", "lost_after"))
        full = fail_from(simulation, number)
        simulation.boot(folder(images[:2]))
        failed, full["left"] = full["left"] <= 0, 10**9
        simulation.boot(folder(images[:3]))
        assert verdict(simulation) == []
        assert states(simulation) == {"succeeded"}
        if not failed:
            break
    assert number > 6


def fail_from(simulation: Simulation, number: int) -> dict[str, int]:
    """Let the journal's write of that number fail, and all after it; until told otherwise."""
    plain = simulation.journal._write
    full = {"left": number}

    async def write(what: str, work: Callable[..., Any]) -> Any:  # noqa: ANN401 - whatever it is
        full["left"] -= 1
        if full["left"] <= 0:
            raise JournalError("disk is full", retryable=True)
        return await plain(what, work)

    simulation.journal._write = write  # type: ignore[method-assign]  # broken on purpose
    return full


@pytest.mark.failure("F48")
@pytest.mark.parametrize("call", ["write", "fsync", "open"])
def test_disk_that_is_full_at_any_write_of_a_file(
    call: str,
    simulate: Simulate,
    verdict: Check,
    images: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The result stays on the server; the next run fetches it, and nothing is paid again."""
    plain = getattr(os, call)
    for number in itertools.count(1):
        out, simulation = tmp_path / str(number), simulate(seed=number)
        calls = itertools.count(1)

        def full(*args: Any, **more: Any) -> Any:  # noqa: ANN401 - whatever it is
            if next(calls) == number:  # noqa: B023 - used in this round only
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return plain(*args, **more)

        with monkeypatch.context() as patch:
            patch.setattr(files.os, call, full)
            first = simulation.boot(folder(images[:2], out)) or []
        assert {str(outcome.status) for outcome in first} <= {"done", "pending"}
        simulation.boot(folder(images[:2], out))
        assert verdict(simulation) == []
        assert states(simulation) == {"done"}
        assert len(simulation.provider.posts) == len(list(out.glob("*.png"))) == 2
        assert not list(out.glob(".*.part"))
        if {str(outcome.status) for outcome in first} == {"done"}:
            break
    assert number > 1


async def test_every_result_is_on_the_disk_before_it_is_done(
    clock: VirtualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes and folder of a fetched result and of the copy for an equal image are synced."""
    synced, plain = set[int](), os.fsync

    def fsync(handle: int) -> None:
        plain(handle)
        synced.add(os.fstat(handle).st_ino)

    monkeypatch.setattr(files.os, "fsync", fsync)
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name in ("one.png", "two.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(small_png(1))
    async with Sandbox(clock=clock, seed=1, engine="stub", options=HONEST) as sandbox:
        async with CometSession("sandbox-key", gateway=sandbox.url, clock=clock) as comet:
            outcomes = [o async for o in comet.expand_folder(photos, out, MARGINS)]
        assert [len(outcome.files) for outcome in outcomes] == [1, 1]
        assert len(sandbox.ledger.charges) == 1
    assert {path.stat().st_ino for path in (out, *out.glob("*.png"))} <= synced


async def test_a_name_that_was_not_safe_is_made_safe_before_it_counts(
    clock: VirtualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends between a name and its folder's sync leaves that to the next run."""
    out, plain, synced = tmp_path / "out", files.sync_folder, list[Path]()

    def broken(folder: Path) -> None:
        if list(folder.glob("*.png")):
            raise OSError(errno.EIO, "Input/output error")

    def noted(folder: Path) -> None:
        plain(folder)
        synced.append(folder)

    async with Sandbox(clock=clock, seed=1, engine="stub", options=HONEST) as sandbox:
        async with CometSession("sandbox-key", gateway=sandbox.url, clock=clock) as comet:
            request = ExpandRequest(image=small_png(1), margins=MARGINS)
            monkeypatch.setattr(files, "sync_folder", broken)
            (before,) = [o async for o in comet.expand_many([request], out=out)]
            (named,) = out.glob("*.png")
            assert not before.files
            assert synced == []
            monkeypatch.setattr(files, "sync_folder", noted)
            (after,) = [o async for o in comet.expand_many([request], out=out)]
        assert after.files == (named,)
        assert out in synced
        assert len(sandbox.ledger.charges) == 1


@pytest.mark.failure("F48")
async def test_disk_that_is_full_while_an_equal_image_is_copied(
    clock: VirtualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing half is left, and the next run copies what was paid once."""
    out, plain = tmp_path / "out", shutil.copyfileobj
    requests = [ExpandRequest(image=small_png(1), margins=MARGINS)] * 2

    def full(source: IO[bytes], target: IO[bytes]) -> None:
        target.write(source.read(10))
        raise OSError(errno.ENOSPC, "No space left on device")

    async with Sandbox(clock=clock, seed=1, engine="stub", options=HONEST) as sandbox:
        async with CometSession("sandbox-key", gateway=sandbox.url, clock=clock) as comet:
            monkeypatch.setattr(shutil, "copyfileobj", full)
            first = [o async for o in comet.expand_many(requests, out=out)]
            assert sorted(len(outcome.files) for outcome in first) == [0, 1]
            assert not list(out.glob(".*.part"))
            monkeypatch.setattr(shutil, "copyfileobj", plain)
            again = [o async for o in comet.expand_many(requests, out=out)]
        one, two = (path.read_bytes() for outcome in again for path in outcome.files)
        assert one == two
        assert len(sandbox.ledger.charges) == 1


@pytest.mark.failure("F48")
@pytest.mark.slow
@pytest.mark.parametrize("kib", range(4, 100, 8))
def test_files_may_not_grow(kib: int, forker: subprocess.Popen[str], volatile: Path) -> None:
    """A real limit on the size of files: SQLite's own writes fail, at some point of the run."""
    photo = volatile / "photo.png"
    photo.write_bytes(small_png(7))

    async def life() -> None:
        async with open_cell(forker, volatile, GATEWAYS[0].options) as cell:
            code = await (await cell.start(photo, f"limit {kib * 1024}"))()
            assert code >= 0
            await cell.supply_control(clear=False)
            assert await cell.run(photo) == DONE
            assert len(cell.sandbox.ledger.charges) == 2
            assert cell.sandbox.ledger.charged_twice() == []

    drive(life())


@pytest.mark.failure("F49")
@pytest.mark.parametrize("shift", [-3600.0, 86_400.0, -30 * 86_400.0])
def test_clock_that_is_set_between_runs(
    shift: float, simulate: Simulate, verdict: Check, images: list[bytes]
) -> None:
    """The settle time does not trust the wall clock; a kill at any step, then the clock jumps."""
    for kill_at in range(1, 60, 3):
        simulation = simulate(seed=kill_at)
        simulation.boot(folder(images[5:6]))
        simulation.provider.fate = script("late")
        simulation.boot(folder(images[:1]), kill_at=kill_at)
        simulation.provider.clock.shift = shift
        simulation.boot(folder(images[:1]))
        assert verdict(simulation) == []
        assert states(simulation) == {"succeeded"}


# ------------------------------------------------------------------------------ waiting, results


@pytest.mark.failure("F50", "F51")
@pytest.mark.parametrize(
    "kind",
    ["500", "hang", "html", "empty", "empty_data", "not_found", "unknown_status", "no_status"],
)
async def test_polls_that_make_no_sense_are_repeated(
    kind: str, clock: VirtualClock, tmp_path: Path
) -> None:
    """Three answers in a row that say nothing: the wait goes on, and the image is saved."""
    async with Sandbox(clock=clock, seed=1, engine="stub", options=HONEST) as sandbox:
        sandbox.faults.add(Fault(kind, on="query", times=3))
        async with CometSession("sandbox-key", gateway=sandbox.url, clock=clock) as comet:
            (outcome,) = [o async for o in small_run(comet, tmp_path)]
        assert outcome.done
        assert len(sandbox.ledger.charges) == 1


@pytest.mark.failure("F52")
async def test_failed_task_is_not_bought_again(clock: VirtualClock, tmp_path: Path) -> None:
    """A task that fails stays failed in each further run, until you ask to buy it again."""
    async with Sandbox(clock=clock, seed=1, engine="stub", options=HONEST) as sandbox:
        async with CometSession("sandbox-key", gateway=sandbox.url, clock=clock) as comet:
            for again, posts in ((False, 1), (False, 1), (True, 2)):
                request = ExpandRequest(image=small_png(1), margins=MARGINS, prompt="sandbox-risky")
                run = comet.expand_many([request], out=tmp_path, retry_failed=again)
                assert [str(outcome.status) async for outcome in run] == ["failed"]
                assert len(sandbox.ledger.posts) == posts
        assert sandbox.ledger.charged_twice() == []


@pytest.mark.failure("F53")
def test_wait_that_is_over_goes_on_later(
    simulate: Simulate, verdict: Check, images: list[bytes]
) -> None:
    """A deadline ends the wait, not the task: the same request again finds it."""
    simulation = simulate(seconds=(100, 100))

    async def short(comet: CometSession) -> None:
        with pytest.raises(WaitTimeoutError) as caught:
            await comet.expand(images[0], MARGINS, timeout=10)
        assert caught.value.task_id == "t1"
        assert caught.value.external_task_id == simulation.provider.posts[0]

    simulation.boot(short)
    simulation.boot(folder(images[:1]))
    assert verdict(simulation) == []
    assert len(simulation.provider.posts) == 1
    assert states(simulation) == {"succeeded"}


ELSEWHERE = (
    "http://169.254.169.254/latest/meta-data",
    "https://169.254.169.254/latest/meta-data",
    "https://[::ffff:10.0.0.1]/x.png",
    "https://10.1.2.3/x.png",
    "file:///etc/passwd",
    "http://example.com/x.png",
    "https://user:secret@example.com/x.png",
)


@pytest.mark.failure("F57")
@pytest.mark.parametrize("location", ELSEWHERE)
async def test_result_that_leads_elsewhere_is_not_followed(
    location: str, clock: VirtualClock, tmp_path: Path
) -> None:
    """Nothing is connected to (any such try ends the test); the task stays paid and fetchable."""
    async with Sandbox(clock=clock, seed=1, engine="stub", options=HONEST) as sandbox:
        fault = sandbox.faults.add(Fault("302", on="result", times=None, location=location))
        async with CometSession("sandbox-key", gateway=sandbox.url, clock=clock) as comet:
            (outcome,) = [o async for o in small_run(comet, tmp_path)]
            assert isinstance(outcome.error, DownloadError)
            assert str(outcome.status) == "pending"
            sandbox.faults.remove(fault)
            (outcome,) = [o async for o in small_run(comet, tmp_path)]
        assert outcome.done
        assert len(sandbox.ledger.posts) == 1


def small_run(comet: CometSession, out: Path) -> Any:  # noqa: ANN401 - a run
    """Return a run of one image, which is saved below *out*."""
    request = ExpandRequest(image=small_png(1), margins=MARGINS)
    return comet.expand_many([request], out=out)


@pytest.mark.failure("F58")
async def test_result_that_is_gone_is_reported_loudly(clock: VirtualClock, tmp_path: Path) -> None:
    """A result that nobody fetched for 30 days is an outcome of its own, and not bought again."""
    async with Sandbox(clock=clock, seed=1, engine="stub", options=HONEST) as sandbox:
        async with CometSession(
            "sandbox-key", gateway=sandbox.url, clock=clock, journal=tmp_path / "j.sqlite3"
        ) as comet:
            await comet.expand(small_png(1), MARGINS)
            await clock.sleep(31 * 86_400)
            for _ in range(2):
                (outcome,) = [o async for o in small_run(comet, tmp_path / "out")]
                assert isinstance(outcome.error, ResultExpiredError)
                assert str(outcome.status) == "failed"
        assert len(sandbox.ledger.posts) == 1


@pytest.mark.failure("F59")
async def test_folder_that_can_not_be_written_keeps_what_is_paid(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """The image is refused a place after it was paid: it is saved once there is one."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "trip").mkdir(parents=True)
    (photos / "trip" / "sea.png").write_bytes(small_png(1))
    out.mkdir()
    (out / "trip").write_bytes(b"a file where a folder is needed")
    async with Sandbox(clock=clock, seed=1, engine="stub", options=HONEST) as sandbox:
        async with CometSession("sandbox-key", gateway=sandbox.url, clock=clock) as comet:
            (first,) = [o async for o in comet.expand_folder(photos, out, MARGINS)]
            assert not first.done
            assert first.error is not None
            (out / "trip").unlink()
            (again,) = [o async for o in comet.expand_folder(photos, out, MARGINS)]
        assert again.done
        assert len(sandbox.ledger.charges) == 1


@pytest.mark.failure("F59")
async def test_name_that_leads_out_of_the_folder_stays_inside(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """What a result is called comes from a cleaned name, never from dots and slashes."""
    (tmp_path / "..evil").mkdir()
    source = tmp_path / "..evil" / "...png"
    source.write_bytes(small_png(1))
    async with Sandbox(clock=clock, seed=1, engine="stub", options=HONEST) as sandbox:
        async with CometSession("sandbox-key", gateway=sandbox.url, clock=clock) as comet:
            request = ExpandRequest(image=source, margins=MARGINS)
            run = comet.expand_many([request], out=tmp_path / "deep" / "out")
            outcomes: list[Outcome] = [outcome async for outcome in run]
    assert all(path.parent == tmp_path / "deep" / "out" for o in outcomes for path in o.files)
    assert outcomes[0].done


@pytest.mark.parametrize("own", [False, True])
async def test_paid_images_whose_sources_are_gone_are_saved(
    own: bool,
    clock: VirtualClock,
    tmp_path: Path,
) -> None:
    """A source that is deleted after it was paid for is saved by the next run of the folder."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for tint in range(3):
        (photos / f"{tint}.png").write_bytes(small_png(tint))
    async with Sandbox(clock=clock, seed=1, engine="stub", options=HONEST) as sandbox:
        for number in range(2):
            async with CometSession(
                "sandbox-key",
                gateway=sandbox.url,
                clock=clock,
                journal=out / JOURNAL_NAME if own else None,
            ) as comet:
                run = comet.expand_folder(photos, out, MARGINS)
                if number == 0:
                    asyncio.get_running_loop().call_later(5, run.interrupt)
                outcomes = [outcome async for outcome in run]
            (photos / "0.png").unlink(missing_ok=True)
        assert len(sandbox.ledger.charges) == 3
    assert {str(outcome.status) for outcome in outcomes} == {"done"}
    assert (out / "0.png").is_file()


@pytest.mark.failure("F68")
async def test_callback_that_is_faster_than_the_answer(clock: VirtualClock, tmp_path: Path) -> None:
    """A callback that comes before the create call is answered is kept, and changes nothing."""
    options = Options(
        unique_external_ids=False, callbacks=CallbackOptions(before_answer=True, repeat=2)
    )
    async with (
        CallbackReceiver() as receiver,
        Sandbox(clock=clock, seed=1, engine="stub", options=options) as sandbox,
        CometSession("sandbox-key", gateway=sandbox.url, clock=clock, callbacks=receiver) as comet,
    ):
        (outcome,) = [o async for o in small_run(comet, tmp_path)]
        assert outcome.done
        assert sandbox.deliveries
        assert len(sandbox.ledger.charges) == 1


@pytest.mark.failure("F23")
@pytest.mark.parametrize("journal", [True, False], ids=["journal", "no journal"])
async def test_callback_finds_what_no_lookup_finds(
    journal: bool, clock: VirtualClock, tmp_path: Path
) -> None:
    """The answer is lost and lookups don't work: a callback names the task, the server agrees."""
    options = Options(lookups="", list_tasks=False)
    async with (
        CallbackReceiver() as receiver,
        Sandbox(clock=clock, seed=1, engine="stub", options=options) as sandbox,
        CometSession(
            "sandbox-key",
            gateway=sandbox.url,
            clock=clock,
            callbacks=receiver,
            journal=tmp_path / "j.sqlite3" if journal else None,
        ) as comet,
    ):
        sandbox.faults.add(Fault("drop_after_charge"))
        task = await comet.expand(small_png(1), MARGINS)
        assert task.succeeded
        assert len(sandbox.ledger.charges) == len(sandbox.ledger.posts) == 1
