"""What became of a lost request: which answers of which gateways are proof, and of what."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import attrs
import pytest

from comet_async._jobs.reconcile import (
    LIST_PAGES,
    LIST_SIZE,
    Finding,
    Known,
    Reconciler,
    TaskLookup,
    Verdict,
)
from comet_async._journal.memory import ForgettingJournal
from comet_async._journal.states import JobState
from comet_async._journal.transitions import planned
from comet_async.errors import (
    AccountError,
    AuthenticationError,
    CometError,
    ConnectionLostError,
    NotFoundError,
    RejectedError,
    RouteUnavailableError,
)
from comet_async.models import Task, TaskPage, TaskStatus
from comet_async.requests import EXPAND
from comet_async.testing import VirtualClock
from tests.support.journal_contract import new_job

if TYPE_CHECKING:
    from comet_async._http.api import Api
    from comet_async.models import TaskKind
    from comet_async.waiter import NotificationSource

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OURS, KNOWN = "ce1-ours", Known(key="ce1-known", task_id="1")
FOUND, ABSENT, UNKNOWN = Verdict.FOUND, Verdict.ABSENT, Verdict.UNKNOWN


def task(own_id: str | None, task_id: str, minutes: float | None = 0) -> Task:
    """Return a task made so many minutes after `NOW`."""
    made = None if minutes is None else NOW + timedelta(minutes=minutes)
    return Task(id=task_id, status=TaskStatus.SUBMITTED, external_task_id=own_id, created_at=made)


Store = Mapping[str, Task]
Answer = Callable[[Store, str], Task]


def works(store: Store, key: str) -> Task:
    """Find what is there, by its id."""
    if key not in store:
        raise NotFoundError("no such task")
    return store[key]


def nameless(store: Store, key: str) -> Task:
    """Find what is there, and not repeat its id."""
    return attrs.evolve(works(store, key), external_task_id=None)


def drops(_store: Store, _key: str) -> Task:
    """Do not pass our ids on: nothing is ever found."""
    raise NotFoundError("no such task")


def newest(store: Store, _key: str) -> Task:
    """Ignore the id, and show the newest task."""
    return list(store.values())[-1]


def oldest(store: Store, _key: str) -> Task:
    """Ignore the id, and show the oldest task."""
    return next(iter(store.values()))


def newest_nameless(store: Store, key: str) -> Task:
    """Ignore the id, show the newest task, and not say whose it is."""
    return attrs.evolve(newest(store, key), external_task_id=None)


def oldest_nameless(store: Store, key: str) -> Task:
    """Ignore the id, show the oldest task, and not say whose it is."""
    return attrs.evolve(oldest(store, key), external_task_id=None)


def mixes_up(store: Store, key: str) -> Task:
    """Show a stranger's task instead of ours."""
    return works(store, "ce1-stranger" if key == OURS and OURS not in store else key)


def down(_store: Store, _key: str) -> Task:
    """Give no answer."""
    raise ConnectionLostError("closed")


def refuses(_store: Store, _key: str) -> Task:
    """Not understand the question."""
    raise RejectedError("no")


def lacks(_store: Store, _key: str) -> Task:
    """Not have the route."""
    raise RouteUnavailableError("404")


ANSWERS: tuple[Answer, ...] = (
    works, nameless, drops, newest, oldest, newest_nameless, oldest_nameless, mixes_up,
    down, refuses, lacks,
)  # fmt: skip
LISTS: tuple[Answer, ...] = (works, nameless, drops, down, lacks)


@attrs.define
class FakeApi:
    """A gateway with one way of answering for each way of asking."""

    store: Store
    path: Answer = drops
    query: Answer = drops
    listing: Answer = drops
    lookups: list[str] = attrs.field(factory=list)
    gets: list[CometError] = attrs.field(factory=list)

    async def get(self, task_id: str, *, kind: TaskKind) -> Task:
        """Answer a question by the server's id, after the errors that were written down."""
        assert kind is EXPAND
        self.lookups.append(f"get {task_id}")
        if self.gets:
            raise self.gets.pop(0)
        for each in self.store.values():
            if each.id == task_id:
                return each
        raise NotFoundError("no such task")

    @property
    def gateway(self) -> SimpleNamespace:
        """The forms that it may understand."""
        return SimpleNamespace(lookup_forms=("path", "query"))

    async def find(self, key: str, *, kind: TaskKind, form: str) -> Task:
        """Answer a question by our own id."""
        assert kind is EXPAND
        self.lookups.append(form)
        return (self.path if form == "path" else self.query)(self.store, key)

    async def page(self, number: int, size: int, *, kind: TaskKind) -> TaskPage:
        """Answer with a page of the list."""
        assert kind is EXPAND
        self.lookups.append("list")
        if self.listing is drops:
            return TaskPage(tasks=(), number=number, size=size)
        all_tasks = tuple(self.listing(self.store, key) for key in self.store)
        return TaskPage(tasks=all_tasks[(number - 1) * size :][:size], number=number, size=size)


