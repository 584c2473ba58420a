"""Opening the journal's database: checking it, migrating it, and what its errors mean."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import attrs

from comet_async._journal import sql
from comet_async._journal.lockfile import (
    FileLock,
    FileWatch,
    Mark,
    lost,
    make_file,
    make_folder,
    on_network,
)
from comet_async._journal.rows import RECOVER
from comet_async.errors import JournalCorruptError, JournalError

# How long a commit waits for a tool of the user's that holds the file, seconds. (SQLite's own
# tools hold it for milliseconds.)
_BUSY_TIMEOUT = 5.0
_EVENTS_KEPT = 365 * 86400.0  # seconds
# Rows written after which old events are dropped again: a service may run for years.
_ROWS_BETWEEN = 10_000
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# The second one: there was no space for the index of the write-ahead log, 32 KiB.
_NO_SPACE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
# How thoroughly a file is checked when it is opened, by its size in bytes: a check reads all of it.
# The first one also finds an index that disagrees with its table, so that a flipped bit in a key
# can't hide a job that was paid. (About 10,000 and 40,000 jobs, each 0.2 s. In a larger file,
# SQLite checks each page that is read.)
_CHECKED_WELL = 16 * 2**20
_CHECKS = {"integrity_check": _CHECKED_WELL, "quick_check": 64 * 2**20}

_PRAGMAS = (
    # FULL: NORMAL survives a crash of the process, but a power cut may take the last commits,
    # and those are the record that something was paid. https://sqlite.org/pragma.html#pragma_synchronous
    "synchronous = FULL",
    # On macOS fsync leaves data in the drive's cache. https://sqlite.org/pragma.html#pragma_fullfsync
    "fullfsync = ON",
    "checkpoint_fullfsync = ON",
)
# Bytes of the cache: at first, and of a large journal. A run over finished work looks keys up in no
# order: the index over 100,000 keys (4.5 MiB) should stay there, beside pages that are read once.
_CACHE = 8 * 2**20
_CACHE_OF_LARGE = 10 * 2**20


class Connection(sqlite3.Connection):
    """A connection that owns the lock on its file and notices when the file is lost.

    Attributes:
        path: The file; None for a copy that nothing else can reach.
        watch: Watches the files; None for such a copy.
        gap: How many sends of the journal this database lacks, because it is an older copy.
    """

    path: Path | None = None
    watch: FileWatch | None = None
    gap: int = 0
    _changes_before: int = -1
    _dropped_at: int = 0  # rows written when old events were dropped last

    @property
    def writes(self) -> int:
        """Rows written so far."""
        return self.total_changes

    def begin(self, *, writing: bool = True) -> None:
        """Begin a transaction, the same for reading and writing: there is only one writer."""
        del writing
        if self.watch is not None:
            self.watch.look()
        self.execute("BEGIN IMMEDIATE")
        self._changes_before = self.total_changes

    def check_complete(self) -> None:
        """Check that the database still is what is on the disk.

        Raises:
            JournalLostError: Its files were removed, replaced or truncated.
        """
        if self.watch is not None:
            self.watch.check()

    def finish(self) -> None:
        """Commit; then update the mark outside the database if something was sent."""
        if self.watch is None or self.total_changes == self._changes_before:
            self.execute("COMMIT")
            return
        if self.total_changes - self._dropped_at >= _ROWS_BETWEEN:
            self._dropped_at = self.total_changes
            sql.drop_events(self, kept=_EVENTS_KEPT)
        mark = sql.read_mark(self)
        self.execute("COMMIT")
        self.watch.record(attrs.evolve(mark, sends=mark.sends + self.gap))

    def rollback(self) -> None:
        """Undo the transaction, if it was not ended by SQLite itself, as a full disk may."""
        if self.in_transaction:
            self.execute("ROLLBACK")

    def again(self, error: Exception) -> bool:  # noqa: ARG002 - of the protocol
        """Return False: what failed once fails again."""
        return False

    def translated(self, error: Exception) -> Exception:
        """Return what the caller sees of *error*."""
        return error if self.path is None else translated(self.path, error)

    def close(self) -> None:
        """Close the database and release the lock."""
        super().close()
        if self.watch is not None:
            self.watch.lock.release()


def connect(database: str, *, uri: bool = False) -> Connection:
    """Open the SQLite file *database*; transactions begin and end only where we say so."""
    db = sqlite3.connect(
        database, timeout=_BUSY_TIMEOUT, isolation_level=None, factory=Connection, uri=uri
    )
    db.execute("PRAGMA foreign_keys = ON")
    return db


def open_journal(path: Path, boot: str, now: float, *, verify_remote: bool) -> Connection:
    """Create, lock and open the journal at *path*; what fails leaves nothing open.

    *verify_remote* opens a database although it is older than what was sent.

    Raises:
        JournalError: It can't be used; the subclass says why.
    """
    make_folder(path.parent)
    lock = FileLock(path)
    with contextlib.ExitStack() as undo:
        undo.callback(lock.release)
        if lock.mark is not None and lock.mark.sends and not verify_remote and not path.exists():
            raise lost(f"{path} was removed")  # before an empty one is made in its place
        make_file(path)
        try:
            db = undo.enter_context(contextlib.closing(connect(str(path))))
            _configure(db, path)
            db.execute("BEGIN IMMEDIATE")
            migrate(db)
            db.gap = _gap(db, lock.mark)
            if db.gap and not verify_remote:
                raise lost(f"the journal {path} is older than what was sent")
            _take_over(db, lock.mark, boot, now)
            undo.pop_all()
            undo.callback(db.close)
            db.path, db.watch = path, FileWatch(lock)
            db.finish()
        except sqlite3.Error as error:
            raise translated(path, error) from error
        undo.pop_all()
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
    extended = getattr(error, "sqlite_errorcode", 0)
    code = extended & 0xFF
    if code in _CORRUPT:
        seen: JournalError = _corrupt(path, str(error))
    else:
        seen = JournalError(
            f"the journal {path} can't be used: {error}",
            hint="free some space on its disk" if {code, extended} & _NO_SPACE else None,
            retryable=isinstance(error, sqlite3.OperationalError),
        )
    seen.__cause__ = error
    return seen


def trust(db: Connection) -> None:
    """Declare that nothing is missing any more, although the database is older than its mark."""
    mark = sql.read_mark(db)
    sql.write_mark(db, attrs.evolve(mark, sends=mark.sends + db.gap))
    db.gap = 0


def lacks_jobs(db: Connection) -> bool:
    """Return True if the database is older than what was sent."""
    return db.gap > 0


def found_all(db: Connection) -> bool:
    """Return True if as many tasks as the database lacks were found without being sent by it."""
    query = "SELECT COUNT(*) FROM job WHERE attempt = 0 AND task_id IS NOT NULL"
    ((found,),) = db.execute(query)
    return bool(found >= db.gap)


def _gap(db: Connection, mark: Mark | None) -> int:
    """Return how many of the sends that *mark* counts are not in the database."""
    if mark is None:
        return 0  # a copy without its lock file, or a journal of an earlier version
    known = sql.read_mark(db)
    return max(0, mark.sends - known.sends) if known.journal == mark.journal else mark.sends


def _take_over(db: Connection, mark: Mark | None, boot: str, now: float) -> None:
    """Continue what an earlier opening left behind."""
    if mark is not None:
        sql.write_mark(db, attrs.evolve(sql.read_mark(db), journal=mark.journal))
    if db.gap:
        sql.forget_attempts(db)
    sql.drop_events(db, kept=_EVENTS_KEPT)
    sql.lose_sending(db, boot, now)


def _configure(db: sqlite3.Connection, path: Path) -> None:
    """Check that the file is a journal, and set how it is written."""
    size, cache = path.stat().st_size, _CACHE_OF_LARGE
    if size <= _CHECKED_WELL:
        # The check follows the rows: it would read the indexes' pages again and again. All of it is
        # then there for the run. With space to grow, as a few pages too few undo it.
        cache = max(_CACHE, size + 2**20)
    (page,) = db.execute("PRAGMA page_size").fetchone()
    db.execute(f"PRAGMA cache_size = {cache // page}")
    _check(db, path, size)
    db.execute(f"PRAGMA journal_mode = {'TRUNCATE' if on_network(path.parent) else 'WAL'}")
    for pragma in _PRAGMAS:
        db.execute(f"PRAGMA {pragma}")


def _check(db: sqlite3.Connection, path: Path, size: int) -> None:
    version, (tables,) = _version(db), db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not version and not tables:
        return  # made a moment ago
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    if application_id != sql.APPLICATION_ID:
        raise JournalError(f"{path} is the database of another program, not a journal")
    if version > len(sql.MIGRATIONS):
        raise JournalError(
            f"the journal {path} was written by a newer comet_async",
            hint="upgrade comet_async, or choose another file",
        )
    for check, limit in _CHECKS.items():
        if size <= limit:
            (verdict,) = db.execute(f"PRAGMA {check}(1)").fetchone()
            if verdict != "ok":
                raise _corrupt(path, verdict)
            return


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _corrupt(path: Path, what: str) -> JournalCorruptError:
    return JournalCorruptError(f"the journal {path} is damaged: {what}", hint=RECOVER)
