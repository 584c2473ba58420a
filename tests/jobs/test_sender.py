"""The one way to the server: what is sent again, what is looked up, and when sending stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import attrs
import pytest

from comet_async._backoff import Gate
from comet_async._images.source import ImageInput, SourceImage
from comet_async._jobs.active import ActiveJobs
from comet_async._jobs.concurrency_limit import ConcurrencyLimiter
from comet_async._jobs.health import (
    COOL_DOWN,
    FIRST_CONTACT,
    LOST_AT_FIRST,
    ServerHealth,
)
from comet_async._jobs.loader import Loader
from comet_async._jobs.options import JobOptions
from comet_async._jobs.runner import JobRunner
from comet_async._jobs.services import Services
from comet_async._journal.memory import MemoryJournal
from comet_async._journal.records import JobRecord, Refusal
from comet_async._runs.batch import Batch
from comet_async._runs.items import Item
from comet_async._runs.planner import Planner
from comet_async.config import Timeouts
from comet_async.errors import (
    AccountError,
    AuthenticationError,
    CometError,
    ConcurrencyLimitError,
    ConfigError,
    DuplicateTaskError,
    InputError,
    NotFoundError,
    NotSentError,
    OutcomeUnknownError,
    RateLimitError,
    RejectedError,
    RunStoppedError,
    ServerError,
    SessionClosedError,
    WaitTimeoutError,
)
from comet_async.gateways import Gateway
from comet_async.geometry import Margins
from comet_async.models import Task, TaskPage, TaskStatus
from comet_async.outcomes import Outcome
from comet_async.requests import EXPAND, ExpandRequest, TryOnRequest
from comet_async.testing import VirtualLoop

if TYPE_CHECKING:
    from comet_async._http.api import Api
    from comet_async._http.body import Body
    from comet_async._results.download import Downloader
    from comet_async.models import TaskKind
    from comet_async.requests import TaskRequest
    from comet_async.testing import VirtualClock
    from comet_async.waiter import NotificationSource, TaskWaiter

KEY = "ce1-x"
LOST = OutcomeUnknownError("the answer was lost", status=502, code="x", request_id="r-1")
NO_TASK = NotFoundError("no such task")
BOUGHT = Task(id="8781", status=TaskStatus.SUBMITTED, external_task_id=KEY)
REQUEST = ExpandRequest(image=b"png", margins=Margins(down=0.5), external_task_id=KEY)


@attrs.define
class FakeApi:
    """Gives written answers, the last one forever; each takes a second."""

    creates: list[Task | CometError]
    clock: VirtualClock
    finds: list[Task | CometError] = attrs.field(factory=lambda: [NO_TASK])
    gateway: Gateway = attrs.field(factory=Gateway.comet)
    sent: list[dict[str, Any]] = attrs.field(factory=list)
    accepted: int = 0
    lookups: int = 0
    down_until: float = 0.0
    transport: SimpleNamespace = attrs.field(factory=lambda: SimpleNamespace(timeouts=Timeouts()))
    _last: Task | CometError = NO_TASK

    async def create(self, kind: TaskKind, body: Body, *, external_task_id: str) -> Task:
        """Take a paid request."""
        (text,) = body.parts[-1:]
        assert isinstance(text, bytes)
        self.sent.append({"kind": kind, "key": external_task_id, "text": text.decode()})
        await asyncio.sleep(1)
        if self.clock.monotonic() < self.down_until:
            raise NotSentError("refused")
        answer = self._give(self.creates)
        self.accepted += 1
        return attrs.evolve(answer, id=str(8780 + self.accepted), external_task_id=external_task_id)

    async def find(self, key: str, *, kind: TaskKind, form: str) -> Task:
        """Answer a lookup by our own id; one round of lookups counts once."""
        del key, kind
        if form == "path":
            self.lookups += 1
            self._last = self.finds.pop(0) if len(self.finds) > 1 else self.finds[0]
        return self._give([self._last])

    async def page(self, number: int, size: int, *, kind: TaskKind) -> TaskPage:
        """Have no list."""
        del kind
        return TaskPage(tasks=(), number=number, size=size)

    def _give(self, answers: list[Task | CometError]) -> Task:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, CometError):
            raise answer
        return answer


@attrs.frozen(kw_only=True)
class FakeLoader(Loader):
    """Loads images without looking at them."""

    names: list[str] = attrs.field(factory=list)
    refusal: CometError | None = None

    async def load(self, image: ImageInput, field: str, *, hashed: bool = True) -> SourceImage:
        """Return *image*, loaded."""
        del hashed
        self.names.append(field)
        if self.refusal is not None:
            raise self.refusal
        assert isinstance(image, bytes)
        size = len(image)
        return SourceImage(source=field, sha256="", data=image, size=size, width=400, height=300)


@attrs.define
class Buyer:
    """Sends requests to a `FakeApi`, as a session does."""

    api: FakeApi
    callback: str | None = None
    loader: FakeLoader = attrs.field(factory=lambda: FakeLoader(prepare=False, private=False))
    options: JobOptions = attrs.field(factory=lambda: JobOptions(single=True, until_submitted=True))
    workers: int = 4
    journal: MemoryJournal = attrs.field(factory=MemoryJournal)
    active: ActiveJobs = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        callbacks = None
        if self.callback is not None:
            none = SimpleNamespace(url=self.callback, early=lambda *_: None)
            none.last_notification = none.early
            callbacks = cast("NotificationSource", none)
        clock = self.api.clock
        services = Services(
            api=cast("Api", self.api),
            waiter=cast("TaskWaiter", None),
            downloader=cast("Downloader", None),
            health=ServerHealth(clock, Gate(clock, trusted=False)),
            account="a-b",
            callbacks=callbacks,
        )
        self.active = ActiveJobs(self.journal, ConcurrencyLimiter(16), services)

    def batch(self, **options: Any) -> Batch:
        """Return a batch."""
        runner = JobRunner(self.active, attrs.evolve(self.options, **options), self.loader)
        return Batch(
            runner=runner,
            planner=Planner(runner.active, self.loader, None),
            workers=self.workers,
        )

    async def submit(self, request: TaskRequest = REQUEST) -> Task:
        """Return the task that *request* makes."""
        outcome = await self.batch().one(Item(source="x", request=request))
        if outcome.task is None:
            raise outcome.error or AssertionError
        return outcome.task

    async def run(self, many: int) -> list[Outcome]:
        """Return the outcomes of a run."""

        async def items() -> AsyncGenerator[Item, None]:
            for number in range(many):
                own = attrs.evolve(REQUEST, external_task_id=f"ce1-{number}")
                yield Item(source=str(number), request=own)

        batch = self.batch(single=False)
        return [outcome async for outcome in batch.outcomes(items())]


@pytest.fixture
def buyer(clock: VirtualClock) -> Callable[..., Buyer]:
    """Return the maker of buyers: the answers to paid requests, and to lookups."""

    def make(
        creates: list[Task | CometError],
        finds: list[Task | CometError] | None = None,
        *,
        callback: str | None = None,
        **api: Any,
    ) -> Buyer:
        more = {} if finds is None else {"finds": finds}
        return Buyer(FakeApi(creates, clock, **more, **api), callback)

    return make


async def timed(work: Awaitable[Task]) -> tuple[Task | CometError, float]:
    """Return what *work* gives or raises, and how long it took."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    result: Task | CometError
    try:
        result = await work
    except CometError as error:
        result = error
    return result, loop.time() - begin


