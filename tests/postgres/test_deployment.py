"""What the page about running a fleet has for PostgreSQL: rights that are enough, and queries."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from comet_async import CometSession, Margins
from comet_async.cli.app import run as cli
from comet_async.errors import JournalError
from comet_async.fleet import FleetWorker, enqueue_folder, fleet_status
from comet_async.postgres import PostgresJournal
from comet_async.sandbox import DEFAULT_KEY, Sandbox

pytestmark = [pytest.mark.real_loop, pytest.mark.program]

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "fleet-deployment.md"
BLOCKS = re.findall(r"```sql\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
ROLES = ("comet_owner", "comet_worker", "comet_monitor")


def test_the_page_has_its_blocks() -> None:
    """Roles, rights, and what to watch."""
    assert len(BLOCKS) == 3


class Roles:
    """A database with the page's roles, under names of this test's: roles belong to a cluster."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.suffix = secrets.token_hex(4)

    def own(self, text: str) -> str:
        """Return *text* with this test's names."""
        return re.sub(r"\b(comet_(owner|worker|monitor))\b", rf"\1_{self.suffix}", text)

    def as_role(self, role: str) -> str:
        """Return the address for a role."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=f"{self.own(role)}@").geturl()

    def run(self, statements: str, role: str = "") -> None:
        """Run statements, as an administrator or as a role."""
        url = self.as_role(role) if role else self.url
        with psycopg.connect(url, autocommit=True) as db:
            db.execute(self.own(statements).encode())


@pytest.fixture
def roles(own_database: str) -> Iterator[Roles]:
    """Return the roles; they are dropped in the end."""
    roles = Roles(own_database)
    roles.run(BLOCKS[0])
    yield roles
    for role in ROLES:
        roles.run(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def session(journal: PostgresJournal, sandbox: Sandbox) -> CometSession:
    """Return a session of a fleet's."""
    return CometSession(DEFAULT_KEY, gateway=sandbox.url, journal=journal, schedule=0.05)


async def enqueue(url: str, sandbox: Sandbox, photos: Path, out: Path) -> int:
    """Enqueue the photos as a role; return how many were queued."""
    async with await PostgresJournal.open(url) as journal, session(journal, sandbox) as comet:
        found = enqueue_folder(comet, photos, out, Margins.uniform(0.2))
        return sum([each.queued async for each in found])


async def work(url: str, sandbox: Sandbox) -> int:
    """Run a worker as a role until nothing is queued; return how many jobs it has done."""
    async with await PostgresJournal.open(url) as journal, session(journal, sandbox) as comet:
        worker = FleetWorker(comet)
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(60):
            while True:
                status = await fleet_status(journal)
                if not status.queued + status.running:
                    break
                await asyncio.sleep(0.05)
        worker.stop()
        await running
        with pytest.raises(JournalError, match=r"permission denied|must be owner"):
            await journal.transaction(lambda db: db.run("DROP TABLE job"))
        return worker.done


@pytest.mark.parametrize("granted_first", [False, True], ids=["after", "before"])
async def test_a_role_that_may_only_work(
    roles: Roles,
    photos: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    *,
    granted_first: bool,
) -> None:
    """The rights are enough to enqueue and to work, whether given before the tables or after."""
    async with Sandbox(engine="stub", speed=100) as sandbox:
        owner, worker = roles.as_role("comet_owner"), roles.as_role("comet_worker")
        if granted_first:
            roles.run(BLOCKS[1], "comet_owner")
        assert await enqueue(owner, sandbox, photos / "dog.png", tmp_path / "out") == 1
        if not granted_first:
            with pytest.raises(JournalError):
                await PostgresJournal.open(worker)
            roles.run(BLOCKS[1], "comet_owner")
        assert await enqueue(worker, sandbox, photos, tmp_path / "out") == 2
        assert await work(worker, sandbox) == 3
        assert len(sandbox.ledger.charges) == 3
    with psycopg.connect(roles.as_role("comet_monitor"), autocommit=True) as db:
        queries = [query for query in BLOCKS[2].split(";") if query.strip()]
        assert len(queries) == 9
        for query in queries:
            db.execute(query.encode()).fetchall()
        states: Any = db.execute("SELECT state, count(*) FROM comet_async.job GROUP BY state")
        assert states.fetchall() == [("done", 3)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.execute("DELETE FROM comet_async.job")
    for command in ("fleet", "jobs"):
        assert await cli([command, roles.as_role("comet_monitor")]) == 0
    output = "".join(capfd.readouterr())
    assert "3 images billed" in output
    assert "3 jobs done" in output


async def test_a_role_that_only_migrates(
    roles: Roles, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The owner's only command makes the tables that workers need, and changes nothing later."""
    owner, worker = roles.as_role("comet_owner"), roles.as_role("comet_worker")
    roles.run(BLOCKS[1], "comet_owner")
    for _ in range(2):
        assert await cli(["migrate", owner]) == 0
        assert "up to date" in "".join(capfd.readouterr())
    async with Sandbox(engine="stub", speed=100) as sandbox:
        assert await enqueue(worker, sandbox, photos / "dog.png", tmp_path / "out") == 1
        assert await work(worker, sandbox) == 1
    assert await cli(["migrate", worker]) == 0  # nothing is left to do
    assert await cli(["migrate", roles.as_role("comet_monitor")]) == 2
    assert "permission denied" in capfd.readouterr().err


async def test_a_role_that_may_only_work_notices_a_restored_database(
    roles: Roles, photos: Path, tmp_path: Path
) -> None:
    """It can read which cluster and timeline it is on, so that it does not pay twice."""
    async with Sandbox(engine="stub", speed=100) as sandbox:
        roles.run(BLOCKS[1], "comet_owner")
        await enqueue(roles.as_role("comet_owner"), sandbox, photos, tmp_path / "out")
    with psycopg.connect(roles.as_role("comet_worker"), autocommit=True) as db:
        allowed = "SELECT has_function_privilege('pg_control_system()', 'execute')"
        assert db.execute(allowed).fetchone() == (True,)
