"""Each operation of the journal on disk, as SQL.

Every function takes an open transaction and leaves it open; `comet_async._journal.group_commit`
begins, commits and repeats it. An operation checks before it writes, so that a refusal
leaves nothing behind.
"""

# ruff: noqa: S608  (what is put into SQL text are names and constants of this file only;
# values are always bound)

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import cast

from comet_async._journal.lockfile import Mark
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
    Row,
    changed_fields,
    decoded,
    decoded_destinations,
    decoded_outcome,
    decoded_source,
    encoded,
    encoded_outcome,
    source_values,
)
from comet_async._journal.states import IN_FLIGHT, JobState
from comet_async._journal.transitions import (
    planned,
    replanned,
    stale,
    taken,
    unknown_destination,
    unknown_key,
)
from comet_async.models import JSON

APPLICATION_ID = 0x63653161  # "ce1a": tells a journal from any other SQLite file

# One tuple of statements for each step from one version (PRAGMA user_version) to the next.
# A step that was released is never changed; a new one is appended.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # Rows refer to each other by the number of the job, not by its key: keys are hashes,
        # and an index over hashes writes to another page for every row (half as fast,
        # measured with 32 rows a commit).
        """
        CREATE TABLE job (
            id INTEGER PRIMARY KEY,
            key TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL,
            account TEXT NOT NULL,
            state TEXT NOT NULL,
            fence INTEGER NOT NULL,
            boot TEXT,
            run TEXT,
            attempt INTEGER NOT NULL,
            absent INTEGER NOT NULL,
            sent_at REAL,
            post_deadline REAL,
            params TEXT NOT NULL,
            n INTEGER NOT NULL,
            source TEXT NOT NULL,
            image_sha TEXT NOT NULL,
            task_id TEXT,
            images TEXT NOT NULL,
            images_seen_at REAL,
            message TEXT NOT NULL,
            units TEXT,
            status INTEGER,
            code TEXT,
            request_id TEXT,
            note TEXT NOT NULL,
            created_at REAL NOT NULL,
            updated_at REAL NOT NULL,
            why TEXT NOT NULL DEFAULT ''
        )
        """,
        "CREATE INDEX job_by_state ON job (state, id, n)",
        "CREATE INDEX job_by_task ON job (task_id) WHERE task_id IS NOT NULL",
        """
        CREATE TABLE destination (
            job INTEGER NOT NULL REFERENCES job,
            dest TEXT NOT NULL,
            source TEXT NOT NULL,
            PRIMARY KEY (job, dest)
        )
        """,
        """
        CREATE TABLE file (
            job INTEGER NOT NULL,
            dest TEXT NOT NULL,
            number INTEGER NOT NULL,
            name TEXT NOT NULL UNIQUE,
            sha256 TEXT NOT NULL,
            size INTEGER NOT NULL,
            kept INTEGER NOT NULL,
            PRIMARY KEY (job, dest, number),
            FOREIGN KEY (job, dest) REFERENCES destination
        )
        """,
        "CREATE TABLE run (id TEXT PRIMARY KEY, jobs INTEGER NOT NULL, images INTEGER NOT NULL)",
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        """
        CREATE TABLE event (
            id INTEGER PRIMARY KEY,
            job INTEGER NOT NULL,
            at REAL NOT NULL,
            old TEXT,
            new TEXT NOT NULL,
            why TEXT NOT NULL
        )
        """,
        "CREATE INDEX event_by_job ON event (job)",
        # By triggers, so that no change of state can come without its event.
        """
        CREATE TRIGGER job_planned AFTER INSERT ON job BEGIN
            INSERT INTO event (job, at, old, new, why)
            VALUES (NEW.id, NEW.updated_at, NULL, NEW.state, NEW.why);
        END
        """,
        """
        CREATE TRIGGER job_moved AFTER UPDATE OF state ON job BEGIN
            INSERT INTO event (job, at, old, new, why)
            VALUES (NEW.id, NEW.updated_at, OLD.state, NEW.state, NEW.why);
        END
        """,
    ),
    (
        # One row. The lock file holds the same two values, and shows whether this is older.
        "CREATE TABLE mark (journal TEXT NOT NULL, sends INTEGER NOT NULL)",
        """
        INSERT INTO mark
        SELECT lower(hex(randomblob(16))), coalesce(sum(attempt), 0) FROM job
        """,
        # By a trigger, so that no request can leave without being counted.
        """
        CREATE TRIGGER job_sent AFTER UPDATE OF state ON job WHEN NEW.state = 'sending' BEGIN
            UPDATE mark SET sends = sends + 1;
        END
        """,
    ),
    (
        """
        CREATE TABLE source (
            path TEXT NOT NULL,
            variant TEXT NOT NULL,
            size INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL,
            ctime_ns INTEGER NOT NULL,
            inode INTEGER NOT NULL,
            read_at_ns INTEGER NOT NULL,
            facts TEXT NOT NULL,
            PRIMARY KEY (path, variant)
        ) WITHOUT ROWID
        """,
    ),
    (
        """
        CREATE TABLE outcome (
            source TEXT PRIMARY KEY,
            outcome TEXT NOT NULL,
            key TEXT,
            files TEXT NOT NULL,
            reason TEXT NOT NULL,
            hint TEXT NOT NULL,
            notes TEXT NOT NULL,
            copied INTEGER NOT NULL,
            billed INTEGER NOT NULL,
            at REAL NOT NULL
        )
        """,
    ),
)
# These tables are copied when a journal is recovered. Not `source`: its rows have no numbers by
# which damage could be stepped over, and losing them only means that the files are read again.
TABLES = ("job", "destination", "file", "run", "meta", "event", "outcome")