Make = Callable[..., Buyer]


async def test_bought_at_once(buyer: Make) -> None:
    """One request, one task, under the key that was given."""
    one = buyer([BOUGHT])
    assert await one.submit() == BOUGHT
    (sent,) = one.api.sent
    assert (sent["kind"], sent["key"]) == (EXPAND, KEY)
    assert '"external_task_id":"ce1-x"' in sent["text"]
    assert "callback_url" not in sent["text"]


@pytest.mark.parametrize(
    ("own", "session", "sent"),
    [(None, "https://s/cb", "https://s/cb"), ("https://me/cb", "https://s/cb", "https://me/cb")],
    ids=["session", "request"],
)
async def test_callback(own: str | None, session: str, sent: str, buyer: Make) -> None:
    """The request's own callback address goes before the session's."""
    one = buyer([BOUGHT], callback=session)
    await one.submit(attrs.evolve(REQUEST, callback_url=own))
    assert f'"callback_url":"{sent}"' in one.api.sent[0]["text"]


async def test_gateway_names_the_lower_margin(buyer: Make) -> None:
    """Fields are sent under the names that the gateway reads."""
    one = buyer([BOUGHT], gateway=attrs.evolve(Gateway.comet(), down_field="bottom"))
    await one.submit()
    assert '"bottom_expansion_ratio":0.5' in one.api.sent[0]["text"]
    assert "down_" not in one.api.sent[0]["text"]


