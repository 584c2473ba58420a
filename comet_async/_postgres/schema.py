"""The tables of a journal in PostgreSQL, and how they come to be.

All of them are in one schema, so that rights are granted once, and several journals fit in one
database. Names in the statements are unqualified: each connection's ``search_path`` is the schema.
"""

# ruff: noqa: S608  (what is put into SQL text are constants of ours)

from __future__ import annotations

from comet_async._journal.states import IN_FLIGHT
from comet_async._postgres.connection import PostgresConnection
from comet_async.errors import JournalError

# The states whose images count as in flight, as SQL text: constants of ours, not data.
IN_FLIGHT_STATES = ", ".join(f"'{state}'" for state in sorted(IN_FLIGHT))

# One tuple of statements for each step from one version to the next. A step that was released is
# never changed; a new one is appended. A step must leave the previous release able to work: workers
# are upgraded one after the other.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE job (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            key text NOT NULL UNIQUE,
            kind text NOT NULL,
            account text NOT NULL,
            state text NOT NULL,
            fence integer NOT NULL DEFAULT 0,
            boot text,
            run text,
            attempt integer NOT NULL DEFAULT 0,
            absent integer NOT NULL DEFAULT 0,
            sent_at double precision,
            post_deadline double precision,
            params text NOT NULL,
            n integer NOT NULL,
            source text NOT NULL,
            image_sha text NOT NULL,
            task_id text,
            images text NOT NULL DEFAULT '[]',
            images_seen_at double precision,
            message text NOT NULL DEFAULT '',
            units text,
            status integer,
            code text,
            request_id text,
            note text NOT NULL DEFAULT '',
            created_at double precision NOT NULL,
            updated_at double precision NOT NULL,
            why text NOT NULL DEFAULT '',
            owner text
        )
        """,
        # A row changes some six times, each time also in an index; what
        # is left behind has to be cleaned away before it is a fifth of a large table.
        "ALTER TABLE job SET (autovacuum_vacuum_scale_factor = 0.02)",
        # Pages of `find`: the jobs of some states in the order of planning. Jobs that are done are
        # not in it, so that it stays small and a finished job costs one entry less.
        "CREATE INDEX job_open ON job (state, id) WHERE state <> 'done'",
        # `find` of finished jobs, and controls for lookups, without reading the whole table.
        "CREATE INDEX job_done ON job (id) WHERE state = 'done'",
        "CREATE INDEX job_by_task ON job (task_id) WHERE task_id IS NOT NULL",
        # The sum that decides whether a request may be sent: a few hundred entries.
        f"CREATE INDEX job_flying ON job (account, n) WHERE state IN ({IN_FLIGHT_STATES})",
        # What a worker that was lost leaves behind, and nothing else.
        "CREATE INDEX job_owned ON job (owner) WHERE owner IS NOT NULL",
        """
        CREATE TABLE destination (
            id bigint GENERATED ALWAYS AS IDENTITY,
            job bigint NOT NULL REFERENCES job,
            dest text NOT NULL,
            source text NOT NULL,
            PRIMARY KEY (job, dest)
        )
        """,
        """
        CREATE TABLE file (
            job bigint NOT NULL,
            dest text NOT NULL,
            number integer NOT NULL,
            name text NOT NULL UNIQUE,
            sha256 text NOT NULL,
            size bigint NOT NULL,
            kept boolean NOT NULL,
            PRIMARY KEY (job, dest, number),
            FOREIGN KEY (job, dest) REFERENCES destination
        )
        """,
        "CREATE TABLE run (id text PRIMARY KEY, jobs integer NOT NULL, images integer NOT NULL)",
        "CREATE TABLE meta (name text PRIMARY KEY, value text NOT NULL)",
        """
        CREATE TABLE event (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            job bigint NOT NULL,
            at double precision NOT NULL,
            old text,
            new text NOT NULL,
            why text NOT NULL
        )
        """,
        "CREATE INDEX event_by_job ON event (job)",
        """
        CREATE TABLE source (
            path text NOT NULL,
            variant text NOT NULL,
            size bigint NOT NULL,
            mtime_ns bigint NOT NULL,
            ctime_ns bigint NOT NULL,
            inode bigint NOT NULL,
            read_at_ns bigint NOT NULL,
            facts text NOT NULL,
            PRIMARY KEY (path, variant)
        )
        """,
        """
        CREATE TABLE outcome (
            source text PRIMARY KEY,
            outcome text NOT NULL,
            key text,
            files text NOT NULL,
            reason text NOT NULL,
            hint text NOT NULL,
            notes text NOT NULL,
            copied boolean NOT NULL,
            billed boolean NOT NULL,
            at double precision NOT NULL
        )
        """,
        """
        CREATE TABLE worker (
            boot text PRIMARY KEY,
            name text NOT NULL,
            started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            lease_until timestamptz NOT NULL,
            lost boolean NOT NULL DEFAULT false
        )
        """,
        # How many images of an account the server takes at a time, once it has refused one.
        """
        CREATE TABLE quota (
            account text PRIMARY KEY,
            most integer,
            clean integer NOT NULL DEFAULT 0
        )
        """,
        # Workers that wait: for a slot of an account, or for a job that another one has. `called`
        # are those that were offered a slot and have not requested it yet.
        """
        CREATE TABLE waiter (
            topic text NOT NULL,
            boot text NOT NULL,
            place bigint GENERATED ALWAYS AS IDENTITY,
            called boolean NOT NULL DEFAULT false,
            PRIMARY KEY (topic, boot)
        )
        """,
        # One worker for each slot that is free, those that have waited longest first: if all were
        # offered it, a thousand would request it. Each worker listens on a channel of its own.
        """
        CREATE FUNCTION call_waiters(of text, most integer) RETURNS void LANGUAGE plpgsql
        SET search_path FROM CURRENT AS $$
        DECLARE
            worker text;
        BEGIN
            FOR worker IN
                UPDATE waiter SET called = true WHERE (topic, boot) IN (
                    SELECT topic, boot FROM waiter WHERE topic = of AND NOT called
                    ORDER BY place LIMIT most FOR UPDATE SKIP LOCKED)
                RETURNING boot
            LOOP
                PERFORM pg_notify('comet_async ' || worker, of);
            END LOOP;
        END $$
        """,
        # By triggers, so that no change of state can come without its event; whoever makes it, with
        # whatever search_path.
        """
        CREATE FUNCTION jobs_planned() RETURNS trigger LANGUAGE plpgsql
        SET search_path FROM CURRENT AS $$
        BEGIN
            INSERT INTO event (job, at, old, new, why)
            SELECT id, updated_at, NULL, state, why FROM added ORDER BY id;
            RETURN NULL;
        END $$
        """,
        """
        CREATE TRIGGER jobs_planned AFTER INSERT ON job
        REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION jobs_planned()
        """,
        # Only workers that wait for a slot or for another worker's job are notified.
        f"""
        CREATE FUNCTION job_changed() RETURNS trigger LANGUAGE plpgsql
        SET search_path FROM CURRENT AS $$
        DECLARE
            worker text;
        BEGIN
            IF OLD.state IS DISTINCT FROM NEW.state THEN
                INSERT INTO event (job, at, old, new, why)
                VALUES (NEW.id, NEW.updated_at, OLD.state, NEW.state, NEW.why);
                IF OLD.state IN ({IN_FLIGHT_STATES}) AND NEW.state NOT IN ({IN_FLIGHT_STATES}) THEN
                    PERFORM call_waiters('slot ' || NEW.account, NEW.n);
                END IF;
            END IF;
            IF OLD.owner IS NOT NULL AND NEW.owner IS NULL THEN
                FOR worker IN
                    DELETE FROM waiter WHERE topic = 'job ' || md5(NEW.key) RETURNING boot
                LOOP
                    PERFORM pg_notify('comet_async ' || worker, 'job ' || md5(NEW.key));
                END LOOP;
            END IF;
            RETURN NULL;
        END $$
        """,
        """
        CREATE TRIGGER job_changed AFTER UPDATE OF state, owner ON job
        FOR EACH ROW EXECUTE FUNCTION job_changed()
        """,
    ),
)


class NotMigratedError(JournalError):
    """The tables are not there, or of an older version, and may not be changed."""


def migrate(db: PostgresConnection) -> None:
    """Make the schema, or bring it up to date; runs inside a transaction.

    Raises:
        JournalError: It is of a newer version.
    """
    schema = db.target.quoted_schema
    # One at a time, even when many workers start at once.
    db.rows("SELECT pg_advisory_xact_lock(hashtext(%s))", f"comet_async {schema}")
    version = _version(db)
    _check_not_newer(db, version)
    if version < 0:  # an administrator may have made it, for a role that must not
        db.run(f"CREATE SCHEMA {schema}")
        version = 0
    for step in MIGRATIONS[version:]:
        for statement in step:
            db.run(statement)
    if version < len(MIGRATIONS):
        text = str(len(MIGRATIONS))
        db.run(
            "INSERT INTO meta (name, value) VALUES ('version', %s)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            text,
        )


def check_version(db: PostgresConnection) -> None:
    """Check that the tables are there and up to date, for a role that must not change them.

    Raises:
        JournalError: They are not.
    """
    version = _version(db)
    _check_not_newer(db, version)
    if version < len(MIGRATIONS):
        raise NotMigratedError(
            f"the journal {db.target} is not there, or of an older version",
            hint="run 'comet-async migrate' once, as a role that may change its schema",
        )


def _check_not_newer(db: PostgresConnection, version: int) -> None:
    if version > len(MIGRATIONS) + 1:  # a migration leaves the release before it able to work
        raise JournalError(
            f"the journal {db.target} was written by a newer comet_async",
            hint="upgrade comet_async here",
        )


def _version(db: PostgresConnection) -> int:
    """Return the schema's version: 0 while it is empty, -1 if it is not there."""
    schema = db.target.schema
    if db.row("SELECT 1 FROM pg_namespace WHERE nspname = %s", schema) is None:
        return -1
    if db.row("SELECT to_regclass(%s) IS NOT NULL", f"{schema}.meta") != (True,):
        return 0
    row = db.row("SELECT value FROM meta WHERE name = 'version'")
    return int(row[0]) if row else 0
