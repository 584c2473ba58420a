"""Names that the journal gave to results whose files were removed since."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from comet_async import CometSession, Margins
from comet_async.errors import DownloadError, ResultExpiredError
from comet_async.outcomes import Outcome, OutcomeStatus
from comet_async.sandbox import DEFAULT_KEY, Sandbox
from comet_async.testing import VirtualClock
from tests.support.images import make_png

WIDE, HIGH = Margins(left=0.5), Margins(up=0.5)


@pytest.fixture
def dog(tmp_path: Path) -> Path:
    """Return an image."""
    path = tmp_path / "dog.png"
    path.write_bytes(make_png(320, 300))
    return path


async def run(comet: CometSession, dog: Path, out: Path, margins: Margins) -> Outcome:
    """Expand one image into a folder."""
    (outcome,) = [each async for each in comet.expand_folder(dog, out, margins)]
    return outcome


@pytest.mark.parametrize("own", [False, True], ids=["folder's journal", "own journal"])
async def test_another_request_takes_the_name_of_a_file_that_was_removed(
    sandbox: Sandbox, clock: VirtualClock, dog: Path, tmp_path: Path, *, own: bool
) -> None:
    """It is paid, so it is saved; the first request does not replace its file, and pays nothing."""
    out, journal = tmp_path / "out", tmp_path / "journal.sqlite3" if own else None
    async with CometSession(
        DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=journal
    ) as comet:
        first = await run(comet, dog, out, WIDE)
        first.files[0].unlink()
        second = await run(comet, dog, out, HIGH)
        assert (second.status, second.files) == (OutcomeStatus.DONE, first.files)
        content = second.files[0].read_bytes()
        again = await run(comet, dog, out, WIDE)
        assert isinstance(again.error, DownloadError)
        assert "is the result of another image" in again.error.message
        assert (await run(comet, dog, out, HIGH)).already_there
    assert second.files[0].read_bytes() == content
    assert len(sandbox.ledger.charges) == 2


async def test_a_copy_takes_the_name_of_a_file_that_was_removed(
    sandbox: Sandbox, clock: VirtualClock, dog: Path, tmp_path: Path
) -> None:
    """What the same job saved elsewhere is copied there."""
    out = tmp_path / "out"
    cat = tmp_path / "cat.png"
    cat.write_bytes(make_png(320, 300, 1))
    named = out / "named.png"
    journal = tmp_path / "journal.sqlite3"
    async with CometSession(
        DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=journal
    ) as comet:
        await comet.expand(cat, WIDE, out=named)
        named.unlink()
        await comet.expand(dog, WIDE, out=out / "dog.png")
        await comet.expand(dog, WIDE, out=named)
    assert named.read_bytes() == (out / "dog.png").read_bytes()
    assert len(sandbox.ledger.charges) == 2


async def test_what_replaces_an_expired_result_takes_its_name(
    comet: CometSession, sandbox: Sandbox, dog: Path, tmp_path: Path
) -> None:
    """Bought again after 30 days, the result is saved where the first one was."""
    out = tmp_path / "out"
    first = await run(comet, dog, out, WIDE)
    first.files[0].unlink()
    await asyncio.sleep(31 * 86_400)
    assert isinstance((await run(comet, dog, out, WIDE)).error, ResultExpiredError)
    again = comet.expand_folder(dog, out, WIDE, retry_failed=True)
    (second,) = [each async for each in again]
    assert (second.status, second.files) == (OutcomeStatus.DONE, first.files)
    assert len(sandbox.ledger.charges) == 2
