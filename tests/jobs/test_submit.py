"""Paid requests without a journal: sent again only when unpaid, looked for when lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, cast

import attrs
import pytest

from comet_async._images.load import ImageInput, SourceImage
from comet_async._jobs.submit import Submitter
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
    ServerError,
)
from comet_async.gateways import Gateway
from comet_async.geometry import Margins
from comet_async.models import Task, TaskPage, TaskStatus
from comet_async.requests import EXPAND, ExpandRequest, TryOnRequest
from comet_async.testing import VirtualClock

if TYPE_CHECKING:
    from comet_async._http.api import Api
    from comet_async._http.body import Body
    from comet_async.requests import TaskKind

KEY = "ce1-x"
LOST = OutcomeUnknownError("the answer was lost", status=502, code="x", request_id="r-1")
NO_TASK = NotFoundError("no such task")
BOUGHT = Task(id="8781", status=TaskStatus.SUBMITTED, external_task_id=KEY)
REQUEST = ExpandRequest(image=b"png", margins=Margins(down=0.5))


@attrs.define
class FakeApi:
    """Gives written answers, the last one for ever; each takes a second."""

    creates: list[Task | CometError]
    finds: list[Task | CometError] = attrs.field(factory=lambda: [NO_TASK])
    gateway: Gateway = attrs.field(factory=Gateway.comet)
    sent: list[dict[str, Any]] = attrs.field(factory=list)
    asked: int = 0

    async def create(self, kind: TaskKind, body: Body, *, external_task_id: str) -> Task:
        """Take a paid request."""
        (text,) = body.parts[-1:]
        assert isinstance(text, bytes)
        self.sent.append({"kind": kind, "key": external_task_id, "text": text.decode()})
        await asyncio.sleep(1)
        return self._give(self.creates)

    async def find(self, key: str, *, kind: TaskKind, form: str) -> Task:
        """Answer a question by our own id; one round of questions counts once."""
        assert (key, kind) == (KEY, EXPAND)
        if form == "path":
            self.asked += 1
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

    _last: Task | CometError = NO_TASK


async def load(image: ImageInput, name: str) -> SourceImage:
    """Load an image without looking at it."""
    assert isinstance(image, bytes)
    return SourceImage(source=name, sha256="", data=image, size=len(image), width=400, height=300)


def buyer(api: FakeApi, clock: VirtualClock, *, callback: str | None = None) -> Submitter:
    """Return what sends paid requests to *api*."""
    return Submitter(
        api=cast("Api", api),
        clock=clock,
        settle=60,
        load=load,
        callback_url=lambda: callback,
    )


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


async def test_bought_at_once(clock: VirtualClock) -> None:
    """One request, one task, under the key that was given."""
    api = FakeApi([BOUGHT])
    assert await buyer(api, clock).submit(REQUEST, KEY) == BOUGHT
    (sent,) = api.sent
    assert (sent["kind"], sent["key"]) == (EXPAND, KEY)
    assert '"external_task_id":"ce1-x"' in sent["text"]
    assert "callback_url" not in sent["text"]


async def test_own_id_wins(clock: VirtualClock) -> None:
    """The request's own id is sent, not the key that the session made up."""
    api = FakeApi([BOUGHT])
    await buyer(api, clock).submit(attrs.evolve(REQUEST, external_task_id="order-17"), KEY)
    assert api.sent[0]["key"] == "order-17"
    assert '"external_task_id":"order-17"' in api.sent[0]["text"]


@pytest.mark.parametrize(
    ("own", "session", "sent"),
    [(None, "https://s/cb", "https://s/cb"), ("https://me/cb", "https://s/cb", "https://me/cb")],
    ids=["session", "request"],
)
async def test_callback(own: str | None, session: str, sent: str, clock: VirtualClock) -> None:
    """The request's own callback address goes before the session's."""
    api = FakeApi([BOUGHT])
    request = attrs.evolve(REQUEST, callback_url=own)
    await buyer(api, clock, callback=session).submit(request, KEY)
    assert f'"callback_url":"{sent}"' in api.sent[0]["text"]


