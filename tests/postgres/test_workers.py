"""Several workers over one journal: leases, fences, quota, budgets and messages."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import psycopg
import pytest
from PIL import Image
from psycopg import sql

from comet_async import CallbackReceiver, CometSession, Margins
from comet_async._jobs.active import UNDECIDED, Job
from comet_async._journal.records import JobRecord, Limits, Refusal
from comet_async._journal.states import JobState
from comet_async._postgres import worker
from comet_async._wire.decode import Notification
from comet_async.clock import SystemClock
from comet_async.errors import BudgetExceededError, CometError, JournalError, StaleRecordError
from comet_async.postgres import PostgresJournal
from comet_async.sandbox import DEFAULT_KEY, Fault, Options, Sandbox
from comet_async.testing import VirtualClock
from tests.postgres.fleet import Cable, new_job as job_of_a_folder
from tests.support.images import make_png
from tests.support.journal_contract import (
    NOW,
    new_job,
    planned,
    saved,
    step,
    walked,
)

pytestmark = [pytest.mark.real_loop, pytest.mark.program]

S = JobState
ACCOUNT = "5f1e"
MARGINS = Margins(left=0.25, right=0.25)
OpenJournal: TypeAlias = Callable[..., Any]


@pytest.fixture
async def open_journal(database: str, schema: str) -> AsyncIterator[OpenJournal]:
    """Return what opens the journal once more, as another process would."""
    async with AsyncExitStack() as stack:

        async def opened(**options: Any) -> PostgresJournal:
            journal = await PostgresJournal.open(database, schema=schema, **options)
            return await stack.enter_async_context(journal)

        yield opened


def noise() -> bytes:
    """Return an image that is hardly compressed, so that its body goes out in pieces."""
    pixels = random.Random(1).randbytes(3 * 600 * 600)  # noqa: S311 - not a secret
    file = BytesIO()
    Image.frombytes("RGB", (600, 600), pixels).save(file, "PNG")
    return file.getvalue()


async def until(true: Callable[[], Any]) -> None:
    """Wait until the coroutine of *true* returns something true."""
    async with asyncio.timeout(60):
        while not await true():  # noqa: ASYNC110 - in a database
            await asyncio.sleep(0.02)


def die(journal: PostgresJournal) -> None:
    """Have a worker renew its lease no more, as if its process had ended or stood still."""
    journal._worker.stop()


# Leases -------------------------------------------------------------------------------------


@pytest.mark.failure("F71")
async def test_what_another_worker_has_done_stays_done(
    open_journal: OpenJournal, admin: psycopg.Connection[Any], schema: str, tmp_path: Path
) -> None:
    """A worker that was suspended while it saved, and can't, does not go on from its record."""
    left, statements = (
        ["after:T12"],
        [
            "UPDATE {}.worker SET lost = true",
            "UPDATE {}.job SET owner = NULL, fence = fence + 1, state = 'done'",
        ],
    )

    def stand_still(seen: str) -> None:
        if seen in left:
            left.remove(seen)
            for statement in statements:
                admin.execute(sql.SQL(statement).format(sql.Identifier(schema)))  # type: ignore[arg-type]  # our own text
            for part in (tmp_path / "out").glob(".*.part"):
                part.unlink()

    journal = await open_journal(hook=stand_still)
    async with (
        Sandbox(engine="stub", speed=100) as sandbox,
        CometSession(DEFAULT_KEY, gateway=sandbox.url, journal=journal, schedule=0.1) as comet,
    ):
        job = await job_of_a_folder(tmp_path, 0, 1, comet._services.account)
        await journal.plan([job], now=time.time())
        with pytest.raises(StaleRecordError):
            await comet.run_job(job.key)
        assert not left
        record = await journal.get(job.key)
        assert record is not None
        assert record.state is S.DONE


