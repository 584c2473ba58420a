"""The journal in PostgreSQL: the suite for all journals, and what only this one can do."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.support.journal_contract")

from tests.support.journal_contract import JournalSuite  # noqa: E402 - after its asserts are prepared

pytestmark = pytest.mark.program


class TestPostgresJournal(JournalSuite):
    """The suite in PostgreSQL."""