async def look(fake: FakeApi, *, known: bool = True, since: datetime | None = None) -> Finding:
    """Ask a gateway once what became of our request."""
    lookup = TaskLookup(cast("Api", fake))
    return await lookup.look(EXPAND, OURS, known=KNOWN if known else None, since=since)


def store(*, there: bool) -> Store:
    """Return the known task, ours if it is *there*, and a stranger's."""
    tasks = [task(KNOWN.key, KNOWN.task_id), task(OURS, "2"), task("ce1-stranger", "3")]
    return {str(each.external_task_id): each for each in tasks if there or each.id != "2"}


TABLE = [
    # path, query, list -> task there, not there; the same without a known task
    (works, drops, drops, FOUND, ABSENT, FOUND, UNKNOWN),
    (drops, works, drops, FOUND, ABSENT, FOUND, UNKNOWN),
    (lacks, works, lacks, FOUND, ABSENT, FOUND, UNKNOWN),
    (drops, drops, works, FOUND, ABSENT, FOUND, UNKNOWN),
    (down, down, works, FOUND, ABSENT, FOUND, UNKNOWN),
    (newest, newest, works, FOUND, ABSENT, FOUND, UNKNOWN),
    (nameless, drops, drops, FOUND, ABSENT, UNKNOWN, UNKNOWN),
    (drops, nameless, nameless, FOUND, ABSENT, UNKNOWN, UNKNOWN),
    # Here nothing is proof.
    (drops, drops, drops, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),
    (drops, drops, nameless, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),
    (newest, newest, lacks, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),
    (oldest, oldest, lacks, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),
    (newest_nameless, newest_nameless, nameless, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),
    (oldest_nameless, drops, lacks, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),
    (mixes_up, drops, lacks, FOUND, UNKNOWN, FOUND, UNKNOWN),
    (down, down, down, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),
    (refuses, refuses, lacks, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),
]


@pytest.mark.parametrize(
    "row", TABLE, ids=["-".join(answer.__name__ for answer in row[:3]) for row in TABLE]
)
async def test_verdicts(
    row: tuple[Answer, Answer, Answer, Verdict, Verdict, Verdict, Verdict],
) -> None:
    """What each kind of gateway shows, with and without a task to try the questions on."""
    path, query, listing, *expected = row
    verdicts = []
    for known, there in itertools.product((True, False), (True, False)):
        fake = FakeApi(store(there=there), path, query, listing)
        verdicts.append((await look(fake, known=known)).verdict)
    assert verdicts == expected


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("known", [True, False])
async def test_no_gateway_proves_what_is_not_so(there: bool, known: bool) -> None:
    """Of all gateways that one can think of, none makes us take a wrong task, or miss ours."""
    for path, query, listing in itertools.product(ANSWERS, ANSWERS, LISTS):
        finding = await look(FakeApi(store(there=there), path, query, listing), known=known)
        words = (path.__name__, query.__name__, listing.__name__)
        assert (finding.task is not None) is (finding.verdict is FOUND), words
        if finding.task is not None:
            assert (there, finding.task.id) == (True, "2"), words
        elif finding.verdict is ABSENT:
            assert (there, known) == (False, True), words


@pytest.mark.parametrize(
    ("path", "listing", "verdict", "silent"),
    [
        (down, drops, UNKNOWN, True),
        (drops, down, UNKNOWN, True),
        (works, down, ABSENT, True),
        (works, lacks, ABSENT, False),
        (refuses, lacks, UNKNOWN, False),
        (drops, drops, UNKNOWN, False),
    ],
)
async def test_silent(path: Answer, listing: Answer, verdict: Verdict, silent: bool) -> None:
    """A lookup without an answer is reported: another one may show more."""
    finding = await look(FakeApi(store(there=False), path, refuses, listing))
    assert (finding.verdict, finding.silent) == (verdict, silent)


@pytest.mark.parametrize("error", [AuthenticationError("no"), AccountError("no")], ids=repr)
@pytest.mark.parametrize("form", ["path", "listing"])
async def test_account_that_may_not_ask(error: CometError, form: str) -> None:
    """A refused key says nothing about the task; it comes out as it is."""

    def raises(_store: Store, _key: str) -> Task:
        raise error

    fake = FakeApi(store(there=True))
    setattr(fake, form, raises)
    with pytest.raises(type(error)):
        await look(fake)


async def test_nothing_more_is_looked_up_once_it_is_found() -> None:
    """The first answer that names our id is enough."""
    fake = FakeApi(store(there=True), works, works, works)
    await look(fake)
    assert fake.lookups == ["path"]


# ------------------------------------------------------------------------------ the list


