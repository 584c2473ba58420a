"""The journal and its server: connections that break, databases that were restored, rights."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from hypothesis import given, strategies as st
from psycopg import sql

from comet_async._journal.records import JobRecord
from comet_async._journal.states import JobState
from comet_async._postgres import connection, schema as tables, text
from comet_async._postgres.worker import Worker
from comet_async.errors import (
    ForkedSessionError,
    IdempotencyConflictError,
    InputError,
    JournalError,
    JournalLostError,
)
from comet_async.postgres import PostgresConnection, PostgresJournal
from tests.postgres.fleet import Cable
from tests.support import postgres
from tests.support.journal_contract import (
    NOW,
    new_job,
    planned,
    step,
    walked,
)

pytestmark = [pytest.mark.real_loop, pytest.mark.program]

S = JobState
# Where nothing listens.
NOWHERE = "postgresql://user:canary-password@127.0.0.1:1/database"


def run(db: psycopg.Connection[Any], statement: str, **names: str) -> None:
    """Run a statement with names in it."""
    identifiers = {name: sql.Identifier(value) for name, value in names.items()}
    db.execute(sql.SQL(statement).format(**identifiers))  # type: ignore[arg-type]  # our own text


def cut_connections(db: psycopg.Connection[Any], schema: str) -> None:
    """Cut all connections of a journal."""
    db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
        (f"comet_async {schema}",),
    )


# Connections --------------------------------------------------------------------------------


@pytest.mark.failure("F72")
@pytest.mark.parametrize("committed", [True, False])
async def test_a_commit_without_an_answer(
    journal: PostgresJournal, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    """The server is asked what became of it: nothing is done twice, and nothing is left out."""
    job = await planned(journal)
    execute, broken = psycopg.Connection.execute, []

    def breaks(self: psycopg.Connection[Any], query: Any, *args: Any, **more: Any) -> Any:  # noqa: ANN401 - psycopg's signature
        if isinstance(query, bytes) and query.endswith(b"; COMMIT") and not broken:
            broken.append(self)
            if committed:
                execute(self, query, *args, **more)
            self.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return execute(self, query, *args, **more)

    monkeypatch.setattr(psycopg.Connection, "execute", breaks)
    sent = await step(journal, job, S.SENDING)
    assert broken
    assert await journal.get(job.key) == sent
    assert [event.new for event in await journal.events(job.key)] == ["planned", "sending"]


@pytest.mark.failure("F72")
async def test_a_server_that_crashes_during_a_commit() -> None:
    """Its numbers are given again, and what is committed under ours is somebody else's."""
    left = ["before:T2"]

    def crash(seen: str) -> None:
        if seen in left:
            left.remove(seen)
            postgres.restart(server, "immediate")
            with psycopg.connect(server.get_uri(), autocommit=True) as db:
                for _ in range(10):
                    db.execute("SELECT pg_current_xact_id()")

    # What is not committed reaches no disk.
    settings = f"{postgres.SETTINGS}\nwal_writer_delay = 10s\n"
    folder = Path(tempfile.gettempdir()) / f"comet-async-crashes-{os.getpid()}"
    with postgres.server(folder, settings) as server:
        async with await PostgresJournal.open(server.get_uri(), hook=crash) as journal:
            sent = await step(journal, await planned(journal), S.SENDING)
            assert not left
            assert await journal.get(sent.key) == sent


@pytest.mark.failure("F72")
@pytest.mark.parametrize("moment", ["before:T3", "before:T1"])
async def test_a_connection_that_is_cut(database: str, schema: str, moment: str) -> None:
    """What was not committed is done again on a new connection."""
    left = [moment]

    def cut(seen: str) -> None:
        if seen in left:
            left.remove(seen)
            with psycopg.connect(database, autocommit=True) as db:
                cut_connections(db, schema)

    async with await PostgresJournal.open(database, schema=schema, hook=cut) as journal:
        record = await walked(journal, S.SUBMITTED)
        assert not left
        assert await journal.get(record.key) == record
        assert record.state is S.SUBMITTED


