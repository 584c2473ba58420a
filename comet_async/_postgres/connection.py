"""The connection that a journal writes through: it survives the loss of its server.

A connection may break at any moment. Before a commit, nothing was written, and the whole
transaction is done again. During a commit, the outcome is unknown; so each one that writes leaves a
mark, and afterwards, once the transaction with its number has ended, the mark tells what became of
it. The number alone would not: a server that crashed gives the numbers again that had not reached
its disk, and then another transaction may have been committed under this one.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import attrs

try:
    import psycopg
    from psycopg import conninfo, pq, sql as names
    from psycopg.rows import dict_row
except ImportError as _error:
    from comet_async.errors import MissingExtraError

    raise MissingExtraError("a journal in PostgreSQL needs psycopg", extra="postgres") from _error

from comet_async._postgres.text import decode, encode
from comet_async.clock import Clock
from comet_async.errors import InputError, JournalError, JournalLostError

logger = logging.getLogger("comet_async.journal")

Row: TypeAlias = tuple[Any, ...]
T = TypeVar("T")

DatabaseError = psycopg.Error
"""Whatever the driver raises, for modules that do not import it."""

# After waiting for a lock, a statement must see what was committed meanwhile, whatever the
# database's default is.
_ISOLATION = "SET default_transaction_isolation = 'read committed'"

_SLACK = 5.0
"""Seconds by which a machine's clock may differ from the database's without being corrected."""

_CONNECT = 10  # seconds for one attempt
_CONNECT_HURRIED = 3  # the same while closing
_PAUSE = 0.2  # seconds between two attempts
_MARK = "commit "  # and a name of the writer's: what its last transaction left in `meta`
_TROUBLE = 3  # attempts without a server: one that only dropped a connection answers the second

# A transaction that met another one; PostgreSQL has undone it, and it can be done again.
_COLLISIONS = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
# Met where nothing can be written; the second one by `check_identity`, at a replica.
_READ_ONLY = (
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.ObjectNotInPrerequisiteState,
)
# What waiting does not change: who may connect (SQLSTATE class 28), and to which database (3D). A
# connection that fails has no SQLSTATE, only the server's words; where they are in another
# language, it is tried again as after an outage.
_REFUSED = re.compile(
    r"authentication failed for user|pg_hba\.conf (entry|rejects)|no password supplied"
    r"|valid client certificate|role \".*\" (does not exist|is not permitted to log in)"
    r"|database \".*\" does not exist"
)
# The server gave up this client, which had stopped within a transaction: see `Target.stall`.
_STALLED = psycopg.errors.IdleInTransactionSessionTimeout
# Undone, and may pass later: another transaction or a full disk was in the way, or an
# administrator's limit. By class, and by the whole state where a class holds others as well.
_PASSING = {"40", "53"}
_CANCELED = {"55P03", "57014", "25P04"}


@attrs.frozen(kw_only=True)
class Target:
    """Which journal, and how it is reached.

    Attributes:
        url: libpq's connection string; may hold a password.
        schema: The schema with the journal's tables.
        patience: Seconds to wait for a server that can't be reached.
        stall: Seconds after which the server gives up a client that stops within a transaction.
        read_only: Have the server refuse whatever writes.
    """

    url: str = attrs.field(repr=False)
    schema: str
    patience: float
    stall: float
    read_only: bool = False

    def __str__(self) -> str:
        try:
            known = conninfo.conninfo_to_dict(self.url)
        except psycopg.Error:
            return "PostgreSQL"
        host, port = known.get("host") or "local socket", known.get("port")
        return f"{known.get('dbname') or 'postgres'} at {host}{f':{port}' if port else ''}"

    @property
    def quoted_schema(self) -> str:
        """The schema's name as it stands in SQL."""
        return names.Identifier(self.schema).as_string()

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "autocommit": True,
            "connect_timeout": _CONNECT,  # of one host
            "application_name": f"comet_async {self.schema}",
            # A server that vanished is noticed in seconds, not hours.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
        }

    async def connect_async(self) -> psycopg.AsyncConnection[Row]:
        """Return a new connection for an event loop; each statement is committed by itself."""
        db = await psycopg.AsyncConnection.connect(self.url, **self._settings)
        try:
            await db.execute(self._search_path())
            await db.execute("SET client_encoding = 'UTF8'")
            await db.execute(_ISOLATION)
        except BaseException:
            await db.close()
            raise
        return db

    def _search_path(self) -> names.Composed:
        return names.SQL("SET search_path = {}, pg_temp").format(names.Identifier(self.schema))

    def connect(self, *, hurried: bool = False) -> psycopg.Connection[Row]:
        """Return a new connection; transactions begin and end only where we say so."""
        settings = self._settings
        if hurried:
            settings["connect_timeout"] = _CONNECT_HURRIED
        db = psycopg.connect(self.url, **settings)
        try:
            db.execute(self._search_path())
            db.execute("SET client_encoding = 'UTF8'")
            db.execute(_ISOLATION)
            # A commit that is not on the disk is no record of a payment.
            db.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') IN ('off', 'local')"
            )
            # Whoever stops in the middle of a transaction must not hold its locks for long.
            stall = f"SET idle_in_transaction_session_timeout = {int(self.stall * 1000)}"
            db.execute(stall.encode())
            if self.read_only:
                db.execute("SET default_transaction_read_only = on")
        except BaseException:
            db.close()
            raise
        return db


