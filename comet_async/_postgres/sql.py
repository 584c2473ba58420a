"""Each operation of the journal in PostgreSQL, as SQL.

As in `comet_async._journal.sql`, every function takes an open transaction and leaves it open, and
checks before it writes, so that a refusal leaves nothing behind. Here other processes write, too:

* A change of a job names the state and the fence that it was based on. Of two that are based on the
  same record, the second one waits for the first, and changes nothing.
* What must hold for several rows is read under a lock, and by a statement of its own after the one
  that took it: a statement sees what was committed when it began, not when its lock was granted.
* Locks are taken in one order: quota, run, job.
"""

# ruff: noqa: S608  (what is put into SQL text are names and constants of ours; values are always
# bound)

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from typing import cast

import attrs

from comet_async._journal.records import (
    Destination,
    JobRecord,
    JournalEvent,
    KnownSource,
    Limits,
    NewJob,
    Refusal,
    SavedFile,
    SavedJob,
    SourceOutcome,
)
from comet_async._journal.rows import (
    FIELDS,
    OUTCOME,
    SOURCE,
    changed_fields,
    decoded,
    decoded_destinations,
    decoded_outcome,
    decoded_source,
    encoded,
    encoded_outcome,
    source_values,
)
from comet_async._journal.states import BILLED, IN_FLIGHT, OPEN, JobState
from comet_async._journal.transitions import (
    planned,
    replanned,
    stale,
    taken,
    unknown_destination,
    unknown_key,
)
from comet_async._postgres.connection import PostgresConnection, Row
from comet_async._postgres.schema import IN_FLIGHT_STATES
from comet_async._postgres.text import encode
from comet_async.errors import StaleRecordError
from comet_async.models import JSON

_COLUMNS = ", ".join(FIELDS)
_SELECT = f"SELECT {_COLUMNS} FROM job"

_INSERT = """
INSERT INTO job
    (key, kind, account, state, params, n, source, image_sha, created_at, updated_at)
SELECT key, kind, account, 'planned', params, n, source, image_sha, at, at
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::int[], %s::text[], %s::text[],
            %s::float8[])
    WITH ORDINALITY AS new (key, kind, account, params, n, source, image_sha, at, place)
ORDER BY place
ON CONFLICT (key) DO NOTHING
RETURNING key
"""
_INSERT_DESTINATIONS = """
INSERT INTO destination (job, dest, source)
SELECT job.id, new.dest, new.source
FROM unnest(%s::text[], %s::text[], %s::text[]) WITH ORDINALITY AS new (key, dest, source, place)
JOIN job ON job.key = new.key
ORDER BY place
ON CONFLICT (job, dest) DO UPDATE SET source = excluded.source
    WHERE destination.source IS DISTINCT FROM excluded.source
"""
_PLACES = """
SELECT j.key, d.source, d.dest, f.number, f.name, f.sha256, f.size, f.kept
FROM job j
CROSS JOIN LATERAL (SELECT * FROM destination WHERE job = j.id OFFSET 0) d
LEFT JOIN LATERAL (SELECT * FROM file WHERE job = d.job AND dest = d.dest OFFSET 0) f ON true
"""
# By index for each job: for a page of several hundred, the planner would read all of both tables.

_IN_ORDER = "ORDER BY d.id, f.number"
_TEXTS = {"path", "variant", "facts"}
_REMEMBER = (
    f"INSERT INTO source ({', '.join(SOURCE)}) SELECT * FROM unnest("
    + ", ".join("%s::text[]" if n in _TEXTS else "%s::int8[]" for n in SOURCE)
    + ") ON CONFLICT (path, variant) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in SOURCE)
)
# What is as before is not written: a run over finished work writes nothing.
_SAVE_OUTCOME = (
    f"INSERT INTO outcome (source, {', '.join(OUTCOME)}, at) VALUES (%s{', %s' * 9})"
    f" ON CONFLICT (source) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in OUTCOME)},"
    " at = excluded.at WHERE "
    + " OR ".join(f"outcome.{c} IS DISTINCT FROM excluded.{c}" for c in OUTCOME)
)

LONGEST_TASK = 3600.0
"""Seconds after which a task that may have been made has surely ended; most take a minute."""


# Planning -------------------------------------------------------------------------------


