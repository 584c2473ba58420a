"""PGQueuer's queue next to a journal: its tables, and what is put into it."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Self

import attrs

try:
    from pgqueuer.adapters.drivers.psycopg import PsycopgDriver
    from pgqueuer.adapters.persistence.qb import (
        QueryBuilderEnvironment,
        QueryQueueBuilder,
        QuerySchedulerBuilder,
    )
    from pgqueuer.adapters.persistence.queries import Queries, SyncQueries
    from pgqueuer.domain.settings import DBSettings
    from pgqueuer.domain.types import Channel
    from pgqueuer.ports.driver import Driver, SyncDriver
except ImportError as _error:
    from comet_async.errors import MissingExtraError

    raise MissingExtraError("a fleet needs PGQueuer", extra="fleet") from _error

from comet_async._journal.records import JobRecord, NewJob
from comet_async._runs.recording import can_be_run
from comet_async.postgres import PostgresConnection, PostgresJournal

_HELD_INDEX = "comet_async_held"
_AGAIN = " again"  # marks the second entry of a key


def entry_point(account: str) -> str:
    """Return the queue's name for the jobs of *account*: workers take only those of their own."""
    return f"comet_async.{account}"


@attrs.frozen
class _Driver(SyncDriver):
    """Runs PGQueuer's statements in a transaction of the journal."""

    db: PostgresConnection

    def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """Run a statement, and return its rows."""
        return self.db.fetch(query, *args)


