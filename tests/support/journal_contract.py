"""What every journal must do: one suite, run against each implementation.

Derive a class, give it a fixture ``journal``, and all of this is tested.
"""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest

from comet_async._journal.records import (
    Destination,
    JobRecord,
    Journal,
    JournalEvent,
    KnownSource,
    Limits,
    NewJob,
    Refusal,
    SavedFile,
    SourceOutcome,
    StoredImage,
)
from comet_async._journal.states import IN_FLIGHT, MOVES, JobState, Move
from comet_async.errors import (
    DownloadError,
    IdempotencyConflictError,
    JournalError,
    StaleRecordError,
)

S = JobState
NOW = 1_767_225_600.0
OPEN = Limits()
SURROGATE = "caf\udce9"  # a file name in Latin-1, as Python reads it


def new_job(number: int = 0, **changes: Any) -> NewJob:
    """Return a job; another *number* is another image."""
    fields: dict[str, Any] = {
        "key": f"ce1-{'abcdefghijklmnopqrstuvwxyz'[number:]:a<26}",
        "kind": "expand",
        "account": "5f1e",
        "params": {"left_expansion_ratio": 0.3, "prompt": "white sun"},
        "n": 1,
        "source": f"photos/{number}.png",
        "image_sha": f"{number:064x}",
        "dest": f"photos/{number}",
    }
    return NewJob(**(fields | changes))


async def planned(journal: Journal, number: int = 0, **changes: Any) -> JobRecord:
    """Plan one job."""
    (record,) = await journal.plan([new_job(number, **changes)], now=NOW)
    return record


async def step(journal: Journal, record: JobRecord, state: JobState, **details: Any) -> JobRecord:
    """Make one legal move, whichever method makes it."""
    if state is not S.SENDING:
        return await journal.move(record, state, now=NOW + 1, **details)
    options: dict[str, Any] = {"limits": OPEN, "run": "run", "post_deadline": NOW + 60}
    sent = await journal.send(record, now=NOW + 1, **(options | details))
    assert isinstance(sent, JobRecord), sent
    return sent


async def walked(journal: Journal, state: JobState, number: int = 0, **changes: Any) -> JobRecord:
    """Plan a job and take it to *state* by the shortest legal way."""
    record = await planned(journal, number, **changes)
    for move in way_to(state):
        record = await step(journal, record, move.new)
    return record


def way_to(state: JobState) -> tuple[Move, ...]:
    """Return the fewest moves from ``planned`` to *state*."""
    ways: dict[JobState, tuple[Move, ...]] = {S.PLANNED: ()}
    while state not in ways:
        for move in MOVES.values():
            if move.old in ways:
                ways.setdefault(move.new, (*ways[move.old], move))
    return ways[state]


def image(index: int = 0) -> StoredImage:
    """Return where a result is on the server."""
    return StoredImage(index=index, url=f"https://cdn.example.com/{index}.png?sign=s")


def saved(name: str = "photos/0.png", **changes: Any) -> SavedFile:
    """Return a saved file."""
    fields: dict[str, Any] = {"index": 0, "name": name, "sha256": "ab" * 32, "size": 3}
    return SavedFile(**(fields | changes))


def at(*files: SavedFile) -> Destination:
    """Return the place of job 0 with *files*."""
    return Destination(source="photos/0.png", dest="photos/0", files=files)