@pytest.mark.failure("F72")
async def test_a_client_that_stops_within_a_transaction(database: str, schema: str) -> None:
    """The server ends its session; what was not committed is done again."""
    left = ["before:T3"]

    def stop(seen: str) -> None:
        if seen not in left:
            return
        left.remove(seen)
        query = (
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = %s"
            " AND state = 'idle in transaction')"
        )
        with psycopg.connect(database, autocommit=True) as db:
            while db.execute(query, [f"comet_async {schema}"]).fetchone() == (True,):
                time.sleep(0.05)

    async with await PostgresJournal.open(
        database, schema=schema, heartbeat=1, hook=stop
    ) as journal:
        record = await walked(journal, S.SUBMITTED)
        assert not left
        assert await journal.get(record.key) == record


async def test_a_pooler_that_switches_sessions_is_noticed(journal: PostgresJournal) -> None:
    """Another session may have the tables of another journal in its path, or none."""
    job = await planned(journal)
    await journal.transaction(lambda db: db.run("SET search_path = public"))  # as it would find it
    for _ in range(2):
        with pytest.raises(JournalError, match="pooler"):
            await step(journal, job, S.SENDING)
    db = journal._connection._db
    assert db is not None
    assert db.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


async def test_a_database_that_is_only_read_for_now(
    own_database: str, admin: psycopg.Connection[Any]
) -> None:
    """As a replica is, or one whose disk is full: what is refused may be written later."""
    name = urlsplit(own_database).path[1:]
    async with await PostgresJournal.open(own_database) as journal:
        run(admin, "ALTER DATABASE {name} SET default_transaction_read_only = on", name=name)
        cut_connections(admin, "comet_async")
        with pytest.raises(JournalError, match="read-only") as caught:
            await planned(journal)
        assert caught.value.retryable
        run(admin, "ALTER DATABASE {name} RESET default_transaction_read_only", name=name)
        cut_connections(admin, "comet_async")
        await planned(journal)


async def test_closing_after_the_connection_was_cut(
    database: str, schema: str, admin: psycopg.Connection[Any]
) -> None:
    """Its jobs are free at once, not when its lease ends."""
    journal = await PostgresJournal.open(database, schema=schema)
    job = await planned(journal)
    assert await journal.claim(job.key)
    cut_connections(admin, schema)
    await journal.aclose()
    query = sql.SQL("SELECT owner FROM {}.job").format(sql.Identifier(schema))
    assert admin.execute(query).fetchall() == [(None,)]


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_closing_without_a_server(cable: Cable, schema: str, how: str) -> None:
    """It ends although the server can't be reached, or takes everything and never answers."""
    journal = await PostgresJournal.open(cable.url, schema=schema, patience=600)
    job = await planned(journal)
    getattr(cable, how)()
    claiming = asyncio.create_task(journal.claim(job.key))
    async with asyncio.timeout(60):
        await asyncio.sleep(0.1)
        await journal.aclose()
    with pytest.raises(JournalError):
        await claiming


@pytest.mark.real_loop
async def test_closing_ends_before_its_caller_does_who_is_cancelled_again_and_again(
    cable: Cable, schema: str
) -> None:
    """Else the thread, and with it the process, waited for the server for minutes."""
    journal = await PostgresJournal.open(cable.url, schema=schema, patience=600)
    job = await planned(journal)
    cable.stall()
    claiming = asyncio.create_task(journal.claim(job.key))
    await asyncio.sleep(0.1)
    closing = asyncio.create_task(journal.aclose())
    async with asyncio.timeout(120):
        while not closing.done():
            await asyncio.wait({closing}, timeout=0.5)
            closing.cancel()
        assert journal._writer._ended
        with pytest.raises(JournalError):
            await claiming


async def test_opening_is_given_up_while_a_lock_is_waited_for(
    database: str, schema: str, admin: psycopg.Connection[Any]
) -> None:
    """Another process may hold it for long: it migrates a large journal, say."""
    admin.execute("SELECT pg_advisory_lock(hashtext(%s))", [f'comet_async "{schema}"'])
    opening = asyncio.create_task(PostgresJournal.open(database, schema=schema))
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
    while admin.execute(waits.encode()).fetchone() == (False,):  # noqa: ASYNC110 - in a database
        await asyncio.sleep(0.05)
    opening.cancel()
    await asyncio.wait({opening}, timeout=60)
    assert opening.cancelled()
    admin.execute("SELECT pg_advisory_unlock_all()")


