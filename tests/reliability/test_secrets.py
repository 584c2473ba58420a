"""A canary for a key: after every kind of trouble it stands nowhere but in its holder (I3)."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import pickle
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from comet_async import CometSession, Margins, Outcome
from comet_async.config import choose_credentials
from comet_async.errors import CometError, ConfigError
from comet_async.events import Event, Notified
from comet_async.journal import SqliteJournal
from comet_async.runs import JOURNAL_NAME
from comet_async.sandbox import DEFAULT_KEY, Fault, Options, Sandbox
from comet_async.testing import VirtualClock
from tests.reliability.conftest import small_png

MARGINS = Margins(left=0.25, right=0.25)


def canary() -> str:
    """Return the key; made anew each time, so that no module of ours holds it."""
    return "".join(("sk-", "canary-", f"{0xC0FFEE0DDBA11:x}", "-66"))


TROUBLES = (
    "400", "401", "402", "403", "404", "429", "500", "502", "503", "504", "524", "302", "307",
    "1001", "1002", "1100", "1102", "1201", "1301", "1303", "5001", "drop", "reset", "garbage",
    "hang", "html", "empty", "no_task_id", "cut_reply", "truncated", "invalid_request",
)  # fmt: skip


@pytest.fixture
async def errors(clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> list[CometError]:
    """Return an error of each kind, raised through the whole library, everything logged."""
    asyncio.get_running_loop().set_debug(True)
    for name in ("aiohttp", "asyncio", "comet_async"):
        caplog.set_level(logging.DEBUG, name)
    caught: list[CometError] = []
    for trouble in TROUBLES:
        options = Options(lookups="", list_tasks=False)
        async with Sandbox(clock=clock, engine="stub", key=canary(), options=options) as sandbox:
            sandbox.faults.add(Fault(trouble, on="create", times=None))
            async with CometSession(canary(), gateway=sandbox.url, clock=clock) as comet:
                caught.append(await provoke(comet))
    return [*caught, *await refused_elsewhere(clock)]


async def refused_elsewhere(clock: VirtualClock) -> list[CometError]:
    """Return the errors of a wrong key and of a server that is not there."""
    async with Sandbox(clock=clock, engine="stub", key="another") as sandbox:
        async with CometSession(canary(), gateway=sandbox.url, clock=clock) as comet:
            wrong = await provoke(comet)
    async with CometSession(canary(), gateway="http://127.0.0.1:9", clock=clock) as comet:
        return [wrong, await provoke(comet)]


async def provoke(comet: CometSession) -> CometError:
    """Return what a purchase raises."""
    try:
        await comet.expand(small_png(1), MARGINS)
    except CometError as error:
        return error
    pytest.fail("nothing went wrong")


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all that it came from, shown or not."""
    while error is not None:
        yield error
        yield from chain(error.__cause__)
        error = error.__context__


def shown(thing: object) -> Iterator[str]:
    """Yield all texts that a thing makes of itself."""
    yield from (repr(thing), str(thing), f"{thing}", f"{thing!r}", ascii(thing))
    for take in (pickle.dumps, copy.copy):
        try:
            yield repr(take(thing))
        except Exception as refusal:  # noqa: BLE001 - any refusal will do
            yield repr(refusal)