async def test_all_images_are_loaded(buyer: Make) -> None:
    """Each image of a request is loaded under its JSON field."""
    one = buyer([BOUGHT])
    await one.submit(TryOnRequest(human=b"me", cloth=b"coat"))
    assert one.loader.names == ["human_image", "cloth_image"]


async def test_bad_image_is_not_sent(buyer: Make) -> None:
    """What the image's own check refuses never reaches the server."""
    one = buyer([BOUGHT])
    one.loader = attrs.evolve(one.loader, refusal=InputError("too small"))
    with pytest.raises(InputError, match="too small"):
        await one.submit()
    assert one.api.sent == []


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [
        (NotSentError("refused"), 1, 1.5),
        (RateLimitError("slow"), 1, 1.5),
        (ConcurrencyLimitError("full"), 1, 1.5),
        (ServerError("maintenance"), 1, 1.5),
        (RateLimitError("slow", retry_after=7), 7, 7.5),
        (RateLimitError("slow", retry_after=86_400), 60, 60.5),
        (ServerError("at once", retry_after=0), 1, 1.5),
        (RateLimitError("backwards", retry_after=-5), 1, 1.5),
    ],
    ids=lambda value: repr(value) if isinstance(value, CometError) else None,
)
async def test_unpaid_is_sent_again(
    error: CometError, least: float, most: float, buyer: Make
) -> None:
    """What was surely not accepted is sent again, after a pause that the server may lengthen."""
    one = buyer([error, BOUGHT])
    result, seconds = await timed(one.submit())
    assert result == BOUGHT
    assert [sent["key"] for sent in one.api.sent] == [KEY, KEY]
    assert 2 + least - 0.1 <= seconds <= 2 + most + 0.1


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [
        (NotSentError("refused"), 3, 12),
        (RateLimitError("slow"), 200, 302),
        (ConcurrencyLimitError("full", retry_after=30), 250, 302),
        (ServerError("maintenance"), 200, 302),
    ],
    ids=["unreached", "slow", "full", "maintenance"],
)
async def test_end_of_patience(error: CometError, least: float, most: float, buyer: Make) -> None:
    """A server that can't be reached is given up in seconds, one that is busy in minutes."""
    result, seconds = await timed(buyer([error]).submit())
    assert type(result) is type(error)
    assert least <= seconds <= most


@pytest.mark.parametrize("many", [2, 16])
async def test_many_callers_learn_of_a_dead_server_soon(many: int, buyer: Make) -> None:
    """They wait at one gate, but none of them longer than alone."""
    one = buyer([NotSentError("refused")])
    requests = [attrs.evolve(REQUEST, external_task_id=f"ce1-{each}") for each in range(many)]
    results = await asyncio.gather(*(timed(one.submit(request)) for request in requests))
    assert {type(result) for result, _ in results} == {NotSentError}
    assert max(seconds for _, seconds in results) < 20
    assert len(one.api.sent) < 20