@pytest.mark.failure("F70", "F71", "F74")
async def test_what_a_lost_worker_was_sending_is_unknown(open_journal: OpenJournal) -> None:
    """Another worker takes it over, its slot stays taken, and the lost one can't record more."""
    lost, other = await open_journal(heartbeat=0.2), await open_journal(heartbeat=0.2)
    job = await planned(lost)
    claimed = await lost.claim(job.key)
    sent = await step(lost, claimed, S.SENDING)
    assert await other.claim(job.key) is None
    die(lost)

    async def taken_over() -> JobRecord | None:
        record: JobRecord | None = await other.claim(job.key)
        return record

    await until(taken_over)
    record = await other.get(job.key)
    assert (record.state, record.fence) == (S.UNKNOWN, sent.fence + 1)
    assert (await other.events(job.key))[-1].why == "the process that sent it ended"
    assert await other.in_flight() == 1
    with pytest.raises(StaleRecordError):
        await lost.move(sent, S.SUBMITTED, now=NOW, task_id="t")
    with pytest.raises(StaleRecordError, match="belongs to another worker"):
        await lost.save_file(job.key, "photos/0", saved())
    assert await other.get(job.key) == record


@pytest.mark.failure("F71")
async def test_a_lost_worker_sends_nothing(open_journal: OpenJournal) -> None:
    """Its lease is checked in the transaction that starts a request."""
    lost = await open_journal(heartbeat=0.1)
    job = await planned(lost)
    die(lost)
    await asyncio.sleep(0.2)  # longer than its lease, which nobody has taken over
    with pytest.raises(StaleRecordError, match="lease ended"):
        await step(lost, job, S.SENDING)
    assert await lost.get(job.key) == job


@pytest.mark.failure("F71")
async def test_a_worker_that_wakes_up_gets_a_new_lease(open_journal: OpenJournal) -> None:
    """It goes on under another name; what it had belongs to others."""
    sleeper, other = await open_journal(heartbeat=0.2), await open_journal(heartbeat=0.2)
    boot, job = sleeper.boot, await planned(sleeper)
    await sleeper.claim(job.key)
    await other._run(
        "test", lambda db: db.run("UPDATE worker SET lost = true WHERE boot = %s", boot)
    )

    async def has_a_new_name() -> bool:
        return bool(sleeper.boot != boot)

    await until(has_a_new_name)
    await until(lambda: other.claim(job.key))
    fresh = await planned(sleeper, 1)
    assert (await step(sleeper, fresh, S.SENDING)).boot == sleeper.boot