_SELECT = f"SELECT {', '.join(FIELDS)} FROM job"
_INSERT = (
    # `absent` is no longer used. To drop it, SQLite would rewrite the whole table.
    f"INSERT INTO job (absent, {', '.join(FIELDS)}) VALUES (0, {', '.join('?' * len(FIELDS))})"
    " ON CONFLICT (key) DO NOTHING"
)
_JOB_ID = "(SELECT id FROM job WHERE key = ?)"
_AT = f"SELECT job FROM destination WHERE job = {_JOB_ID} AND dest = ?"
_AT_AND_TAKEN = (
    "SELECT d.job, EXISTS (SELECT 1 FROM file f WHERE f.name = ? AND f.job <> d.job)"
    f" FROM destination d WHERE d.job = {_JOB_ID} AND d.dest = ?"
)
# A file is recorded twice, before and after it has its name. The second time its row is changed
# where it is: REPLACE would move it to the end of the table and leave a gap.
_UPDATE_FILE = (
    "UPDATE OR REPLACE file SET name = ?, sha256 = ?, size = ?, kept = ?"
    " WHERE job = ? AND dest = ? AND number = ?"
)
_REPLACE_FILE = (
    "REPLACE INTO file (name, sha256, size, kept, job, dest, number) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_PLACES = (
    "SELECT j.key, d.source, d.dest, f.number, f.name, f.sha256, f.size, f.kept"
    " FROM job j JOIN destination d ON d.job = j.id"
    " LEFT JOIN file f ON f.job = d.job AND f.dest = d.dest"
)
_IN_ORDER = "ORDER BY d.rowid, f.number"
_KNOWN_OUTCOMES = f"SELECT source, {', '.join(OUTCOME)} FROM outcome WHERE source IN"
_SAVE_OUTCOME = f"REPLACE INTO outcome (source, {', '.join(OUTCOME)}, at) VALUES (?{', ?' * 9})"
_IS_IN_FLIGHT = f"state IN ({', '.join(repr(state.value) for state in sorted(IN_FLIGHT))})"


def plan(db: sqlite3.Connection, jobs: Sequence[NewJob], now: float) -> list[JobRecord]:
    """Insert or find *jobs*; see `Journal.plan`."""
    records = [_plan(db, job, now) for job in jobs]
    for job in jobs:
        if job.dest is not None:
            _run(
                db,
                f"INSERT INTO destination (job, dest, source) VALUES ({_JOB_ID}, ?, ?)"
                # A known destination of the same source writes nothing, so nothing is synced.
                " ON CONFLICT (job, dest) DO UPDATE SET source = excluded.source"
                " WHERE source IS NOT excluded.source",
                job.key,
                job.dest,
                job.source,
            )
    return records


def _plan(db: sqlite3.Connection, job: NewJob, now: float) -> JobRecord:
    record = planned(job, now=now)
    if _run(db, _INSERT, *encoded(record, FIELDS)).rowcount == 1:
        return record
    known = cast("JobRecord", get(db, job.key))
    record = replanned(known, job, now=now)
    if record is not known:
        swap(db, known, record)
    return record


