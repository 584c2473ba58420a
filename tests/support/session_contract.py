"""What a session must do with and without a journal: one suite, run against each.

Derive a class, give it a fixture ``journal`` (what ``journal=`` takes), and all of this is tested.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from comet_async import (
    CometError,
    CometSession,
    ConcurrencyLimitError,
    ConfigError,
    ExpandRequest,
    InputError,
    Journal,
    JournalRequiredError,
    Margins,
    OutcomeUnknownError,
    RejectedError,
    SaveError,
    SessionClosedError,
    SourceImage,
    Task,
    TaskFailedError,
    TaskWaiter,
    WaitTimeoutError,
)
from comet_async._journal.memory import MemoryJournal
from comet_async.sandbox import DEFAULT_KEY, Fault, Sandbox
from comet_async.testing import VirtualClock
from tests.conftest import make_png

WIDE = Margins(left=0.25, right=0.25)
JournalLike = str | Path | Journal | None
OpenSession = Callable[..., CometSession]


def request(tint: int = 0, **fields: Any) -> ExpandRequest:
    """Return a request; another *tint* is another image."""
    return ExpandRequest(image=make_png(300, 300, tint), margins=WIDE, **fields)


async def seconds(work: Awaitable[object]) -> tuple[object, float]:
    """Return what *work* gives or raises, and how long it took."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    try:
        result = await work
    except CometError as error:
        result = error
    return result, loop.time() - begin