@attrs.frozen(kw_only=True)
class Queue:
    """The queue next to a journal.

    Attributes:
        journal: The journal.
        settings: Where the queue's tables are.
        statements: PGQueuer's statements for them.
    """

    journal: PostgresJournal
    settings: DBSettings
    statements: QueryQueueBuilder

    @classmethod
    def of(cls, journal: PostgresJournal) -> Self:
        """Return the queue of *journal*, whose tables may not exist yet."""
        # A channel belongs to the whole database, so each journal has its own. A name has 63
        # bytes at most.
        digest = hashlib.sha256(journal.schema.encode()).hexdigest()[:16]
        settings = DBSettings(db_schema=journal.schema, channel=Channel(f"pgqueuer_{digest}"))
        return cls(journal=journal, settings=settings, statements=QueryQueueBuilder(settings))

    @classmethod
    async def open(cls, journal: PostgresJournal) -> Self:
        """Return the queue of *journal*; its tables are created if they do not exist.

        Raises:
            JournalError: They can't be used or created.
        """
        queue = cls.of(journal)
        await journal.transaction(queue.install)
        return queue

    def install(self, db: PostgresConnection) -> None:
        """Create the tables if they do not exist."""
        if self._exists(db, _HELD_INDEX):
            return
        # One process at a time, even when many start at once.
        db.rows("SELECT pg_advisory_xact_lock(hashtext(%s))", self.settings.channel)
        if not self._exists(db, self.settings.queue_table):
            schema = QueryBuilderEnvironment(self.settings)
            db.fetch(schema.build_install_query(create_schema=False))
            # Each entry is written several times and then deleted.
            table = self.settings.queue_table
            db.run(f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02)")
        # PGQueuer finds failed entries by reading the whole table.
        db.run(
            f"CREATE INDEX IF NOT EXISTS {_HELD_INDEX} ON {self.settings.queue_table}"
            " (dedupe_key) WHERE status = 'failed'"
        )

    async def upgrade(self) -> None:
        """Bring PGQueuer's tables up to date, as ``pgq upgrade`` does.

        Raises:
            JournalError: They can't be changed.
        """
        async with self.journal.connection() as db:
            await self.queries(PsycopgDriver(db)).upgrade()

    def _exists(self, db: PostgresConnection, name: str) -> bool:
        found = db.row("SELECT to_regclass(%s) IS NOT NULL", f"{self.settings.db_schema}.{name}")
        return found == (True,)

    def queries(self, driver: PsycopgDriver) -> Queries:
        """Return the queue as PGQueuer's own worker uses it."""
        return Queries(
            driver,
            qbe=QueryBuilderEnvironment(self.settings),
            qbq=self.statements,
            qbs=QuerySchedulerBuilder(self.settings),
        )

    async def uncount(self, driver: Driver, entry: int) -> None:
        """Count one attempt less for an entry that this worker holds."""
        table = self.settings.queue_table
        await driver.execute(
            f"UPDATE {table} SET attempts = attempts - 1 WHERE id = $1::bigint",  # noqa: S608 - not a value
            entry,
        )

    async def sizes(self) -> Counter[str]:
        """Return the number of entries by status; empty if the queue does not exist."""

        def count(db: PostgresConnection) -> Counter[str]:
            found: Counter[str] = Counter()
            if self._exists(db, self.settings.queue_table):
                for each in SyncQueries(_Driver(db), qbq=self.statements).queue_size():
                    found[each.status] += each.count
            return found

        return await self.journal.transaction(count)

    async def put(self, jobs: Sequence[NewJob], priority: int) -> tuple[list[JobRecord], set[str]]:
        """Plan *jobs* and queue the keys of those that a worker can bring to a result.

        Both happen in one transaction.

        Returns:
            The records of the jobs in their order, and the keys that were not queued before.

        Raises:
            CometError: One of them contradicts the journal, or the journal can't be used.
        """
        queued: set[str] = set()

        def enqueue(db: PostgresConnection, records: list[JobRecord]) -> None:
            queued.clear()  # the transaction may be repeated
            known = zip(jobs, records, strict=True)
            waiting = [record for job, record in known if can_be_run(job, record)]
            queued.update(self._enqueue(db, waiting, priority))

        records = await self.journal.plan_with(jobs, enqueue, now=time.time())
        return records, queued

    def _enqueue(
        self, db: PostgresConnection, records: Sequence[JobRecord], priority: int
    ) -> set[str]:
        """Queue the keys of *records* unless they are queued; return those that were not."""
        accounts = {record.key: record.account for record in records}
        again = self._requeue(db, accounts)
        keys = [key for key in accounts if key not in again]
        if not keys:
            return again

        def add(keys: Sequence[str], mark: str = "") -> set[str]:
            ids = SyncQueries(_Driver(db), qbq=self.statements).enqueue(
                [entry_point(accounts[key]) for key in keys],
                [key.encode() for key in keys],
                [priority] * len(keys),
                dedupe_key=[f"{key}{mark}" for key in keys],
                on_conflict="skip",
            )
            return {key for key, entry in zip(keys, ids, strict=True) if entry is not None}

        added = add(keys)
        if missed := self._missed(db, [key for key in keys if key not in added]):
            add(missed, _AGAIN)
        return again | added

    def _missed(self, db: PostgresConnection, keys: Collection[str]) -> list[str]:
        """Return those of *keys* that got another destination now and that a worker has.

        It may have read already where their results belong.
        """
        table = self.settings.queue_table
        query = (
            f"SELECT dedupe_key FROM {table} WHERE status = 'picked'"  # noqa: S608 - not a value
            " AND dedupe_key = ANY(%s::text[]) AND EXISTS (SELECT FROM job JOIN destination ON"
            " job.id = destination.job WHERE job.key = dedupe_key"
            " AND destination.xmin = pg_current_xact_id()::xid)"
        )
        return [row[0] for row in db.rows(query, list(keys))] if keys else []

    def _requeue(self, db: PostgresConnection, keys: Collection[str]) -> set[str]:
        """Queue again the failed entries of *keys*, unless the key has a newer entry."""
        table = self.settings.queue_table
        query = (
            f"SELECT dedupe_key, max(id) FROM {table} AS held"  # noqa: S608 - not a value
            " WHERE status = 'failed' AND dedupe_key = ANY(%s::text[]) AND NOT EXISTS ("
            f"SELECT FROM {table} AS entry WHERE entry.dedupe_key = held.dedupe_key"
            " AND entry.status IN ('queued', 'picked')) GROUP BY dedupe_key"
        )
        failed: dict[str, int] = dict(db.rows(query, list(keys)))
        gone = f"DELETE FROM {table} WHERE status = 'failed' AND dedupe_key = ANY(%s::text[])"  # noqa: S608 - not a value
        db.run(gone, [f"{key}{_AGAIN}" for key in keys])
        if failed:
            db.fetch(self.statements.build_requeue_jobs_query(), list(failed.values()))
        return set(failed)
