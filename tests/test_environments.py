"""What a program in a company needs: proxies, sessions of its own, threads, processes."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import pickle
import threading
import warnings
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest

from comet_async import (
    CometSession,
    ConfigError,
    ExpandRequest,
    ForkedSessionError,
    Gateway,
    InputError,
    KlingToken,
    Margins,
    Network,
    Secret,
    Task,
    TaskWaiter,
)
from comet_async.sandbox import DEFAULT_KEY, Fault, Options, Sandbox
from comet_async.testing import VirtualClock, VirtualLoop

WIDE = Margins(left=0.5)


async def test_a_session_of_ones_own_carries_the_api_calls(
    sandbox: Sandbox, clock: VirtualClock, photo: bytes
) -> None:
    """Tracing, proxies and cookies of the caller's own session apply; it stays open."""
    ended: list[str] = []
    trace = aiohttp.TraceConfig()

    async def note(_session: object, _context: object, params: object) -> None:
        ended.append(getattr(params, "method", ""))

    trace.on_request_end.append(note)
    async with aiohttp.ClientSession(trace_configs=[trace]) as theirs:
        async with CometSession(
            DEFAULT_KEY, gateway=sandbox.url, clock=clock, network=Network(session=theirs)
        ) as comet:
            await comet.expand(photo, WIDE)
        assert not theirs.closed
    assert ended[0] == "POST"


def test_one_session_in_several_threads(photo: bytes) -> None:
    """Loops in several threads share a session; each has connections of its own."""
    done: list[Task] = []
    errors: list[BaseException] = []

    async def serve(ready: threading.Event, over: threading.Event, url: list[str]) -> None:
        async with Sandbox(engine="stub", speed=200) as sandbox:
            url.append(sandbox.url)
            ready.set()
            while not over.is_set():  # noqa: ASYNC110 - set by another thread
                await asyncio.sleep(0.01)

    ready, over, url = threading.Event(), threading.Event(), list[str]()
    server = threading.Thread(target=lambda: asyncio.run(serve(ready, over, url)))
    server.start()
    ready.wait()
    comet = CometSession(DEFAULT_KEY, gateway=url[0], concurrency=2)

    def use() -> None:
        try:
            done.append(asyncio.run(comet.expand(photo, WIDE, external_task_id=None)))
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    server.join()
    assert errors == []
    assert len({task.id for task in done}) == 4


def _use_in_child(comet: CometSession, tube: multiprocessing.connection.Connection) -> None:
    try:
        asyncio.run(comet.get("1"))
    except BaseException as error:  # noqa: BLE001 - told to the parent
        tube.send(type(error).__name__)


def test_after_a_fork_the_session_says_so() -> None:
    """A session that was made before a fork is not used after it."""
    comet = CometSession("sk-x", gateway="http://127.0.0.1:9")
    here, there = multiprocessing.Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads
        child = multiprocessing.get_context("fork").Process(
            target=_use_in_child, args=(comet, there)
        )
        child.start()
    assert here.recv() == ForkedSessionError.__name__
    child.join()


async def test_a_task_travels_by_its_id(
    sandbox: Sandbox, clock: VirtualClock, photo: bytes
) -> None:
    """A pickled task, or its id, is waited for by another session."""
    async with CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock) as comet:
        task = await comet.submit(ExpandRequest(image=photo, margins=WIDE))
    travelled = pickle.loads(pickle.dumps(task))  # noqa: S301 - our own
    assert travelled == task
    async with CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock) as other:
        assert (await TaskWaiter(other).wait(travelled)).succeeded
        assert (await TaskWaiter(other).wait(task.id)).succeeded


async def test_kling_with_two_keys_signs_its_way_through(clock: VirtualClock, photo: bytes) -> None:
    """HS256 tokens are taken, and signed again before they end."""
    async with Sandbox(clock=clock, engine="stub", seed=1) as sandbox:
        options = sandbox.options
        gateway = Gateway(name="kling-here", root=sandbox.url, prefix="/v1")
        token = KlingToken(Secret(options.access_key), Secret(options.secret_key))
        async with CometSession(token, gateway=gateway, clock=clock) as comet:
            task = await comet.expand(photo, WIDE)
            await asyncio.sleep(3600)
            assert (await comet.get(task.id)).succeeded
            assert (await comet.find(task.external_task_id or "")).id == task.id


@pytest.mark.parametrize("code", ["1003", "1004"])
async def test_a_refused_token_is_signed_anew_once(
    clock: VirtualClock, photo: bytes, code: str
) -> None:
    """A token refused for its dates is renewed; the paid request was not read, so it may go."""
    async with Sandbox(clock=clock, engine="stub", seed=1) as sandbox:
        options = sandbox.options
        sandbox.faults.add(Fault(code, on="create"))
        gateway = Gateway(name="kling-here", root=sandbox.url, prefix="/v1")
        token = KlingToken(Secret(options.access_key), Secret(options.secret_key))
        async with CometSession(token, gateway=gateway, clock=clock) as comet:
            assert (await comet.expand(photo, WIDE)).succeeded
    assert len(sandbox.ledger.charges) == 1