class SessionSuite:
    """The contract."""

    @pytest.fixture
    def open_session(
        self, sandbox: Sandbox, clock: VirtualClock, journal: JournalLike
    ) -> OpenSession:
        """Return what opens a session on the sandbox."""

        def make(key: str = DEFAULT_KEY, **options: Any) -> CometSession:
            settings = {"gateway": sandbox.url, "clock": clock, "journal": journal} | options
            return CometSession(key, **settings)

        return make

    @pytest.fixture
    async def session(self, open_session: OpenSession) -> AsyncIterator[CometSession]:
        """Return an open session with two slots."""
        async with open_session(concurrency=2) as session:
            yield session

    # Buying -----------------------------------------------------------------------------

    async def test_submit_gives_the_task_as_accepted(
        self, session: CometSession, sandbox: Sandbox
    ) -> None:
        """One request, one charge, an id of ours."""
        task = await session.submit(request())
        assert (task.status, task.done) == ("submitted", False)
        assert [charge.external_task_id for charge in sandbox.ledger.charges] == [
            task.external_task_id
        ]

    @pytest.mark.parametrize("verb", ["run", "expand"])
    async def test_a_finished_task_is_whole(self, session: CometSession, verb: str) -> None:
        """It is the server's own last snapshot, times and all."""
        one = request()
        task = await (session.run(one) if verb == "run" else session.expand(one.image, one.margins))
        assert task.succeeded
        assert len(task.images) == 1
        assert task.created_at is not None
        assert task.updated_at is not None
        assert task.raw

    async def test_a_failed_task_raises_its_reason(self, session: CometSession) -> None:
        """The error holds the task and both ids."""
        with pytest.raises(TaskFailedError, match="risk control") as caught:
            await session.run(request(prompt="sandbox-risky"))
        error = caught.value
        assert error.task is not None
        assert error.task_id
        assert error.external_task_id

    async def test_a_refused_request_was_not_paid(
        self, session: CometSession, sandbox: Sandbox
    ) -> None:
        """A refusal comes out as it is, and gives its slot back."""
        for _ in range(3):
            with pytest.raises(RejectedError):
                await session.run(request(prompt="sandbox-blocked"))
        assert sandbox.ledger.charges == []
        assert (await session.run(request())).succeeded

    @pytest.mark.parametrize("verb", ["submit", "run", "expand_many"])
    async def test_the_requests_own_callback_reaches_the_server(
        self, session: CometSession, sandbox: Sandbox, verb: str
    ) -> None:
        """It goes before the session's, with and without a journal."""
        one = request(callback_url="https://me.example/cb")
        if verb == "expand_many":
            assert [outcome.status async for outcome in session.expand_many([one])] == ["done"]
        else:
            await getattr(session, verb)(one)
        assert sandbox.ledger.posts[0].body["callback_url"] == "https://me.example/cb"

    @pytest.mark.parametrize("verb", ["submit", "run", "expand"])
    @pytest.mark.parametrize("where", ["call", "session"])
    async def test_verify_remote_finds_what_another_process_sent(
        self, open_session: OpenSession, sandbox: Sandbox, verb: str, where: str
    ) -> None:
        """An id that is on the server already is not sent again; by default it would be."""
        async with open_session(journal=MemoryJournal()) as elsewhere:
            first = await elsewhere.submit(request(external_task_id="order-1"))
        posts = len(sandbox.ledger.posts)
        settings = {"verify_remote": True} if where == "session" else {}
        more = {"verify_remote": True} if where == "call" else {}
        async with open_session(**settings) as session:
            one = request(external_task_id="order-1")
            if verb == "expand":
                fields = {"external_task_id": "order-1"}
                task = await session.expand(one.image, one.margins, **fields, **more)
            else:
                task = await getattr(session, verb)(one, **more)
        assert task.id == first.id
        assert len(sandbox.ledger.posts) == posts

    @pytest.mark.parametrize("verb", ["submit", "run"])
    async def test_an_image_of_the_wanted_shape_is_bad_input(
        self, session: CometSession, sandbox: Sandbox, verb: str
    ) -> None:
        """There is no task to return, and nothing is paid."""
        one = ExpandRequest(image=make_png(300, 300, 0), margins=Margins.for_aspect("1:1"))
        with pytest.raises(InputError, match="already has this shape"):
            await getattr(session, verb)(one)
        assert sandbox.ledger.posts == []

    async def test_an_image_of_the_wanted_shape_is_done_in_a_run(
        self, session: CometSession, sandbox: Sandbox
    ) -> None:
        """A run has an outcome for it."""
        one = ExpandRequest(image=make_png(300, 300, 0), margins=Margins.for_aspect("1:1"))
        (outcome,) = [outcome async for outcome in session.expand_many([one])]
        assert (outcome.status, outcome.task) == ("done", None)
        assert sandbox.ledger.posts == []

    async def test_what_is_not_a_request_is_bad_input(self, session: CometSession) -> None:
        """A bare path is easily passed by mistake."""
        with pytest.raises(InputError, match="is not a request"):
            await session.submit("dog.png")  # type: ignore[arg-type]  # on purpose

    async def test_a_lost_answer_is_found_and_not_sent_again(
        self, session: CometSession, sandbox: Sandbox
    ) -> None:
        """The task is looked up by its external id."""
        sandbox.faults.add(Fault("drop_after_charge"))
        task = await session.submit(request())
        assert task.id == sandbox.ledger.charges[0].task_id
        assert len(sandbox.ledger.posts) == 1

    async def test_an_outcome_that_stays_unknown_says_so(
        self, session: CometSession, sandbox: Sandbox
    ) -> None:
        """Without a control nothing is proven, so nothing is sent again."""
        sandbox.faults.add(Fault("drop", on="create"))
        with pytest.raises(OutcomeUnknownError, match="may have been accepted") as caught:
            await session.submit(request())
        assert caught.value.external_task_id == sandbox.ledger.posts[0].external_task_id
        assert len(sandbox.ledger.posts) == 1

    async def test_proof_of_absence_sends_again_under_the_same_id(
        self, session: CometSession, sandbox: Sandbox
    ) -> None:
        """A task of this session shows that lookups work."""
        await session.run(request(1))
        sandbox.faults.add(Fault("drop", on="create"))
        task = await session.run(request(2))
        posts = [post.external_task_id for post in sandbox.ledger.posts[1:]]
        assert posts == [task.external_task_id] * 2
        assert sandbox.ledger.charged_twice() == []

    # Slots ------------------------------------------------------------------------------

    async def test_submit_and_a_waiter_of_ones_own_never_block(
        self, session: CometSession, sandbox: Sandbox
    ) -> None:
        """Whatever sees a task end gives its slot back."""
        waiter = TaskWaiter(session)
        for tint in range(5):
            task = await session.submit(request(tint))
            assert (await waiter.wait(task)).succeeded
        assert len(sandbox.ledger.charges) == 5

    async def test_get_gives_a_slot_back(self, session: CometSession) -> None:
        """A program may poll by itself."""
        for tint in range(5):
            task = await session.submit(request(tint))
            while not (await session.get(task.id)).done:  # noqa: ASYNC110 - as a program polls
                await asyncio.sleep(5)

    async def test_submit_waits_for_a_slot(
        self, session: CometSession, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The third waits until one has ended, though nobody waits for those; the log says who."""
        caplog.set_level(logging.INFO, "comet_async")
        first = [await session.submit(request(tint)) for tint in range(2)]
        with pytest.raises(ConcurrencyLimitError, match="2 of 2 slots") as caught:
            await session.submit(request(2), busy="raise")
        assert caught.value.sent is False
        await session.submit(request(2))
        ended = [(await session.get(task.id)).done for task in first]
        assert any(ended)
        text = [message for message in caplog.messages if "waiting for a slot" in message]
        assert text
        assert first[0].external_task_id is not None
        assert first[0].external_task_id in text[0]

    async def test_a_long_wait_for_slots_is_one_warning(
        self, session: CometSession, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A service may have hundreds of requests that wait."""
        caplog.set_level(logging.INFO, "comet_async")
        await asyncio.gather(*(session.run(request(tint)) for tint in range(6)))
        text = [message for message in caplog.messages if "waiting for a slot" in message]
        assert len(text) == 1

    async def test_a_task_that_was_given_up_frees_its_slot(self, session: CometSession) -> None:
        """Who waits for the slot polls it, though the time of its own caller is over."""
        run = asyncio.create_task(session.run(request(9), timeout=1))
        other = asyncio.create_task(session.run(request(8), timeout=1))
        await asyncio.sleep(0.5)  # the third waits before the other two give up
        third = await session.run(request(7), timeout=600)
        assert third.succeeded
        for given_up in (run, other):
            assert isinstance(given_up.exception(), WaitTimeoutError)

    async def test_most_in_flight(self, open_session: OpenSession, sandbox: Sandbox) -> None:
        """The limit holds for all verbs together."""
        async with open_session(concurrency=3) as session:
            await session.run(request(20))
            works = [session.run(request(tint)) for tint in range(4)]
            works += [session.submit(request(tint)) for tint in range(4, 8)]
            await asyncio.gather(*works)
            tasks = [
                task
                async for task in session.as_completed([c.task_id for c in sandbox.ledger.charges])
            ]
        lives = [(task.created_at, task.updated_at) for task in tasks]
        for moment, _ in lives:
            assert sum(begin <= moment < end for begin, end in lives) <= 3  # type: ignore[operator]  # the sandbox gives both times

    # Time limits ------------------------------------------------------------------------

    @pytest.mark.parametrize("verb", ["submit", "run"])
    @pytest.mark.parametrize("fault", ["1303", "502", "hang", "hang_after_charge"])
    async def test_a_timeout_bounds_the_whole_call(
        self, session: CometSession, sandbox: Sandbox, verb: str, fault: str
    ) -> None:
        """A full account, a failing server, an answer that does not come: three seconds."""
        sandbox.faults.add(Fault(fault, on="create", times=None))
        error, took = await seconds(getattr(session, verb)(request(), timeout=3))
        assert isinstance(error, WaitTimeoutError)
        assert took == pytest.approx(3, abs=0.3)
        assert error.external_task_id
        assert error.sent is (False if fault == "1303" else None)

    async def test_a_timeout_bounds_the_wait_for_a_slot(
        self, session: CometSession, sandbox: Sandbox
    ) -> None:
        """Nothing was sent, and the error says so."""
        await session.run(request(9))
        _ = [await session.submit(request(tint)) for tint in range(2)]
        error, took = await seconds(session.run(request(3), timeout=1))
        assert isinstance(error, WaitTimeoutError)
        assert (error.sent, error.retryable) == (False, True)
        assert took == pytest.approx(1, abs=0.3)
        assert len(sandbox.ledger.posts) == 3

    async def test_a_timeout_hands_back_the_ids(self, session: CometSession) -> None:
        """The task continues, and can be waited for."""
        error, took = await seconds(session.run(request(), timeout=2))
        assert isinstance(error, WaitTimeoutError)
        assert (error.sent, took) == (True, pytest.approx(2, abs=0.5))
        assert error.task_id is not None
        assert (await session.wait(error.task_id)).succeeded

    @pytest.mark.parametrize("verb", ["submit", "run"])
    async def test_no_time_sends_nothing(
        self, session: CometSession, sandbox: Sandbox, verb: str
    ) -> None:
        """A timeout of 0 is over before anything is sent."""
        error, _ = await seconds(getattr(session, verb)(request(), timeout=0))
        assert isinstance(error, WaitTimeoutError)
        assert error.sent is False
        await asyncio.sleep(10)
        assert sandbox.ledger.posts == []

    @pytest.mark.parametrize("timeout", [-1, math.nan, "soon"])
    async def test_a_timeout_that_is_none_is_bad_input(
        self, session: CometSession, sandbox: Sandbox, timeout: float
    ) -> None:
        """Before anything is paid."""
        for work in (session.submit, session.run):
            with pytest.raises(InputError):
                await work(request(), timeout=timeout)
        assert sandbox.ledger.posts == []

    async def test_a_run_of_many_counts_time_from_the_slot(self, session: CometSession) -> None:
        """Five images on two slots all have their own time."""
        requests = [request(tint) for tint in range(5)]
        outcomes = [outcome async for outcome in session.expand_many(requests, timeout=300)]
        assert [outcome.status for outcome in outcomes] == ["done"] * 5

    # Cancellation -----------------------------------------------------------------------

    async def test_the_log_names_what_was_accepted(
        self, session: CometSession, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Both ids, at INFO, for every acceptance."""
        caplog.set_level(logging.INFO, "comet_async")
        task = await session.submit(request())
        assert task.external_task_id is not None
        lines = [message for message in caplog.messages if task.id in message]
        assert any(task.external_task_id in line for line in lines)

    async def test_on_submitted_comes_before_the_wait(self, session: CometSession) -> None:
        """The id is known before the result."""
        seen: list[tuple[Task, float]] = []
        loop = asyncio.get_running_loop()
        one = request()
        done = await session.expand(
            one.image, one.margins, on_submitted=lambda task: seen.append((task, loop.time()))
        )
        ((task, at),) = seen
        assert (task.id, task.done) == (done.id, False)
        assert at < loop.time() - 1

    async def test_an_error_of_on_submitted_names_the_ids(
        self, session: CometSession, sandbox: Sandbox
    ) -> None:
        """Whatever kept the caller from storing the id, the task is billed."""
        one, problem = request(), TimeoutError("the database is slow")

        def store(_task: Task) -> None:
            raise problem

        with pytest.raises(TimeoutError) as caught:
            await session.expand(one.image, one.margins, on_submitted=store)
        assert caught.value is problem
        (note,) = problem.__notes__
        (charge,) = sandbox.ledger.charges
        assert charge.task_id in note
        assert charge.external_task_id in note

    async def test_a_cancelled_caller_learns_the_ids(
        self, session: CometSession, sandbox: Sandbox
    ) -> None:
        """The exception has a note with both."""
        work = asyncio.create_task(session.run(request()))
        while not sandbox.ledger.charges:  # noqa: ASYNC110 - the ledger has no event
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)
        work.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await work
        (note,) = caught.value.__notes__
        charge = sandbox.ledger.charges[0]
        assert charge.task_id in note
        assert charge.external_task_id in note

    async def test_a_cancelled_request_is_finished_and_recorded(
        self, session: CometSession, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is not cut off, not repeated, and the log says what became of it."""
        sandbox.faults.add(Fault("slow", on="create", seconds=3))
        work = asyncio.create_task(session.run(request()))
        await asyncio.sleep(1)
        work.cancel()
        await asyncio.wait([work])
        await asyncio.sleep(5)
        (charge,) = sandbox.ledger.charges
        assert any(
            charge.task_id in message and "after its caller was gone" in message
            for message in caplog.messages
        )
        assert len(sandbox.ledger.posts) == 1

    async def test_an_interrupted_run_names_each_paid_task(
        self, session: CometSession, sandbox: Sandbox
    ) -> None:
        """Images of bytes have one name, and each its own ids."""
        await session.run(request(9))
        run = session.expand_many([request(tint) for tint in range(4)])
        asyncio.get_running_loop().call_later(3, run.interrupt)
        outcomes = [outcome async for outcome in run]
        charged = {charge.task_id for charge in sandbox.ledger.charges[1:]}
        named = [outcome.task.id for outcome in outcomes if outcome.task is not None]
        assert sorted(named) == sorted(charged)
        assert all(outcome.status == "pending" for outcome in outcomes)
        ids = {outcome.external_task_id for outcome in outcomes if outcome.task is not None}
        assert ids == {charge.external_task_id for charge in sandbox.ledger.charges[1:]}

    # Waiting ----------------------------------------------------------------------------

    async def test_wait_takes_a_task_or_an_id(self, session: CometSession) -> None:
        """Both give the finished task."""
        task = await session.submit(request())
        assert (await session.wait(task)).id == task.id
        assert (await session.wait(task.id)).succeeded

    async def test_no_time_polls_once(self, session: CometSession) -> None:
        """A timeout of 0 asks how the task is now."""
        task = await session.submit(request())
        with pytest.raises(WaitTimeoutError) as caught:
            await session.wait(task.id, timeout=0)
        assert caught.value.task.id == task.id
        await asyncio.sleep(100)
        assert (await session.wait(task.id, timeout=0)).succeeded
        failing = await session.submit(request(prompt="sandbox-risky"))
        await asyncio.sleep(100)
        with pytest.raises(TaskFailedError):
            await session.wait(failing, timeout=0)

    async def test_transitions_show_each_state_once(self, session: CometSession) -> None:
        """From submitted to succeed."""
        task = await session.submit(request())
        states = [str(seen.status) async for seen in session.transitions(task)]
        assert states[0] == "submitted"
        assert states[-1] == "succeed"
        assert len(states) == len(set(states))

    async def test_as_completed_gives_all(self, session: CometSession) -> None:
        """Each once, as it ends."""
        tasks = [await session.submit(request(tint)) for tint in range(2)]
        ended = [task.id async for task in session.as_completed(tasks)]
        assert sorted(ended) == sorted(task.id for task in tasks)

    async def test_find_get_and_list_show_the_same_task(self, session: CometSession) -> None:
        """Reading is free and needs no journal."""
        task = await session.submit(request(external_task_id="order-17"))
        assert (await session.find("order-17")).id == task.id
        assert (await session.get(task.id)).id == task.id
        assert [listed.id async for listed in session.list_tasks()] == [task.id]

    # Files ------------------------------------------------------------------------------

    async def test_download_saves(self, session: CometSession, tmp_path: Path) -> None:
        """A result becomes a file."""
        task = await session.run(request())
        path = await session.download(task.images[0], tmp_path / "wide.png")
        assert path.read_bytes().startswith(b"\x89PNG")

    async def test_expand_saves_under_the_name_that_is_wanted(
        self, session: CometSession, tmp_path: Path
    ) -> None:
        """``out`` is the file's whole name."""
        one, out = request(), tmp_path / "new" / "dog-wide.image"
        task = await session.expand(one.image, one.margins, out=out)
        assert task.succeeded
        assert [path.name for path in out.parent.iterdir()] == ["dog-wide.image"]
        assert out.read_bytes().startswith(b"\x89PNG")

    async def test_a_foreign_file_is_refused_before_sending(
        self, session: CometSession, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """Nothing is paid for a result that can't be saved."""
        one, out = request(), tmp_path / "dog-wide.png"
        out.write_bytes(b"mine")
        with pytest.raises(InputError, match="exists already"):
            await session.expand(one.image, one.margins, out=out)
        assert out.read_bytes() == b"mine"
        assert sandbox.ledger.posts == []

    @pytest.mark.parametrize("out", ["", "folder/"])
    async def test_a_name_that_is_none_is_refused(
        self, session: CometSession, sandbox: Sandbox, out: str
    ) -> None:
        """So is one name for several images."""
        one = request()
        with pytest.raises(InputError):
            await session.expand(one.image, one.margins, out=out)
        with pytest.raises(InputError, match="n=2"):
            await session.expand(one.image, one.margins, out="wide.png", n=2)
        assert sandbox.ledger.posts == []

    async def test_a_link_out_of_the_folder_is_refused_before_sending(
        self, session: CometSession, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """Known before paying."""
        photos, out, outside = tmp_path / "photos", tmp_path / "out", tmp_path / "outside"
        (photos / "sub").mkdir(parents=True)
        (photos / "sub" / "a.png").write_bytes(make_png(300, 300, 1))
        out.mkdir()
        outside.mkdir()
        (out / "sub").symlink_to(outside)
        (outcome,) = [o async for o in session.expand_folder(photos, out, WIDE)]
        assert outcome.status == "invalid"
        assert "leads out of the output folder" in str(outcome.error)
        assert sandbox.ledger.posts == []
        assert list(outside.iterdir()) == []

    async def test_a_folder_is_expanded(
        self, session: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path
    ) -> None:
        """It is resumable in every session; the watermark reaches the server."""
        for _ in range(2):
            run = session.expand_folder(photos, tmp_path / "out", WIDE, watermark=True)
            outcomes = [outcome async for outcome in run]
            assert [outcome.status for outcome in outcomes] == ["done"] * 3
            assert all(path.is_file() for outcome in outcomes for path in outcome.files)
        assert len(sandbox.ledger.charges) == 3
        assert sandbox.ledger.posts[0].body["watermark_info"] == {"enabled": True}

    async def test_a_bug_in_one_image_is_its_outcome(
        self, session: CometSession, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever one image raises, the others are done."""
        plain = ExpandRequest.fields

        def fields(self: ExpandRequest, images: Any) -> Any:  # noqa: ANN401 - as theirs
            if self.prompt == "bug":
                raise KeyError("a bug")
            return plain(self, images)

        monkeypatch.setattr(ExpandRequest, "fields", fields)
        requests = [request(tint, prompt="bug" if tint == 1 else None) for tint in range(3)]
        outcomes = [outcome async for outcome in session.expand_many(requests)]
        assert sorted(outcome.status for outcome in outcomes) == ["done", "done", "pending"]
        (error,) = [outcome.error for outcome in outcomes if outcome.error is not None]
        assert "internal error: KeyError" in error.message
        assert len(sandbox.ledger.charges) == 2

    # Closing ----------------------------------------------------------------------------

    async def test_closed_means_closed(
        self, open_session: OpenSession, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """Every verb of a closed session says so, and sends nothing."""
        session = open_session()
        async with session:
            task = await session.run(request())
        seen = len(sandbox.ledger.posts)
        one = request(1)
        calls: list[Callable[[], Any]] = [
            lambda: session.submit(one),
            lambda: session.run(one),
            lambda: session.expand(one.image, one.margins),
            lambda: anext(aiter(session.expand_many([one]))),
            lambda: anext(aiter(session.expand_folder(tmp_path, tmp_path / "out", WIDE))),
            lambda: session.run_job("x"),
            lambda: anext(aiter(session.resume())),
            lambda: session.wait(task.id),
            lambda: anext(session.transitions(task.id)),
            lambda: anext(session.as_completed([task.id])),
            lambda: session.find("x"),
            lambda: session.get(task.id),
            lambda: anext(session.list_tasks()),
            session.balance,
            lambda: session.download(task.images[0], tmp_path / "late.png"),
            session.__aenter__,
        ]
        for call in calls:
            with pytest.raises(SessionClosedError, match="nothing was sent"):
                await call()
        with pytest.raises(SessionClosedError):
            await TaskWaiter(session).wait(task.id)
        await session.aclose()
        assert len(sandbox.ledger.posts) == seen

    async def test_closing_ends_calls_and_buys_nothing_more(
        self, open_session: OpenSession, sandbox: Sandbox
    ) -> None:
        """A call that waits for a busy server ends at once; the same for one that waits."""
        async with open_session() as session:
            running = asyncio.create_task(session.run(request(1)))
            await asyncio.sleep(2)
            sandbox.faults.add(Fault("1303", on="create", times=5))
            trying = asyncio.create_task(session.run(request(2)))
            await asyncio.sleep(2)
            begin = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - begin < 1
        posts = len(sandbox.ledger.posts)
        with pytest.raises(SessionClosedError) as caught:
            await trying
        assert caught.value.sent is False
        with pytest.raises(SessionClosedError) as caught:
            await running
        assert (caught.value.sent, caught.value.task_id) == (
            True,
            sandbox.ledger.charges[0].task_id,
        )
        assert str(caught.value).count("billed") == 1
        await asyncio.sleep(300)
        assert len(sandbox.ledger.posts) == posts

    async def test_closing_ends_waits_with_what_resumes_them(
        self, open_session: OpenSession, sandbox: Sandbox
    ) -> None:
        """However a task is waited for, also by another waiter that polls the session."""
        async with open_session() as session:
            task = await session.submit(request())
            finished = session.as_completed([task, task.id])
            waits = [
                asyncio.ensure_future(wait)
                for wait in (
                    session.wait(task),
                    anext(finished),
                    TaskWaiter(session).wait(task),
                )
            ]
            await asyncio.sleep(1)
        begin = asyncio.get_running_loop().time()
        waits.append(asyncio.ensure_future(anext(finished)))
        for wait in waits:
            with pytest.raises(SessionClosedError) as caught:
                await wait
            assert (caught.value.sent, caught.value.task_id) == (True, task.id)
            assert caught.value.external_task_id == task.external_task_id
            assert str(caught.value).count("billed") == 1
        assert asyncio.get_running_loop().time() - begin < 30
        with pytest.raises(StopAsyncIteration):
            await anext(finished)
        assert len(sandbox.ledger.posts) == 1

    async def test_closing_takes_no_longer_than_it_may(
        self, open_session: OpenSession, sandbox: Sandbox
    ) -> None:
        """A request that is not answered by then is unknown, and the error says so."""
        async with open_session() as session:
            await session.run(request(1))
            sandbox.faults.add(Fault("hang_after_charge"))
            work = asyncio.create_task(session.run(request(2)))
            await asyncio.sleep(1)
            _, took = await seconds(session.aclose(timeout=5))
        assert took == pytest.approx(5, abs=0.5)
        with pytest.raises(SessionClosedError) as caught:
            await work
        assert caught.value.sent is None
        assert caught.value.external_task_id == sandbox.ledger.posts[1].external_task_id

    async def test_a_run_that_is_closed_ends_with_its_outcomes(
        self, open_session: OpenSession
    ) -> None:
        """What was accepted is pending, with its task."""
        async with open_session() as session:
            await session.run(request(9))
            run = session.expand_many([request(tint) for tint in range(3)])
            asyncio.get_running_loop().call_later(
                2, lambda: closing.append(asyncio.ensure_future(session.aclose()))
            )
            closing: list[asyncio.Future[None]] = []
            outcomes = [outcome async for outcome in run]
            await closing[0]
        assert [outcome.status for outcome in outcomes] == ["pending"] * 3
        assert all(isinstance(outcome.error, SessionClosedError) for outcome in outcomes)
        assert all(outcome.task is not None for outcome in outcomes)


class WithJournalSuite(SessionSuite):
    """What only a session with a journal can do."""

    @pytest.mark.parametrize("verb", ["resume", "run_job"])
    async def test_a_resumed_job_keeps_its_callback(
        self, open_session: OpenSession, sandbox: Sandbox, tmp_path: Path, verb: str
    ) -> None:
        """A job that was planned and not sent is sent as it was asked for."""
        photo = tmp_path / "a.png"
        photo.write_bytes(make_png(300, 300))
        url = "https://me.example/cb/token"
        one = ExpandRequest(image=photo, margins=WIDE, callback_url=url)
        async with open_session() as session:
            (planned,) = [o async for o in session.expand_many([one], max_jobs=0)]
            assert planned.status == "pending"
            assert sandbox.ledger.posts == []
        async with open_session() as session:
            if verb == "resume":
                assert [o.status async for o in session.resume()] == ["done"]
            else:
                assert (await session.run_job(planned.external_task_id or "")).status == "done"
        assert [post.body["callback_url"] for post in sandbox.ledger.posts] == [url]

    @pytest.mark.parametrize("timeout", [0, 5])
    async def test_who_waits_for_another_caller_learns_of_the_task(
        self, session: CometSession, sandbox: Sandbox, timeout: float
    ) -> None:
        """The request was sent, although this caller sent nothing."""
        sandbox.tasks.hold()
        first = asyncio.create_task(session.run(request()))
        task = await sandbox.tasks.next()
        await asyncio.sleep(1)
        with pytest.raises(WaitTimeoutError) as caught:
            await session.run(request(), timeout=timeout)
        assert (caught.value.sent, caught.value.task_id) == (True, task.id)
        assert not caught.value.retryable
        sandbox.tasks.release()
        assert (await first).id == task.id

    async def test_a_repeated_request_is_the_same_purchase(
        self, session: CometSession, sandbox: Sandbox
    ) -> None:
        """The same bytes and margins have the same task."""
        tasks = [await session.run(request()) for _ in range(3)]
        assert len({task.id for task in tasks}) == 1
        assert len(sandbox.ledger.posts) == 1

    async def test_expand_with_a_file_pays_once(
        self, session: CometSession, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """Run twice, the result is there."""
        one, out = request(), tmp_path / "dog-wide.png"
        tasks = [await session.expand(one.image, one.margins, out=out) for _ in range(2)]
        assert tasks[0].id == tasks[1].id
        assert len(sandbox.ledger.charges) == 1
        with pytest.raises(InputError, match="another request"):
            await session.expand(one.image, Margins(up=0.5), out=out)
        assert len(sandbox.ledger.posts) == 1

    async def test_run_job_continues_a_job(self, session: CometSession) -> None:
        """From wherever it stands, also within a time limit."""
        task = await session.submit(request())
        assert task.external_task_id is not None
        with pytest.raises(WaitTimeoutError):
            await session.run_job(task.external_task_id, timeout=0)
        outcome = await session.run_job(task.external_task_id)
        assert (outcome.status, outcome.task and outcome.task.id) == ("done", task.id)

    async def test_a_result_that_was_never_seen_is_polled(
        self, session: CometSession, tmp_path: Path
    ) -> None:
        """A journal may call a job done whose images nobody has: the server is asked again."""
        one = request()
        await session.run(one)
        active = await session._runs.own()
        (record,) = await active.journal.find()
        await active.journal.note(record, now=record.updated_at, images=())
        task = await session.expand(one.image, one.margins, out=tmp_path / "wide.png")
        assert len(task.images) == 1
        assert (tmp_path / "wide.png").is_file()

    async def test_run_job_of_bytes_explains_itself(
        self, session: CometSession, sandbox: Sandbox
    ) -> None:
        """The journal keeps no images."""
        sandbox.faults.add(Fault("1303", on="create"))
        with pytest.raises(ConcurrencyLimitError) as caught:
            await session.submit(request(), busy="raise")
        key = caught.value.external_task_id
        assert key is not None
        with pytest.raises(InputError, match="in-memory bytes") as refused:
            await session.run_job(key)
        assert "make the same request again" in (refused.value.hint or "")

    @pytest.mark.parametrize(
        ("name", "said"), [("bytes", "in-memory bytes"), ("dog.png", "dog.png, which is no file")]
    )
    async def test_run_job_of_an_upload_explains_itself(
        self, session: CometSession, sandbox: Sandbox, name: str, said: str
    ) -> None:
        """The name of an upload looks like that of a file, which it is not."""
        sandbox.faults.add(Fault("1303", on="create"))
        image = SourceImage.from_bytes(make_png(300, 300), name=name)
        with pytest.raises(ConcurrencyLimitError) as caught:
            await session.submit(ExpandRequest(image=image, margins=WIDE), busy="raise")
        key = caught.value.external_task_id
        assert key is not None
        with pytest.raises(InputError, match=said) as refused:
            await session.run_job(key)
        assert "make the same request again" in (refused.value.hint or "")

    async def test_resume_continues_everything(
        self, session: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path
    ) -> None:
        """Submitted tasks, and the images of a folder, into their files."""
        task = await session.submit(request())
        run = session.expand_folder(photos, tmp_path / "out", WIDE)
        asyncio.get_running_loop().call_later(3, run.interrupt)
        _ = [outcome async for outcome in run]
        outcomes = [outcome async for outcome in session.resume()]
        assert {outcome.status for outcome in outcomes} == {"done"}
        assert task.id in {outcome.task.id for outcome in outcomes if outcome.task}
        assert len(list((tmp_path / "out").rglob("*.png"))) >= len(sandbox.ledger.charges) - 1
        assert [outcome async for outcome in session.resume()] == []

    @pytest.mark.parametrize("verb", ["resume", "run_job"])
    @pytest.mark.parametrize("taken", ["a.png", "b.png"])
    async def test_a_resumed_job_is_saved_under_each_name_that_is_free(
        self,
        session: CometSession,
        sandbox: Sandbox,
        tmp_path: Path,
        verb: str,
        taken: str,
    ) -> None:
        """A foreign file has one of them: that is reported until the name is free."""
        photos, out = tmp_path / "equal", tmp_path / "out"
        photos.mkdir()
        names = ("a.png", "b.png", "c.png")
        for name in names:
            (photos / name).write_bytes(make_png(300, 300))
        sandbox.tasks.hold()
        run = session.expand_folder(photos, out, WIDE)
        asyncio.get_running_loop().call_later(3, run.interrupt)
        keys = {outcome.external_task_id async for outcome in run}
        sandbox.tasks.release()
        out.mkdir(exist_ok=True)
        (out / taken).write_bytes(b"mine")

        async def again() -> str:
            if verb == "resume":
                (outcome,) = [outcome async for outcome in session.resume()]
                assert outcome.error is None or taken in str(outcome.error)
                return outcome.status
            if (out / taken).exists():
                with pytest.raises(SaveError, match=taken):
                    await session.run_job(str(*keys))
                return "pending"
            return (await session.run_job(str(*keys))).status

        assert [await again(), await again()] == ["pending"] * 2
        assert {path.name for path in out.iterdir() if path.suffix == ".png"} == set(names)
        assert (out / taken).read_bytes() == b"mine"
        (out / taken).unlink()
        assert await again() == "done"
        assert len({(out / name).read_bytes() for name in names}) == 1
        assert len(sandbox.ledger.posts) == 1

    async def test_another_account_gets_nothing(
        self, open_session: OpenSession, sandbox: Sandbox
    ) -> None:
        """Its jobs are refused before anything is sent; the external ids stay."""
        async with open_session() as first:
            await first.run(request())
        async with open_session(account="another") as second:
            with pytest.raises(CometError, match="belongs to another account"):
                await second.run(request())
            (outcome,) = [o async for o in second.expand_many([request()])]
            assert (outcome.status, outcome.task) == ("invalid", None)
            assert [o async for o in second.resume()] == []
        assert len(sandbox.ledger.posts) == 1

    async def test_a_declared_account_outlives_its_key(
        self, open_session: OpenSession, sandbox: Sandbox
    ) -> None:
        """The journal goes by the name, not by the key."""
        for key in (DEFAULT_KEY, "sk-rotated"):
            async with open_session(key, account="shop") as session:
                assert (await session.run(request())).succeeded
        assert len(sandbox.ledger.posts) == 1

    async def test_an_account_can_be_declared_afterwards(
        self, open_session: OpenSession, sandbox: Sandbox
    ) -> None:
        """The error about a replaced key says how."""
        async with open_session() as session:
            await session.run(request())
        async with open_session("sk-rotated") as session:
            with pytest.raises(ConfigError, match="COMETAPI_ACCOUNT=") as caught:
                await session.run(request())
        name = str(caught.value).partition("COMETAPI_ACCOUNT=")[2].rstrip(")")
        async with open_session("sk-rotated", account=name) as session:
            assert (await session.run(request())).succeeded
        assert len(sandbox.ledger.posts) == 1

    async def test_another_gateway_gets_nothing(
        self, open_session: OpenSession, sandbox: Sandbox
    ) -> None:
        """The same key elsewhere, such as a sandbox before the real thing, is not the same."""
        async with open_session() as session:
            await session.run(request())
        other = attrs.evolve(session.gateway, identity="elsewhere")
        async with open_session(gateway=other) as session:
            with pytest.raises(ConfigError, match="another gateway"):
                await session.run(request())
        assert len(sandbox.ledger.posts) == 1

    async def test_a_new_session_frees_slots_by_itself(
        self, open_session: OpenSession, sandbox: Sandbox
    ) -> None:
        """Tasks that ended meanwhile hold no slots; those that run do."""
        async with open_session(concurrency=2) as session:
            for tint in range(2):
                await session.submit(request(tint))
        await asyncio.sleep(3600)
        async with open_session(concurrency=2) as session:
            _, took = await seconds(session.submit(request(3)))
        assert took < 5
        assert len(sandbox.ledger.charges) == 3

    async def test_what_closing_cut_off_is_looked_up(
        self, open_session: OpenSession, sandbox: Sandbox
    ) -> None:
        """Recorded as unknown before the journal closed, it is paid once."""
        async with open_session() as session:
            await session.run(request(1))
            sandbox.faults.add(Fault("hang_after_charge"))
            work = asyncio.create_task(session.run(request(2)))
            await asyncio.sleep(1)
            await session.aclose(timeout=2)
            await asyncio.wait([work])
            work.exception()
        async with open_session() as session:
            assert (await session.run(request(2))).succeeded
        assert len(sandbox.ledger.posts) == len(sandbox.ledger.charges) == 2


class WithoutJournalSuite(SessionSuite):
    """What a session without a journal can't do, and says."""

    @pytest.fixture
    def journal(self) -> JournalLike:
        """Return no journal."""
        return None

    async def test_what_needs_a_journal_says_so(self, session: CometSession) -> None:
        """One error, with the remedy."""
        with pytest.raises(JournalRequiredError, match="journal=") as caught:
            await session.run_job("ce1-x")
        assert caught.value.sent is False
        with pytest.raises(JournalRequiredError, match="journal="):
            session.resume()

    async def test_a_repeated_request_is_another_purchase(
        self, session: CometSession, sandbox: Sandbox
    ) -> None:
        """Nothing is remembered once it has ended."""
        tasks = [await session.run(request()) for _ in range(2)]
        assert tasks[0].id != tasks[1].id
        assert len(sandbox.ledger.charges) == 2

    async def test_nothing_is_kept_of_what_has_ended(self, session: CometSession) -> None:
        """A service may run for years."""
        for tint in range(3):
            await session.wait(await session.submit(request(tint)))
            await session.run(request(tint))
        active = await session._runs.own()
        assert await active.journal.find() == []
        assert await active.journal.events() == []
        assert active.slots.used == 0
