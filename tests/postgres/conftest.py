"""A real PostgreSQL server, and journals in it."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from comet_async.postgres import PostgresJournal
from tests.postgres.fleet import Cable
from tests.support import postgres


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a database of our own."""
    base = tmp_path_factory.getbasetemp()
    # All workers of pytest-xdist share the folder above theirs, and so the server.
    shared = base.parent if base.name.startswith("popen-") else base
    # Not below it: root runs the server as another user, who can't go there.
    name = hashlib.sha256(os.fsencode(shared)).hexdigest()[:12]
    with postgres.server(Path(tempfile.gettempdir()) / f"comet-async-{name}") as server:
        yield server.get_uri()


@pytest.fixture
def own_database(database: str, admin: psycopg.Connection[Any]) -> Iterator[str]:
    """Return the address of a database that no other test uses, for programs' default names."""
    name = f"test_{secrets.token_hex(6)}"
    admin.execute(f"CREATE DATABASE {name}".encode())
    yield urlsplit(database)._replace(path=f"/{name}").geturl()
    admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def schema(database: str) -> Iterator[str]:
    """Return the name of a schema that is not there yet."""
    with postgres.new_schema(database) as name:
        yield name


@pytest.fixture
def admin(database: str) -> Iterator[psycopg.Connection[Any]]:
    """Return a connection of an administrator's."""
    with psycopg.connect(database, autocommit=True) as db:
        yield db


@pytest.fixture
async def cable(database: str) -> AsyncIterator[Cable]:
    """Return a connection to the database that can be hurt."""
    folder = parse_qs(urlsplit(database).query)["host"][0]
    running = Cable(f"{folder}/.s.PGSQL.5432")
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def journal(database: str, schema: str) -> AsyncIterator[PostgresJournal]:
    """Return an empty journal."""
    async with await PostgresJournal.open(database, schema=schema) as opened:
        yield opened