def plan(db: PostgresConnection, jobs: Sequence[NewJob], now: float) -> list[JobRecord]:
    """Insert or find *jobs*; see `Journal.plan`."""
    if not jobs:
        return []
    first = {job.key: job for job in reversed(jobs)}
    new = [job for job in jobs if first[job.key] is job]
    records = {job.key: planned(job, now=now) for job in new}
    inserted = _insert(db, list(records.values()))
    known = {record.key: record for record in _by_keys(db, records.keys() - inserted)}
    records |= known
    for job in jobs:
        before = records[job.key]
        if job.key not in known and job is first[job.key]:
            continue
        records[job.key] = after = replanned(before, job, now=now)
        if after is not before:
            swap(db, before, after)
    wanted = {(job.key, job.dest): job.source for job in jobs if job.dest is not None}
    if wanted:
        places = (
            [key for key, _ in wanted],
            [dest for _, dest in wanted],
            list(wanted.values()),
        )
        db.run(_INSERT_DESTINATIONS, *places)
    return [records[job.key] for job in jobs]


def _insert(db: PostgresConnection, records: list[JobRecord]) -> set[str]:
    """Insert those of *records* that are new, in their order; return their keys."""
    columns = ("key", "kind", "account", "params", "n", "source", "image_sha", "created_at")
    rows = [encoded(record, columns) for record in records]
    values = [list(column) for column in zip(*rows, strict=True)]
    return {row[0] for row in db.rows(_INSERT, *values, writing=True)}


def _by_keys(db: PostgresConnection, keys: Iterable[str]) -> list[JobRecord]:
    wanted = list(keys)
    if not wanted:
        return []
    return list(map(decoded, db.rows(f"{_SELECT} WHERE key = ANY(%s::text[])", wanted)))


# Finding --------------------------------------------------------------------------------


def get(db: PostgresConnection, key: str) -> JobRecord | None:
    """Return the job of this key."""
    return _job(db.row(f"{_SELECT} WHERE key = %s", key))


def by_task(db: PostgresConnection, task_id: str) -> JobRecord | None:
    """Return the job of this task."""
    return _job(db.row(f"{_SELECT} WHERE task_id = %s ORDER BY id LIMIT 1", task_id))


def find(
    db: PostgresConnection, states: Collection[JobState] | None, after: str, limit: int
) -> list[JobRecord]:
    """Return a page of jobs; see `Journal.find`."""
    start = 0
    if after:
        row = db.row("SELECT id FROM job WHERE key = %s", after)
        if row is None:
            raise unknown_key(after)
        start = row[0]
    if states is None:
        rows = db.rows(f"{_SELECT} WHERE id > %s ORDER BY id LIMIT %s", start, limit)
        return [decoded(row) for row in rows]
    if len(states) == 1:
        (state,) = map(JobState, states)
        query = f"{_SELECT} WHERE state = '{state}' AND id > %s ORDER BY id LIMIT %s"
        return list(map(decoded, db.rows(query, start, limit)))
    # A page of each state from its index, then the first of all: one IN (…) over the states
    # would sort all that match for every page. A literal, so that the index on its state is used.
    pages = " UNION ALL ".join(
        f"(SELECT id FROM job WHERE state = '{JobState(state)}' AND id > %s ORDER BY id LIMIT %s)"
        for state in states
    )
    bounds = [bound for _ in states for bound in (start, limit)]
    query = f"{_SELECT} WHERE id IN ({pages or 'NULL'}) ORDER BY id LIMIT %s"
    return [decoded(row) for row in db.rows(query, *bounds, limit)]


def in_flight(db: PostgresConnection) -> int:
    """Return how many images are in flight, over all accounts."""
    (row,) = db.rows(
        f"SELECT coalesce(sum(n), 0)::bigint FROM job WHERE state IN ({IN_FLIGHT_STATES})"
    )
    return cast("int", row[0])


def counts(db: PostgresConnection) -> dict[JobState, int]:
    """Return how many jobs are in each state."""
    rows = db.rows("SELECT state, count(*) FROM job GROUP BY state")
    return {JobState(state): number for state, number in rows}