class PlanningSuite:
    """Writing jobs down and finding them."""

    async def test_a_new_job_is_planned(self, journal: Journal) -> None:
        """What was planned is there as it was given."""
        record = await planned(journal)
        assert record == await journal.get(record.key)
        assert (record.state, record.fence, record.attempt) == (S.PLANNED, 0, 0)
        assert (record.params, record.created_at) == (new_job().params, NOW)

    async def test_a_known_job_keeps_its_record(self, journal: Journal) -> None:
        """Planning again finds the job where it stands; this is how a second run resumes."""
        record = await walked(journal, S.DONE)
        assert await planned(journal) == record

    async def test_equal_images_share_one_job(self, journal: Journal) -> None:
        """The same image under two names is one purchase with two destinations."""
        twice = [new_job(), new_job(source="copy.png", dest="copy")]
        first, second = await journal.plan(twice, now=NOW)
        assert first == second
        assert [place.dest for place in await journal.destinations(first.key)] == [
            "photos/0",
            "copy",
        ]

    async def test_another_request_under_a_known_key_is_refused(self, journal: Journal) -> None:
        """A key of the user's can't mean two requests; nothing of the call is written."""
        record = await planned(journal)
        with pytest.raises(IdempotencyConflictError, match=record.key):
            await journal.plan([new_job(1), new_job(0, n=2)], now=NOW)
        assert await journal.find() == [record]
        assert await journal.destinations(new_job(1).key) == ()

    @pytest.mark.parametrize(
        "changes",
        [{"kind": "try_on"}, {"n": 2}, {"image_sha": "00"}, {"params": {"prompt": "black sun"}}],
        ids=str,
    )
    async def test_every_part_of_the_request_counts(
        self, journal: Journal, changes: dict[str, Any]
    ) -> None:
        """Kind, number, image and parameters belong to the key."""
        await planned(journal)
        with pytest.raises(IdempotencyConflictError):
            await planned(journal, **changes)

    async def test_numbers_may_be_written_otherwise(self, journal: Journal) -> None:
        """1 and 1.0 are one request."""
        record = await planned(journal, params={"n": 1})
        assert await planned(journal, params={"n": 1.0}) == record

    @pytest.mark.parametrize("state", S)
    async def test_a_job_stays_with_its_account(self, journal: Journal, state: JobState) -> None:
        """Planning for another account returns the record unchanged; the caller refuses it."""
        record = await walked(journal, state)
        assert await planned(journal, account="beef") == record
        assert await journal.get(record.key) == record

    async def test_a_moved_source_is_noticed(self, journal: Journal) -> None:
        """A destination names the image as it was named last."""
        record = await planned(journal)
        await planned(journal, source="elsewhere/0.png")
        expected = Destination(source="elsewhere/0.png", dest="photos/0")
        assert await journal.destinations(record.key) == (expected,)

    async def test_no_file_may_be_wanted(self, journal: Journal) -> None:
        """A job without a destination has none."""
        record = await planned(journal, dest=None)
        assert await journal.destinations(record.key) == ()

    async def test_an_unknown_key_is_none(self, journal: Journal) -> None:
        """Asking for what is not there is no error."""
        assert await journal.get("ce1-nothing") is None
        assert await journal.by_task("nothing") is None
        assert await journal.owner_of("nothing.png") is None
        assert await journal.destinations("ce1-nothing") == ()

    async def test_pages_follow_each_other(self, journal: Journal) -> None:
        """Pages come in the order of planning, whatever the keys are."""
        keys = [(await planned(journal, number)).key for number in (3, 1, 4, 2, 0)]
        seen: list[str] = []
        while page := await journal.find(after=seen[-1] if seen else "", limit=2):
            seen += [record.key for record in page]
        assert seen == keys

    async def test_pages_of_some_states(self, journal: Journal) -> None:
        """Only jobs in the wanted states are found, in the order of planning."""
        states = [S.DONE, S.PLANNED, S.FAILED, S.DONE, S.PLANNED, S.DONE]
        jobs = [await walked(journal, state, number) for number, state in enumerate(states)]
        first = await journal.find({S.DONE, S.FAILED}, limit=2)
        second = await journal.find({S.DONE, S.FAILED}, after=first[-1].key, limit=2)
        assert first + second == [jobs[0], jobs[2], jobs[3], jobs[5]]

    async def test_no_states_find_nothing(self, journal: Journal) -> None:
        """An empty choice is not the choice of all."""
        await planned(journal)
        assert await journal.find([]) == []

    async def test_a_page_after_an_unknown_key_is_an_error(self, journal: Journal) -> None:
        """Silence would look like the end."""
        with pytest.raises(JournalError, match="has no job ce1-nothing"):
            await journal.find(after="ce1-nothing")

    async def test_texts_that_are_no_unicode(self, journal: Journal) -> None:
        """File names and servers' words may hold what UTF-8 can't."""
        record = await planned(journal, source=f"{SURROGATE}.png", dest=SURROGATE)
        record = await journal.note(record, now=NOW, message=f"{SURROGATE}\0ü", task_id=SURROGATE)
        await journal.save_file(record.key, SURROGATE, saved(f"{SURROGATE}.png"))
        assert await journal.get(record.key) == await journal.by_task(SURROGATE) == record
        (place,) = await journal.destinations(record.key)
        assert (place.dest, place.files) == (SURROGATE, (saved(f"{SURROGATE}.png"),))
        assert await journal.owner_of(f"{SURROGATE}.png") == record.key

    @pytest.mark.parametrize(
        "changes",
        [
            {"account": "sk-abcdefgh"},
            {"account": "Bearer abc"},
            {"params": {"image": b"\x89PNG"}},
            {"n": 0},
            {"key": ""},
            {"params": {"image": "iVBOR" * 4000}},
        ],
        ids=lambda c: str(c)[:40],
    )
    def test_what_has_no_place_in_a_journal(self, changes: dict[str, Any]) -> None:
        """Keys and images are refused before any journal sees them."""
        with pytest.raises(ValueError, match=r"journal|must be|Length"):
            new_job(**changes)