@pytest.mark.parametrize("ahead", [3600.0, -3600.0, 86_400.0])
async def test_a_clock_that_is_off_does_not_break_signed_tokens(
    clock: VirtualClock, photo: bytes, ahead: float
) -> None:
    """The server refuses the first token for its dates; all others follow the server's clock."""
    ours = VirtualClock(clock.time() + ahead)
    async with Sandbox(clock=clock, engine="stub", seed=1) as sandbox:
        options = sandbox.options
        gateway = Gateway(name="kling-here", root=sandbox.url, prefix="/v1")
        token = KlingToken(Secret(options.access_key), Secret(options.secret_key))
        async with CometSession(token, gateway=gateway, clock=ours) as comet:
            assert (await comet.expand(photo, WIDE)).succeeded
    assert len(sandbox.ledger.charges) == 1
    assert len(sandbox.ledger.posts) <= 2


SHAPES = (
    ("object", "list", "wrapper", "wrapper2"),
    ("wrapper2", "object"),
    ("list",),
)


@pytest.mark.parametrize("shapes", SHAPES, ids=["all", "two", "list"])
@pytest.mark.parametrize("created", ["object", "list", "wrapper", "wrapper2"])
async def test_shapes_may_change_between_polls(
    clock: VirtualClock, photo: bytes, shapes: tuple[str, ...], created: str
) -> None:
    """Whatever form an answer has, the task is taken once and its end is known."""
    options = Options(shape=shapes, created_shape=created)  # type: ignore[arg-type]  # words of a table
    async with Sandbox(clock=clock, engine="stub", seed=1, options=options) as sandbox:
        async with CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock) as comet:
            assert (await comet.expand(photo, WIDE)).succeeded
    assert len(sandbox.ledger.posts) == 1


FAULTS = ("drop", "500", "502", "504", "524", "429", "html", "truncated", "empty", "not_found",
          "unknown_status", "no_status", "empty_data", "other_task")  # fmt: skip


@pytest.mark.parametrize("position", [1, 2, 3])
@pytest.mark.parametrize("kind", FAULTS)
async def test_a_wait_survives_each_fault_at_each_poll(
    clock: VirtualClock, photo: bytes, kind: str, position: int
) -> None:
    """What is not about the task, its deadline or the account is waited out."""
    options = Options(task_seconds=(30, 30))
    async with Sandbox(clock=clock, engine="stub", seed=1, options=options) as sandbox:
        sandbox.faults.add(Fault(kind, on="query", nth=position, times=2))
        async with CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock) as comet:
            task = await comet.expand(photo, WIDE)
    assert task.succeeded
    assert len(sandbox.ledger.posts) == 1


def test_sessions_of_two_loops_leave_no_warning(photo: bytes) -> None:
    """The same session in two loops one after the other, then closed: nothing is left open."""

    async def once(comet: CometSession) -> None:
        async with Sandbox(engine="stub", clock=VirtualClock()) as sandbox:
            comet._api.gateway = Gateway.comet(sandbox.url)
            assert (await comet.expand(photo, WIDE)).succeeded

    comet = CometSession(DEFAULT_KEY, gateway="http://127.0.0.1:9")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                runner.run(once(comet))
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(comet.aclose())
        gc.collect()


@pytest.mark.parametrize("journal", [False, True], ids=["plain", "journal"])
@pytest.mark.parametrize("timeout", [-1, float("nan"), "5"])
async def test_a_timeout_that_is_none_is_refused_before_anything_is_paid(
    clock: VirtualClock, photo: bytes, tmp_path: Path, timeout: float, *, journal: bool
) -> None:
    """A slip of the pen must not buy an image that nobody waits for."""
    kept = tmp_path / "journal.sqlite3" if journal else None
    async with (
        Sandbox(clock=clock, engine="stub") as sandbox,
        CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=kept) as comet,
    ):
        with pytest.raises(InputError, match=r"^timeout="):
            await comet.expand(photo, WIDE, timeout=timeout)
        with pytest.raises(InputError, match=r"^timeout="):
            comet.expand_many([ExpandRequest(image=photo, margins=WIDE)], timeout=timeout)
        assert not sandbox.ledger.posts


async def test_what_is_no_request_is_reported(comet: CometSession) -> None:
    """The names of images are easily taken for requests; the error says what is missing."""
    with pytest.raises(InputError, match=r"'dog\.png' is not a request") as caught:
        async for _ in comet.expand_many(["dog.png"]):  # type: ignore[list-item]  # on purpose
            pass
    assert caught.value.hint is not None
    assert "ExpandRequest(image=" in caught.value.hint


async def test_a_journal_tells_what_was_charged(
    clock: VirtualClock, photo: bytes, tmp_path: Path
) -> None:
    """What a task cost is reported with a journal as without one, and when a job is resumed."""
    async with (
        Sandbox(clock=clock, engine="stub") as sandbox,
        CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock) as plain,
        CometSession(
            DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=tmp_path / "journal.sqlite3"
        ) as kept,
    ):
        units = {(await comet.expand(photo, WIDE)).units for comet in (plain, kept, kept)}
        assert units == {Decimal(8)}
        assert len(sandbox.ledger.charges) == 2


def test_another_event_loop_is_reported() -> None:
    """Under trio no asyncio loop runs; the error says so, and nothing is sent."""
    comet = CometSession("sk-x", gateway="http://127.0.0.1:9")
    calls = (comet.__aenter__(), comet.get("1"), comet.wait("1"), comet.expand(b"", WIDE))
    for call in calls:
        with pytest.raises(ConfigError, match="no asyncio event loop"):
            call.send(None)  # as another kind of loop would drive it
