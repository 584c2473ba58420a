"""Which journal a run uses: the session's own, or that of its output folder."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TypeAlias

from comet_async._images.discovery import OURS
from comet_async._journal.memory import MemoryJournal
from comet_async._journal.records import Journal
from comet_async._runs.sources import Root
from comet_async._validation import check_journal_path, check_offers
from comet_async.clock import Clock
from comet_async.errors import InputError
from comet_async.journal import SqliteJournal

JOURNAL_NAME = Path(OURS) / "journal.sqlite3"
"""Where a folder's journal is, relative to the folder."""

POSTGRES = ("postgresql://", "postgres://")
"""How the address of a journal in PostgreSQL begins."""

JournalLike: TypeAlias = str | os.PathLike[str] | Journal | None
"""What ``journal=`` takes: a path, an address, a journal, or None for none."""

_JOURNAL_METHODS = ("plan", "send", "move", "find")  # by which a journal is recognised


def check_journal(given: JournalLike) -> None:
    """Refuse what can't be a journal.

    Raises:
        InputError: It is neither a path nor the address of a PostgreSQL database nor a journal.
    """
    if isinstance(given, str | os.PathLike):
        _check_address(given)
        check_journal_path("journal", given)
    elif given is not None:
        check_offers("journal", given, _JOURNAL_METHODS, "a path or a Journal")


def _check_address(given: str | os.PathLike[str]) -> None:
    """Refuse a URL that does not lead to PostgreSQL: as a path, it would become a new file.

    Raises:
        InputError: It is one; the error does not show it, as it may hold a password.
    """
    if isinstance(given, str) and "://" in given and not given.startswith(POSTGRES):
        raise InputError(
            "journal= is a URL, but not one of a PostgreSQL database",
            field="journal",
            limit="a path, or postgresql://…",
            hint="write it like postgresql://host/database, without the name of a driver",
        )


async def open_journal(given: JournalLike, clock: Clock, *, verify_remote: bool) -> Journal:
    """Return the journal that *given* names, or is; one in memory for None."""
    if given is None:
        return MemoryJournal()
    if not isinstance(given, str | os.PathLike):
        return given
    if isinstance(given, str) and given.startswith(POSTGRES):
        from comet_async.postgres import PostgresJournal  # noqa: PLC0415 - an extra

        return await PostgresJournal.open(given, clock=clock, verify_remote=verify_remote)
    return await SqliteJournal.open(Path(given), clock=clock, verify_remote=verify_remote)


def is_of(journal: JournalLike, folder: Root) -> bool:
    """Return True if *journal* is *folder*'s own, and so can move with it."""
    if isinstance(folder, str):
        return False
    path = journal if isinstance(journal, str | os.PathLike) else getattr(journal, "path", None)
    if isinstance(path, str) and path.startswith(POSTGRES):
        return False
    return path is not None and os.path.realpath(path) == os.path.realpath(folder / JOURNAL_NAME)


def root_of(journal: Journal) -> Path:
    """Return what the destinations in *journal* are relative to."""
    path = getattr(journal, "path", None)
    if path is not None and Path(path).parts[-2:] == JOURNAL_NAME.parts:
        return Path(path).parent.parent
    return Path("/")  # a journal that serves several folders names them in full


def folder_journal(root: Path | None, *, dry: bool) -> Path | None:
    """Return where the journal of the folder *root* is; None keeps it in memory."""
    path = None if root is None else root / JOURNAL_NAME
    return None if path is None or (dry and not path.exists()) else path


def identity_of(path: Path | None) -> str:
    """Return what tells journals apart; one in memory is like no other."""
    return secrets.token_hex(8) if path is None else os.path.realpath(path)