async def test_a_server_that_is_not_there() -> None:
    """The error comes when patience ends, and holds no password."""
    with pytest.raises(JournalError, match=r"database at 127\.0\.0\.1:1") as caught:
        await PostgresJournal.open(NOWHERE, patience=0.1)
    assert caught.value.retryable
    assert "check the database's address" in (caught.value.hint or "")
    assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize(
    ("user", "name"), [("nobody", "postgres"), ("nologin", "postgres"), ("postgres", "nothing")]
)
async def test_who_is_not_let_in_does_not_wait(
    database: str, schema: str, admin: psycopg.Connection[Any], user: str, name: str
) -> None:
    """A refused user, or a database that is not there, is no outage: it would be so forever."""
    role = f"nologin_{schema}"
    parts = urlsplit(database)
    url = parts._replace(netloc=f"{role if user == 'nologin' else user}@", path=f"/{name}").geturl()
    run(admin, "CREATE ROLE {role} NOLOGIN", role=role)
    try:
        async with asyncio.timeout(60):
            with pytest.raises(JournalError, match=r"does not exist|not permitted") as caught:
                await PostgresJournal.open(url, patience=600)
    finally:
        run(admin, "DROP ROLE {role}", role=role)
    assert not caught.value.retryable
    assert "waiting would not help" in (caught.value.hint or "")


LOST = "port 1 failed: server closed the connection unexpectedly"
REFUSED = 'port 1 failed: FATAL:  no pg_hba.conf entry for host "::1", no encryption'
SEVERAL = "Multiple connection attempts failed. All failures were:"


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ('port 5432 failed: FATAL:  password authentication failed for user "x"', True),
        ("port 5432 failed: fe_sendauth: no password supplied", True),
        ("port 5432 failed: FATAL:  the database system is starting up", False),
        ("port 5432 failed: Connection refused\n\tIs the server running?", False),
        (f"{LOST}\n{REFUSED}", False),
        (f"{REFUSED}\n{SEVERAL}\n- host: 'a': connection timeout expired\n{REFUSED}", False),
        (f"{REFUSED}\n{SEVERAL}\n- host: 'a': {REFUSED}\n- host: 'b': {REFUSED}", True),
        ("the connection is closed", False),
    ],
)
def test_what_refuses_a_connection_for_good(text: str, *, refused: bool) -> None:
    """Only the server's words are known; of several attempts, all must have been refused."""
    error = psycopg.OperationalError(f"connection failed: connection to server at {text}")
    assert connection.is_refused(error) is refused
    assert connection.is_lost(error) is not refused


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:%canary@127.0.0.1:1/database",
        "postgresql://user:pass@canary@127.0.0.1:1/database",
        "postgresql://user:canary/word@127.0.0.1:1/database",
        "postgresql://user:1/canary@127.0.0.1:1/database",
        "postgresql//user:canary@127.0.0.1:1/database",
    ],
    ids=["percent", "at", "slash", "number", "scheme"],
)
async def test_a_password_with_signs_is_not_shown(url: str) -> None:
    """What libpq says of it quotes it, or takes a part of it for the host."""
    with pytest.raises(InputError, match="can't be read") as caught:
        await PostgresJournal.open(url, patience=0.1)
    error = caught.value
    assert "canary" not in f"{error!r} {error} {error.as_dict()}"
    assert error.__cause__ is error.__context__ is None


async def test_waiting_for_a_server_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """A minute of silence would look like a program that hangs; once is enough."""
    with pytest.raises(JournalError):
        await PostgresJournal.open(NOWHERE, patience=2)
    (warning,) = caplog.messages
    assert warning.startswith("the journal database at 127.0.0.1:1 can't be reached: ")
    assert warning.endswith("; retrying for 2 s")
    assert "canary" not in warning


