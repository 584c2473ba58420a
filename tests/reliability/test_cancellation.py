"""Callers that leave: at every await of a job, of a folder, together with others, or for good."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import pytest

from comet_async import CometSession, ConcurrencyLimitError, ExpandRequest, Margins, Outcome
from comet_async._journal.states import JobState
from tests.reliability.simulation import Simulation

MARGINS = Margins(left=0.25, right=0.25)

Check = Callable[[Simulation], list[str]]
Life = Callable[[CometSession], Coroutine[Any, Any, Any]]
Simulate = Callable[..., Simulation]


def script(*fates: str) -> Callable[[str], str]:
    """Return the fates of the first requests; the rest is well."""
    left = list(fates)
    return lambda _key: left.pop(0) if left else "ok"


def one(image: bytes) -> Life:
    """Return the life of a program that expands one image."""
    return lambda comet: comet.expand(image, MARGINS)


def folder(images: Iterable[bytes | Path], out: Path | None = None) -> Life:
    """Return the life of a program that expands some."""

    async def life(comet: CometSession) -> list[Outcome]:
        requests = [ExpandRequest(image=image, margins=MARGINS) for image in images]
        return [outcome async for outcome in comet.expand_many(requests, out=out)]

    return life


@pytest.fixture
def photo_files(tmp_path: Path, images: list[bytes]) -> list[Path]:
    """Return two images on the disk: a job of the journal can be loaded anew."""
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file, image in zip(files, images, strict=False):
        file.write_bytes(image)
    return files


def states(simulation: Simulation) -> set[str]:
    """Return the states in which jobs are."""
    return {str(record.state) for record in simulation.journal.records}


def ended(simulation: Simulation, at: int) -> bool:
    """Tell whether a boot came to its end before round *at*; else it must have been cancelled."""
    early = simulation.ticks is not None and simulation.ticks < at
    assert early or simulation.cancelled, "the cancellation was lost"
    return early


@pytest.mark.failure("F54")
@pytest.mark.parametrize(
    "fates",
    [
        ("ok",),
        ("lost_after",),
        pytest.param(("1303", "not_sent"), marks=pytest.mark.slow),
        pytest.param(("late",), marks=pytest.mark.slow),
        pytest.param(("504_before", "no_id"), marks=pytest.mark.slow),
    ],
    ids="-".join,
)
def test_job_that_is_cancelled_at_any_await_is_paid_once(
    fates: tuple[str, ...], simulate: Simulate, verdict: Check, images: list[bytes]
) -> None:
    """The caller is cancelled at each round of the loop in turn; the job is not lost."""
    control = folder(images[9:10])
    for at in itertools.count(1):
        simulation = simulate(seed=at)
        simulation.boot(control)
        simulation.provider.fate = script(*fates)
        simulation.boot(one(images[0]), cancel_at=at)
        if ended(simulation, at):
            break
        assert "sending" not in states(simulation)
        simulation.boot(folder(images[:1]))
        assert verdict(simulation) == []
        assert states(simulation) == {"succeeded"}
        assert simulation.failures == []
    assert at > 30


@pytest.mark.parametrize("step", [23, pytest.param(4, marks=pytest.mark.slow)])
def test_folder_that_is_cancelled_at_any_await_is_paid_once(
    step: int, simulate: Simulate, verdict: Check, images: list[bytes], tmp_path: Path
) -> None:
    """The same for a folder, whose workers, threads and downloads are cancelled with it."""
    for at in itertools.count(1, step):
        out = tmp_path / str(at)
        simulation = simulate(seed=at, fate=script("ok", "lost_after", "1303", "hang_before"))
        simulation.boot(folder(images[:3], out), cancel_at=at)
        if ended(simulation, at):
            break
        assert "sending" not in states(simulation)
        simulation.boot(folder(images[:3], out))
        assert verdict(simulation) == []
        assert states(simulation) == {"done"}
        assert len(list(out.glob("*.png"))) == len(simulation.provider.charges) == 3
        assert not list(out.glob(".*.part"))
        assert simulation.failures == []
    assert at > 100


def test_purchase_without_a_journal_that_is_cancelled_is_sent_once(
    simulate: Simulate, images: list[bytes]
) -> None:
    """Without a journal, too, a cancelled caller makes no second request and cuts none off."""
    for at in itertools.count(1):
        simulation = simulate(seed=at, fate=script("lost_after"))
        simulation.boot(one(images[0]), cancel_at=at, journal=False)
        if ended(simulation, at):
            break
        assert len(simulation.provider.posts) <= 1
        assert simulation.failures == []


def test_cancelled_purchase_is_not_made_later(simulate: Simulate, images: list[bytes]) -> None:
    """Whoever is cancelled while the account is full buys nothing once there is room."""
    simulation = simulate(fate=script("1303", "1303"))

    async def life(comet: CometSession) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await comet.expand(images[0], MARGINS)

    simulation.boot(life, journal=False)
    assert simulation.provider.charges == []


@pytest.mark.failure("F55")
def test_sibling_that_raises_cuts_no_request_off(
    simulate: Simulate, verdict: Check, images: list[bytes]
) -> None:
    """A task group that ends by another task's error leaves each request recorded."""
    simulation = simulate(fate=script("ok", "hang_after", "lost_before"))

    async def life(comet: CometSession) -> None:
        async def fail() -> None:
            await asyncio.sleep(0.2)
            msg = "a sibling"
            raise RuntimeError(msg)

        with pytest.raises(ExceptionGroup):  # noqa: PT012 - the group is what raises
            async with asyncio.TaskGroup() as group:
                for image in images[:3]:
                    group.create_task(comet.expand(image, MARGINS))
                group.create_task(fail())

    simulation.boot(life)
    assert states(simulation) <= {"submitted", "unknown", "planned"}
    simulation.boot(folder(images[:4]))
    assert verdict(simulation) == []
    assert states(simulation) == {"succeeded"}


