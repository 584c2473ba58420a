"""Sixty images, a gateway with every kind of fault, and kills at random moments (F45).

One run drives the installed command line on real clocks; the others drive the library in forked
processes on fast ones, so that many seeds can be tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from comet_async._images.formats import read_info
from comet_async.journal import SqliteJournal
from comet_async.runs import JOURNAL_NAME
from comet_async.sandbox import Fault, Faults, Options, Sandbox
from tests.reliability.conftest import small_png
from tests.reliability.history import problems
from tests.reliability.test_crashes import KEY, drive, open_cell
from tests.reliability.victim import DONE

IMAGES = 60
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def weather(seed: int, late: float) -> Faults:
    """Return the faults: lost replies, charges behind a 504, refusals, and late commits."""
    return Faults(
        Fault("drop_after_charge", times=None, chance=0.05),
        Fault("504_after_charge", times=None, chance=0.03),
        Fault("1303", on="create", times=None, chance=0.03),
        Fault("late", times=None, chance=0.03, seconds=late),
        Fault("drop", on="create", times=None, chance=0.02),
        Fault("500", on="find", times=None, chance=0.05),
        Fault("truncated", on="result", times=None, chance=0.03),
        seed=seed,
    )


OPTIONS = Options(unique_external_ids=False, submitted_seconds=(0, 1), task_seconds=(3, 10))


def fill(photos: Path) -> None:
    """Make the images; two of them are equal."""
    photos.mkdir()
    for number in range(IMAGES):
        tint = min(number, IMAGES - 2)
        (photos / f"{number:02d}.png").write_bytes(small_png(tint))


async def check(sandbox: Sandbox, out: Path) -> None:
    """Hold the account book against the journal and the files."""
    book = sandbox.ledger
    async with await SqliteJournal.open(out / JOURNAL_NAME) as journal:
        records, events = await journal.find(), await journal.events()
    posts = [post.external_task_id for post in book.posts]
    assert problems(book.charges, posts, records, events) == []
    assert len(book.charges) == IMAGES - 1  # two are equal
    assert {str(record.state) for record in records} == {"done"}
    results = sorted(path.name for path in out.iterdir() if path.is_file())
    assert results == [f"{number:02d}.png" for number in range(IMAGES)]
    for path in out.rglob("*"):
        if path.is_file():
            assert path.suffix != ".part"
            assert KEY.encode() not in path.read_bytes()
            info = read_info(path.read_bytes())
            assert info is None or (info.width, info.height) == (450, 300)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("KILL_SEEDS", "4"))))
def test_library_is_killed_at_random_until_all_is_done(
    seed: int, forker: subprocess.Popen[str], volatile: Path
) -> None:
    """However often and whenever it is killed: each image is charged once and saved."""
    dice = random.Random(seed)  # noqa: S311 - not a secret
    fill(volatile / "photos")

    async def life() -> None:
        async with open_cell(forker, volatile, OPTIONS) as cell:
            for fault in weather(seed, late=3).rules:
                cell.sandbox.faults.add(fault)
            for kills in (*range(6), None):
                ended = await cell.start(volatile / "photos")
                if kills is not None:
                    await asyncio.sleep(dice.uniform(2, 60))
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(cell.pid, dice.choice(SIGNALS))
                code = await ended()
            assert code == DONE
            await check(cell.sandbox, cell.out)

    drive(life())


async def _command(
    sandbox: Sandbox, photos: Path, out: Path, patience: float | None, by: signal.Signals
) -> int:
    """Run the command line; end it after *patience* seconds unless it ends before."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comet_async", "expand", str(photos), "--out", str(out)),
        *("--left", "0.25", "--right", "0.25", "--json", "--settle", "2"),
        *("--gateway", sandbox.url),
        env=os.environ | {"COMETAPI_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    reading = asyncio.ensure_future(process.communicate())
    if patience is not None:
        await asyncio.wait({reading}, timeout=patience)
        if process.returncode is None:
            process.send_signal(by)
    output, errors = await reading
    assert KEY.encode() not in output + errors
    for line in output.splitlines()[:-1]:
        assert json.loads(line)["outcome"] in {"done", "uncertain", "pending"}
    assert process.returncode is not None
    return process.returncode


@pytest.mark.failure("F45")
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("CLI_SEEDS", "1"))))
def test_command_line_is_killed_at_random_until_all_is_done(seed: int, volatile: Path) -> None:
    """The same through the installed command line, on real clocks."""
    dice = random.Random(seed)  # noqa: S311 - not a secret
    photos, out = volatile / "photos", volatile / "out"
    fill(photos)

    async def life() -> None:
        async with Sandbox(
            seed=seed,
            speed=60,
            engine="pillow",
            key=KEY,
            options=OPTIONS,
            faults=weather(seed, late=1),
        ) as sandbox:
            codes = []
            for patience in (*(dice.uniform(0.5, 4) for _ in range(5)), None, None, None):
                codes.append(await _command(sandbox, photos, out, patience, dice.choice(SIGNALS)))
                if codes[-1] == 0:
                    break
            assert codes[-1] == 0, codes
            await check(sandbox, out)

    asyncio.run(life())