def check_address(url: object) -> None:
    """Refuse a connection string that libpq can't read, or in which it takes a password for a host.

    Raises:
        InputError: It is one; the error does not show it, nor what libpq says, which quotes it.
    """
    known: dict[str, Any] | None = None
    if isinstance(url, str):
        with contextlib.suppress(psycopg.Error, UnicodeError):
            known = conninfo.conninfo_to_dict(url)
    if known is None or ("://" in str(url) and _is_misread(known)):
        raise InputError(
            "the database's address can't be read",
            field="url",
            limit="a connection string of libpq's, such as postgresql://host/database",
            hint="write %, @, : and / in a password as %25, %40, %3A and %2F, or put it into "
            "PGPASSFILE or PGPASSWORD",
        )


def _is_misread(known: Mapping[str, Any]) -> bool:
    """Return True if a part of a password seems to have become the host, the port or the name."""
    # A socket's address may begin with the sign.
    host, port, name = (str(known.get(each) or "") for each in ("host", "port", "dbname"))
    return "@" in host[1:] or "@" in name or bool(port.strip("0123456789,"))


def is_lost(error: BaseException) -> bool:
    """Return True if *error* means that the connection is gone, or the server is not ready."""
    if isinstance(error, psycopg.errors.QueryCanceled):
        return False
    if isinstance(error, (_STALLED, *_READ_ONLY)):  # psycopg calls few of them operational
        return True
    if isinstance(error, psycopg.OperationalError):
        state = error.sqlstate or ""
        if not state:  # libpq itself could not connect
            return not is_refused(error)
        return state[:2] in {"08", "57"} or state == "53300"  # "too many connections"
    return isinstance(error, psycopg.InterfaceError)


def is_refused(error: psycopg.Error) -> bool:
    """Return True if *error* means that the server refuses this user, password or database.

    Of several hosts, or with and without encryption, all must have said so.
    """
    failures = [
        line for line in str(error).splitlines() if " failed: " in line or "timeout expired" in line
    ]
    return bool(failures) and all(map(_REFUSED.search, failures))