@pytest.mark.parametrize("many", [1, 16])
async def test_a_run_leaves_a_dead_server_soon(
    many: int, buyer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says how long it tries; no image waits for a turn of its own after that."""
    one = buyer([NotSentError("refused")])
    one.workers = many
    begin = asyncio.get_running_loop().time()
    outcomes = await one.run(many)
    assert asyncio.get_running_loop().time() - begin < FIRST_CONTACT + 2 * 8.5
    assert {type(outcome.error) for outcome in outcomes} == {NotSentError}
    assert len(outcomes) == many
    warnings = [record.message for record in caplog.records if record.name == "comet_async"]
    assert warnings.count("refused; retrying for about 40 s") == 1


@pytest.mark.failure("F01")
@pytest.mark.parametrize("many", [1, 16])
async def test_a_run_waits_for_a_server_that_starts(
    many: int, buyer: Make, clock: VirtualClock
) -> None:
    """A server that refuses connections for half a minute, and then works, gets each job once."""
    one = buyer([BOUGHT])
    one.workers = many
    one.api.down_until = clock.monotonic() + 30
    outcomes = await one.run(many)
    assert [outcome.error for outcome in outcomes] == [None] * many
    assert len(one.api.sent) < 10 + many


@pytest.mark.failure("F01")
@pytest.mark.parametrize("calls", [0, 1, 20], ids=["never reached", "reached before", "for long"])
async def test_a_session_outlives_an_outage(calls: int, buyer: Make, clock: VirtualClock) -> None:
    """However long the server was away, the next call and the next run find it again."""
    one = buyer([BOUGHT])
    if calls:
        await one.submit()
    for _ in range(max(2, calls)):
        one.api.down_until = clock.monotonic() + 50
        with pytest.raises(NotSentError):
            await one.submit(attrs.evolve(REQUEST, external_task_id="ce1-down"))
        await clock.sleep(31)
    one.api.down_until = 0.0
    assert (await one.submit(attrs.evolve(REQUEST, external_task_id="ce1-up"))).id
    assert [outcome.error for outcome in await one.run(4)] == [None] * 4


@pytest.mark.parametrize("error", [NotSentError("refused"), ServerError("busy", sent=False)])
async def test_callers_who_never_wait_find_the_server_again(
    error: CometError, buyer: Make, clock: VirtualClock
) -> None:
    """If all of them use ``busy="raise"``, one of them has to try."""
    one = buyer([error, BOUGHT])
    one.options = attrs.evolve(one.options, busy="raise")
    with pytest.raises(type(error)):
        await one.submit()
    with pytest.raises(ConcurrencyLimitError):
        await one.submit()
    await clock.sleep(60)
    assert (await one.submit()).id
    assert len(one.api.sent) == 2


async def test_an_outage_long_ago_leaves_a_run_its_patience(
    buyer: Make, clock: VirtualClock
) -> None:
    """Nothing was tried since then, so how long the server was away is not known."""
    one = buyer([BOUGHT])
    one.api.down_until = clock.monotonic() + 20
    with pytest.raises(NotSentError):
        await one.submit()
    await clock.sleep(1000)
    one.api.down_until = clock.monotonic() + 20
    assert [outcome.error for outcome in await one.run(4)] == [None] * 4


async def test_no_retry_is_promised_to_a_caller_who_wants_none(
    buyer: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """With ``busy="raise"`` there is one attempt, and no word about more."""
    one = buyer([NotSentError("refused")])
    one.options = attrs.evolve(one.options, busy="raise")
    with pytest.raises(NotSentError):
        await one.submit()
    assert len(one.api.sent) == 1
    assert "retrying" not in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        RejectedError("no"),
        AuthenticationError("no"),
        AccountError("no"),
        ConfigError("no"),
        InputError("no"),
    ],
    ids=repr,
)
async def test_refused_for_good(error: CometError, buyer: Make) -> None:
    """Any other refusal comes out at once, after one request and no lookup."""
    one = buyer([error])
    result, _ = await timed(one.submit())
    assert result is error
    assert (len(one.api.sent), one.api.lookups) == (1, 0)


@pytest.mark.parametrize("error", [LOST, DuplicateTaskError("taken")], ids=["lost", "duplicate"])
@pytest.mark.parametrize("rounds", [0, 1, 4])
async def test_lost_answer_is_looked_up(error: CometError, rounds: int, buyer: Make) -> None:
    """A request that may have been paid is not sent again: its task is looked up."""
    one = buyer([error, BOUGHT], [*[NO_TASK] * rounds, BOUGHT])
    assert await one.submit() == BOUGHT
    assert (len(one.api.sent), one.api.lookups) == (1, rounds + 1)


@pytest.mark.parametrize(
    "found",
    [
        NO_TASK,
        attrs.evolve(BOUGHT, external_task_id="ce1-other"),
        attrs.evolve(BOUGHT, external_task_id=None),
        RejectedError("down"),
    ],
    ids=["nothing", "another", "nameless", "refused"],
)
async def test_outcome_stays_unknown(found: Task | CometError, buyer: Make) -> None:
    """Nothing found within the settle time proves nothing: the error has what finds it later."""
    one = buyer([LOST], [found])
    result, seconds = await timed(one.submit())
    assert type(result) is OutcomeUnknownError
    assert seconds == pytest.approx(61, abs=1)
    assert (result.external_task_id, result.sent) == (KEY, True)
    assert (result.status, result.code, result.request_id) == (502, "x", "r-1")
    assert "do not submit it again" in (result.hint or "")
    assert KEY in (result.hint or "")


@attrs.define
class ForgetfulApi(FakeApi):
    """Refuses our id as taken, and shows every task but ours: it was cleared long ago."""

    async def find(self, key: str, *, kind: TaskKind, form: str) -> Task:
        """Answer a lookup by our own id."""
        if key == "ce1-other":
            return attrs.evolve(BOUGHT, id="8780", external_task_id=key)
        return await super().find(key, kind=kind, form=form)


async def test_duplicate_whose_task_is_gone_is_not_sent_forever(clock: VirtualClock) -> None:
    """The lookups prove that there is no task, and the server says that the id is taken."""
    one = Buyer(ForgetfulApi([BOUGHT, DuplicateTaskError("taken")], clock))
    await one.submit(attrs.evolve(REQUEST, external_task_id="ce1-other"))
    async with asyncio.timeout(24 * 3600):
        result, _ = await timed(one.submit())
    assert type(result) is OutcomeUnknownError
    assert "taken" in result.message
    assert len(one.api.sent) == 2


async def test_task_that_appears_at_the_last_moment(buyer: Make) -> None:
    """The last lookup is made when the settle time is over, not before."""
    one = buyer([LOST])
    task = asyncio.create_task(one.submit())
    await asyncio.sleep(60.5)
    one.api.finds[:] = [BOUGHT]
    assert await task == BOUGHT


async def test_lost_after_trying_again(buyer: Make) -> None:
    """An answer that is lost at the second try is looked up like at the first."""
    one = buyer([RateLimitError("slow"), LOST], [BOUGHT])
    assert await one.submit() == BOUGHT
    assert len(one.api.sent) == 2


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([BOUGHT], ["task 8781 (ce1-x) was accepted and is billed, after its caller was gone"]),
        ([LOST], ["request ce1-x may have been accepted and billed"]),
        ([RejectedError("no")], []),
    ],
    ids=["bought", "lost", "refused"],
)
async def test_cancelled_caller(
    answers: list[Task | CometError],
    words: list[str],
    buyer: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A cancelled caller is gone at once, the request continues, and the log says what it did."""
    one = buyer(answers)
    task = asyncio.create_task(one.submit())
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert "ce1-x was sent and may be billed" in caught.value.__notes__[0]
    assert caplog.messages == []
    await one.active.drain()
    await asyncio.sleep(0)
    said = [message for message in caplog.messages if "was lost (" not in message]
    assert len(said) == len(words)
    assert all(message.startswith(word) for message, word in zip(said, words, strict=True))


async def test_request_that_is_cut_off_is_recorded_as_unknown(buyer: Make) -> None:
    """At the limit of closing, what was not answered is written down."""
    one = buyer([BOUGHT])
    task = asyncio.create_task(one.submit())
    await asyncio.sleep(0.5)
    await one.active.drain(0.2)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert one.active.sends == {}


# ------------------------------------------------------------------ several event loops


@pytest.fixture
def loops() -> Iterator[tuple[VirtualLoop, VirtualLoop]]:
    """Yield two event loops, neither of which is running."""
    both = VirtualLoop(), VirtualLoop()
    yield both
    for loop in both:
        loop.close()


def begin(buyer: Buyer, loop: VirtualLoop) -> asyncio.Task[Task]:
    """Return a caller in *loop*, which is stopped before its request is answered."""
    caller = loop.create_task(buyer.submit())
    loop.run_until_complete(asyncio.sleep(0.5))
    assert not caller.done()
    return caller


def test_a_job_of_a_loop_that_was_closed_is_free(
    buyer: Make, loops: tuple[VirtualLoop, VirtualLoop]
) -> None:
    """Its caller never continues, so the next one looks up what was sent, and waits no longer."""
    one = buyer([BOUGHT], [attrs.evolve(BOUGHT, external_task_id=KEY)])
    caller = begin(one, loops[0])
    loops[0].close()
    assert loops[1].run_until_complete(one.submit()).id == BOUGHT.id
    assert len(one.api.sent) == 1
    assert one.active.sends == {}
    assert not caller.done()


def test_a_job_of_a_loop_that_was_stopped_is_not_taken(
    buyer: Make, loops: tuple[VirtualLoop, VirtualLoop], caplog: pytest.LogCaptureFixture
) -> None:
    """Its caller may continue: the others wait, and learn what they wait for."""
    one = buyer([BOUGHT])
    caller = begin(one, loops[0])
    one.options = attrs.evolve(one.options, timeout=60.0)
    with pytest.raises(WaitTimeoutError) as caught:
        loops[1].run_until_complete(one.submit())
    assert "let that loop run on, or close it" in (caught.value.hint or "")
    assert caught.value.sent is None
    assert ["let that loop run on" in message for message in caplog.messages].count(True) == 1
    assert loops[0].run_until_complete(caller).id == BOUGHT.id
    assert loops[1].run_until_complete(one.submit()).id == BOUGHT.id
    assert len(one.api.sent) == 1


def test_an_interrupted_run_does_not_wait_for_a_loop_that_was_stopped(
    buyer: Make, loops: tuple[VirtualLoop, VirtualLoop]
) -> None:
    """The other caller's request has no outcome then; that it may be billed is said."""
    one = buyer([BOUGHT])
    caller = begin(one, loops[0])

    async def interrupted() -> None:
        batch = one.batch()
        call = asyncio.create_task(batch.one(Item(source="x", request=REQUEST)))
        await asyncio.sleep(1)
        batch.interrupt()
        await call

    with pytest.raises(RunStoppedError) as caught:
        loops[1].run_until_complete(interrupted())
    assert caught.value.sent is None
    assert "may be accepted and billed" in (caught.value.hint or "")
    assert loops[0].run_until_complete(caller).id == BOUGHT.id


class SlowJournal(MemoryJournal):
    """Takes a second to record what is about to be sent."""

    async def send(self, record: JobRecord, **more: Any) -> JobRecord | Refusal:
        """Record, then wait."""
        sending = await super().send(record, **more)
        await asyncio.sleep(1)
        return sending


def test_a_request_that_others_looked_up_is_not_sent_later(
    clock: VirtualClock, loops: tuple[VirtualLoop, VirtualLoop]
) -> None:
    """Its loop was stopped before it was sent: the others may have sent it themselves since."""
    one = Buyer(FakeApi([BOUGHT], clock), journal=SlowJournal())
    caller = begin(one, loops[0])
    caller.cancel()
    loops[0].run_until_complete(asyncio.wait({caller}))
    with pytest.raises(OutcomeUnknownError):
        loops[1].run_until_complete(one.submit())
    loops[0].run_until_complete(asyncio.sleep(5))
    assert one.api.sent == []


# ------------------------------------------------------------------ one gate for all


async def test_all_senders_wait_at_one_gate(buyer: Make) -> None:
    """After a 429, one request at a time goes on trial, not sixteen."""
    one = buyer([BOUGHT, *[RateLimitError("slow", retry_after=0)] * 6, BOUGHT])
    await one.submit(attrs.evolve(REQUEST, external_task_id="ce1-first"))
    outcomes = await one.run(8)
    assert {outcome.task is not None for outcome in outcomes} == {True}
    assert len(one.api.sent) == 1 + 8 + 6


async def test_the_first_request_goes_alone(buyer: Make) -> None:
    """Until one has been accepted nothing is known about the server."""
    one = buyer([BOUGHT])
    running = asyncio.create_task(one.run(4))
    await asyncio.sleep(0.5)
    assert len(one.api.sent) == 1
    await asyncio.sleep(1)
    assert len(one.api.sent) == 4
    await running


async def test_a_call_that_is_about_to_send_learns_that_the_session_is_closed(buyer: Make) -> None:
    """Its caller gets what each other call gets: not the news of a run that it knows nothing of."""
    one = buyer([BOUGHT])
    batch = one.batch()
    batch.runner.sender.stop(SessionClosedError("the session is closed"))
    with pytest.raises(SessionClosedError) as caught:
        await batch.one(Item(source="x", request=REQUEST))
    assert caught.value.external_task_id == KEY
    assert not one.api.sent


async def test_lost_answers_at_first_stop_the_run(buyer: Make) -> None:
    """What stays planned is the control of the next run."""
    one = buyer([LOST])
    outcomes = await one.run(8)
    assert len(one.api.sent) == LOST_AT_FIRST
    statuses = sorted(str(outcome.status) for outcome in outcomes)
    assert statuses == ["pending"] * statuses.count("pending") + ["uncertain"] * LOST_AT_FIRST
    stopped = [o.error for o in outcomes if isinstance(o.error, RunStoppedError)]
    assert stopped
    assert "were lost, so no more are sent" in stopped[0].message
    assert "run again" in (stopped[0].hint or "")


async def test_a_single_call_tries_again_after_a_while(buyer: Make) -> None:
    """A service recovers by itself when the server does."""
    one = buyer([LOST, LOST, BOUGHT])
    for number in range(2):
        result, _ = await timed(one.submit(attrs.evolve(REQUEST, external_task_id=f"ce1-{number}")))
        assert isinstance(result, OutcomeUnknownError)
    await asyncio.sleep(COOL_DOWN)
    assert await one.submit() == BOUGHT