def get(db: sqlite3.Connection, key: str) -> JobRecord | None:
    """Return the job of this key."""
    return _job(_row(db, f"{_SELECT} WHERE key = ?", key))


def by_task(db: sqlite3.Connection, task_id: str) -> JobRecord | None:
    """Return the job of this task."""
    return _job(_row(db, f"{_SELECT} WHERE task_id = ? ORDER BY id LIMIT 1", task_id))


def find(
    db: sqlite3.Connection, states: Collection[JobState] | None, after: str, limit: int
) -> list[JobRecord]:
    """Return a page of jobs; see `Journal.find`."""
    start = 0
    if after:
        row = _row(db, "SELECT id FROM job WHERE key = ?", after)
        if row is None:
            raise unknown_key(after)
        start = row[0]
    if states is None:
        rows = _rows(db, f"{_SELECT} WHERE id > ? ORDER BY id LIMIT ?", start, limit)
        return [decoded(row) for row in rows]
    # A page of each state from its index, then the first of all: one IN (…) over the states
    # would sort all that match for every page.
    pages = " UNION ALL ".join(
        ["SELECT * FROM (SELECT id FROM job WHERE state = ? AND id > ? ORDER BY id LIMIT ?)"]
        * len(states)
    )
    bounds = [bound for state in states for bound in (state, start, limit)]
    sql = f"{_SELECT} WHERE id IN ({pages or 'NULL'}) ORDER BY id LIMIT ?"
    return [decoded(row) for row in _rows(db, sql, *bounds, limit)]


def newest(
    db: sqlite3.Connection, states: Collection[JobState], account: str, kind: str
) -> JobRecord | None:
    """Return the job planned last that is in one of *states* and has a task, if any."""
    # The rowid's own order: most jobs of a large journal are done, so that it ends soon.
    sql = (
        f"{_SELECT} NOT INDEXED WHERE task_id IS NOT NULL AND account = ? AND kind = ?"
        f" AND state IN ({', '.join('?' * len(states))}) ORDER BY id DESC LIMIT 1"
    )
    return _job(_row(db, sql, account, kind, *states))


def swap(db: sqlite3.Connection, before: JobRecord, after: JobRecord, why: str = "") -> None:
    """Replace *before* by *after*, if *before* is how the job stands.

    Raises:
        StaleRecordError: It is not; nothing was written.
    """
    changed = changed_fields(before, after)
    state = before.state.value  # plain text: SQLite's adapters are slow with subclasses
    values = (*encoded(after, changed), why, before.key, state, before.fence)
    if _run(db, _update(changed), *values).rowcount != 1:
        _check_current(db, before)


@lru_cache
def _update(changed: tuple[str, ...]) -> str:
    columns = ", ".join(f"{name} = ?" for name in (*changed, "why"))
    return f"UPDATE job SET {columns} WHERE key = ? AND state = ? AND fence = ?"


def _check_current(db: sqlite3.Connection, record: JobRecord) -> None:
    actual = get(db, record.key)
    if actual is None or (actual.state, actual.fence) != (record.state, record.fence):
        raise stale(record, actual)


def move(
    db: sqlite3.Connection,
    before: JobRecord,
    after: JobRecord,
    why: str,
    *,
    unpaid: bool,
    place: Destination | None = None,
) -> None:
    """Move a job and record the files of *place*; *unpaid* takes it out of its run's count."""
    job = None if place is None else _job_at(db, before, place)
    swap(db, before, after, why)
    if place is not None:
        for file in place.files:
            _write_file(db, job, place.dest, file)
    if unpaid and before.run is not None:
        _run(
            db,
            "UPDATE run SET jobs = jobs - 1, images = images - ? WHERE id = ?",
            before.n,
            before.run,
        )


def send(
    db: sqlite3.Connection, before: JobRecord, after: JobRecord, run: str, limits: Limits
) -> Refusal | None:
    """Enter ``sending`` unless a limit is reached; see `Journal.send`."""
    # Without a limit the sums are not needed; the second takes long over very many jobs.
    limited = limits.jobs is not None or limits.images is not None
    row = _row(db, "SELECT jobs, images FROM run WHERE id = ?", run) if limited else None
    jobs, images = row or (0, 0)
    now = in_flight(db) if limits.in_flight is not None else 0
    refusal = limits.refusal(before.n, jobs=jobs, images=images, in_flight=now)
    if refusal:
        _check_current(db, before)
        return refusal
    swap(db, before, after)
    _run(
        db,
        "INSERT INTO run (id, jobs, images) VALUES (?, 1, ?)"
        " ON CONFLICT (id) DO UPDATE SET jobs = jobs + 1, images = images + excluded.images",
        run,
        before.n,
    )
    return None


