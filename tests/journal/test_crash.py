"""The journal when its process is killed: real processes, real SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import comet_async
from comet_async.journal import SqliteJournal

# A whole life of one job, killed at the moment named by argv[2].
CHILD = """
import asyncio, os, signal, sys
from comet_async.journal import SqliteJournal
from comet_async._journal.records import Limits, NewJob, SavedFile
from comet_async._journal.states import JobState as S

def hook(name):
    if name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    journal = await SqliteJournal.open(sys.argv[1], hook=hook)
    job = NewJob(key="k", kind="expand", account="", params={}, n=1, source="", image_sha="",
                 dest="d")
    (record,) = await journal.plan([job], now=1)
    record = await journal.send(record, now=2, post_deadline=3, limits=Limits(), run="r")
    record = await journal.move(record, S.SUBMITTED, now=4, task_id="t")
    record = await journal.move(record, S.SUCCEEDED, now=5)
    file = SavedFile(index=0, name="d.png", sha256="00", size=1)
    await journal.save_file("k", "d", file)
    record = await journal.move(record, S.SAVING, now=6)
    await journal.move(record, S.DONE, now=7)

asyncio.run(main())
"""


@pytest.mark.program
@pytest.mark.parametrize(
    ("moment", "states"),
    [
        ("before:T1", []),
        ("after:T1", ["planned"]),
        ("before:T2", ["planned"]),
        ("after:T2", ["planned", "sending", "unknown"]),
        ("before:T3", ["planned", "sending", "unknown"]),
        ("after:T3", ["planned", "sending", "submitted"]),
        ("after:T13", ["planned", "sending", "submitted", "succeeded", "saving", "done"]),
    ],
)
async def test_killed(tmp_path: Path, moment: str, states: list[str]) -> None:
    """What was committed is there, what was not is not, and the journal opens at once."""
    path = tmp_path / "journal.sqlite3"
    root = Path(comet_async.__file__).parent.parent
    child = subprocess.run(  # noqa: ASYNC221 - nothing else goes on here
        [sys.executable, "-c", CHILD, str(path), moment],
        env=os.environ | {"PYTHONPATH": str(root)},
        timeout=60,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    async with await SqliteJournal.open(path) as journal:
        assert [event.new for event in await journal.events("k")] == states
        files = [place.files for place in await journal.destinations("k")]
        assert any(files) is ("saving" in states)