def test_closing_waits_for_requests_and_for_nothing_else(
    simulate: Simulate, verdict: Check, images: list[bytes]
) -> None:
    """``aclose()`` while requests are on their way records them; it does not wait for tasks."""
    simulation = simulate(fate=script("ok", "ok", "hang_after"))
    simulation.boot(folder(images[9:10]))  # from here on requests go out side by side
    simulation.provider.seconds = (900, 1000)

    async def life(comet: CometSession) -> float:
        waits = [asyncio.ensure_future(comet.expand(each, MARGINS)) for each in images[:2]]
        await asyncio.sleep(0.2)
        begin = asyncio.get_running_loop().time()
        await comet.aclose()
        took = asyncio.get_running_loop().time() - begin
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
        return took

    took = simulation.boot(life)
    assert took is not None
    assert took < 30
    assert states(simulation) == {"succeeded", "submitted", "unknown"}
    simulation.provider.pass_time(2000)
    simulation.boot(folder(images[:3]))
    assert verdict(simulation) == []
    assert states(simulation) == {"succeeded"}


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.4, 2.0, 10.0, 30.0])
@pytest.mark.parametrize("twice", [False, True])
def test_interrupted_run_records_what_was_sent(
    moment: float,
    twice: bool,
    simulate: Simulate,
    verdict: Check,
    images: list[bytes],
) -> None:
    """``interrupt()``, once or again, ends the run soon; each image has its outcome."""
    simulation = simulate(fate=script("ok", "lost_after", "hang_before"), seconds=(20, 30))

    async def life(comet: CometSession) -> list[Outcome]:
        requests = [ExpandRequest(image=each, margins=MARGINS) for each in images[:6]]
        run = comet.expand_many(requests, concurrency=2)
        loop = asyncio.get_running_loop()
        loop.call_later(moment, run.interrupt)
        if twice:
            loop.call_later(moment + 0.01, run.interrupt)
        return [outcome async for outcome in run]

    outcomes = simulation.boot(life)
    assert outcomes is not None
    assert "sending" not in states(simulation)
    assert {str(outcome.status) for outcome in outcomes} <= {"done", "pending"}
    simulation.boot(folder(images[:6]))
    assert verdict(simulation) == []
    assert states(simulation) == {"succeeded"}
    assert simulation.failures == []


def test_two_runs_of_one_session_share_a_job(
    simulate: Simulate, verdict: Check, images: list[bytes]
) -> None:
    """The same image in two runs at once is sent once, however long that takes."""
    simulation = simulate(fate=script("ok", "slow"))

    async def life(comet: CometSession) -> None:
        await folder(images[1:2])(comet)  # a control: "not found" is believed from here on
        await asyncio.gather(folder(images[:1])(comet), folder(images[:1])(comet))

    simulation.boot(life)
    assert verdict(simulation) == []
    assert len(simulation.provider.posts) == 2
    assert states(simulation) == {"succeeded"}


def test_job_is_run_by_hand_while_a_folder_runs(
    simulate: Simulate, verdict: Check, photo_files: list[Path]
) -> None:
    """``run_job`` on a job that a run is sending waits for that request, and sends none."""
    simulation = simulate(fate=script("ok", "slow"))

    async def life(comet: CometSession) -> None:
        await folder(photo_files[1:2])(comet)
        running = asyncio.ensure_future(folder(photo_files[:1])(comet))
        await asyncio.sleep(5)
        (record,) = await simulation.journal.find({JobState.SENDING})
        await comet.run_job(record.key)
        await running

    simulation.boot(life)
    assert verdict(simulation) == []
    assert len(simulation.provider.posts) == 2
    assert states(simulation) == {"succeeded"}


def test_account_that_stays_full_raises_what_it_said(
    simulate: Simulate, images: list[bytes]
) -> None:
    """The refusal itself reaches a caller without a journal, and nothing is charged after it."""
    simulation = simulate(fate=lambda _key: "1303")

    async def life(comet: CometSession) -> None:
        with pytest.raises(ConcurrencyLimitError):
            await comet.expand(images[0], MARGINS)

    simulation.boot(life, journal=False)
    assert simulation.provider.charges == []