@pytest.mark.failure("F71")
@pytest.mark.parametrize("make", [lambda: make_png(320, 300), noise], ids=["small", "in pieces"])
async def test_no_byte_of_a_body_leaves_after_the_lease(
    open_journal: OpenJournal, make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that stood still between its record and the first byte does not send it."""
    journal, send = await open_journal(heartbeat=600), PostgresJournal.send

    async def stand_still(self: PostgresJournal, *args: Any, **more: Any) -> Any:  # noqa: ANN401 - any signature
        sent = await send(self, *args, **more)
        self._worker._until = 0.0
        return sent

    monkeypatch.setattr(PostgresJournal, "send", stand_still)
    async with Sandbox(engine="stub") as sandbox:
        async with CometSession(DEFAULT_KEY, gateway=sandbox.url, journal=journal) as comet:
            with pytest.raises(StaleRecordError, match="lease ended") as caught:
                await comet.expand(make(), MARGINS)
        assert sandbox.ledger.posts == []
    record = await journal.get(caught.value.external_task_id)
    assert record.state is S.PLANNED


@pytest.mark.failure("F71")
async def test_a_new_lease_is_none_for_a_request_of_the_last_one(
    open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that wakes up has a new lease before its requests go on: others have their jobs."""
    journal, send = await open_journal(heartbeat=0.2), PostgresJournal.send

    async def stand_still(self: PostgresJournal, *args: Any, **more: Any) -> Any:  # noqa: ANN401 - any signature
        sent, boot = await send(self, *args, **more), self.boot
        lose = "UPDATE worker SET lost = true WHERE boot = %s"
        await self._run("test", lambda db: db.run(lose, boot))

        async def has_a_new_lease() -> bool:
            return self.boot != boot and self.lease_left > 0

        await until(has_a_new_lease)
        return sent

    monkeypatch.setattr(PostgresJournal, "send", stand_still)
    async with Sandbox(engine="stub") as sandbox:
        async with CometSession(DEFAULT_KEY, gateway=sandbox.url, journal=journal) as comet:
            with pytest.raises(StaleRecordError):
                await comet.expand(make_png(320, 300), MARGINS)
        assert sandbox.ledger.posts == []


@pytest.mark.failure("F71")
async def test_a_journal_that_is_closed_covers_no_request(
    open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lets go of its jobs: another worker may have this one before the request is complete."""
    journal, send = await open_journal(heartbeat=600), PostgresJournal.send

    async def is_closed(self: PostgresJournal, *args: Any, **more: Any) -> Any:  # noqa: ANN401 - any signature
        sent = await send(self, *args, **more)
        await self.aclose()
        return sent

    monkeypatch.setattr(PostgresJournal, "send", is_closed)
    async with Sandbox(engine="stub") as sandbox:
        async with CometSession(DEFAULT_KEY, gateway=sandbox.url, journal=journal) as comet:
            with pytest.raises(CometError):
                await comet.expand(make_png(320, 300), MARGINS)
        assert sandbox.ledger.posts == []


@pytest.mark.failure("F71")
async def test_a_lease_counts_from_before_it_was_recorded(
    open_journal: OpenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that stood still while it opened its journal knows that its lease has ended."""
    known, stood = worker.since_boot, [0.0]

    def stand_still(moment: str) -> None:
        if moment == "after:open":
            stood[0] = 100.0

    monkeypatch.setattr(worker, "since_boot", lambda: known() + stood[0])
    monkeypatch.setattr(worker.Worker, "beat", lambda *_: None)  # it does not renew it either
    journal = await open_journal(heartbeat=10, hook=stand_still)
    assert journal.lease_left < 0


async def test_who_waits_for_a_job_is_woken(open_journal: OpenJournal) -> None:
    """A job belongs to one worker at a time; when it is released, the others hear of it."""
    one, two = await open_journal(), await open_journal()
    job = await planned(one)
    assert await one.claim(job.key) == job
    assert await one.claim(job.key) == job  # again is no error
    with two.listening_for_job(job.key) as released:
        assert await two.claim(job.key) is None
        await one.release(job.key)
        assert await released.wait(30)
        assert await two.claim(job.key) == job


@pytest.mark.failure("F72")
async def test_a_release_that_reached_no_database_is_made_up_for(
    open_journal: OpenJournal, cable: Cable, schema: str
) -> None:
    """Else nobody could work on the job for as long as its worker lives."""
    one = await open_journal()
    cut_off = await PostgresJournal.open(cable.url, schema=schema, heartbeat=1, patience=0.1)
    async with cut_off:
        job = await planned(one)
        assert await cut_off.claim(job.key) == job
        cable.cut()
        with pytest.raises(JournalError):
            await cut_off.release(job.key)
        cable.broken = False
        with one.listening_for_job(job.key) as released:
            async with asyncio.timeout(60):
                while await one.claim(job.key) is None:
                    await released.wait(1)
        assert cut_off.lease_left > 0


async def test_a_job_that_is_claimed_again_is_kept(open_journal: OpenJournal) -> None:
    """What had to be made up for no longer has to."""
    one, two = await open_journal(), await open_journal()
    job = await planned(one)
    assert await one.claim(job.key)
    one._worker.owe(job.key)
    assert await one.claim(job.key)
    with one._target.connect() as db:
        one._worker.beat(db)
    assert await two.claim(job.key) is None


async def test_a_caller_that_is_cancelled_while_it_claims_lets_go(
    open_journal: OpenJournal,
) -> None:
    """The claim takes place all the same; the job must not stay with a worker that lives on."""
    one, two = await open_journal(), await open_journal()
    job = await planned(one)
    async with CometSession(DEFAULT_KEY, gateway="http://127.0.0.1:9", journal=one) as session:
        active = await session._runs.own()

        async def work() -> None:
            async with active.alone(job):
                await asyncio.sleep(60)

        working = asyncio.create_task(work())
        await asyncio.sleep(0)  # the claim is on its way
        working.cancel()
        await asyncio.wait({working})
        assert await two.claim(job.key) == job


async def test_closing_is_no_lost_lease(open_journal: OpenJournal) -> None:
    """A renewal that finds the worker gone does not register it anew."""

    def renew(moment: str) -> None:
        if moment == "after:leave":
            with closing._target.connect() as db:
                closing._worker.beat(db)

    other = await open_journal()
    closing = await open_journal(hook=renew)
    await closing.aclose()
    assert (await other.activity(60)).workers == ()


async def test_closing_lets_go(open_journal: OpenJournal) -> None:
    """A worker that ends in order leaves its jobs to the others at once."""
    one, two = await open_journal(), await open_journal()
    job = await planned(one)
    claimed = await one.claim(job.key)
    await step(one, claimed, S.SENDING)
    await one.aclose()
    record = await two.claim(job.key)
    assert record.state is S.UNKNOWN
    assert await two.claim("ce1-nothing") is None


# Quota and budgets --------------------------------------------------------------------------


@pytest.mark.failure("F73")
async def test_the_quota_is_exact(open_journal: OpenJournal) -> None:
    """However many workers ask at once, no more images start than may be in flight."""
    journals = [await open_journal() for _ in range(3)]
    jobs = [await planned(journals[0], number, n=1 + number % 3, dest=None) for number in range(15)]
    limits: dict[str, Any] = {"limits": Limits(in_flight=7), "run": "r", "post_deadline": NOW}
    sends = [journals[number % 3].send(job, now=NOW, **limits) for number, job in enumerate(jobs)]
    results = await asyncio.gather(*sends)
    sent = [result for result in results if isinstance(result, JobRecord)]
    assert sum(record.n for record in sent) == await journals[0].in_flight()
    assert 5 <= sum(record.n for record in sent) <= 7


@pytest.mark.failure("F73")
async def test_the_quota_is_exact_whatever_a_transaction_sees_by_default(
    own_database: str, admin: psycopg.Connection[Any]
) -> None:
    """Who waits for the lock of the quota counts what was sent until then."""
    name = urlsplit(own_database).path[1:]
    admin.execute(
        f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'".encode()
    )
    waits = (
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = %s"
        " AND wait_event_type = 'Lock')"
    )
    counted = threading.Event()

    def hold_the_lock(moment: str) -> None:
        if moment == "before:T2" and not counted.is_set():
            counted.set()
            with psycopg.connect(own_database, autocommit=True) as db:
                while db.execute(waits, [name]).fetchone() != (True,):
                    time.sleep(0.05)

    async with AsyncExitStack() as stack:
        opened = PostgresJournal.open(own_database, hook=hold_the_lock)
        one = await stack.enter_async_context(await opened)
        two = await stack.enter_async_context(await PostgresJournal.open(own_database))
        jobs = [await planned(one, number, dest=None) for number in range(2)]
        limits: dict[str, Any] = {"limits": Limits(in_flight=1), "post_deadline": NOW}
        add = "INSERT INTO quota (account) VALUES (%s)"
        await two._run("test", lambda db: db.run(add, ACCOUNT))
        first = asyncio.create_task(one.send(jobs[0], now=NOW, run="one", **limits))
        await asyncio.to_thread(counted.wait)
        assert await two.send(jobs[1], now=NOW, run="two", **limits) is Refusal.IN_FLIGHT
        assert isinstance(await first, JobRecord)


async def test_each_account_has_its_own_quota(open_journal: OpenJournal) -> None:
    """Images of another account, or at another gateway, take no slot."""
    journal = await open_journal()
    await walked(journal, S.SENDING, 0)
    other = await planned(journal, 1, account="beef")
    sent = await step(journal, other, S.SENDING, limits=Limits(in_flight=1))
    assert isinstance(sent, JobRecord)


async def test_what_is_in_doubt_holds_no_slot_forever(
    open_journal: OpenJournal, admin: psycopg.Connection[Any]
) -> None:
    """After an hour its task has ended, if there ever was one."""
    journal = await open_journal()
    await walked(journal, S.UNCERTAIN)
    limits: dict[str, Any] = {"limits": Limits(in_flight=1), "run": "r", "post_deadline": NOW}
    job = await planned(journal, 1)
    schema = sql.Identifier(journal._target.schema)
    for age, expected in ((0, Refusal), (3700, JobRecord)):
        query = "UPDATE {}.job SET sent_at = %s WHERE state = 'uncertain'"
        admin.execute(sql.SQL(query).format(schema), [time.time() - age])
        assert isinstance(await journal.send(job, now=NOW, **limits), expected)


async def test_the_quota_shrinks_and_grows_for_all(open_journal: OpenJournal) -> None:
    """What the server refused one worker, the others need not find out."""
    one, two = await open_journal(), await open_journal()
    for number in range(4):
        await walked(one, S.SUBMITTED, number)
    assert await one.quota(ACCOUNT) is None
    assert await one.shrink(ACCOUNT) == 3
    assert await two.quota(ACCOUNT) == 3
    job = await planned(two, 4)
    refused = await two.send(job, now=NOW, post_deadline=NOW, limits=Limits(in_flight=9), run="r")
    assert refused is Refusal.IN_FLIGHT
    assert [await two.grow(ACCOUNT, 5, 2) for _ in range(4)] == [3, 4, 4, None]
    assert await one.quota(ACCOUNT) is None


async def test_each_free_slot_is_told_to_one_worker(open_journal: OpenJournal) -> None:
    """To the one that has waited longest; one that asked in vain, or got a slot, to its place."""
    journals = [await open_journal() for _ in range(4)]
    first, _, _, other = journals
    records = [await walked(other, S.SUBMITTED, number) for number in range(6)]

    async def end_of_one() -> None:
        await other.move(records.pop(), S.FAILED, now=NOW)

    with ExitStack() as stack:
        freed = [stack.enter_context(j.listening_for_slot(ACCOUNT)) for j in journals[:3]]
        assert [await each.queue_for_slot(ACCOUNT) for each in journals[:3]] == [0, 1, 2]
        await end_of_one()
        assert await freed[0].wait(30)
        assert await first.queue_for_slot(ACCOUNT) == 2  # in vain: it is the first again
        await end_of_one()
        assert await freed[0].wait(30)
        limits: dict[str, Any] = {"limits": Limits(in_flight=5), "run": "r", "post_deadline": NOW}
        sent = await first.send(await planned(first, 10), now=NOW, **limits)
        assert isinstance(sent, JobRecord)
        await end_of_one()
        assert await freed[1].wait(30)
        await end_of_one()
        assert await freed[2].wait(30)
        assert not any([await each.wait(0.1) for each in freed])
        assert await first.queue_for_slot(ACCOUNT) == 0  # the others were told
    await end_of_one()


async def test_who_gets_one_of_several_slots_tells_the_next(open_journal: OpenJournal) -> None:
    """Else those that are queued would wait beside free slots, until they look by themselves."""
    one, two = await open_journal(), await open_journal()
    job, limits = await planned(one), {"run": "r", "post_deadline": NOW}
    with one.listening_for_slot(ACCOUNT), two.listening_for_slot(ACCOUNT) as freed:
        assert await one.queue_for_slot(ACCOUNT) == 0
        assert await two.queue_for_slot(ACCOUNT) == 1
        sent = await one.send(job, now=NOW, limits=Limits(in_flight=2), **limits)
        assert isinstance(sent, JobRecord)
        assert await freed.wait(30)


async def test_who_leaves_without_a_slot_passes_the_call_on(open_journal: OpenJournal) -> None:
    """A slot that it was told of is somebody else's then."""
    one, two = await open_journal(), await open_journal()
    record = await walked(one, S.SUBMITTED)
    with two.listening_for_slot(ACCOUNT) as freed:
        with one.listening_for_slot(ACCOUNT) as told:
            await one.queue_for_slot(ACCOUNT)
            await two.queue_for_slot(ACCOUNT)
            await one.move(record, S.FAILED, now=NOW)
            assert await told.wait(30)
            await one.unqueue_for_slot(ACCOUNT)  # somebody in this process waits
            assert not await freed.wait(0.1)
        await one.unqueue_for_slot(ACCOUNT)
        assert await freed.wait(30)


async def test_a_lost_worker_is_told_of_no_slot(open_journal: OpenJournal) -> None:
    """What it queued for goes to those that live."""
    lost, other = await open_journal(heartbeat=0.2), await open_journal(heartbeat=0.2)
    await lost.queue_for_slot(ACCOUNT)
    die(lost)

    async def is_alone() -> bool:
        return bool(await other.queue_for_slot(ACCOUNT) == 0)

    await until(is_alone)


async def test_a_grown_quota_is_told_to_who_waits(open_journal: OpenJournal) -> None:
    """One image more may be in flight."""
    one, two = await open_journal(), await open_journal()
    for number in range(3):
        await walked(one, S.SUBMITTED, number)
    assert await one.shrink(ACCOUNT) == 2
    with two.listening_for_slot(ACCOUNT) as freed:
        await two.queue_for_slot(ACCOUNT)
        assert await one.grow(ACCOUNT, 5, 2) == 2
        assert not await freed.wait(0.1)
        assert await one.grow(ACCOUNT, 5, 2) == 3
        assert await freed.wait(30)


@pytest.mark.parametrize("limits", [Limits(jobs=5), Limits(images=5)], ids=str)
async def test_a_budget_holds_for_all(open_journal: OpenJournal, limits: Limits) -> None:
    """Workers that spend from one budget stop at its end together."""
    journals = [await open_journal() for _ in range(3)]
    jobs = [await planned(journals[0], number, dest=None) for number in range(9)]
    answers = await asyncio.gather(
        *(
            journals[number % 3].send(
                job, now=NOW, post_deadline=NOW, limits=limits, run="campaign"
            )
            for number, job in enumerate(jobs)
        )
    )
    assert sum(isinstance(answer, JobRecord) for answer in answers) == 5


async def test_sessions_share_slots_and_budget(
    open_journal: OpenJournal, make_photo: Callable[..., bytes], tmp_path: Path
) -> None:
    """Two sessions with more to do than one slot and the budget allow: never two at once."""
    async with AsyncExitStack() as stack:
        options = Options(submitted_seconds=(0, 0), task_seconds=(0.05, 0.1))
        sandbox = await stack.enter_async_context(
            Sandbox(engine="stub", limit=1, options=options, seed=1)
        )
        journals = [await open_journal() for _ in range(2)]
        sessions = []
        for journal in journals:
            session = CometSession(
                DEFAULT_KEY,
                gateway=sandbox.url,
                journal=journal,
                concurrency=1,
                schedule=0.05,
            )
            sessions.append(await stack.enter_async_context(session))
        images = [make_photo(320, 300, tint) for tint in range(6)]
        await asyncio.gather(
            *(sessions[i % 2].expand(image, MARGINS) for i, image in enumerate(images))
        )
        assert len(sandbox.ledger.charges) == len(sandbox.ledger.posts) == 6
        image = tmp_path / "photo.png"
        image.write_bytes(make_photo(320, 300, 7))
        account = (await sessions[0]._runs.own()).services.account
        job = new_job(
            account=account, source=str(image), image_sha=sha256(image.read_bytes()).hexdigest()
        )
        (record,) = await journals[0].plan([job], now=time.time())
        with pytest.raises(BudgetExceededError, match="max_jobs"):
            await sessions[0].run_job(record.key, max_jobs=0, budget="none")


@pytest.mark.failure("F70", "F73")
async def test_a_request_that_was_lost_does_not_keep_the_only_slot(
    open_journal: OpenJournal, make_photo: Callable[..., bytes]
) -> None:
    """Who waits for a slot looks up what holds it: perhaps no worker can take that job."""
    async with Sandbox(engine="stub", speed=100) as sandbox:
        lost, other = await open_journal(heartbeat=0.2), await open_journal(heartbeat=0.2)
        async with CometSession(
            *(DEFAULT_KEY,),
            gateway=sandbox.url,
            journal=other,
            concurrency=1,
            settle=0.1,
            schedule=0.1,
        ) as comet:
            await comet.expand(make_photo(320, 300, 1), MARGINS)  # a control for lookups
            job = await planned(lost, 1, account=comet._services.account, dest=None)
            claimed, now = await lost.claim(job.key), time.time()
            await lost.send(claimed, now=now, post_deadline=now, limits=Limits(), run="r")
            die(lost)
            async with asyncio.timeout(120):
                await comet.expand(make_photo(320, 300, 2), MARGINS)
        assert (await other.get(job.key)).state is S.PLANNED
        assert len(sandbox.ledger.charges) == 2


@pytest.mark.failure("F23")
async def test_what_no_lookup_settles_is_looked_up_now_and_then(open_journal: OpenJournal) -> None:
    """However often somebody who waits for its slot looks."""
    journal, looked = await open_journal(), []

    class Later(SystemClock):
        later = 0.0

        def monotonic(self) -> float:
            return super().monotonic() + self.later

    async def resolve(job: Job) -> Job:
        looked.append(job.record.key)
        return job

    clock = Later()
    async with CometSession(DEFAULT_KEY, journal=journal, clock=clock) as comet:
        record = await walked(journal, S.UNKNOWN, account=comet._services.account)
        await journal.release(record.key)
        active = await comet._runs.own()
        for clock.later, times in ((0.0, 1), (UNDECIDED / 2, 1), (UNDECIDED, 2)):
            await active.poll_unclaimed(resolve)
            await asyncio.gather(*active._resolving.values())
            assert looked == [record.key] * times


# Messages, clocks ---------------------------------------------------------------------------


async def test_a_callback_reaches_the_worker_that_waits(open_journal: OpenJournal) -> None:
    """Whichever worker is notified, the receivers of the others hear of it, once."""
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(Sandbox(engine="stub"))
        receivers, heard = [], asyncio.Queue[Notification]()
        for _ in range(2):
            receiver = await stack.enter_async_context(CallbackReceiver())
            session = CometSession(
                DEFAULT_KEY, gateway=sandbox.url, journal=await open_journal(), callbacks=receiver
            )
            await stack.enter_async_context(session)
            receivers.append(receiver)
        loop = asyncio.get_running_loop()
        receivers[1].subscribe(lambda seen: loop.call_soon_threadsafe(heard.put_nowait, seen))
        receivers[0].notify(Notification(task_id="t1", external_task_id="ce1-a"))
        receivers[0].notify(Notification(task_id="t2"))
        async with asyncio.timeout(30):
            names = [(await heard.get()).task_id, (await heard.get()).task_id]
        assert names == ["t1", "t2"]
        assert heard.empty()


async def test_words_of_others_cost_no_lease(
    open_journal: OpenJournal, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may use the database may write to the channel; the thread goes on listening."""
    journal, heard = await open_journal(), asyncio.Queue[str]()
    loop = asyncio.get_running_loop()

    def handler(task_id: str, _key: str) -> None:
        if task_id == "bad":
            raise LookupError(task_id)
        loop.call_soon_threadsafe(heard.put_nowait, task_id)

    end = journal.on_hint(handler)
    thread = journal._worker._thread
    with psycopg.connect(database, autocommit=True) as db:
        for words in (
            "hint 5",
            "hint {}",
            "hint [1]",
            'hint ["x", "bad", ""]',
            'hint ["x", "t1", ""]',
        ):
            db.execute("SELECT pg_notify(%s, %s)", [journal.schema, words])
    assert await asyncio.wait_for(heard.get(), 30) == "t1"
    assert "a bug in the lease's thread" not in caplog.text
    assert thread is journal._worker._thread
    end()


@pytest.mark.failure("F75")
async def test_a_wrong_clock_counts_for_nothing(open_journal: OpenJournal) -> None:
    """Moments are the database's: by a worker's own, lists would be read too far or not enough."""

    class Ahead(VirtualClock):
        def time(self) -> float:
            return time.time() + 3600

    journal = await open_journal(clock=Ahead())
    now = time.time() + 3600
    (job,) = await journal.plan([new_job()], now=now)
    sent = await journal.send(job, now=now, post_deadline=now + 9, limits=Limits(), run="r")
    assert abs(sent.sent_at - time.time()) < 600
    assert abs(sent.post_deadline - sent.sent_at - 9) < 1


@pytest.mark.failure("F70")
async def test_a_lost_reply_of_a_lost_worker_is_looked_up(
    open_journal: OpenJournal, make_photo: Callable[..., bytes]
) -> None:
    """The request was charged, its worker is gone: the next one finds the task and pays nothing."""
    async with Sandbox(engine="stub", speed=100) as sandbox:
        lost, other = await open_journal(heartbeat=0.2), await open_journal(heartbeat=0.2)
        options: dict[str, Any] = {"gateway": sandbox.url, "settle": 1.0, "schedule": 0.1}
        async with CometSession(DEFAULT_KEY, journal=other, **options) as comet:
            await comet.expand(make_photo(320, 300, 1), MARGINS)  # a control for lookups
            sandbox.faults.add(Fault("hang_after_charge"))
            victim = CometSession(DEFAULT_KEY, journal=lost, **options)
            async with victim:
                call = asyncio.ensure_future(victim.expand(make_photo(320, 300, 2), MARGINS))
                async with asyncio.timeout(30):
                    while len(sandbox.ledger.charges) < 2:  # noqa: ASYNC110 - the sandbox's
                        await asyncio.sleep(0.01)
                die(lost)
                key = sandbox.ledger.charges[1].external_task_id
                outcome = await comet.run_job(key)
                assert outcome.status == "done"
                call.cancel()
                await asyncio.wait([call])
                await victim.aclose(timeout=0)
        assert len(sandbox.ledger.posts) == len(sandbox.ledger.charges) == 2
