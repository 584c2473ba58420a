"""The tables of the journal on disk, and how they came to be.

Rule of this file: SQL as text, nothing that runs.
"""

from __future__ import annotations

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
)
TABLES = ("job", "destination", "file", "run", "meta", "event")
