"""The two journals side by side: whatever is done to both, both answer the same."""

from __future__ import annotations

import asyncio
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from comet_async._journal.memory import MemoryJournal
from comet_async._journal.records import Destination, JobRecord, Limits, Refusal, SavedFile
from comet_async._journal.states import JobState
from comet_async.errors import CometError
from comet_async.journal import SqliteJournal
from comet_async.testing import VirtualLoop
from tests.support.journal_contract import image, new_job

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypothesis.stateful import MultipleResults

    from comet_async._journal.records import Changes, Journal, NewJob

NUMBERS = st.integers(0, 4)
DESTS = st.sampled_from(["a", "b/c", None])
NAMES = st.sampled_from(["a.png", "b/c.png", "b/c-1.png"])
LIMIT = st.none() | st.integers(0, 6)
LIMITS = st.builds(Limits, in_flight=LIMIT, jobs=LIMIT, images=LIMIT)
JOBS = st.builds(
    lambda number, n, account, dest: new_job(number, n=n, account=account, dest=dest),
    NUMBERS,
    st.sampled_from([1, 1, 1, 3]),
    st.sampled_from(["aa", "aa", "bb"]),
    DESTS,
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "note": st.text(max_size=5),
        "message": st.text(max_size=5),
        "task_id": st.none() | st.sampled_from(["t1", "t2"]),
        "images": st.sampled_from([(), (image(0), image(1))]),
        "images_seen_at": st.none() | st.floats(0, 9),
        "code": st.none() | st.text(max_size=3),
    },
)
FILES = st.builds(
    lambda index, name, kept: SavedFile(index=index, name=name, sha256="0", size=1, kept=kept),
    st.integers(0, 1),
    NAMES,
    st.booleans(),
)
PLACES = st.none() | st.builds(
    lambda dest, files: Destination(source="", dest=dest, files=tuple(files)),
    st.sampled_from(["a", "b/c"]),
    st.lists(FILES, max_size=2),
)
# Steps that lead somewhere come more often than any others.
STATES = st.sampled_from([*JobState, JobState.SUBMITTED, JobState.SUBMITTED, JobState.UNKNOWN])


T = TypeVar("T")
Refused: TypeAlias = tuple[type[CometError], str]
Found: TypeAlias = "JobRecord | MultipleResults[JobRecord]"


async def _find(journal: Journal, **how: Any) -> list[JobRecord]:
    return await journal.find(**how)


class TwoJournals(RuleBasedStateMachine):
    """One in memory, one on disk, under one name."""

    records = Bundle("records")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "journal.sqlite3"
        self.memory = MemoryJournal(boot="b")
        self.disk = self.runner.run(SqliteJournal.open(self.path, boot="b"))
        self.now = 0.0

    def teardown(self) -> None:
        """Close what was opened."""
        self.runner.run(self.disk.aclose())
        self.runner.close()
        self.folder.cleanup()

    def both(self, call: Callable[[Journal], Awaitable[T]]) -> T | Refused:
        """Return what both answer to *call*, which must be the same."""

        async def answer(journal: Journal) -> T | Refused:
            try:
                return await call(journal)
            except CometError as error:
                return type(error), str(error)

        expected = self.runner.run(answer(self.memory))
        assert self.runner.run(answer(self.disk)) == expected
        return expected

    def tick(self) -> float:
        """Return a moment later than all before."""
        self.now += 1
        return self.now

    @rule(target=records, jobs=st.lists(JOBS, max_size=4))
    def plan(self, jobs: list[NewJob]) -> MultipleResults[JobRecord]:
        """Plan some jobs, some of them known."""
        now = self.tick()
        answer = self.both(lambda journal: journal.plan(jobs, now=now))
        return multiple(*answer) if isinstance(answer, list) else multiple()

    @rule(target=records, record=records, state=STATES, changes=CHANGES, place=PLACES)
    def move(
        self, record: JobRecord, state: JobState, changes: Changes, place: Destination | None
    ) -> Found:
        """Try a move, legal or not, from a record that may be stale, perhaps with files."""
        now = self.tick()
        answer = self.both(
            lambda journal: journal.move(
                record, state, now=now, why="because", place=place, **changes
            )
        )
        return answer if isinstance(answer, JobRecord) else multiple()

    @rule(target=records, record=consumes(records), limits=LIMITS, run=st.sampled_from("pq"))
    def send(self, record: JobRecord, limits: Limits, run: str) -> JobRecord:
        """Try to send."""
        now = self.tick()
        answer = self.both(
            lambda journal: journal.send(
                record, now=now, post_deadline=now + 9, limits=limits, run=run
            )
        )
        return record if isinstance(answer, tuple | Refusal) else answer

    @rule(target=records, record=records, changes=CHANGES)
    def note(self, record: JobRecord, changes: Changes) -> Found:
        """Change details."""
        now = self.tick()
        answer = self.both(lambda journal: journal.note(record, now=now, **changes))
        return answer if isinstance(answer, JobRecord) else multiple()

    @rule(record=records, dest=DESTS, index=st.integers(0, 1), name=NAMES, kept=st.booleans())
    def save_file(
        self, record: JobRecord, dest: str | None, index: int, name: str, *, kept: bool
    ) -> None:
        """Save a file, perhaps where none was planned, perhaps under a taken name."""
        file = SavedFile(
            index=index, name=name, sha256="00", size=self.path.stat().st_ino, kept=kept
        )
        self.both(lambda journal: journal.save_file(record.key, dest or "", file))

    @rule(one=records, other=records, state=STATES)
    def at_once(self, one: JobRecord, other: JobRecord, state: JobState) -> None:
        """Ask for two things at once: they are done in the order of asking."""
        now = self.tick()

        async def both_calls(journal: Journal) -> list[Any]:
            calls = journal.note(one, now=now, note="n"), journal.move(other, state, now=now)
            answers = await asyncio.gather(*calls, return_exceptions=True)
            return [str(a) if isinstance(a, CometError) else a for a in answers]

        self.both(both_calls)

    @rule()
    def open_again(self) -> None:
        """Close the file and open it again; memory just goes on."""
        self.runner.run(self.disk.aclose())
        self.disk = self.runner.run(SqliteJournal.open(self.path, boot="b"))

    @rule(states=st.none() | st.sets(st.sampled_from(JobState)), limit=st.integers(1, 3))
    def walk(self, states: set[JobState] | None, limit: int) -> None:
        """Walk through all pages."""
        after = ""
        while page := self.both(partial(_find, states=states, after=after, limit=limit)):
            assert not isinstance(page[-1], str)
            after = page[-1].key

    @invariant()
    def same_sums(self) -> None:
        """Sums and events are the same after each step."""
        self.both(lambda journal: journal.in_flight())
        self.both(lambda journal: journal.counts())
        self.both(lambda journal: journal.events())

    @rule(number=NUMBERS, name=NAMES)
    def look(self, number: int, name: str) -> None:
        """Look at one job and what belongs to it."""
        key = new_job(number).key
        self.both(lambda journal: journal.get(key))
        self.both(lambda journal: journal.events(key))
        self.both(lambda journal: journal.destinations(key))
        self.both(lambda journal: journal.owner_of(name))
        self.both(lambda journal: journal.by_task("t1"))


TwoJournals.TestCase.settings = settings(
    max_examples=min(25, settings.default.max_examples), stateful_step_count=40
)
TestTwoJournals = pytest.mark.slow(TwoJournals.TestCase)
