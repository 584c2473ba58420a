"""Closing a journal in PostgreSQL."""

from __future__ import annotations

import threading

import pytest

from comet_async._journal.group_commit import GroupCommitWriter
from comet_async._postgres.worker import Worker
from comet_async.postgres import PostgresConnection, PostgresJournal

pytestmark = [pytest.mark.real_loop, pytest.mark.program]


async def test_both_connections_are_closed_at_once(
    database: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not answer costs the time of one, not of both."""
    journal = await PostgresJournal.open(database, schema=schema)
    stop, aclose, begun = (
        Worker.stop,
        GroupCommitWriter[PostgresConnection].aclose,
        threading.Event(),
    )

    def stop_later(worker: Worker) -> None:
        assert begun.wait(10)
        stop(worker)

    async def begin(writer: GroupCommitWriter[PostgresConnection]) -> None:
        begun.set()
        await aclose(writer)

    monkeypatch.setattr(Worker, "stop", stop_later)
    monkeypatch.setattr(GroupCommitWriter, "aclose", begin)
    await journal.aclose()