class MovingSuite:
    """Moves: one at a time, in order, with everything that belongs to them."""

    @pytest.mark.parametrize("move", MOVES.values(), ids=lambda move: f"{move.old}-{move.new}")
    async def test_every_move_of_the_table(self, journal: Journal, move: Move) -> None:
        """Each legal move is made, counted and kept as an event."""
        if move.old is None:
            record = await planned(journal)
        else:
            before = await walked(journal, move.old)
            record = await step(journal, before, move.new)
            assert record.fence == before.fence + 1
        assert record == await journal.get(record.key)
        last = (await journal.events(record.key))[-1]
        assert (last.old, last.new, last.at) == (move.old, move.new, record.updated_at)

    async def test_an_illegal_move_is_refused(self, journal: Journal) -> None:
        """The error names both states, and nothing is written."""
        record = await planned(journal)
        with pytest.raises(JournalError, match="from planned to done"):
            await journal.move(record, S.DONE, now=NOW)
        assert await journal.get(record.key) == record

    async def test_only_send_enters_sending(self, journal: Journal) -> None:
        """The limits can't be walked around."""
        record = await planned(journal)
        with pytest.raises(JournalError, match="only send"):
            await journal.move(record, S.SENDING, now=NOW)

    async def test_details_are_written_with_the_move(self, journal: Journal) -> None:
        """A move and its details are one thing."""
        record = await walked(journal, S.SUBMITTED)
        details: dict[str, Any] = {
            "images": (image(0), image(1)), "images_seen_at": NOW, "units": "0.5", "status": 200,
            "code": "0", "request_id": "r", "message": "m", "note": "n", "task_id": "t",
            "sent_at": 1.0, "post_deadline": 2.0,
        }  # fmt: skip
        record = await journal.move(record, S.SUCCEEDED, now=NOW, why="said so", **details)
        assert {name: getattr(record, name) for name in details} == details
        assert await journal.get(record.key) == await journal.by_task("t") == record

    async def test_a_note_is_no_move(self, journal: Journal) -> None:
        """Details may change without the state; the fence grows, no event is written."""
        record = await walked(journal, S.UNKNOWN)
        before = await journal.events(record.key)
        noted = await journal.note(record, now=NOW + 9, message="m")
        assert (noted.state, noted.message, noted.fence) == (S.UNKNOWN, "m", record.fence + 1)
        assert await journal.get(record.key) == noted
        assert await journal.events(record.key) == before

    @pytest.mark.parametrize("change", ["move", "note", "send"])
    async def test_a_stale_record_changes_nothing(self, journal: Journal, change: str) -> None:
        """Who missed a change must not act; the error says what was found instead."""
        old = await planned(journal)
        current = await journal.note(old, now=NOW, note="newer")
        calls = {
            "note": lambda: journal.note(old, now=NOW, note="older"),
            "send": lambda: step(journal, old, S.SENDING, limits=Limits(jobs=0)),
            "move": lambda: journal.move(old, S.SUBMITTED, now=NOW),
        }
        with pytest.raises(StaleRecordError, match=r"planned \(0\), found planned \(1\)"):
            await calls[change]()
        assert await journal.get(old.key) == current

    async def test_a_record_of_another_journal_is_stale(self, journal: Journal) -> None:
        """What was never planned here can't be moved here."""
        record = JobRecord(key="ce1-x", kind="expand", account="", state=S.SUBMITTED, params={},
                           n=1, source="", image_sha="", created_at=0, updated_at=0)  # fmt: skip
        with pytest.raises(StaleRecordError, match="found nothing"):
            await journal.move(record, S.FAILED, now=NOW)

    async def test_of_two_movers_one_wins(self, journal: Journal) -> None:
        """A job that was handed out twice goes on once."""
        record = await planned(journal)
        both = (step(journal, record, S.SENDING) for _ in range(2))
        results = await asyncio.gather(*both, return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == [
            "JobRecord",
            "StaleRecordError",
        ]

    async def test_only_details_may_change(self, journal: Journal) -> None:
        """State, fence and what was ordered are not the caller's to change."""
        record = await planned(journal)
        wrong: dict[str, Any] = {"fence": 7, "n": 2}
        with pytest.raises(TypeError, match="fence, n"):
            await journal.note(record, now=NOW, **wrong)

    async def test_texts_are_redacted(self, journal: Journal) -> None:
        """A key in a server's words is not kept."""
        record = await walked(journal, S.SENDING)
        text = "bad key sk-canary123"
        record = await journal.move(record, S.REJECTED, now=NOW, why=text, message=text, note=text)
        last = (await journal.events(record.key))[-1]
        assert [record.message, record.note, last.why] == ["bad key sk-…"] * 3

    async def test_events_tell_the_whole_story(self, journal: Journal) -> None:
        """Each move is kept forever, with its reason, in order."""
        record = await walked(journal, S.SENDING)
        await planned(journal, 1)
        await journal.move(record, S.SUBMITTED, now=NOW + 5, why="accepted")
        story = [
            JournalEvent(record.key, NOW, None, "planned", ""),
            JournalEvent(record.key, NOW + 1, "planned", "sending", ""),
            JournalEvent(record.key, NOW + 5, "sending", "submitted", "accepted"),
        ]
        assert await journal.events(record.key) == story
        assert [event.key for event in await journal.events()][2] == new_job(1).key


class SendingSuite:
    """The guards around the paid request."""

    async def test_sending_says_who_and_when(self, journal: Journal) -> None:
        """What a later run needs to judge the request is written before it leaves."""
        sent = await step(journal, await planned(journal), S.SENDING)
        assert sent == await journal.get(sent.key)
        assert (sent.boot, sent.run, sent.attempt) == (journal.boot, "run", 1)
        assert (sent.sent_at, sent.post_deadline, sent.updated_at) == (NOW + 1, NOW + 60, NOW + 1)

    async def test_a_new_attempt_forgets_the_words_about_the_last(self, journal: Journal) -> None:
        """What was said about one attempt must not be read as said about the next."""
        record = await walked(journal, S.SENDING)
        record = await journal.move(
            record, S.PLANNED, now=NOW, message="busy", status=429, code="1303", request_id="r",
        )  # fmt: skip
        sent = await step(journal, record, S.SENDING)
        assert (sent.attempt, sent.message) == (2, "")
        assert (sent.status, sent.code, sent.request_id) == (None, None, None)

    @pytest.mark.parametrize("state", [state for state in S if state is not S.PLANNED])
    async def test_only_planned_jobs_are_sent(self, journal: Journal, state: JobState) -> None:
        """Nothing that was sent is sent again."""
        record = await walked(journal, state)
        with pytest.raises(JournalError, match="to sending"):
            await step(journal, record, S.SENDING)

    @pytest.mark.parametrize(
        ("limits", "refusal"),
        [
            (Limits(jobs=1), Refusal.JOBS),
            (Limits(jobs=2), None),
            (Limits(images=4), Refusal.IMAGES),
            (Limits(images=5), None),
            (Limits(in_flight=4), Refusal.IN_FLIGHT),
            (Limits(in_flight=5), None),
            (Limits(in_flight=0, images=0, jobs=0), Refusal.JOBS),
            (Limits(in_flight=0, images=0), Refusal.IMAGES),
        ],
        ids=str,
    )
    async def test_limits(self, journal: Journal, limits: Limits, refusal: Refusal | None) -> None:
        """With a job of 3 images in flight, one of 2 more passes or not."""
        await step(journal, await planned(journal, n=3), S.SENDING)
        record = await planned(journal, 1, n=2)
        result = await journal.send(record, now=NOW, post_deadline=NOW, limits=limits, run="run")
        assert (result == refusal) if refusal else isinstance(result, JobRecord)
        assert (await journal.get(record.key) == record) is bool(refusal)

    async def test_a_large_job_passes_alone(self, journal: Journal) -> None:
        """More images than the limit are no reason to wait forever."""
        sent = await step(
            journal, await planned(journal, n=9), S.SENDING, limits=Limits(in_flight=4)
        )
        assert sent.state is S.SENDING

    async def test_a_closed_gate_lets_nothing_pass(self, journal: Journal) -> None:
        """A limit of zero is zero."""
        record = await planned(journal)
        limits = Limits(in_flight=0)
        result = await journal.send(record, now=NOW, post_deadline=NOW, limits=limits, run="run")
        assert result is Refusal.IN_FLIGHT

    async def test_each_run_counts_for_itself(self, journal: Journal) -> None:
        """Yesterday's purchases don't count in today's limits."""
        await step(journal, await planned(journal), S.SENDING, run="yesterday")
        record = await planned(journal, 1)
        await step(journal, record, S.SENDING, run="today", limits=Limits(jobs=1, images=1))

    @pytest.mark.parametrize("way", [(S.PLANNED,), (S.REJECTED,), (S.UNKNOWN, S.PLANNED)], ids=str)
    async def test_what_was_not_paid_does_not_count(
        self, journal: Journal, way: tuple[JobState, ...]
    ) -> None:
        """A refused request leaves its place in the run's limits to another."""
        record = await walked(journal, S.SENDING)
        for state in way:
            record = await step(journal, record, state)
        assert record.run is None
        await step(journal, await planned(journal, 1), S.SENDING, limits=Limits(jobs=1, images=1))

    async def test_sending_again_on_demand_counts_twice(self, journal: Journal) -> None:
        """What may have been paid is counted although the user asks to send it again."""
        record = await step(journal, await walked(journal, S.UNCERTAIN), S.PLANNED)
        result = await journal.send(
            record, now=NOW, post_deadline=NOW, limits=Limits(jobs=1), run="run"
        )
        assert result is Refusal.JOBS

    async def test_in_flight_counts_images(self, journal: Journal) -> None:
        """Everything that may hold a place at the provider is counted, whoever sent it."""
        for number, state in enumerate(S):
            await walked(journal, state, number, n=2)
        assert await journal.in_flight() == 2 * len(IN_FLIGHT)
        assert await journal.counts() == dict.fromkeys(S, 1)

    async def test_nothing_is_in_flight_at_first(self, journal: Journal) -> None:
        """An empty journal counts nothing."""
        assert await journal.in_flight() == 0
        assert await journal.counts() == {}


class KeepingSuite:
    """Files, facts, the end."""

    async def test_files_of_a_destination(self, journal: Journal) -> None:
        """Files come by index, with whether they have their names."""
        record = await planned(journal, n=2)
        second = saved("photos/0-1.png", index=1)
        await journal.save_file(record.key, "photos/0", second)
        await journal.save_file(record.key, "photos/0", saved(kept=True))
        (place,) = await journal.destinations(record.key)
        assert place.files == (saved(kept=True), second)

    async def test_a_file_is_replaced(self, journal: Journal) -> None:
        """One place holds one file: a new one takes it, and the old name is free."""
        record = await planned(journal)
        await journal.save_file(record.key, "photos/0", saved("photos/0.png"))
        await journal.save_file(record.key, "photos/0", saved("photos/0.jpg", kept=True))
        (place,) = await journal.destinations(record.key)
        assert place.files == (saved("photos/0.jpg", kept=True),)
        assert await journal.owner_of("photos/0.png") is None

    async def test_a_name_has_one_owner(self, journal: Journal) -> None:
        """Who saves a file under a name owns it; the owner before loses it."""
        first, second = await planned(journal), await planned(journal, 1)
        await journal.save_file(first.key, "photos/0", saved("same.png"))
        await journal.save_file(second.key, "photos/1", saved("same.png"))
        assert await journal.owner_of("same.png") == second.key
        (place,) = await journal.destinations(first.key)
        assert place.files == ()

    async def test_a_recorded_file_takes_a_name(self, journal: Journal) -> None:
        """Who owned it loses it, and the place has the one file."""
        first, second = await planned(journal), await planned(journal, 1)
        await journal.save_file(first.key, "photos/0", saved("same.png"))
        await journal.save_file(second.key, "photos/1", saved("photos/1.png"))
        await journal.save_file(second.key, "photos/1", saved("same.png", kept=True))
        assert await journal.owner_of("same.png") == second.key
        files = [(await journal.destinations(job.key))[0].files for job in (first, second)]
        assert files == [(), (saved("same.png", kept=True),)]

    async def test_a_file_needs_a_destination(self, journal: Journal) -> None:
        """Nothing is saved where nothing was planned."""
        record = await planned(journal)
        with pytest.raises(JournalError, match="no destination elsewhere"):
            await journal.save_file(record.key, "elsewhere", saved())
        assert await journal.owner_of("photos/0.png") is None

    async def test_a_move_brings_its_files(self, journal: Journal) -> None:
        """What is saved and where the job stands are written in one moment."""
        record = await walked(journal, S.SUCCEEDED, n=2)
        files = (saved(), saved("photos/0-1.png", index=1))
        record = await journal.move(record, S.SAVING, now=NOW, place=at(*files))
        assert (await journal.get(record.key), await journal.destinations(record.key)) == (
            record,
            (at(*files),),
        )
        kept = tuple(attrs.evolve(file, kept=True) for file in files)
        record = await journal.move(record, S.DONE, now=NOW, place=at(*kept))
        assert record.state is S.DONE
        assert await journal.destinations(record.key) == (at(*kept),)
        assert await journal.owner_of("photos/0-1.png") == record.key

    async def test_a_move_takes_no_name_from_another_job(self, journal: Journal) -> None:
        """Neither the job nor any of the files is written when one of them can't be."""
        other, record = await planned(journal, 1), await walked(journal, S.SUCCEEDED)
        await journal.save_file(other.key, "photos/1", saved("same.png"))
        place = at(saved(), saved("same.png", index=1))
        with pytest.raises(DownloadError, match=r"same\.png is the result of another image"):
            await journal.move(record, S.SAVING, now=NOW, place=place)
        with pytest.raises(JournalError, match="no destination elsewhere"):
            await journal.move(
                record, S.SAVING, now=NOW, place=attrs.evolve(place, dest="elsewhere")
            )
        assert await journal.get(record.key) == record
        assert await journal.destinations(record.key) == (at(),)
        assert await journal.owner_of("same.png") == other.key

    async def test_a_stale_move_brings_no_files(self, journal: Journal) -> None:
        """Who missed a change must not write files either, and hears of that first."""
        old = await walked(journal, S.SUCCEEDED)
        await journal.note(old, now=NOW, note="newer")
        for dest in ("photos/0", "elsewhere"):
            place = attrs.evolve(at(saved()), dest=dest)
            with pytest.raises(StaleRecordError):
                await journal.move(old, S.SAVING, now=NOW, place=place)
        assert await journal.destinations(old.key) == (at(),)

    async def test_saved_jobs_are_found_at_once(self, journal: Journal) -> None:
        """Only jobs that are done are found, each with its record, destinations and files."""
        done = [await walked(journal, S.DONE, number, n=2) for number in range(2)]
        await walked(journal, S.SAVING, 2)
        await journal.save_file(done[0].key, "photos/0", saved(kept=True))
        await planned(journal, 0, n=2, source="copy.png", dest="copy")
        found = await journal.saved([*(new_job(number).key for number in range(3)), "ce1-nothing"])
        assert found.keys() == {record.key for record in done}
        for record in done:
            assert found[record.key].record == record
            assert found[record.key].destinations == await journal.destinations(record.key)
        assert await journal.saved([]) == {}

    async def test_known_sources(self, journal: Journal) -> None:
        """What was found in a file is kept by path and variant, and replaced by what is newer."""
        facts: dict[str, Any] = {
            "path": f"/photos/{SURROGATE}.png", "size": 7, "mtime_ns": 2**62, "ctime_ns": 1,
            "inode": 2**63 - 1, "read_at_ns": 3, "facts": "[]",
        }  # fmt: skip
        plain, converted = KnownSource(**facts), KnownSource(**facts, variant="prepare")
        await journal.remember_sources([attrs.evolve(plain, size=6), converted])
        await journal.remember_sources([plain])
        paths = [plain.path, "/photos/other.png"]
        assert await journal.known_sources(paths) == {plain.path: plain}
        assert await journal.known_sources(paths, variant="prepare") == {plain.path: converted}
        assert await journal.known_sources([]) == {}

    async def test_last_outcome_of_each_source(self, journal: Journal) -> None:
        """The newest one counts, for any name; a message with a key is redacted."""
        assert await journal.outcomes() == []
        early = SourceOutcome(source=SURROGATE, outcome="pending", at=NOW)
        late = SourceOutcome(
            source=SURROGATE,
            outcome="done",
            key="ce1-a",
            files=("café.png", SURROGATE),
            notes=("rotated upright",),
            billed=True,
            at=NOW + 1,
        )
        other = SourceOutcome(
            source="a.gif",
            outcome="invalid",
            reason="is GIF: sk-canary12345",
            hint="convert it",
            copied=True,
            at=NOW,
        )
        await journal.save_outcomes([early, other])
        await journal.save_outcomes([late])
        await journal.save_outcomes([attrs.evolve(late, at=NOW + 2)])
        await journal.save_outcomes([])
        assert await journal.outcomes() == [other, late]
        assert await journal.outcomes(limit=1) == [other]
        assert await journal.outcomes(after="a.gif", limit=1) == [late]
        assert await journal.outcomes(after=SURROGATE) == []
        assert "canary" not in other.reason

    async def test_facts_are_kept(self, journal: Journal) -> None:
        """Anything that is JSON can be kept by name, and is a copy."""
        fact = {"control": {"query": True, "at": NOW}, "none": None}
        await journal.write_meta("gateway", "older")
        await journal.write_meta("gateway", fact)
        fact["none"] = 1
        assert await journal.read_meta("gateway") == {**fact, "none": None}
        assert await journal.read_meta("unknown") is None

    async def test_records_cannot_be_changed(self, journal: Journal) -> None:
        """A record is a snapshot, down to its parameters."""
        await planned(journal)
        (record,) = await journal.find()
        params: Any = record.params
        with pytest.raises(TypeError):
            params["prompt"] = "black sun"

    async def test_signed_links_are_not_shown(self, journal: Journal) -> None:
        """What is printed or logged gives nobody access."""
        record = await planned(journal, source="https://example.com/dog.png?sign=canary")
        record = await journal.note(record, now=NOW, images=(image(),))
        assert "canary" not in repr(record)
        assert "sign=s" not in repr(record)

    async def test_after_the_end(self, journal: Journal) -> None:
        """A closed journal says so, and closing again is no error."""
        record = await planned(journal)
        await journal.aclose()
        await journal.aclose()
        for call in (journal.get(record.key), journal.plan([], now=NOW), journal.counts(),
                     journal.note(record, now=NOW), step(journal, record, S.SENDING)):  # fmt: skip
            with pytest.raises(JournalError, match="closed"):
                await call


class JournalSuite(PlanningSuite, MovingSuite, SendingSuite, KeepingSuite):
    """All of it."""