def lose_sending(db: sqlite3.Connection, boot: str, now: float) -> None:
    """Move what another opening of the journal was sending to ``unknown`` (T6)."""
    _run(
        db,
        "UPDATE job SET state = ?, fence = fence + 1, updated_at = ?, why = ?"
        " WHERE state = ? AND boot IS NOT ?",
        JobState.UNKNOWN,
        now,
        "the process that sent it ended",
        JobState.SENDING,
        boot,
    )


def read_mark(db: sqlite3.Connection) -> Mark:
    """Return what this database has sent."""
    ((journal, sends),) = db.execute("SELECT journal, sends FROM mark")
    return Mark(journal, sends)


def write_mark(db: sqlite3.Connection, mark: Mark) -> None:
    """Replace what this database has sent."""
    db.execute("UPDATE mark SET journal = ?, sends = ?", (mark.journal, mark.sends))


def forget_attempts(db: sqlite3.Connection) -> None:
    """Mark what could be sent again as never sent, so that it is looked up on the server first.

    In an older copy of a journal, a job may be ``planned`` that has been accepted since.
    """
    db.execute(
        "UPDATE job SET attempt = 0, fence = fence + 1 WHERE attempt > 0 AND state IN (?, ?)",
        (JobState.PLANNED.value, JobState.REJECTED.value),
    )


def drop_events(db: sqlite3.Connection, *, kept: float) -> None:
    """Delete events that are *kept* seconds older than the newest one; some of them each time.

    Compared with the newest event, not with the clock: a clock that is wrong deletes nothing.
    """
    oldest = "SELECT id, at FROM event ORDER BY id LIMIT 20000"  # a few milliseconds
    newest = "SELECT at FROM event ORDER BY id DESC LIMIT 1"
    last = f"SELECT max(id) FROM ({oldest}) WHERE at < ({newest}) - ?"
    db.execute(f"DELETE FROM event WHERE id <= ({last})", (kept,))


def in_flight(db: sqlite3.Connection) -> int:
    """Return how many images are in flight."""
    (row,) = _rows(db, f"SELECT coalesce(sum(n), 0) FROM job WHERE {_IS_IN_FLIGHT}")
    return cast("int", row[0])


def counts(db: sqlite3.Connection) -> dict[JobState, int]:
    """Return how many jobs are in each state."""
    rows = _rows(db, "SELECT state, count(*) FROM job GROUP BY state")
    return {JobState(state): number for state, number in rows}


def destinations(db: sqlite3.Connection, key: str) -> tuple[Destination, ...]:
    """Return where the job's images belong, with what is there."""
    rows = _rows(db, f"{_PLACES} WHERE j.key = ? {_IN_ORDER}", key)
    return decoded_destinations(rows).get(key, ())


def saved(db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, SavedJob]:
    """Return those of the jobs that are done, with their destinations; see `Journal.saved`."""
    marks = ", ".join("?" * len(keys))
    # The sign keeps SQLite from reading all jobs of that state by its index, for each page.
    rows = _rows(db, f"{_SELECT} WHERE key IN ({marks}) AND +state = 'done'", *keys)
    found = _rows(db, f"{_PLACES} WHERE j.key IN ({marks}) {_IN_ORDER}", *keys)
    places, records = decoded_destinations(found), map(decoded, rows)
    return {record.key: SavedJob(record, places.get(record.key, ())) for record in records}


def known_sources(
    db: sqlite3.Connection, paths: Sequence[str], variant: str
) -> dict[str, KnownSource]:
    """Return what is known of source files, by path; see `Journal.known_sources`."""
    marks = ", ".join("?" * len(paths))
    sql = f"SELECT {', '.join(SOURCE)} FROM source WHERE variant = ? AND path IN ({marks})"
    rows = _rows(db, sql, variant, *paths)
    return {row[0]: decoded_source(row) for row in rows}


def remember_sources(db: sqlite3.Connection, sources: Sequence[KnownSource]) -> None:
    """Keep what was found in source files; see `Journal.remember_sources`."""
    marks = ", ".join("?" * len(SOURCE))
    sql = f"REPLACE INTO source ({', '.join(SOURCE)}) VALUES ({marks})"
    for source in sources:
        _run(db, sql, *source_values(source))