@attrs.frozen(kw_only=True)
class WorkerLease:
    """A process that has the journal open, and how long it may count on that.

    Attributes:
        name: Host and process.
        started_at: Since when, in UTC.
        lease_left: Seconds until its lease ends, unless it is renewed before.
        jobs: How many jobs it is working on.
    """

    name: str
    started_at: datetime
    lease_left: float
    jobs: int


@attrs.frozen(kw_only=True)
class Activity:
    """Who works on a journal's jobs, and how fast. Images, not jobs, are counted.

    Attributes:
        workers: The processes that have it open, without the one that asks.
        finished: Images of the jobs that were finished in the time asked about.
        in_flight: Images that the server is working on.
        left: Images of jobs that have not come to their end.
        billed: Images of all jobs that the server has accepted and that did not fail.
    """

    workers: tuple[WorkerLease, ...]
    finished: int
    in_flight: int
    left: int
    billed: int


def activity(db: PostgresConnection, seconds: float, reader: str) -> Activity:
    """Return who works on the jobs, without *reader*, and what was finished in *seconds*."""
    workers = db.rows(
        "SELECT name, started_at, extract(epoch FROM lease_until - clock_timestamp())::float8,"
        " (SELECT count(*) FROM job WHERE job.owner = worker.boot)"
        " FROM worker WHERE NOT lost AND boot <> %s AND lease_until > clock_timestamp()"
        " ORDER BY started_at, name",
        reader,
    )
    finished = db.row(
        "SELECT coalesce(sum(job.n), 0)::bigint FROM event JOIN job ON job.id = event.job"
        " WHERE event.id > coalesce((SELECT max(id) FROM event WHERE at <"
        " extract(epoch FROM clock_timestamp()) - %s::float8), 0) AND event.new = 'done'",
        seconds,
    )
    images: dict[str, int] = dict(db.rows("SELECT state, sum(n)::bigint FROM job GROUP BY state"))
    return Activity(
        workers=tuple(
            WorkerLease(name=name, started_at=started.astimezone(UTC), lease_left=left, jobs=jobs)
            for name, started, left, jobs in workers
        ),
        finished=0 if finished is None else finished[0],
        in_flight=sum(images.get(state, 0) for state in IN_FLIGHT),
        left=sum(images.get(state, 0) for state in OPEN - {JobState.UNCERTAIN}),
        billed=sum(images.get(state, 0) for state in BILLED),
    )


# Moving ---------------------------------------------------------------------------------


def swap(db: PostgresConnection, before: JobRecord, after: JobRecord, why: str = "") -> None:
    """Replace *before* by *after*, if *before* is how the job stands.

    Raises:
        StaleRecordError: It is not; nothing was written.
    """
    changed = changed_fields(before, after)
    values = (*encoded(after, changed), why, before.key, before.state, before.fence)
    if db.run(_update(changed), *values) != 1:
        _check_current(db, before)


@lru_cache
def _update(changed: tuple[str, ...]) -> str:
    columns = ", ".join(f"{name} = %s" for name in (*changed, "why"))
    return f"UPDATE job SET {columns} WHERE key = %s AND state = %s AND fence = %s"


def _check_current(db: PostgresConnection, record: JobRecord) -> None:
    actual = get(db, record.key)
    if actual is None or (actual.state, actual.fence) != (record.state, record.fence):
        raise stale(record, actual)


def move(
    db: PostgresConnection,
    before: JobRecord,
    after: JobRecord,
    why: str,
    *,
    unpaid: bool,
    place: Destination | None = None,
) -> None:
    """Move a job and record the files of *place*; *unpaid* takes it out of its run's count."""
    if unpaid and before.run is not None:
        _check_current(db, before)  # nothing may be written before a refusal
        _lock_quota(db, before.account, 0)  # the order of locks
        db.run(
            "UPDATE run SET jobs = jobs - 1, images = images - %s WHERE id = %s",
            before.n,
            before.run,
        )
    if before.state not in IN_FLIGHT and after.state in IN_FLIGHT:
        db.in_flight.pop(before.account, None)  # found on the server: it was never counted
    if place is None:
        swap(db, before, after, why)
    else:
        _move_with_files(db, before, after, why, place)


