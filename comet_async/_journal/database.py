"""Opening the journal's database: checking it, migrating it, and what its errors mean."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from comet_async._journal import sql
from comet_async._journal.lockfile import FileLock, make_file, make_folder, on_network
from comet_async.errors import JournalCorruptError, JournalError

# How long a commit waits for a tool of the user's that holds the file, seconds. (SQLite's own
# tools hold it for milliseconds.)
_BUSY_TIMEOUT = 5.0
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PRAGMAS = (
    # FULL: NORMAL survives a crash of the process, but a power cut may take the last commits,
    # and those are the record that something was paid. https://sqlite.org/pragma.html#pragma_synchronous
    "synchronous = FULL",
    # On macOS fsync leaves data in the drive's cache. https://sqlite.org/pragma.html#pragma_fullfsync
    "fullfsync = ON",
    "checkpoint_fullfsync = ON",
)


class Connection(sqlite3.Connection):
    """A connection that may own the lock on its file."""

    lock: FileLock | None = None

    def close(self) -> None:
        """Close the database and release the lock."""
        super().close()
        if self.lock is not None:
            self.lock.release()


def connect(database: str, *, uri: bool = False) -> Connection:
    """Open the SQLite file *database*; transactions begin and end only where we say so."""
    db = sqlite3.connect(
        database, timeout=_BUSY_TIMEOUT, isolation_level=None, factory=Connection, uri=uri
    )
    db.execute("PRAGMA foreign_keys = ON")
    return db


def open_journal(path: Path, boot: str, now: float) -> Connection:
    """Create, lock and open the journal at *path*; what fails leaves nothing open.

    Raises:
        JournalError: It can't be used; the subclass says why.
    """
    make_folder(path.parent)
    lock = FileLock(path)
    with contextlib.ExitStack() as undo:
        undo.callback(lock.release)
        make_file(path)
        try:
            db = undo.enter_context(contextlib.closing(connect(str(path))))
            _prepare(db, path, boot, now)
        except sqlite3.Error as error:
            raise translated(path, error) from error
        undo.pop_all()
        db.lock = lock
    return db


def migrate(db: sqlite3.Connection) -> None:
    """Bring the open transaction's schema up to date."""
    for step in sql.MIGRATIONS[_version(db) :]:
        for statement in step:
            db.execute(statement)
    db.execute(f"PRAGMA application_id = {sql.APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {len(sql.MIGRATIONS)}")


def translated(path: Path, error: Exception) -> Exception:
    """Return what the caller sees of *error*."""
    if not isinstance(error, sqlite3.Error):
        return error
    # The lowest byte is the primary code. https://sqlite.org/rescode.html
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _CORRUPT:
        seen: JournalError = _corrupt(path, str(error))
    else:
        temporary = isinstance(error, sqlite3.OperationalError)
        seen = JournalError(f"the journal {path} can't be used: {error}", retryable=temporary)
    seen.__cause__ = error
    return seen


def _prepare(db: sqlite3.Connection, path: Path, boot: str, now: float) -> None:
    """Check that the file is a journal, migrate it, and take over what was being sent."""
    _check(db, path)
    db.execute(f"PRAGMA journal_mode = {'TRUNCATE' if on_network(path.parent) else 'WAL'}")
    for pragma in _PRAGMAS:
        db.execute(f"PRAGMA {pragma}")
    db.execute("BEGIN IMMEDIATE")
    migrate(db)
    sql.lose_sending(db, boot, now)
    db.execute("COMMIT")


def _check(db: sqlite3.Connection, path: Path) -> None:
    version, (tables,) = _version(db), db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not version and not tables:
        return  # made a moment ago
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    if application_id != sql.APPLICATION_ID:
        raise JournalError(f"{path} is the database of another program, not a journal")
    if version > len(sql.MIGRATIONS):
        raise JournalError(
            f"the journal {path} was written by a newer comet_async",
            hint="upgrade comet_async, or choose another output folder",
        )
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _corrupt(path, verdict)


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _corrupt(path: Path, what: str) -> JournalCorruptError:
    return JournalCorruptError(f"the journal {path} is damaged: {what}", hint=sql.RECOVER)