@attrs.define
class Listing:
    """A gateway that has nothing but a list."""

    tasks: Sequence[Task]
    cap: int = LIST_SIZE
    one_page: bool = False
    pages: list[int] = attrs.field(factory=list)

    @property
    def gateway(self) -> SimpleNamespace:
        """No question by our own id."""
        return SimpleNamespace(lookup_forms=())

    async def page(self, number: int, size: int, *, kind: TaskKind) -> TaskPage:
        """Answer with one page, of at most *cap* tasks."""
        del kind
        self.pages.append(number)
        step = min(size, self.cap)
        first = 0 if self.one_page else (number - 1) * step
        return TaskPage(tasks=tuple(self.tasks[first : first + step]), number=number, size=size)


def made(*minutes: float | None) -> list[Task]:
    """Return strangers' tasks of these minutes, in this order."""
    return [task(f"ce1-{place}", f"1{place}", at) for place, at in enumerate(minutes)]


async def scan(listing: Listing, since: datetime | None = NOW) -> Finding:
    """Look for our task in a list."""
    lookup = TaskLookup(cast("Api", listing))
    return await lookup.look(EXPAND, OURS, known=KNOWN, since=since)


HOUR_AGO = range(-60, -60 - 3 * LIST_SIZE, -1)
THE_KNOWN = task(KNOWN.key, KNOWN.task_id, 1)


async def test_newest_first_is_read_as_far_as_needed() -> None:
    """A list that goes back in time is left once it is older than the request."""
    listing = Listing([THE_KNOWN, *made(*HOUR_AGO)])
    assert (await scan(listing)).verdict is ABSENT
    assert listing.pages == [1, 1]  # once for ours, once for the known one


async def test_without_a_moment_all_is_read() -> None:
    """When it is not known when the request was sent, the list is read to its end."""
    listing = Listing([THE_KNOWN, *made(*HOUR_AGO)])
    assert (await scan(listing, since=None)).verdict is ABSENT
    assert listing.pages == [1, 2, 3, 4, 5, 1]


ORDERS: Mapping[str, Sequence[float | None]] = {
    "newest-first": sorted(HOUR_AGO, reverse=True),
    "oldest-first": sorted(HOUR_AGO),
    "all-at-once": [-60.0] * 600,
    "without-moments": [None] * 600,
    "one-without": [-60.0, None, *range(-61, -661, -1)],
    "end-without": [*range(-60, -559, -1), None, *range(-560, -700, -1)],
    "mixed": [*range(-60, -560, -2), *range(-61, -561, -2)],
}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("place", ["begin", "second", "page-end", "second-page", "end"])
async def test_ours_is_found_in_any_order(name: str, place: str) -> None:
    """Ours is never missed on the first page, nor in any order but newest first behind it."""
    others = made(*ORDERS[name])
    at = {"begin": 0, "second": 1, "page-end": LIST_SIZE - 1, "second-page": LIST_SIZE + 50}
    others.insert(at.get(place, len(others)), task(OURS, "2", 0))
    if name == "newest-first":  # there, ours can only stand where its moment belongs
        others.sort(key=lambda each: each.created_at or NOW, reverse=True)
    finding = await scan(Listing(others))
    assert finding.task is not None
    assert finding.task.id == "2"


async def test_few_tasks_prove_no_order() -> None:
    """Two old tasks that happen to stand in falling order do not end the search."""
    listing = Listing([*made(-60, -61, -50), task(OURS, "2", 0)])
    assert (await scan(listing)).verdict is FOUND


@pytest.mark.parametrize("minutes", [-1, -4.9])
async def test_clocks_may_differ(minutes: float) -> None:
    """A server whose clock is up to five minutes behind does not hide our task."""
    step = (10 - minutes) / (LIST_SIZE + 1)
    newer = [task(f"ce1-n{place}", f"9{place}", 10 - place * step) for place in range(LIST_SIZE)]
    listing = Listing([*newer, task(OURS, "2", minutes), *made(*HOUR_AGO)])
    assert (await scan(listing)).verdict is FOUND


@pytest.mark.parametrize("size", [LIST_SIZE - 1, LIST_SIZE, LIST_SIZE + 1])
async def test_whole_list_without_ours_is_proof(size: int) -> None:
    """A list that was read to its end, and has the known task, proves that ours is absent."""
    others = made(*range(size - 1))
    assert (await scan(Listing([*others, THE_KNOWN]))).verdict is ABSENT
    assert (await scan(Listing([*others, task("ce1-x", "9")]))).verdict is UNKNOWN


async def test_gateway_that_gives_fewer_than_asked_for() -> None:
    """A page that is shorter than what was asked for need not be the last one."""
    listing = Listing([THE_KNOWN, *made(*range(250)), task(OURS, "2", 0)], cap=100)
    assert (await scan(listing)).verdict is FOUND


