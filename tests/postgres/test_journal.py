"""The journal in PostgreSQL: the suite for all journals, and what only this one can do."""

from __future__ import annotations

import pytest

from tests.support.journal_contract import JournalSuite

pytestmark = pytest.mark.program


class TestPostgresJournal(JournalSuite):
    """The suite in PostgreSQL."""
