"""A journal in memory: `comet_async._journal.transitions` applied to a dictionary.

Sessions without a journal use it, and it is the model that the journal on disk is tested against.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Self, Unpack, cast

import attrs

from comet_async._journal.records import (
    Changes,
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
from comet_async._journal.states import IN_FLIGHT, JobState
from comet_async._journal.transitions import (
    closed,
    is_refunded,
    moved,
    new_boot,
    noted,
    planned,
    replanned,
    sending,
    stale,
    taken,
    unknown_destination,
    unknown_key,
)
from comet_async.models import JSON
from comet_async.secret import redact


@attrs.define
class _Run:
    """What one run has paid for, or may have."""

    jobs: int = 0
    images: int = 0

    def add(self, sign: int, n: int) -> None:
        self.jobs += sign
        self.images += sign * n


@attrs.define(eq=False)
class MemoryJournal:
    """A `Journal` that ends with the process: nothing is paid twice within it.

    Args:
        boot: A name for this opening; random by default.
    """

    boot: str = attrs.field(factory=new_boot)
    _jobs: dict[str, JobRecord] = attrs.field(factory=dict, init=False, repr=False)
    _destinations: dict[str, dict[str, Destination]] = attrs.field(
        factory=dict, init=False, repr=False
    )
    _owners: dict[str, tuple[str, str, int]] = attrs.field(factory=dict, init=False, repr=False)
    _runs: dict[str, _Run] = attrs.field(factory=dict, init=False, repr=False)
    _events: list[JournalEvent] = attrs.field(factory=list, init=False, repr=False)
    _outcomes: dict[str, SourceOutcome] = attrs.field(factory=dict, init=False, repr=False)
    _meta: dict[str, str] = attrs.field(factory=dict, init=False, repr=False)
    _sources: dict[tuple[str, str], KnownSource] = attrs.field(factory=dict, init=False, repr=False)
    _in_flight: int = attrs.field(default=0, init=False, repr=False)
    _closed: bool = attrs.field(default=False, init=False)
    # Held while a change is checked and made: event loops of several threads share a journal.
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    async def __aenter__(self) -> Self:
        """Return the journal itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.aclose()

    async def plan(self, jobs: Sequence[NewJob], *, now: float) -> list[JobRecord]:
        """Record *jobs*, or find those that are known; see `Journal.plan`."""
        with self._lock:
            return self._plan(jobs, now)

    def _plan(self, jobs: Sequence[NewJob], now: float) -> list[JobRecord]:
        self._check_open()
        changed: dict[str, JobRecord] = {}
        records: list[JobRecord] = []
        for job in jobs:
            known = changed.get(job.key) or self._jobs.get(job.key)
            record = replanned(known, job, now=now) if known else planned(job, now=now)
            changed[job.key] = record
            records.append(record)
        for key in changed.keys() - self._jobs.keys():
            self._destinations[key] = {}
        for key, record in changed.items():
            if key not in self._jobs:
                self._remember(None, record, "")
        self._jobs |= changed
        for job in jobs:
            self._add_destination(job)
        return records

    async def get(self, key: str) -> JobRecord | None:
        """Return the job of this key."""
        self._check_open()
        return self._jobs.get(key)

    async def find(
        self, states: Collection[JobState] | None = None, *, after: str = "", limit: int = 500
    ) -> list[JobRecord]:
        """Return a page of jobs; see `Journal.find`."""
        self._check_open()
        if after and after not in self._jobs:
            raise unknown_key(after)
        jobs = iter(self._copied())
        if after:
            next(job for job in jobs if job.key == after)
        return list(islice((j for j in jobs if states is None or j.state in states), limit))

    async def by_task(self, task_id: str) -> JobRecord | None:
        """Return the job that the server knows by *task_id*."""
        self._check_open()
        return next((job for job in self._copied() if job.task_id == task_id), None)

    async def newest(
        self, states: Collection[JobState], *, account: str, kind: str
    ) -> JobRecord | None:
        """Return the job planned last that is in one of *states* and has a task, if any."""
        self._check_open()
        for job in reversed(self._copied()):
            known = job.task_id is not None and job.state in states
            if known and (job.account, job.kind) == (account, kind):
                return job
        return None

    async def move(
        self,
        record: JobRecord,
        new: JobState,
        *,
        now: float,
        why: str = "",
        place: Destination | None = None,
        **changes: Unpack[Changes],
    ) -> JobRecord:
        """Move a job to another state; see `Journal.move`."""
        move, after = moved(record, new, now=now, changes=changes)
        with self._lock:
            self._check_current(record)
            if place is not None:
                self._check_place(record, place)
            self._swap(record, after, why)
            if record.run is not None and is_refunded(move, record, after):
                self._runs[record.run].add(-1, record.n)
            if place is not None:
                for file in place.files:
                    self._save(record.key, place.dest, file)
        return after

    async def send(
        self, record: JobRecord, *, now: float, post_deadline: float, limits: Limits, run: str
    ) -> JobRecord | Refusal:
        """Enter ``sending`` if the limits let it; see `Journal.send`."""
        after = sending(record, now=now, post_deadline=post_deadline, boot=self.boot, run=run)
        with self._lock:
            self._check_current(record)
            spent = self._runs.setdefault(run, _Run())
            refusal = limits.refusal(
                record.n, jobs=spent.jobs, images=spent.images, in_flight=self._in_flight
            )
            if refusal:
                return refusal
            self._swap(record, after, "")
            spent.add(1, record.n)
        return after

    async def note(self, record: JobRecord, *, now: float, **changes: Unpack[Changes]) -> JobRecord:
        """Write details of a job that stays in its state; see `Journal.note`."""
        after = noted(record, now=now, changes=changes)
        with self._lock:
            self._check_current(record)
            self._swap(record, after, "")
        return after

    async def destinations(self, key: str) -> tuple[Destination, ...]:
        """Return where the job's images belong."""
        self._check_open()
        return tuple(self._destinations.get(key, {}).values())

    async def save_file(self, key: str, dest: str, file: SavedFile) -> None:
        """Record a file at a destination; see `Journal.save_file`."""
        with self._lock:
            self._check_open()
            if dest not in self._destinations.get(key, {}):
                raise unknown_destination(key, dest)
            self._save(key, dest, file)

    def _save(self, key: str, dest: str, file: SavedFile) -> None:
        if file.name in self._owners:
            self._drop(*self._owners.pop(file.name))
        self._drop(key, dest, file.index)
        place = self._destinations[key][dest]
        files = sorted((*place.files, file), key=lambda saved: saved.index)
        self._destinations[key][dest] = attrs.evolve(place, files=tuple(files))
        self._owners[file.name] = (key, dest, file.index)

    async def owner_of(self, name: str) -> str | None:
        """Return the key of the job that saved a file as *name*."""
        self._check_open()
        return self._owners[name][0] if name in self._owners else None

    async def saved(self, keys: Collection[str]) -> dict[str, SavedJob]:
        """Return those of the jobs *keys* that are done, with their destinations."""
        self._check_open()
        jobs = (self._jobs[key] for key in keys if key in self._jobs)
        return {
            job.key: SavedJob(job, tuple(self._destinations[job.key].values()))
            for job in jobs
            if job.state is JobState.DONE
        }

    async def known_sources(
        self, paths: Collection[str], *, variant: str = ""
    ) -> dict[str, KnownSource]:
        """Return what is known of the files *paths*, by path."""
        self._check_open()
        known = ((path, self._sources.get((path, variant))) for path in paths)
        return {path: source for path, source in known if source is not None}

    async def remember_sources(self, sources: Sequence[KnownSource]) -> None:
        """Keep what was found in source files; see `Journal.remember_sources`."""
        self._check_open()
        self._sources |= {(source.path, source.variant): source for source in sources}

    async def in_flight(self) -> int:
        """Return how many images are in flight."""
        self._check_open()
        return self._in_flight

    async def counts(self) -> dict[JobState, int]:
        """Return how many jobs are in each state that has any."""
        self._check_open()
        return dict(Counter(job.state for job in self._copied()))

    async def events(self, key: str | None = None) -> list[JournalEvent]:
        """Return what happened to a job (or to all), oldest first."""
        self._check_open()
        return [event for event in self._events if key is None or event.key == key]

    async def save_outcomes(self, outcomes: Sequence[SourceOutcome]) -> None:
        """Record how sources ended; see `Journal.save_outcomes`."""
        self._check_open()
        for outcome in outcomes:
            known = self._outcomes.get(outcome.source)
            if known is None or attrs.evolve(known, at=outcome.at) != outcome:
                self._outcomes[outcome.source] = outcome

    async def outcomes(self, *, after: str = "", limit: int = 500) -> list[SourceOutcome]:
        """Return a page of the last outcomes of sources; see `Journal.outcomes`."""
        self._check_open()
        sources = sorted(source for source in list(self._outcomes) if source > after)
        return [self._outcomes[source] for source in sources[:limit]]

    async def read_meta(self, name: str) -> JSON:
        """Return what was written under *name*, or None."""
        self._check_open()
        return cast("JSON", json.loads(self._meta.get(name, "null")))

    async def write_meta(self, name: str, value: JSON) -> None:
        """Keep a fact about the account or the gateway."""
        self._check_open()
        self._meta[name] = json.dumps(value)

    async def trust(self) -> None:
        """Do nothing: memory is never older than what was sent."""

    async def aclose(self) -> None:
        """Close. May be called again."""
        self._closed = True

    def _copied(self) -> list[JobRecord]:
        """Return all jobs: those of other threads' event loops come and go at any time."""
        return list(self._jobs.values())

    def _check_open(self) -> None:
        if self._closed:
            raise closed()

    def _check_current(self, record: JobRecord) -> None:
        self._check_open()
        actual = self._jobs.get(record.key)
        if actual is None or (actual.state, actual.fence) != (record.state, record.fence):
            raise stale(record, actual)

    def _check_place(self, record: JobRecord, place: Destination) -> None:
        if place.dest not in self._destinations[record.key]:
            raise unknown_destination(record.key, place.dest)
        for file in place.files:
            if self._owners.get(file.name, (record.key,))[0] != record.key:
                raise taken(record, file.name)

    def _swap(self, before: JobRecord, after: JobRecord, why: str) -> None:
        self._jobs[after.key] = after
        self._in_flight += after.n * (after.state in IN_FLIGHT)
        self._in_flight -= before.n * (before.state in IN_FLIGHT)
        if before.state is not after.state:
            self._remember(before.state, after, why)

    def _remember(self, old: JobState | None, record: JobRecord, why: str) -> None:
        """Keep the move of *record* from the state *old*."""
        event = JournalEvent(record.key, record.updated_at, old, record.state, redact(why))
        self._events.append(event)

    def _add_destination(self, job: NewJob) -> None:
        if job.dest is None:
            return
        places = self._destinations[job.key]
        known = places.get(job.dest, Destination(source=job.source, dest=job.dest))
        places[job.dest] = attrs.evolve(known, source=job.source)

    def _drop(self, key: str, dest: str, index: int) -> None:
        place = self._destinations[key][dest]
        for file in place.files:
            if file.index == index:
                self._owners.pop(file.name, None)
        files = tuple(file for file in place.files if file.index != index)
        self._destinations[key][dest] = attrs.evolve(place, files=files)


@attrs.define(eq=False)
class ForgettingJournal(MemoryJournal):
    """The journal of a session without one: it holds a job only while it is worked on.

    So a service may run for years; but nothing is recognised once it has ended.
    """

    def forget(self, key: str) -> None:
        """Remove a job."""
        with self._lock:
            record = self._jobs.pop(key, None)
            if record is None:
                return
            self._in_flight -= record.n * (record.state in IN_FLIGHT)
            for place in self._destinations.pop(key, {}).values():
                for file in place.files:
                    self._owners.pop(file.name, None)

    async def save_outcomes(self, outcomes: Sequence[SourceOutcome]) -> None:
        """Keep no outcomes."""

    def _remember(self, old: JobState | None, record: JobRecord, why: str) -> None:
        """Keep no history."""