def _move_with_files(
    db: PostgresConnection, before: JobRecord, after: JobRecord, why: str, place: Destination
) -> None:
    """Move a job and record its files, in one statement if nothing is in the way."""
    changed, files = changed_fields(before, after), place.files
    kept = any(file.kept for file in files)
    moved = db.row(
        _move_and_save(changed, kept),
        *encoded(after, changed),
        why,
        *(before.key, before.state, before.fence, place.dest),
        [file.name for file in files],
        place.dest,
        *([getattr(file, name) for file in files] for name in _FILE),
        writing=True,
    )
    if moved is None:
        # This says why not. What was in the way may be gone by now.
        moved = _job_at(db, before, place), 0
        swap(db, before, after, why)
    job, written = moved
    if written < len(files):
        _replace_files(db, job, place.dest, files)


@lru_cache
def _move_and_save(changed: tuple[str, ...], kept: bool) -> str:  # noqa: FBT001 - one of two texts
    columns = ", ".join(f"{name} = %s" for name in (*changed, "why"))
    # The usual order: a file is new when it is named, and known when it has its name.
    write = _KEEP_FILES if kept else _ADD_FILES
    return (
        f"WITH moved AS (UPDATE job SET {columns} WHERE key = %s AND state = %s AND fence = %s"
        " AND EXISTS (SELECT FROM destination AS d WHERE d.job = job.id AND d.dest = %s)"
        " AND NOT EXISTS (SELECT FROM file WHERE name = ANY(%s::text[]) AND file.job <> job.id)"
        " RETURNING id), new AS (SELECT id AS job, %s::text AS dest, given.* FROM moved, unnest("
        "%s::int[], %s::text[], %s::text[], %s::bigint[], %s::boolean[])"
        " AS given (number, name, sha256, size, kept)),"
        f" written AS ({write} RETURNING 1) SELECT id, (SELECT count(*) FROM written) FROM moved"
    )


_FILE = ("index", "name", "sha256", "size", "kept")
_ADD_FILES = """
INSERT INTO file (job, dest, number, name, sha256, size, kept)
SELECT job, dest, number, name, sha256, size, kept FROM new ON CONFLICT DO NOTHING
"""
_KEEP_FILES = """
UPDATE file SET sha256 = new.sha256, size = new.size, kept = new.kept FROM new
WHERE file.job = new.job AND file.dest = new.dest AND file.number = new.number
    AND file.name = new.name
"""


def send(
    db: PostgresConnection,
    before: JobRecord,
    after: JobRecord,
    run: str,
    limits: Limits,
    *,
    queued: bool = False,
) -> Refusal | None:
    """Enter ``sending`` unless a limit is reached; see `Journal.send`.

    A worker that is *queued* for a slot leaves the queue when it gets one. If more are free, they
    are offered to the next workers, which would not look by themselves.
    """
    used, most = 0, None
    if limits.in_flight is not None:
        most, used = _quota_of(db, before, limits.in_flight)
    jobs, images = 0, 0
    if limits.jobs is not None or limits.images is not None:
        jobs, images = _lock_run(db, run)
    allowed = attrs.evolve(limits, in_flight=most)
    refusal = allowed.refusal(before.n, jobs=jobs, images=images, in_flight=used)
    if refusal:
        _check_current(db, before)
        return refusal
    changed = changed_fields(before, after)
    values = (*encoded(after, changed), after.boot, before.key, before.state, before.fence)
    if db.run(_send(changed), *values, after.boot, run, before.n) != 1:
        _check_current(db, before)
        raise StaleRecordError(
            f"this worker's lease ended before {before.key} was sent",
            hint="nothing was sent: another worker continues the job, or run it again",
            external_task_id=before.key,
        )
    if most is not None:
        used += before.n
        db.in_flight[before.account] = most, used
    if queued:
        db.run(_UNQUEUE, slot_topic(before.account), after.boot)
        if most is not None and used < most:
            call_waiters(db, before.account, min(2, most - used))
    return None


@lru_cache
def _send(changed: tuple[str, ...]) -> str:
    columns = ", ".join(f"{name} = %s" for name in (*changed, "owner"))
    return (
        f"WITH sent AS (UPDATE job SET {columns}, why = ''"
        " WHERE key = %s AND state = %s AND fence = %s AND EXISTS (SELECT 1 FROM worker"
        " WHERE boot = %s AND NOT lost AND lease_until > clock_timestamp()) RETURNING id)"
        " INSERT INTO run (id, jobs, images) SELECT %s, 1, %s FROM sent"
        " ON CONFLICT (id) DO UPDATE SET jobs = run.jobs + 1, images = run.images + excluded.images"
    )


