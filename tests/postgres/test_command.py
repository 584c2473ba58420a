"""``comet-async expand --journal``: another file, or a database that several runs share."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from comet_async.cli.app import run
from comet_async.postgres import PostgresJournal
from comet_async.sandbox import DEFAULT_KEY, Sandbox

pytestmark = [pytest.mark.real_loop, pytest.mark.program]


async def expand(photos: Path, out: Path, gateway: str, *options: str) -> tuple[int, str]:
    """Run the command; return its exit status and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "comet_async", "expand", str(photos), "--out", str(out)),
        *("--left", "0.2", "--gateway", gateway, *options),
        env=os.environ | {"COMETAPI_KEY": DEFAULT_KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_runs_share_a_database(photos: Path, tmp_path: Path, own_database: str) -> None:
    """Two runs at once buy each image once, and each has its own results."""
    async with Sandbox(engine="stub", speed=100) as sandbox:
        planned = await expand(
            photos, tmp_path / "a", sandbox.url, "--journal", own_database, "--dry-run"
        )
        assert planned[0] == 0, planned
        runs = [
            expand(photos, tmp_path / name, sandbox.url, "--journal", own_database) for name in "ab"
        ]
        for code, output in await asyncio.gather(*runs):
            assert code == 0, output
        assert len(sandbox.ledger.charges) == 3
    for name in "ab":
        assert len(list((tmp_path / name).rglob("*.png"))) == 3
        assert not (tmp_path / name / ".comet-async").exists()
    async with await PostgresJournal.open(own_database) as journal:
        assert await journal.counts() == {"done": 3}


async def test_another_file(photos: Path, tmp_path: Path) -> None:
    """A journal of one's own serves several folders."""
    journal = tmp_path / "jobs.sqlite3"
    async with Sandbox(engine="stub", speed=100) as sandbox:
        for name in "ab":
            code, output = await expand(
                photos, tmp_path / name, sandbox.url, "--journal", str(journal)
            )
            assert code == 0, output
        assert len(sandbox.ledger.charges) == 3
    assert journal.is_file()
    assert len(list((tmp_path / "b").rglob("*.png"))) == 3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--journal", "mysql://host/db"), "neither a file nor a PostgreSQL database"),
        (("--journal", "postgresql://me:canary@host/db"), "PGPASSWORD"),
        (("--journal", "postgresql://host/db", "--sandbox"), "comet-async sandbox"),
    ],
    ids=["scheme", "password", "sandbox"],
)
async def test_what_can_not_be_used(
    photos: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    text: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Nothing is sent, and no password is repeated."""
    gateway = "http://127.0.0.1:1" if "--sandbox" not in options else "sandbox"
    words = ("expand", str(photos), "--out", str(tmp_path / "out"), "--left", "0.2")
    assert await run([*words, "--gateway", gateway, *options]) == 2
    output = "".join(capfd.readouterr())
    assert text in " ".join(output.split())
    assert "canary" not in output