@pytest.mark.slow
@pytest.mark.failure("F61", "F62")
async def test_no_error_and_no_log_shows_the_key(
    errors: list[CometError], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither an error, its parts, its past, nor a traceback with the locals of every frame."""
    assert len(errors) == len(TROUBLES) + 2
    assert len({type(error) for error in errors}) > 8
    for error in errors:
        for each in chain(error):
            report = traceback.TracebackException.from_exception(each, capture_locals=True)
            texts = [*shown(each), *shown(each.args), *report.format(), repr(vars(each))]
            assert not [text for text in texts if canary() in text]
    check_log(caplog.get_records("setup"))


def check_log(records: list[logging.LogRecord]) -> None:
    """F62: with everything at DEBUG, asyncio's debug mode on: no record, nor its arguments."""
    assert {record.name.partition(".")[0] for record in records} >= {"comet_async", "asyncio"}
    for record in records:
        assert canary() not in repr(vars(record))
        assert canary() not in record.getMessage()


@pytest.mark.failure("F60")
async def test_no_object_shows_the_key(clock: VirtualClock, tmp_path: Path) -> None:
    """The session, what it is made of, what it returns: printed, formatted, pickled, copied."""
    async with Sandbox(clock=clock, engine="stub", key=canary()) as sandbox:
        async with CometSession(canary(), gateway=sandbox.url, clock=clock) as comet:
            task = await comet.expand(small_png(1), MARGINS)
            run = comet.expand_folder(photo(tmp_path), tmp_path / "out", MARGINS)
            outcomes = [outcome async for outcome in run]
            credentials = choose_credentials(canary(), comet.gateway, {}, None)  # type: ignore[arg-type]  # as text, which is allowed
            parts = vars(comet).values()
            for thing in (comet, comet.gateway, task, *task.images, run, *outcomes, credentials):
                assert not [text for text in shown(thing) if canary() in text]
            for thing in parts:
                assert canary() not in repr(thing)


def photo(folder: Path) -> Path:
    """Make one image and return its path."""
    path = folder / "dog.png"
    path.write_bytes(small_png(2))
    return path


@pytest.mark.failure("F63")
async def test_no_file_holds_the_key(clock: VirtualClock, tmp_path: Path) -> None:
    """Neither the journal, its log that is being written, a part, nor a result."""
    out = tmp_path / "out"
    async with Sandbox(clock=clock, engine="stub", key=canary()) as sandbox:
        sandbox.faults.add(Fault("slow", on="result", seconds=30))
        sandbox.faults.add(Fault("504_after_charge", on="create"))
        async with await SqliteJournal.open(out / JOURNAL_NAME, clock=clock) as journal:
            async with CometSession(
                canary(), gateway=sandbox.url, clock=clock, journal=journal
            ) as comet:
                run = comet.expand_folder(photo(tmp_path), out, MARGINS)
                reading = asyncio.ensure_future(everything(run))
                seen: set[str] = set()
                while not reading.done():
                    seen |= check_files(out)
                    await asyncio.sleep(0.5)
        assert check_files(out)
    assert (await reading)[0].done
    assert {".sqlite3", ".sqlite3-wal", ".sqlite3-shm"} <= seen


async def everything(run: object) -> list[Outcome]:
    """Return all outcomes of a run."""
    return [outcome async for outcome in run]  # type: ignore[attr-defined]  # a run


def check_files(folder: Path) -> set[str]:
    """Look for the canary in all files; return the endings of those that were read."""
    endings = set()
    for path in folder.rglob("*"):
        if path.is_file():
            endings.add(path.suffix)
            assert canary().encode() not in path.read_bytes()
            assert canary() not in str(path)
    return endings


@pytest.mark.failure("F64")
@pytest.mark.parametrize("location", ["", "{root}/elsewhere.png"])
async def test_no_host_of_results_sees_the_key(
    location: str, clock: VirtualClock, tmp_path: Path
) -> None:
    """Results are fetched without it, through a redirect as well."""
    async with Sandbox(clock=clock, engine="stub", key=canary()) as sandbox:
        if location:
            where = location.format(root=sandbox.url)
            sandbox.faults.add(Fault("302", on="result", location=where))
        async with CometSession(canary(), gateway=sandbox.url, clock=clock) as comet:
            run = comet.expand_folder(photo(tmp_path), tmp_path / "out", MARGINS)
            assert await everything(run)
        assert sandbox.leaks == []


@pytest.mark.failure("F65")
@pytest.mark.parametrize(
    "address",
    ["https://user:{}@example.com", "https://{}@example.com", "https://example.com?key={}"],
)
def test_address_with_a_key_in_it_is_refused_and_not_shown(address: str) -> None:
    """A key belongs into no address: it would be logged by every host on the way."""
    bird = "sk-another-bird"  # yarl's cache remembers addresses; F66 looks for the other one
    with pytest.raises(ConfigError) as caught:
        CometSession("sk-other", gateway=address.format(bird))
    assert bird not in repr(caught.value) + str(caught.value) + (caught.value.hint or "")


@pytest.mark.failure("F66")
async def test_nothing_in_memory_shows_the_key(clock: VirtualClock, tmp_path: Path) -> None:
    """Each living object of the library, of its HTTP client, and each error, printed: absent."""
    sandbox = Sandbox(clock=clock, engine="stub", key=canary())
    async with sandbox:
        sandbox.faults.add(Fault("504_after_charge", on="create"))
        comet = CometSession(canary(), gateway=sandbox.url, clock=clock)
        run = comet.expand_folder(photo(tmp_path), tmp_path / "out", MARGINS)
        assert (await everything(run))[0].done
    gc.unfreeze()  # what was there before the tests counts, too
    gc.collect()  # the sandbox has the headers of its requests, as a server must
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # printing warns of what is deprecated
        texts = [text_of(thing) for thing in gc.get_objects() if ours(thing)]
    await comet.aclose()
    assert len(texts) > 50
    assert not [text[:500] for text in texts if canary() in text]


async def test_nothing_in_memory_shows_a_signed_source_or_a_password(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """A traceback with locals prints what a run, its items and its outcomes are made of."""
    texts: list[str] = []
    bird = "in-the-hand"

    def look(_event: Event) -> None:
        things = [thing for thing in gc.get_objects() if ours(thing)]
        texts.extend(text_of(thing) for thing in things if "comet_async" in type(thing).__module__)

    async with Sandbox(clock=clock, engine="stub") as sandbox:
        url = f"{sandbox.url}/dog.png?sig={bird}"
        async with CometSession(
            DEFAULT_KEY, gateway=sandbox.url, clock=clock, on_event=look
        ) as comet:
            outcomes = await everything(comet.expand_folder(url, tmp_path / "out", MARGINS))
            assert outcomes[0].source == url
            look(Notified(task_id="7"))
    journal = f"postgresql://shop:{bird}@127.0.0.1/shop"
    elsewhere = CometSession(DEFAULT_KEY, journal=journal)
    look(Notified(task_id="7"))
    await elsewhere.aclose()
    assert len(texts) > 50
    assert not [text[:500] for text in texts if bird in text]


def ours(thing: object) -> bool:
    """Tell whether an object is the library's, of its HTTP client, or an error."""
    room = str(type(thing).__module__)
    if room.startswith(("comet_async.sandbox", "aiohttp.web")):
        return False
    return room.startswith(("comet_async", "aiohttp", "yarl", "multidict")) or isinstance(
        thing, BaseException
    )


def text_of(thing: object) -> str:
    """Return what an object prints."""
    try:
        return repr(thing)
    except Exception as refusal:  # noqa: BLE001 - what can't be printed shows nothing
        return type(refusal).__name__