def _quota_of(db: PostgresConnection, record: JobRecord, most: int) -> tuple[int, int]:
    """Lock the account's quota; return how many images may be in flight, and how many are.

    The requests of one transaction share the lock and the sum: no other worker can start one until
    the commit. Tasks may have ended meanwhile, so no request is refused because of an old sum.
    """
    if (known := db.in_flight.get(record.account)) is not None:
        allowed, used = min(most, known[0]), known[1]
        if used + record.n <= allowed:
            return allowed, used
    allowed = _lock_quota(db, record.account, most)
    return allowed, _in_flight_of(db, record.account)


def _lock_quota(db: PostgresConnection, account: str, most: int) -> int:
    """Lock the account's quota until the commit; return how many images may be in flight."""
    query = "SELECT most FROM quota WHERE account = %s FOR UPDATE"
    row = db.row(query, account)
    if row is None:
        db.run("INSERT INTO quota (account) VALUES (%s) ON CONFLICT DO NOTHING", account)
        db.writes -= 1  # an empty row: it may stay when the request is refused
        row = db.row(query, account)
    return most if row is None or row[0] is None else min(most, row[0])


def _in_flight_of(db: PostgresConnection, account: str) -> int:
    """Return how many images of an account are in flight; to be called under the lock.

    A request whose outcome is unknown counts only as long as its task may be running.
    """
    (row,) = db.rows(
        "SELECT coalesce(sum(n), 0)::bigint FROM job"
        f" WHERE account = %s AND state IN ({IN_FLIGHT_STATES})"
        " AND (state IN ('sending', 'submitted')"
        " OR sent_at > extract(epoch FROM clock_timestamp()) - %s)",
        account,
        LONGEST_TASK,
    )
    return cast("int", row[0])


def _lock_run(db: PostgresConnection, run: str) -> tuple[int, int]:
    """Lock a run's sums until the commit; return them."""
    query = "SELECT jobs, images FROM run WHERE id = %s FOR UPDATE"
    row = db.row(query, run)
    if row is None:
        db.run("INSERT INTO run (id, jobs, images) VALUES (%s, 0, 0) ON CONFLICT DO NOTHING", run)
        db.writes -= 1  # as above
        row = db.row(query, run)
    jobs, images = row or (0, 0)
    return jobs, images


def shrink_quota(db: PostgresConnection, account: str) -> int:
    """Allow one image less than are in flight; return how many."""
    db.in_flight.pop(account, None)
    _lock_quota(db, account, 0)
    used = _in_flight_of(db, account)
    row = db.row(
        "UPDATE quota SET most = greatest(1, least(coalesce(most, %s), %s) - 1), clean = 0"
        " WHERE account = %s RETURNING most",
        used,
        used,
        account,
        writing=True,
    )
    return 1 if row is None else row[0]


def grow_quota(db: PostgresConnection, account: str, most: int, clean: int) -> int | None:
    """Count an accepted request; each *clean* in a row allow one image more, up to *most*.

    Returns:
        How many may be in flight; None if the server's limit is not known to be below *most*.
    """
    row = db.row(
        "UPDATE quota SET clean = (clean + 1) %% %s, most = CASE"
        " WHEN clean + 1 < %s THEN most WHEN most + 1 >= %s THEN NULL ELSE most + 1 END"
        " WHERE account = %s AND most IS NOT NULL RETURNING most, clean",
        clean,
        clean,
        most,
        account,
        writing=True,
    )
    if row is None:
        return None
    if row[1] == 0:  # one more than before
        call_waiters(db, account)
    return cast("int | None", row[0])


def read_quota(db: PostgresConnection, account: str) -> int | None:
    """Return how many images of an account the server is known to take; None if it refused none."""
    row = db.row("SELECT most FROM quota WHERE account = %s", account)
    return None if row is None else row[0]


# Leases ---------------------------------------------------------------------------------