def save_file(db: sqlite3.Connection, key: str, dest: str, file: SavedFile) -> None:
    """Record a file; it replaces those of its place and of its name."""
    row = _row(db, _AT, key, dest)
    if row is None:
        raise unknown_destination(key, dest)
    _write_file(db, row[0], dest, file)


def _job_at(db: sqlite3.Connection, record: JobRecord, place: Destination) -> object:
    """Return the number of the job, if its files may be recorded at *place*."""
    job: object = None
    for name in [file.name for file in place.files] or [""]:
        row = _row(db, _AT_AND_TAKEN, name, record.key, place.dest)
        if row is not None and not row[1]:
            job = row[0]
            continue
        _check_current(db, record)  # that it is out of date says more
        raise taken(record, name) if row else unknown_destination(record.key, place.dest)
    return job


def _write_file(db: sqlite3.Connection, job: object, dest: str, file: SavedFile) -> None:
    row = file.name, file.sha256, file.size, file.kept, job, dest, file.index
    if not _run(db, _UPDATE_FILE, *row).rowcount:
        _run(db, _REPLACE_FILE, *row)


def owner_of(db: sqlite3.Connection, name: str) -> str | None:
    """Return the key of the job that saved a file as *name*."""
    sql = "SELECT job.key FROM file JOIN job ON job.id = file.job WHERE file.name = ?"
    row = _row(db, sql, name)
    return row[0] if row else None


def events(db: sqlite3.Connection, key: str | None) -> list[JournalEvent]:
    """Return what happened to a job, or to all, oldest first."""
    sql = "SELECT job.key, at, old, new, event.why FROM event JOIN job ON job.id = event.job"
    if key is None:
        rows = _rows(db, f"{sql} ORDER BY event.id")
    else:
        rows = _rows(db, f"{sql} WHERE job.key = ? ORDER BY event.id", key)
    return [JournalEvent(*row) for row in rows]


def save_outcomes(db: sqlite3.Connection, outcomes: Sequence[SourceOutcome]) -> None:
    """Record how sources ended; each replaces what was known of its source."""
    marks = ", ".join("?" * len(outcomes))
    known = set(_rows(db, f"{_KNOWN_OUTCOMES} ({marks})", *(each.source for each in outcomes)))
    for each in outcomes:
        row = encoded_outcome(each)
        # What is as before is not written: a run over finished work costs no commit.
        if row[:-1] not in known:
            _run(db, _SAVE_OUTCOME, *row)


def outcomes(db: sqlite3.Connection, after: str, limit: int) -> list[SourceOutcome]:
    """Return a page of the last outcomes of sources, in the order of their names."""
    rows = _rows(
        db,
        f"SELECT source, {', '.join(OUTCOME)}, at FROM outcome"
        " WHERE source > ? ORDER BY source LIMIT ?",
        after,
        limit,
    )
    return [decoded_outcome(row) for row in rows]


def read_meta(db: sqlite3.Connection, name: str) -> JSON:
    """Return what was written under *name*, or None."""
    row = _row(db, "SELECT value FROM meta WHERE name = ?", name)
    return json.loads(row[0]) if row else None


def write_meta(db: sqlite3.Connection, name: str, text: str) -> None:
    """Write *text*, which is JSON, under *name*."""
    _run(db, "REPLACE INTO meta (name, value) VALUES (?, ?)", name, text)


def _run(db: sqlite3.Connection, sql: str, *values: object) -> sqlite3.Cursor:
    try:
        return db.execute(sql, values)
    except UnicodeEncodeError:  # before anything was done
        return db.execute(sql, [_storable(v) if isinstance(v, str) else v for v in values])


def _rows(db: sqlite3.Connection, sql: str, *values: object) -> list[Row]:
    # Rows without bytes, nearly all, are taken as they are.
    return [
        tuple(map(_text, row)) if bytes in map(type, row) else row for row in _run(db, sql, *values)
    ]


def _row(db: sqlite3.Connection, sql: str, *values: object) -> Row | None:
    return next(iter(_rows(db, sql, *values)), None)


def _storable(value: str) -> str | bytes:
    """Return *value* as SQLite takes it: text that is no Unicode becomes bytes.

    File names and servers' messages may hold lone surrogates, which UTF-8 can't hold.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")
    return value


def _text(value: object) -> object:
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def _job(row: Row | None) -> JobRecord | None:
    return decoded(row) if row else None