@pytest.mark.parametrize("read_only", [False, True])
async def test_opening_is_given_up(read_only: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Ctrl-C does not wait until the patience with the server ends."""
    opening = PostgresJournal.open(NOWHERE, patience=600, read_only=read_only)
    task = asyncio.ensure_future(opening)
    while not caplog.messages:  # noqa: ASYNC110 - a log has no event
        await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait({task}, timeout=60)
    assert task.cancelled()
    assert len(caplog.messages) == 1  # and no write has failed


async def test_no_password_is_shown(database: str, schema: str) -> None:
    """Neither by the journal nor by what it is made of."""
    url = f"{database}&password=canary" if "?" in database else f"{database}?password=canary"
    async with await PostgresJournal.open(url, schema=schema) as journal:
        shown = f"{journal!r} {journal._target!r} {journal._target} {journal._connection!r}"
    assert "canary" not in shown


async def test_a_journal_that_is_never_closed(database: str, schema: str) -> None:
    """A warning says so, and its thread ends."""
    journals = [await PostgresJournal.open(database, schema=schema)]
    thread = journals[0]._worker._thread
    with pytest.warns(ResourceWarning, match="unclosed journal"):
        journals.clear()
    assert thread is not None
    await asyncio.to_thread(thread.join, 30)
    assert not thread.is_alive()


async def test_who_is_cancelled_while_it_opens_one_leaves_nothing(
    database: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a connection nor a lease, which the others would wait out."""
    async with await PostgresJournal.open(database, schema=schema) as other:
        loop = asyncio.get_running_loop()
        wait = Worker.wait_until_it_listens

        def cancelled(worker: Worker) -> None:
            loop.call_soon_threadsafe(opening.cancel)
            wait(worker)

        monkeypatch.setattr(Worker, "wait_until_it_listens", cancelled)
        opening = asyncio.create_task(PostgresJournal.open(database, schema=schema))
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert (await other.activity(1.0)).workers == ()


async def test_who_is_cancelled_while_it_closes_one_leaves_nothing(
    database: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections are closed all the same."""
    journal = await PostgresJournal.open(database, schema=schema)
    loop = asyncio.get_running_loop()
    stop = Worker.stop

    def cancelled(worker: Worker) -> None:
        loop.call_soon_threadsafe(closing.cancel)
        stop(worker)

    monkeypatch.setattr(Worker, "stop", cancelled)
    closing = asyncio.create_task(journal.aclose())
    with pytest.raises(asyncio.CancelledError):
        await closing
    db = journal._connection._db
    assert db is not None
    async with asyncio.timeout(30):
        while not db.closed:  # noqa: ASYNC110 - in a thread
            await asyncio.sleep(0.01)


async def test_a_forked_process_is_refused(
    journal: PostgresJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its threads and connections stayed with the parent, and so did its lease."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(ForkedSessionError, match="opened by process"):
            await journal.counts()
    assert await journal.counts() == {}


# Databases ----------------------------------------------------------------------------------


async def test_many_open_a_new_one_at_once(database: str, schema: str) -> None:
    """The tables are made once."""
    openings = (PostgresJournal.open(database, schema=schema) for _ in range(4))
    journals = await asyncio.gather(*openings)
    job = await planned(journals[0])
    assert [await journal.get(job.key) for journal in journals] == [job] * 4
    for journal in journals:
        await journal.aclose()


async def test_a_newer_one_is_left_alone(
    database: str, schema: str, admin: psycopg.Connection[Any]
) -> None:
    """A later release may have changed what the tables mean."""
    await (await PostgresJournal.open(database, schema=schema)).aclose()
    run(admin, "UPDATE {schema}.meta SET value = '99' WHERE name = 'version'", schema=schema)
    with pytest.raises(JournalError, match="newer comet_async"):
        await PostgresJournal.open(database, schema=schema)


async def test_a_rolling_upgrade(
    database: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of a release go on, and may start, when the next one has migrated the tables."""
    async with await PostgresJournal.open(database, schema=schema) as running:
        claimed = await running.claim((await planned(running)).key)
        with monkeypatch.context() as patch:
            patch.setattr(tables, "MIGRATIONS", (*tables.MIGRATIONS, NEXT))
            async with await PostgresJournal.open(database, schema=schema) as upgraded:
                assert await upgraded.get(claimed.key) == claimed
                assert (await walked(upgraded, S.DONE, 1)).state is S.DONE
        assert isinstance(await step(running, claimed, S.SENDING), JobRecord)
        async with await PostgresJournal.open(database, schema=schema) as started:
            assert (await walked(started, S.DONE, 2)).state is S.DONE
        with monkeypatch.context() as patch:
            patch.setattr(tables, "MIGRATIONS", (*tables.MIGRATIONS, NEXT, ()))
            await (await PostgresJournal.open(database, schema=schema)).aclose()
        with pytest.raises(JournalError, match="newer comet_async"):
            await PostgresJournal.open(database, schema=schema)
        sent = await running.get(claimed.key)
        assert (await step(running, sent, S.SUBMITTED, task_id="t")).state is S.SUBMITTED


# What a later release may do: see the rule in the schema.
NEXT = (
    "ALTER TABLE job ADD COLUMN weather text NOT NULL DEFAULT ''",
    "CREATE TABLE weather (job bigint PRIMARY KEY REFERENCES job)",
    "CREATE INDEX job_by_weather ON job (weather) WHERE state <> 'done'",
)


async def test_a_database_that_was_restored(
    database: str, schema: str, admin: psycopg.Connection[Any]
) -> None:
    """Jobs may be missing from it: it is opened to look each one up first, until it is trusted."""
    async with await PostgresJournal.open(database, schema=schema) as journal:
        await planned(journal)
        refused = await step(journal, await walked(journal, S.SENDING, 1), S.PLANNED)
        assert refused.attempt == 1
    run(
        admin,
        "UPDATE {schema}.meta SET value = '1/00000001' WHERE name = 'identity'",
        schema=schema,
    )
    with pytest.raises(JournalLostError, match="restored") as caught:
        await PostgresJournal.open(database, schema=schema)
    assert caught.value.field == "verify_remote"
    async with await PostgresJournal.open(database, schema=schema, verify_remote=True) as journal:
        assert await journal.counts() == {S.PLANNED: 2}
        # It may have been accepted after the backup: it is looked up like one that was never sent.
        assert (await journal.get(refused.key)).attempt == 0
        again = await step(journal, await journal.get(refused.key), S.SENDING)
        again = await step(journal, again, S.PLANNED)
        async with await PostgresJournal.open(
            database, schema=schema, verify_remote=True
        ) as another:
            assert await another.get(refused.key) == again  # not twice
        await journal.trust()
    await (await PostgresJournal.open(database, schema=schema)).aclose()


async def test_a_replica_that_has_not_taken_over_yet(
    journal: PostgresJournal, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new connection that leads to one is given up, and another one is tried."""
    job, known, left = await planned(journal), connection.identity, [1, 2, 3]

    def identity(db: PostgresConnection) -> dict[str, str | None]:
        if left:
            left.pop()
            raise psycopg.errors.ObjectNotInPrerequisiteState("recovery is in progress")
        return known(db)

    monkeypatch.setattr(connection, "identity", identity)
    cut_connections(admin, journal._target.schema)
    assert (await step(journal, job, S.SENDING)).state is S.SENDING
    assert not left


async def test_a_replica_takes_over_meanwhile(
    journal: PostgresJournal, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new connection that leads to another server is noticed as well."""
    job = await planned(journal)
    monkeypatch.setattr(connection, "identity", lambda _db: {"identity": "1/00000002"})
    cut_connections(admin, journal._target.schema)
    for _ in range(2):
        with pytest.raises(JournalLostError):
            await step(journal, job, S.SENDING)


async def test_a_role_that_may_only_work(
    database: str, schema: str, admin: psycopg.Connection[Any]
) -> None:
    """The rights that the guide grants are enough for a worker, and none to change the tables."""
    role = f"worker_{schema}"
    with pytest.raises(JournalError, match="not there"):
        await PostgresJournal.open(database, schema=schema, migrate=False)
    await (await PostgresJournal.open(database, schema=schema)).aclose()
    run(admin, "CREATE ROLE {role} LOGIN", role=role)
    try:
        for statement in GRANTS:
            run(admin, statement, schema=schema, role=role)
        url = database.replace("postgres:@", f"{role}:@").replace("postgres@", f"{role}@")
        assert role in url
        async with await PostgresJournal.open(url, schema=schema, migrate=False) as journal:
            record = await walked(journal, S.DONE)
            assert await journal.claim(record.key) == record
            with pytest.raises(JournalError, match=r"permission denied|must be owner"):
                await journal._run("test", lambda db: db.run("DROP TABLE job"))
    finally:
        for statement in ("DROP OWNED BY {role}", "DROP ROLE {role}"):
            run(admin, statement, role=role)


async def test_a_role_that_may_only_read(
    database: str, schema: str, admin: psycopg.Connection[Any]
) -> None:
    """The right to read the tables is enough to look, and the server refuses all else."""
    role = f"reader_{schema}"
    async with await PostgresJournal.open(database, schema=schema) as journal:
        record = await planned(journal)
    run(admin, "CREATE ROLE {role} LOGIN", role=role)
    try:
        for statement in (GRANTS[0], "GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}"):
            run(admin, statement, schema=schema, role=role)
        url = database.replace("postgres:@", f"{role}:@").replace("postgres@", f"{role}@")
        async with await PostgresJournal.open(url, schema=schema, read_only=True) as journal:
            assert await journal.get(record.key) == record
            assert (await journal.activity(600)).workers == ()
        async with await PostgresJournal.open(database, schema=schema, read_only=True) as journal:
            for write in (
                journal.claim(record.key),
                journal.trust(),
                journal.plan([new_job(1)], now=NOW),
            ):
                with pytest.raises(JournalError, match="read-only") as caught:
                    await write
                assert (caught.value.retryable, "read_only" in (caught.value.hint or "")) == (
                    False,
                    True,
                )
            assert await journal.get(record.key) == record
            assert not await journal.transaction(lambda db: db.rows("SELECT FROM worker"))
    finally:
        for statement in ("DROP OWNED BY {role}", "DROP ROLE {role}"):
            run(admin, statement, role=role)


async def test_looking_makes_nothing(database: str, schema: str) -> None:
    """Tables that are not there are not made, and a restored database is opened."""
    with pytest.raises(JournalError, match="not there"):
        await PostgresJournal.open(database, schema=schema, read_only=True)


GRANTS = (
    "GRANT USAGE ON SCHEMA {schema} TO {role}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}",
)


@pytest.mark.parametrize(
    "options", [{"schema": "a b"}, {"schema": ""}, {"heartbeat": 0}, {"patience": -1}], ids=str
)
async def test_what_can_not_be_used(database: str, options: dict[str, Any]) -> None:
    """Wrong settings are refused before anything is opened."""
    with pytest.raises(InputError, match=next(iter(options))):
        await PostgresJournal.open(database, **options)


async def test_an_operator_changes_a_row(
    journal: PostgresJournal, admin: psycopg.Connection[Any]
) -> None:
    """The history is complete whoever writes, from any search path."""
    record = await walked(journal, S.UNCERTAIN)
    run(
        admin,
        "UPDATE {schema}.job SET state = 'abandoned', fence = fence + 1",
        schema=journal._target.schema,
    )
    last = (await journal.events(record.key))[-1]
    assert (last.old, last.new) == (S.UNCERTAIN, S.ABANDONED)


# Planning with a queue ----------------------------------------------------------------------


async def test_jobs_and_a_queue_are_written_together(journal: PostgresJournal) -> None:
    """What is put into a queue is there if, and only if, the jobs are."""

    def enqueue(db: PostgresConnection, keys: list[str]) -> int:
        return sum(db.run("INSERT INTO queue (key) VALUES (%s)", key) for key in keys)

    await journal._run("test", lambda db: db.run("CREATE TABLE queue (key text UNIQUE)"))
    records = await journal.plan_with(
        [new_job(0), new_job(1)],
        lambda db, planned: enqueue(db, [record.key for record in planned]),
        now=NOW,
    )
    assert len(records) == 2
    (count,) = await journal._run("", lambda db: db.row("SELECT count(*) FROM queue"))
    assert count == 2
    with pytest.raises(JournalError, match="duplicate key"):
        await journal.plan_with([new_job(2)], lambda db, _: enqueue(db, [records[0].key]), now=NOW)
    with pytest.raises(IdempotencyConflictError):
        await journal.plan_with([new_job(3), new_job(0, n=2)], lambda _db, _records: None, now=NOW)
    assert [record.key for record in await journal.find()] == [r.key for r in records]


# Texts --------------------------------------------------------------------------------------


@given(st.text(st.characters() | st.sampled_from("\0\ue000\udce9"), max_size=8))
def test_every_text_can_be_held(given_text: str) -> None:
    """What comes back is what was given, and holds nothing that PostgreSQL refuses."""
    held = text.encode(given_text)
    held.encode("utf-8")
    assert "\0" not in held
    assert text.decode(held) == given_text