async def test_gateway_names_the_lower_margin(clock: VirtualClock) -> None:
    """Fields are sent under the names that the gateway reads."""
    api = FakeApi([BOUGHT], gateway=attrs.evolve(Gateway.comet(), down_field="bottom"))
    await buyer(api, clock).submit(REQUEST, KEY)
    assert '"bottom_expansion_ratio":0.5' in api.sent[0]["text"]
    assert "down_" not in api.sent[0]["text"]


async def test_all_images_are_loaded(clock: VirtualClock) -> None:
    """Each image of a request is loaded under its JSON field."""
    names: list[str] = []

    async def note(image: ImageInput, name: str) -> SourceImage:
        names.append(name)
        return await load(image, name)

    purchase = attrs.evolve(buyer(FakeApi([BOUGHT]), clock), load=note)
    await purchase.submit(TryOnRequest(human=b"me", cloth=b"coat"), KEY)
    assert names == ["human_image", "cloth_image"]


async def test_bad_image_is_not_sent(clock: VirtualClock) -> None:
    """What the image's own check refuses never reaches the server."""

    async def refuse(_image: ImageInput, _name: str) -> SourceImage:
        raise InputError("too small")

    api = FakeApi([BOUGHT])
    with pytest.raises(InputError):
        await attrs.evolve(buyer(api, clock), load=refuse).submit(REQUEST, KEY)
    assert api.sent == []


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [
        (NotSentError("refused"), 1, 1.5),
        (RateLimitError("slow"), 1, 1.5),
        (ConcurrencyLimitError("full"), 1, 1.5),
        (ServerError("maintenance"), 1, 1.5),
        (RateLimitError("slow", retry_after=7), 7, 7.5),
        (RateLimitError("slow", retry_after=86_400), 60, 60.5),
        (ServerError("maintenance", retry_after=0), 1, 1.5),
    ],
    ids=[
        "not reached",
        "too many requests",
        "too many images",
        "server error",
        "asked for 7 s",
        "asked for a day",
        "asked for nothing",
    ],
)
async def test_unpaid_is_sent_again(
    error: CometError, least: float, most: float, clock: VirtualClock
) -> None:
    """What was surely not accepted is sent again, after a pause that the server may lengthen."""
    api = FakeApi([error, BOUGHT])
    result, seconds = await timed(buyer(api, clock).submit(REQUEST, KEY))
    assert result == BOUGHT
    assert [sent["key"] for sent in api.sent] == [KEY, KEY]
    assert 2 + least - 0.1 <= seconds <= 2 + most + 0.1


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [
        (NotSentError("refused"), 3, 10),
        (RateLimitError("slow"), 200, 302),
        (ConcurrencyLimitError("full", retry_after=30), 250, 302),
        (ServerError("maintenance"), 200, 302),
    ],
    ids=["unreached", "slow", "full", "maintenance"],
)
async def test_end_of_patience(
    error: CometError, least: float, most: float, clock: VirtualClock
) -> None:
    """A server that can't be reached is given up in seconds, one that is busy in minutes."""
    result, seconds = await timed(buyer(FakeApi([error]), clock).submit(REQUEST, KEY))
    assert result is error
    assert least <= seconds <= most


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
async def test_refused_for_good(error: CometError, clock: VirtualClock) -> None:
    """Any other refusal comes out at once, after one request and no question."""
    api = FakeApi([error])
    result, _ = await timed(buyer(api, clock).submit(REQUEST, KEY))
    assert result is error
    assert (len(api.sent), api.asked) == (1, 0)


@pytest.mark.parametrize("error", [LOST, DuplicateTaskError("taken")], ids=["lost", "duplicate"])
@pytest.mark.parametrize("rounds", [0, 1, 4])
async def test_lost_answer_is_looked_for(
    error: CometError, rounds: int, clock: VirtualClock
) -> None:
    """A request that may have been paid is never sent again: its task is looked for."""
    finds: list[Task | CometError] = [*[NO_TASK] * rounds, BOUGHT]
    api = FakeApi([error, BOUGHT], finds)
    assert await buyer(api, clock).submit(REQUEST, KEY) == BOUGHT
    assert (len(api.sent), api.asked) == (1, rounds + 1)


