"""An image that was bought with another choice of ``prepare`` is not bought again."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Unpack

import pytest
from PIL import Image

from comet_async import CometError, CometSession, Margins, Outcome, OutcomeStatus, RunOptions
from comet_async.sandbox import DEFAULT_KEY, Fault, Sandbox
from comet_async.testing import VirtualClock

WIDE = Margins(left=0.5, right=0.5)


def rotated(image: Image.Image) -> bytes:
    """Return *image* as a JPEG that viewers turn by 90 degrees, as phones write them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a rotated photo and one in CMYK; both are accepted as they are."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "turned.jpg").write_bytes(rotated(Image.new("RGB", (400, 320), "teal")))
    Image.new("CMYK", (400, 320), (9, 90, 30, 0)).save(photos / "print.jpg")
    return photos


async def run(
    sandbox: Sandbox, clock: VirtualClock, folder: Path, **options: Unpack[RunOptions]
) -> list[Outcome]:
    """Expand *folder* in a session of its own."""
    async with CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock) as comet:
        out = folder.parent / "wide"
        return [each async for each in comet.expand_folder(folder, out, WIDE, **options)]


@pytest.mark.parametrize("first", [False, True], ids=["as they are first", "converted first"])
async def test_what_is_there_stays(
    sandbox: Sandbox, clock: VirtualClock, folder: Path, first: bool
) -> None:
    """The advice to convert other images costs nothing for those that are done."""
    assert [each.done for each in await run(sandbox, clock, folder, prepare=first)] == [True] * 2
    for prepare in (not first, not first, first):
        again = await run(sandbox, clock, folder, prepare=prepare)
        assert [(each.done, each.already_there) for each in again] == [(True, True)] * 2
    assert len(sandbox.ledger.charges) == 2


@pytest.mark.parametrize("first", [False, True], ids=["as they are first", "converted first"])
async def test_a_plan_says_so(
    sandbox: Sandbox, clock: VirtualClock, folder: Path, first: bool
) -> None:
    """Without a word to the server, and with any key."""
    await run(sandbox, clock, folder, prepare=first)
    async with CometSession("another-key", gateway=sandbox.url, clock=clock) as comet:
        again = comet.expand_folder(folder, folder.parent / "wide", WIDE, prepare=not first)
        records = [
            plan.record async for _, plan in again.plan() if not isinstance(plan, CometError)
        ]
    assert [record is not None and record.state for record in records] == ["done"] * 2


@pytest.mark.parametrize("first", [False, True], ids=["as they are first", "converted first"])
@pytest.mark.parametrize("accepted", [True, False])
async def test_what_may_be_billed_is_looked_up(
    sandbox: Sandbox, clock: VirtualClock, folder: Path, first: bool, accepted: bool
) -> None:
    """An answer that was lost stands for the image, however it is sent the next time."""
    (folder / "print.jpg").unlink()
    sandbox.faults.add(Fault("drop_after_charge" if accepted else "drop", on="create"))
    for call in ("find", "list"):
        sandbox.faults.add(Fault("500", on=call, times=None))
    (lost,) = await run(sandbox, clock, folder, prepare=first, settle=1)
    assert lost.status is OutcomeStatus.UNCERTAIN
    sandbox.faults.clear()
    (outcome,) = await run(sandbox, clock, folder, prepare=not first)
    assert outcome.external_task_id == lost.external_task_id
    assert outcome.done is accepted
    assert len(sandbox.ledger.charges) == int(accepted)


async def test_a_failure_is_bought_again_converted(
    sandbox: Sandbox, clock: VirtualClock, folder: Path
) -> None:
    """To convert the image may be what helps."""
    (folder / "print.jpg").unlink()
    sandbox.tasks.hold()
    failing = asyncio.create_task(run(sandbox, clock, folder, prepare=False))
    (await sandbox.tasks.next()).fail()
    (failed,) = await failing
    sandbox.tasks.release()
    assert failed.status is OutcomeStatus.FAILED
    (done,) = await run(sandbox, clock, folder, prepare=True)
    assert done.done
    assert "upright" in done.notes[0]


@pytest.mark.parametrize("first", [False, True], ids=["as they are first", "converted first"])
async def test_what_was_bought_after_a_failure_stays(
    sandbox: Sandbox, clock: VirtualClock, folder: Path, first: bool
) -> None:
    """The failure is not all that there is to know of the other choice."""
    (folder / "print.jpg").unlink()
    sandbox.tasks.hold()
    failing = asyncio.create_task(run(sandbox, clock, folder, prepare=first))
    (await sandbox.tasks.next()).fail()
    await failing
    sandbox.tasks.release()
    (bought,) = await run(sandbox, clock, folder, prepare=first, retry_failed=True)
    for retry_failed in (False, True):
        (again,) = await run(sandbox, clock, folder, prepare=not first, retry_failed=retry_failed)
        assert (again.done, again.already_there) == (True, True)
        assert again.external_task_id == bought.external_task_id