def register(db: PostgresConnection, boot: str, name: str, lease: float) -> None:
    """Register a worker, with a lease of *lease* seconds."""
    db.run(
        "INSERT INTO worker (boot, name, lease_until)"
        " VALUES (%s, %s, clock_timestamp() + make_interval(secs => %s))"
        " ON CONFLICT (boot) DO UPDATE SET lease_until = excluded.lease_until, lost = false",
        boot,
        name,
        lease,
    )


RENEW = (
    "UPDATE worker SET lease_until = clock_timestamp() + make_interval(secs => %s)"
    " WHERE boot = %s AND NOT lost"
)
"""Renew a lease; no row means that it was lost."""

MARK_LOST = """
UPDATE worker SET lost = true WHERE boot IN (
    SELECT boot FROM worker
    WHERE NOT lost AND lease_until < clock_timestamp()
        AND clock_timestamp() > pg_postmaster_start_time() + make_interval(secs => %s)
    FOR UPDATE SKIP LOCKED)
"""
"""Mark workers whose lease has ended; after a restart of the server each has time to come back."""

_TAKE_OVER = """
UPDATE job SET owner = NULL, fence = fence + 1,
    state = CASE state WHEN 'sending' THEN 'unknown' ELSE state END,
    why = CASE state WHEN 'sending' THEN %s ELSE why END,
    updated_at = extract(epoch FROM clock_timestamp())
"""
TAKE_OVER = f"{_TAKE_OVER} WHERE owner IN (SELECT boot FROM worker WHERE lost)"
"""Free the jobs of all lost workers; what they were sending is ``unknown`` (T6)."""

FORGET_WORKERS = (
    "DELETE FROM worker WHERE lost AND lease_until < clock_timestamp() - interval '1 day'"
)

ENDED = "the process that sent it ended"
"""Why a job is unknown."""


def leave(db: PostgresConnection, boot: str) -> None:
    """Release all jobs of a worker that ends, and remove the worker."""
    db.run(f"{_TAKE_OVER} WHERE owner = %s", ENDED, boot)
    db.run("DELETE FROM waiter WHERE boot = %s", boot)
    db.run("DELETE FROM worker WHERE boot = %s", boot)


def claim(db: PostgresConnection, key: str, boot: str) -> JobRecord | None:
    """Make the worker *boot* the owner of a job, unless another one is or it is not there.

    If another one is, *boot* is notified when the job is released. What was released just before
    that is seen by the next attempt.
    """
    # One that has it already is not written again.
    row = db.row(
        f"UPDATE job SET owner = %s WHERE key = %s AND owner IS NULL"
        f" AND EXISTS (SELECT 1 FROM worker WHERE boot = %s AND NOT lost) RETURNING {_COLUMNS}",
        boot,
        key,
        boot,
        writing=True,
    )
    row = row or db.row(f"{_SELECT} WHERE key = %s AND owner = %s", key, boot)
    if row is None:
        query = "INSERT INTO waiter (topic, boot) SELECT %s, %s FROM job WHERE key = %s"
        db.run(f"{query} ON CONFLICT DO NOTHING", job_topic(key), boot, key)
    return _job(row)


def unclaimed(db: PostgresConnection, account: str, limit: int) -> list[JobRecord]:
    """Return jobs of an account that may be running at the server and that no worker has."""
    rows = db.rows(
        f"{_SELECT} WHERE account = %s AND state IN ('submitted', 'unknown') AND owner IS NULL"
        " ORDER BY random() LIMIT %s",
        account,
        limit,
    )
    return list(map(decoded, rows))


RELEASE = "UPDATE job SET owner = NULL WHERE key = %s AND owner = %s"
"""Let go of a job."""


def release(db: PostgresConnection, key: str, boot: str) -> None:
    """Release a job."""
    db.run(RELEASE, key, boot)


def slot_topic(account: str) -> str:
    """Return the topic of messages to workers that wait for a slot of *account*."""
    return f"slot {account}"


def job_topic(key: str) -> str:
    """Return the topic of messages to workers that wait for a job; as the triggers name it."""
    digest = hashlib.md5(encode(key).encode(), usedforsecurity=False).hexdigest()
    return f"job {digest}"