async def test_gateway_that_ignores_the_page_number() -> None:
    """The same page again and again shows nothing about what is not on it."""
    listing = Listing([THE_KNOWN, *made(*range(250))], cap=100, one_page=True)
    assert (await scan(listing)).verdict is UNKNOWN
    assert listing.pages == [1, 2]


async def test_list_that_is_too_long() -> None:
    """A list that can't be read to its end proves nothing."""
    listing = Listing([THE_KNOWN, *made(*range(LIST_PAGES * LIST_SIZE))])
    finding = await scan(listing)
    assert (finding.verdict, finding.silent) == (UNKNOWN, False)
    assert listing.pages == list(range(1, LIST_PAGES + 1))


# ------------------------------------------------------------------------------ callbacks


def notified(*task_ids: str | None) -> NotificationSource:
    """Return a source of these notifications in turn, one for each round of lookups."""
    left = list(task_ids)

    def last_notification(
        task_id: str | None, external_task_id: str | None
    ) -> SimpleNamespace | None:
        assert (task_id, external_task_id) == (None, OURS)
        return SimpleNamespace(task_id=left.pop(0)) if left else None

    return cast("NotificationSource", SimpleNamespace(last_notification=last_notification))


async def test_a_callback_names_the_task() -> None:
    """Where no other question finds anything, it does, and it is the only question."""
    fake = FakeApi(store(there=True))
    lookup = TaskLookup(cast("Api", fake), notified("2"))
    finding = await lookup.look(EXPAND, OURS, known=None)
    assert finding.verdict is FOUND
    assert finding.task is not None
    assert finding.task.id == "2"
    assert fake.lookups == ["get 2"]


@pytest.mark.parametrize("named", ["1", "3", "99", "", "../2"])
@pytest.mark.parametrize("there", [True, False])
async def test_a_callback_that_names_another_task_is_not_believed(there: bool, named: str) -> None:
    """Neither a stranger's task nor one of our own others becomes this one."""
    for path, query, listing in itertools.product(ANSWERS, ANSWERS, LISTS):
        fake = FakeApi(store(there=there), path, query, listing)
        with_it = await TaskLookup(cast("Api", fake), notified(named)).look(
            EXPAND, OURS, known=KNOWN
        )
        assert with_it == await look(fake)


async def test_a_callback_whose_task_does_not_say_whose_it_is() -> None:
    """It could be anybody's: other questions have to tell."""
    nameless_store = {OURS: attrs.evolve(store(there=True)[OURS], external_task_id=None)}
    lookup = TaskLookup(cast("Api", FakeApi(nameless_store)), notified("2"))
    assert (await lookup.look(EXPAND, OURS, known=None)).verdict is UNKNOWN


async def test_a_callback_is_remembered_until_the_server_answers() -> None:
    """It comes once, perhaps while nobody can be asked."""
    errors: list[CometError] = [ConnectionLostError("closed"), NotFoundError("not yet")]
    fake = FakeApi(store(there=True), gets=errors)
    lookup = TaskLookup(cast("Api", fake), notified("2"))
    verdicts = [(await lookup.look(EXPAND, OURS, known=None)).verdict for _ in range(3)]
    assert verdicts == [UNKNOWN, UNKNOWN, FOUND]


async def test_a_later_callback_takes_the_place_of_a_forged_one() -> None:
    """The last one counts, as everywhere."""
    lookup = TaskLookup(cast("Api", FakeApi(store(there=True))), notified("3", None, "2"))
    verdicts = [(await lookup.look(EXPAND, OURS, known=None)).verdict for _ in range(3)]
    assert verdicts == [UNKNOWN, UNKNOWN, FOUND]


# Settling -----------------------------------------------------------------------------------


@pytest.mark.failure("F20")
async def test_an_answer_is_as_old_as_its_question() -> None:
    """Who was suspended behind a lookup asks once more: the task may have appeared since."""

    class Pausing(VirtualClock):
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        async def sleep(self, seconds: float) -> None:
            self.now += seconds

    clock, store = Pausing(), {KNOWN.key: task(KNOWN.key, KNOWN.task_id)}

    def late(store: Store, key: str) -> Task:
        if key == OURS and clock.now >= 10:
            return task(OURS, "2")
        if key == OURS and clock.now > 2:  # the third time
            clock.now += 100
        return works(store, key)

    record = attrs.evolve(planned(new_job(), now=0.0), key=OURS, state=JobState.UNKNOWN)
    api = cast("Api", FakeApi(store, path=late))
    reconciler = Reconciler(lookup=TaskLookup(api), journal=ForgettingJournal(), clock=clock)
    reconciler.acknowledged(attrs.evolve(record, key=KNOWN.key), store[KNOWN.key])
    finding = await reconciler.resolve(record, settle=60)
    assert finding.verdict is FOUND