def interrupt(db: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Cut a connection: who waits for the server's answer gets an error; from any thread."""
    gone = contextlib.suppress(OSError, psycopg.Error)
    # A duplicate: it may be closed meanwhile. `os.dup` takes no sockets on Windows; -1: as it is.
    with gone, socket.fromfd(db.fileno(), -1, -1) as end:
        end.shutdown(socket.SHUT_RDWR)


@attrs.define(eq=False)
class PostgresConnection:
    """What operations run on; belongs to one thread.

    Attributes:
        target: Where it leads.
        clock: The machine's clock, which is compared with the database's.
        verify_remote: Use a database although it was restored.
        opened: True once the journal is open: a new connection may lead to another server then.
        shift: Seconds by which the database's clock is ahead of the machine's; 0 if they agree.
        writes: Rows written in this transaction.
        in_flight: By account whose quota this transaction has locked: how many images may be in
            flight, and how many are, with those that it starts itself.
        round_trips: Statements so far.
    """

    target: Target
    clock: Clock
    verify_remote: bool
    opened: bool = attrs.field(default=False, init=False)
    shift: float = attrs.field(default=0.0, init=False)
    writes: int = attrs.field(default=0, init=False)
    in_flight: dict[str, tuple[int, int]] = attrs.field(factory=dict, init=False)
    round_trips: int = attrs.field(default=0, init=False)
    _db: psycopg.Connection[Row] | None = attrs.field(default=None, init=False)
    _number: str | None = attrs.field(default=None, init=False)
    _mark: str = attrs.field(factory=lambda: f"{_MARK}{secrets.token_hex(8)}", init=False)
    _commits: int = attrs.field(default=0, init=False)
    _hurries: int = attrs.field(default=0, init=False)
    _given_up: bool = attrs.field(default=False, init=False)

    # Transactions -----------------------------------------------------------------------

    def begin(self, *, writing: bool) -> None:
        """Begin a transaction; wait for a server that can't be reached at present.

        Raises:
            JournalError: It could not be reached for long, or the session is not the one that this
                connection was set up with.
        """
        self.writes, self._number = 0, None
        self.in_flight.clear()
        writing = writing and not self.target.read_only
        number = "pg_current_xact_id()::text" if writing else "NULL"
        query = (
            f"BEGIN; SELECT {number}, extract(epoch FROM clock_timestamp())::float8,"  # noqa: S608 - a number of ours
            " current_setting('search_path')"
        )
        self._number, now, path = self._patiently(lambda: self._last_row(query))
        if path.replace('"', "") != f"{self.target.schema}, pg_temp":
            self.rollback()
            raise JournalError(
                f"the journal {self.target} is reached by a pooler that switches sessions between"
                " transactions",
                hint="nothing was written: connect to the server itself, or have the pooler keep"
                " sessions (PgBouncer: pool_mode = session)",
            )
        try:
            shift = now - self.clock.time()
        except RuntimeError:  # a test's clock that exists in an event loop only
            shift = 0.0
        self.shift = shift if abs(shift) > _SLACK else 0.0

    def _last_row(self, query: str) -> Row:
        self.round_trips += 1
        cursor = self._connected().execute(query.encode())
        while cursor.nextset():
            pass
        row = cursor.fetchone()
        if row is None:
            raise AssertionError
        return row

    def finish(self) -> None:
        """Commit.

        Raises:
            psycopg.Error: It was not committed.
        """
        db = self._connected()
        self.round_trips += 1
        marked = self.opened and self._number is not None and self.writes > 0
        try:
            db.execute(f"{self._leave_mark()}; COMMIT".encode() if marked else b"COMMIT")
        except psycopg.Error as error:
            if not is_lost(error) or not marked or not self._was_committed():
                raise

    def _leave_mark(self) -> str:
        """Return the statement that leaves this transaction's mark, with the time."""
        self._commits += 1
        value = f"'{self._commits} ' || extract(epoch FROM clock_timestamp())::bigint"
        # As text, for two statements at once take no values; both are ours.
        return _REMEMBER % (f"'{self._mark}'", value)

    def _was_committed(self) -> bool:
        """Return whether the transaction whose commit got no answer took place."""
        while self._patiently(self._is_in_progress):
            time.sleep(_PAUSE)  # the server has not noticed yet that the client is gone
        query = "SELECT value FROM meta WHERE name = %s"
        row = self._patiently(lambda: self._connected().execute(query, (self._mark,)).fetchone())
        return row is not None and row[0].partition(" ")[0] == str(self._commits)

    def _is_in_progress(self) -> bool:
        query = "SELECT pg_xact_status(%s::xid8)"
        try:
            row = self._connected().execute(query, (self._number,)).fetchone()
        except psycopg.errors.InvalidParameterValue:  # "in the future": the server has crashed
            return False
        return row == ("in progress",)

    def drop_marks(self, *, kept: float) -> None:
        """Forget the marks of those that have written nothing for *kept* seconds."""
        self.run(
            f"DELETE FROM meta WHERE CASE WHEN starts_with(name, '{_MARK}') THEN"  # noqa: S608 - ours
            " split_part(value, ' ', 2)::bigint < extract(epoch FROM clock_timestamp()) - %s"
            " ELSE false END",
            kept,
        )

    def rollback(self) -> None:
        """Undo the transaction, if one is open."""
        db = self._db
        if db is None or db.closed:
            return
        if db.info.transaction_status == pq.TransactionStatus.IDLE:
            return
        try:
            db.execute("ROLLBACK")
        except psycopg.Error:
            db.close()

    def again(self, error: Exception) -> bool:
        """Return True if the transaction that met *error* was undone and can be done again."""
        if self._given_up or isinstance(error, _READ_ONLY):  # it would be met again at once
            return False
        return self._is_lost(error) or isinstance(error, _COLLISIONS)

    def _is_lost(self, error: Exception) -> bool:
        # Elsewhere it means that this server is a replica, perhaps only for now.
        asked_for = self.target.read_only and isinstance(error, _READ_ONLY)
        return is_lost(error) and not asked_for

    def translated(self, error: Exception) -> Exception:
        """Return what the caller sees of *error*: nothing that may hold a password."""
        if not isinstance(error, psycopg.Error):
            return error
        text = error.diag.message_primary or str(error).partition("\n")[0]
        hint = "nothing was lost: what was written stays; look at the server's log"
        if not self.opened and self._is_lost(error):
            hint = "check the database's address, and that its server is running"
        if is_refused(error):
            hint = "check the user, the password and the database's name; waiting would not help"
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            hint = "grant this role the rights on the journal's schema"
        if self.target.read_only and isinstance(error, _READ_ONLY):
            hint = "open it without read_only=True"
        state = error.sqlstate or ""
        passing = state[:2] in _PASSING or state in _CANCELED
        return JournalError(
            f"the journal {self.target} can't be used: {text}",
            retryable=passing or self._is_lost(error),
            hint=hint,
        )

    def close(self) -> None:
        """Close it."""
        if self._db is not None:
            self._db.close()

    def hurry(self) -> None:
        """Wait no longer for a server that can't be reached, until as many calls of `calm`."""
        self._hurries += 1

    def calm(self) -> None:
        """Wait again."""
        self._hurries -= 1
        self._given_up = False

    def interrupt(self) -> None:
        """Give up the answer that is waited for, from any thread: it is as if it was lost."""
        self._given_up = True
        if (db := self._db) is not None:
            interrupt(db)

    # The server -------------------------------------------------------------------------

    def _connected(self) -> psycopg.Connection[Row]:
        if self._db is None or self._db.closed:
            self._db = self.target.connect(hurried=self._hurries > 0)
            try:
                if self.opened:
                    check_identity(self, verify_remote=self.verify_remote)
            except BaseException:
                self._db.close()
                raise
        return self._db

    def _patiently(self, work: Callable[[], T]) -> T:
        """Do *work*, which does nothing twice, until the server answers.

        Raises:
            psycopg.Error: It refused, or could not be reached for long.
        """
        until = time.monotonic() + self.target.patience
        for attempt in itertools.count(1):
            fresh = self._db is None or self._db.closed  # an old one may have been cut long ago
            try:
                return work()
            except psycopg.Error as error:
                if self._db is not None:
                    self._db.close()
                lasting = time.monotonic() > until or (self._hurries > 0 and fresh)
                if lasting or not is_lost(error):
                    raise
                if attempt == _TROUBLE:
                    logger.warning(
                        "the journal %s can't be reached: %s; retrying for %g s",
                        self.target,
                        str(error).partition("\n")[0],
                        self.target.patience,
                    )
            time.sleep(_PAUSE)
        raise AssertionError

    # Statements -------------------------------------------------------------------------

    def run(self, query: str, *values: object) -> int:
        """Write; return the number of rows."""
        self.round_trips += 1
        cursor = self._connected().execute(query.encode(), _encoded(values))
        self.writes += max(0, cursor.rowcount)
        return cursor.rowcount

    def rows(self, query: str, *values: object, writing: bool = False) -> list[Row]:
        """Return the rows of a query."""
        self.round_trips += 1
        cursor = self._connected().execute(query.encode(), _encoded(values))
        found = [tuple(map(_decoded, row)) for row in cursor.fetchall()]
        if writing:
            self.writes += len(found)
        return found

    def fetch(self, query: str, *values: object) -> list[dict[str, object]]:
        """Run a statement with the server's own placeholders ($1, $2, ...); return its rows.

        Without values there may be several statements.
        """
        self.round_trips += 1
        self.writes += 1  # it is not known whether it writes
        cursor = psycopg.RawCursor(self._connected(), row_factory=dict_row)
        cursor.execute(query.encode(), _encoded(values) or None)
        if cursor.description is None:
            return []
        return [{name: _decoded(each) for name, each in row.items()} for row in cursor.fetchall()]

    def row(self, query: str, *values: object, writing: bool = False) -> Row | None:
        """Return the first row of a query, or None."""
        return next(iter(self.rows(query, *values, writing=writing)), None)


def _encoded(values: Sequence[object]) -> list[object]:
    return [_encode(value) for value in values]


def _encode(value: object) -> object:
    if isinstance(value, str):
        return encode(value)
    return [_encode(each) for each in value] if isinstance(value, list) else value


def _decoded(value: object) -> object:
    return decode(value) if isinstance(value, str) else value


def check_identity(db: PostgresConnection, *, verify_remote: bool) -> None:
    """Notice a database that was restored: what was sent since the backup is missing from it.

    A restore, and a switch to a replica that may have lagged, begins another timeline; a dump that
    was loaded is in another cluster, or in other tables.

    Raises:
        JournalLostError: It was, and *verify_remote* is not set.
    """
    found = {name: value for name, value in identity(db).items() if value is not None}
    query = "SELECT name, value FROM meta WHERE name = ANY(%s::text[])"
    known: dict[str, str] = dict(db.rows(query, [*found, _SEEN]))
    if all(known.get(name, value) == value for name, value in found.items()):
        for name in found.keys() - known.keys():
            db.run(_REMEMBER, name, found[name])
        return
    if not verify_remote:
        raise JournalLostError(
            f"the journal {db.target} is in another cluster, on another timeline or in other"
            " tables than before: it was restored, or a replica has taken over; what was sent"
            " last may be missing from it",
            hint="nothing more is sent; use verify_remote=True, so that each job is looked up on "
            "the server before it is sent",
        )
    _forget_attempts(db, known.get(_SEEN), found)


def _forget_attempts(db: PostgresConnection, seen: str | None, found: dict[str, str]) -> None:
    """Once after a restore: mark what could be sent again as never sent, so that it is looked up.

    In an older copy of a journal, a job may be ``planned`` that has been accepted since.
    """
    now = " ".join(found[name] for name in sorted(found))
    if seen != now:
        db.run(
            "UPDATE job SET attempt = 0, fence = fence + 1"
            " WHERE attempt > 0 AND state IN ('planned', 'rejected')"
        )
        db.run(_REMEMBER, _SEEN, now)


def identity(db: PostgresConnection) -> dict[str, str | None]:
    """Return where the journal is: the cluster and its timeline, None if secret; the tables.

    A dump that is loaded gets other tables, and a database that is copied has another number.
    """
    table = db.row(
        "SELECT oid || '/' || 'job'::regclass::oid FROM pg_database WHERE datname ="
        " current_database()"
    )
    return {_CLUSTER: _cluster(db), _TABLES: None if table is None else str(table[0])}


def _cluster(db: PostgresConnection) -> str | None:
    allowed = db.row("SELECT has_function_privilege('pg_control_system()', 'execute')")
    if allowed != (True,):
        return None
    row = db.row(
        "SELECT system_identifier || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)"
        " FROM pg_control_system()"
    )
    return None if row is None else str(row[0])


def remember_identity(db: PostgresConnection) -> None:
    """Declare that nothing is missing from the database as it is now."""
    for name, value in identity(db).items():
        if value is not None:
            db.run(_REMEMBER, name, value)


_CLUSTER, _TABLES = "identity", "tables"
_SEEN = "restored"  # where it was when it was opened after a restore
_REMEMBER = (
    "INSERT INTO meta (name, value) VALUES (%s, %s)"
    " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