def queue_for_slot(db: PostgresConnection, account: str, boot: str) -> int:
    """Have a worker called when a slot is free; return how many others wait to be called.

    One that is queued keeps its place. If no other worker waits, a slot that was freed just before
    may have been offered to none.
    """
    db.run(_QUEUE, slot_topic(account), boot)
    query = "SELECT count(*) FROM waiter WHERE topic = %s AND boot <> %s AND NOT called"
    (row,) = db.rows(query, slot_topic(account), boot)
    return cast("int", row[0])


_QUEUE = """
INSERT INTO waiter (topic, boot) VALUES (%s, %s)
ON CONFLICT (topic, boot) DO UPDATE SET called = false
"""
_UNQUEUE = "DELETE FROM waiter WHERE topic = %s AND boot = %s"


def unqueue_for_slot(db: PostgresConnection, account: str, boot: str) -> None:
    """Take a worker out of the queue; if it had been called, call the next one instead."""
    row = db.row(f"{_UNQUEUE} RETURNING called", slot_topic(account), boot, writing=True)
    if row == (True,):
        call_waiters(db, account)


def call_waiters(db: PostgresConnection, account: str, most: int = 1) -> None:
    """Tell the workers that have waited longest, *most* of them, that a slot may be free."""
    db.rows("SELECT call_waiters(%s, %s::integer)", slot_topic(account), most, writing=True)


FORGET_WAITERS = """
DELETE FROM waiter WHERE (topic, boot) IN (
    SELECT topic, boot FROM waiter WHERE boot IN (SELECT boot FROM worker WHERE lost)
    FOR UPDATE SKIP LOCKED)
"""
"""Take lost workers out of the queues."""


def notify(db: PostgresConnection, text: str) -> None:
    """Send *text* to every worker that listens on the journal's channel."""
    db.run("SELECT pg_notify(%s, %s)", db.target.schema, text)


# Destinations and files -----------------------------------------------------------------


def destinations(db: PostgresConnection, key: str) -> tuple[Destination, ...]:
    """Return where the job's images belong, with what is there."""
    rows = db.rows(f"{_PLACES} WHERE j.key = %s {_IN_ORDER}", key)
    return decoded_destinations(rows).get(key, ())


def saved(db: PostgresConnection, keys: Sequence[str]) -> dict[str, SavedJob]:
    """Return those of the jobs that are done, with their destinations; see `Journal.saved`."""
    query = f"{_SELECT} WHERE key = ANY(%s::text[]) AND state = 'done'"
    records = list(map(decoded, db.rows(query, list(keys)))) if keys else []
    if not records:
        return {}
    done = [record.key for record in records]
    found = db.rows(f"{_PLACES} WHERE j.key = ANY(%s::text[]) {_IN_ORDER}", done)
    places = decoded_destinations(found)
    return {record.key: SavedJob(record, places.get(record.key, ())) for record in records}


def save_file(
    db: PostgresConnection, key: str, dest: str, file: SavedFile, boot: str
) -> str | None:
    """Record a file; it replaces those of its place and of its name.

    Returns:
        None, or the worker that has the job: only its owner may write its files.
    """
    row = db.row(
        "SELECT d.job, j.owner FROM job j JOIN destination d ON d.job = j.id"
        " WHERE j.key = %s AND d.dest = %s FOR SHARE OF j",
        key,
        dest,
    )
    if row is None:
        raise unknown_destination(key, dest)
    job, owner = row
    if owner is not None and owner != boot:
        return cast("str", owner)
    _replace_files(db, job, dest, (file,))
    return None


def _job_at(db: PostgresConnection, record: JobRecord, place: Destination) -> int:
    """Return the number of the job, if its files may be recorded at *place*."""
    names = [file.name for file in place.files]
    row = db.row(
        "SELECT d.job, (SELECT min(f.name) FROM file f WHERE f.name = ANY(%s::text[])"
        " AND f.job <> d.job) FROM job j JOIN destination d ON d.job = j.id"
        " WHERE j.key = %s AND d.dest = %s",
        names,
        record.key,
        place.dest,
    )
    if row is not None and row[1] is None:
        return cast("int", row[0])
    _check_current(db, record)  # that it is out of date says more
    raise taken(record, row[1]) if row else unknown_destination(record.key, place.dest)


