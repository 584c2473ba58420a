"""The session's contract, with each kind of journal and without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from comet_async import CometSession, JournalBusyError, SqliteJournal
from comet_async._journal.memory import MemoryJournal
from comet_async.sandbox import DEFAULT_KEY
from tests.support.session_contract import (
    JournalLike,
    WithJournalSuite,
    WithoutJournalSuite,
)


class TestWithoutJournal(WithoutJournalSuite):
    """A session without ``journal=``."""


class TestMemoryJournal(WithJournalSuite):
    """A journal in memory, which outlives sessions but not the process."""

    @pytest.fixture
    def journal(self) -> JournalLike:
        """Return the journal."""
        return MemoryJournal()


class TestSqliteJournal(WithJournalSuite):
    """A journal on disk."""

    @pytest.fixture
    def journal(self, tmp_path: Path) -> JournalLike:
        """Return where it is."""
        return tmp_path / "jobs.sqlite3"

    async def test_a_second_process_fails_when_it_opens(self, tmp_path: Path) -> None:
        """Not at the first customer."""
        path = tmp_path / "jobs.sqlite3"
        async with await SqliteJournal.open(path):
            session = CometSession(DEFAULT_KEY, journal=path)
            with pytest.raises(JournalBusyError):
                await session.__aenter__()
            await session.aclose()