@pytest.mark.parametrize(
    "found",
    [
        NO_TASK,
        attrs.evolve(BOUGHT, external_task_id="ce1-other"),
        attrs.evolve(BOUGHT, external_task_id=None),
        ServerError("down"),
    ],
    ids=["nothing", "another", "nameless", "down"],
)
async def test_outcome_stays_unknown(found: Task | CometError, clock: VirtualClock) -> None:
    """Nothing found within the settle time proves nothing: the error has what finds it later."""
    api = FakeApi([LOST], [found])
    result, seconds = await timed(buyer(api, clock).submit(REQUEST, KEY))
    assert type(result) is OutcomeUnknownError
    assert seconds == pytest.approx(61, abs=1)
    assert (result.external_task_id, result.sent) == (KEY, True)
    assert (result.status, result.code, result.request_id) == (502, "x", "r-1")
    assert "do not submit it again" in (result.hint or "")
    assert f"find('{KEY}')" in (result.hint or "")
    assert 6 <= api.asked <= 8


async def test_task_that_appears_at_the_last_moment(clock: VirtualClock) -> None:
    """The last question is asked when the settle time is over, not before."""
    api = FakeApi([LOST])
    task = asyncio.create_task(buyer(api, clock).submit(REQUEST, KEY))
    await asyncio.sleep(60.5)
    api.finds[:] = [BOUGHT]
    assert await task == BOUGHT


@pytest.mark.parametrize("error", [AuthenticationError("no"), AccountError("no")], ids=repr)
async def test_key_that_is_refused_while_looking(error: CometError, clock: VirtualClock) -> None:
    """A key that is refused now does not make a request unpaid that was sent before."""
    result, _ = await timed(buyer(FakeApi([LOST], [error]), clock).submit(REQUEST, KEY))
    assert type(result) is OutcomeUnknownError
    assert result.external_task_id == KEY


async def test_lost_after_trying_again(clock: VirtualClock) -> None:
    """An answer that is lost at the second try is looked for like at the first."""
    api = FakeApi([RateLimitError("slow"), LOST], [BOUGHT])
    assert await buyer(api, clock).submit(REQUEST, KEY) == BOUGHT
    assert len(api.sent) == 2


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([BOUGHT], ["task 8781 was bought after its caller had gone"]),
        (
            [OutcomeUnknownError("lost", external_task_id=KEY)],
            ["task of ce1-x may have been bought"],
        ),
        ([RejectedError("no")], []),
    ],
    ids=["bought", "lost", "refused"],
)
async def test_cancelled_caller(
    answers: list[Task | CometError],
    words: list[str],
    clock: VirtualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A cancelled caller is gone at once, the request goes on, and what it bought is logged."""
    api = FakeApi(answers)
    purchase = buyer(api, clock)
    task = asyncio.create_task(purchase.submit(REQUEST, KEY))
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert caplog.messages == []
    await purchase.settle_in_flight()
    await asyncio.sleep(0)
    assert caplog.messages == words


async def test_request_that_is_cut_off_with_the_loop(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """When the whole program ends, nothing is logged about a task that nobody knows."""
    purchase = buyer(FakeApi([BOUGHT]), clock)
    task = asyncio.create_task(purchase.submit(REQUEST, KEY))
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.wait([task])
    (inner,) = [each for each in asyncio.all_tasks() if each.get_name() == f"submit {KEY}"]
    inner.cancel()
    await asyncio.wait([inner])
    assert caplog.messages == []


async def test_settling_waits_for_what_is_sent(clock: VirtualClock) -> None:
    """Closing waits for requests that are on their way, and for nothing else."""
    purchase = buyer(FakeApi([BOUGHT]), clock)
    await purchase.settle_in_flight()
    tasks = [asyncio.create_task(purchase.submit(REQUEST, f"ce1-{number}")) for number in range(3)]
    await asyncio.sleep(0.5)
    await purchase.settle_in_flight()
    await asyncio.sleep(0)
    assert all(task.done() for task in tasks)