def _replace_files(db: PostgresConnection, job: int, dest: str, files: Sequence[SavedFile]) -> None:
    for file in files:
        place, facts = (job, dest, file.index), (file.sha256, file.size, file.kept)
        # The usual order: a file is new when it is named, and known when it has its name.
        if not file.kept and db.run(_INSERT_FILE, *place, file.name, *facts):
            continue
        update = (
            "UPDATE file SET sha256 = %s, size = %s, kept = %s"
            " WHERE job = %s AND dest = %s AND number = %s AND name = %s"
        )
        if db.run(update, *facts, *place, file.name):
            continue
        gone = "DELETE FROM file WHERE name = %s OR (job = %s AND dest = %s AND number = %s)"
        db.run(gone, file.name, *place)
        db.run(_INSERT_FILE, *place, file.name, *facts)


_INSERT_FILE = """
INSERT INTO file (job, dest, number, name, sha256, size, kept)
VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""


def owner_of(db: PostgresConnection, name: str) -> str | None:
    """Return the key of the job that saved a file as *name*."""
    row = db.row(
        "SELECT job.key FROM file JOIN job ON job.id = file.job WHERE file.name = %s", name
    )
    return row[0] if row else None


# What else is kept ----------------------------------------------------------------------


def known_sources(
    db: PostgresConnection, paths: Sequence[str], variant: str
) -> dict[str, KnownSource]:
    """Return what is known of source files, by path; see `Journal.known_sources`."""
    query = f"SELECT {', '.join(SOURCE)} FROM source WHERE variant = %s AND path = ANY(%s::text[])"
    rows = db.rows(query, variant, list(paths))
    return {row[0]: decoded_source(row) for row in rows}


def remember_sources(db: PostgresConnection, sources: Sequence[KnownSource]) -> None:
    """Keep what was found in source files; see `Journal.remember_sources`."""
    newest = {(source.path, source.variant): source for source in sources}
    if newest:
        # In one order, so that two workers never wait for each other.
        rows = [source_values(newest[name]) for name in sorted(newest)]
        db.run(_REMEMBER, *map(list, zip(*rows, strict=True)))


def events(db: PostgresConnection, key: str | None) -> list[JournalEvent]:
    """Return what happened to a job, or to all, oldest first."""
    query = "SELECT job.key, at, old, new, event.why FROM event JOIN job ON job.id = event.job"
    if key is None:
        rows = db.rows(f"{query} ORDER BY event.id")
    else:
        rows = db.rows(f"{query} WHERE job.key = %s ORDER BY event.id", key)
    return [JournalEvent(*row) for row in rows]


def drop_events(db: PostgresConnection, *, kept: float) -> None:
    """Delete events that are *kept* seconds older than the newest one; some of them each time."""
    db.run(
        "DELETE FROM event WHERE id IN (SELECT id FROM event ORDER BY id LIMIT 20000)"
        " AND at < (SELECT at FROM event ORDER BY id DESC LIMIT 1) - %s::float8",
        kept,
    )


def save_outcomes(db: PostgresConnection, outcomes: Sequence[SourceOutcome]) -> None:
    """Record how sources ended; each replaces what was known of its source."""
    for each in sorted(outcomes, key=attrgetter("source")):
        db.run(_SAVE_OUTCOME, *encoded_outcome(each))


def outcomes(db: PostgresConnection, after: str, limit: int) -> list[SourceOutcome]:
    """Return a page of the last outcomes of sources, in the order of their names."""
    rows = db.rows(
        f"SELECT source, {', '.join(OUTCOME)}, at FROM outcome"
        " WHERE source > %s ORDER BY source LIMIT %s",
        after,
        limit,
    )
    return [decoded_outcome(row) for row in rows]


def read_meta(db: PostgresConnection, name: str) -> JSON:
    """Return what was written under *name*, or None."""
    row = db.row("SELECT value FROM meta WHERE name = %s", f"fact {name}")
    return cast("JSON", json.loads(row[0])) if row else None


def write_meta(db: PostgresConnection, name: str, text: str) -> None:
    """Write *text*, which is JSON, under *name*."""
    db.run(
        "INSERT INTO meta (name, value) VALUES (%s, %s)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        f"fact {name}",
        text,
    )


def _job(row: Row | None) -> JobRecord | None:
    return decoded(row) if row else None
