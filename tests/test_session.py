"""The session, as a program uses it: against the sandbox, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import pickle
import shutil
import sys
import threading
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import IO

import pytest
from aiohttp import web

from comet_async import (
    AccountError,
    AuthenticationError,
    CometSession,
    ConcurrencyLimitError,
    ConfigError,
    DownloadError,
    ExpandRequest,
    GenerationRequest,
    InputError,
    JournalError,
    LocalStore,
    Margins,
    NotFoundError,
    NotSentError,
    OutcomeUnknownError,
    RejectedError,
    ResultExpiredError,
    SessionClosedError,
    SourceImage,
    TaskFailedError,
    TaskStatus,
    Timeouts,
    TryOnRequest,
    WaitTimeoutError,
)
from comet_async._images.formats import read_info
from comet_async._journal.memory import MemoryJournal
from comet_async.events import Changed, Event
from comet_async.journal import SqliteJournal
from comet_async.runs import JOURNAL_NAME, Run
from comet_async.sandbox import DEFAULT_KEY, Fault, Options, Sandbox
from comet_async.testing import VirtualClock, VirtualLoop
from tests.support.images import make_png
from tests.support.servers import answering, serving

WIDE = Margins(left=0.5, right=0.5)


@pytest.fixture
def dog(tmp_path: Path, photo: bytes) -> Path:
    """Return the path of an image, 400 x 300."""
    path = tmp_path / "dog.png"
    path.write_bytes(photo)
    return path


async def test_expand_and_download_are_two_lines(
    comet: CometSession, dog: Path, tmp_path: Path
) -> None:
    """An image goes in, a wider image comes out."""
    task = await comet.expand(dog, WIDE, prompt="white sun")
    path = await comet.download(task.images[0], tmp_path / "wide.png")
    info = read_info(path.read_bytes())
    assert info is not None
    assert (info.width, info.height) == (800, 300)
    assert task.succeeded


async def test_submit_returns_the_task_as_taken(comet: CometSession, dog: Path) -> None:
    """A submission is not waited for, and carries an external id of ours."""
    task = await comet.submit(ExpandRequest(image=dog, margins=WIDE))
    assert task.status == TaskStatus.SUBMITTED
    assert task.external_task_id is not None
    assert task.external_task_id.startswith("ce1-")


async def test_an_empty_id_of_ones_own_counts_as_none(
    comet: CometSession, sandbox: Sandbox, dog: Path
) -> None:
    """Kling's own sample sends an empty one: the library makes an id then."""
    task = await comet.expand(dog, WIDE, external_task_id="")
    assert task.external_task_id is not None
    assert task.external_task_id.startswith("ce1-")
    assert await comet.find(task.external_task_id) == task
    sandbox.assert_charged(1)


async def test_what_the_wire_says(comet: CometSession, sandbox: Sandbox, dog: Path) -> None:
    """All four ratios are numbers, the lower one is named down, n is an integer."""
    await comet.submit(ExpandRequest(image=dog, margins=Margins(up=0.25), n=2, prompt="sea"))
    body = dict(sandbox.ledger.posts[0].body)
    assert body.pop("image")
    assert body.pop("external_task_id").startswith("ce1-")
    assert body == {
        "up_expansion_ratio": 0.25,
        "down_expansion_ratio": 0.0,
        "left_expansion_ratio": 0.0,
        "right_expansion_ratio": 0.0,
        "n": 2,
        "prompt": "sea",
    }


@pytest.mark.parametrize("make", [Path, str, Path.read_bytes])
async def test_images_come_as_paths_text_or_bytes(
    comet: CometSession, dog: Path, make: Callable[[Path], object]
) -> None:
    """An image may be a path, text, or bytes."""
    task = await comet.expand(make(dog), WIDE)  # type: ignore[arg-type]  # any kind of image
    assert task.succeeded


async def test_a_rule_for_an_image_at_a_url(
    comet: CometSession, sandbox: Sandbox, photo: bytes
) -> None:
    """The size is read from the image's beginning, when the program asks for it."""
    async with serving(answering(web.Response(body=photo))) as server:
        url = str(server.url / "dog.png")
        with pytest.raises(InputError, match=r"use CometSession\.measure"):
            await comet.expand(url, "2:1")
        image = await comet.measure(url)
        assert (image.width, image.height) == (400, 300)
        task = await comet.expand(image, "2:1")
    assert task.succeeded
    body = sandbox.ledger.posts[0].body
    assert body["image"] == url
    assert body["left_expansion_ratio"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (web.Response(body=b"words" * 100), "it is not a PNG or JPEG image"),
        (web.Response(status=404), "it is no longer valid"),
    ],
    ids=["text", "404"],
)
async def test_a_url_without_a_readable_image(
    comet: CometSession, answer: web.Response, reason: str
) -> None:
    """The error says what came, and its text is about the user's URL."""
    async with serving(answering(answer)) as server:
        with pytest.raises(InputError, match=reason) as caught:
            await comet.measure(str(server.url / "dog.png"))
    assert "result" not in str(caught.value)


async def test_files_are_measured_too(comet: CometSession, dog: Path) -> None:
    """The same call serves every kind of input."""
    image = await comet.measure(dog)
    assert (image.width, image.height, image.path) == (400, 300, dog)


async def test_find_and_get_show_the_same_task(comet: CometSession, dog: Path) -> None:
    """A task is found by the server's id and by one's own."""
    request = ExpandRequest(image=dog, margins=WIDE, external_task_id="order-17")
    task = await comet.submit(request)
    assert (await comet.get(task.id)).id == task.id
    assert (await comet.find("order-17")).id == task.id
    with pytest.raises(NotFoundError):
        await comet.find("order-18")


async def test_list_goes_over_all_pages(comet: CometSession, dog: Path) -> None:
    """The list is read page by page to its end."""
    made = [await comet.submit(ExpandRequest(image=dog, margins=WIDE)) for _ in range(5)]
    listed = [task.id async for task in comet.list_tasks(page_size=2)]
    assert sorted(listed) == sorted(task.id for task in made)


async def test_n_images_come_in_order(comet: CometSession, dog: Path) -> None:
    """A task of three variants has three images."""
    task = await comet.expand(dog, WIDE, n=3)
    assert [image.index for image in task.images] == [0, 1, 2]


async def test_lost_answer_is_found_and_not_sent_again(
    comet: CometSession, sandbox: Sandbox, dog: Path
) -> None:
    """A reply that is lost after the charge is made up for by looking the task up."""
    sandbox.faults.add(Fault("drop_after_charge"))
    task = await comet.submit(ExpandRequest(image=dog, margins=WIDE))
    assert task.id == sandbox.ledger.charges[0].task_id
    assert len(sandbox.ledger.posts) == 1


async def test_unknown_outcome_carries_the_id(
    comet: CometSession, sandbox: Sandbox, dog: Path
) -> None:
    """What can't be settled is said, with the id that finds it later; nothing is sent again."""
    sandbox.faults.add(Fault("drop", on="create"))
    with pytest.raises(OutcomeUnknownError) as caught:
        await comet.submit(ExpandRequest(image=dog, margins=WIDE))
    assert caught.value.external_task_id == sandbox.ledger.posts[0].external_task_id
    assert len(sandbox.ledger.posts) == 1


async def test_full_account_is_waited_for(comet: CometSession, sandbox: Sandbox, dog: Path) -> None:
    """A refusal for too many in flight is tried again: nothing was accepted."""
    sandbox.faults.add(Fault("1303", on="create", times=4))
    assert (await comet.expand(dog, WIDE)).succeeded
    assert len(sandbox.ledger.charges) == 1


async def test_account_that_stays_full_is_reported(
    comet: CometSession, sandbox: Sandbox, dog: Path
) -> None:
    """After five minutes of refusals the caller gets the refusal itself."""
    sandbox.faults.add(Fault("1303", on="create", times=None))
    with pytest.raises(ConcurrencyLimitError):
        await comet.expand(dog, WIDE)


async def test_failed_task_raises_its_reason(comet: CometSession, dog: Path) -> None:
    """A task that fails raises what the server says, and carries the task."""
    with pytest.raises(TaskFailedError, match="risk control") as caught:
        await comet.expand(dog, WIDE, prompt="sandbox-risky")
    assert caught.value.task.failed
    assert caught.value.task_id == caught.value.task.id


@pytest.mark.parametrize(("recorded", "charges"), [(False, 2), (True, 1)])
async def test_what_a_failed_task_advises_is_true_with_and_without_a_journal(
    sandbox: Sandbox, clock: VirtualClock, dog: Path, tmp_path: Path, recorded: bool, charges: int
) -> None:
    """Without one, the same call pays again; with one, that takes what the hint names."""
    journal = tmp_path / "jobs.sqlite3" if recorded else None
    request = ExpandRequest(image=dog, margins=WIDE, prompt="sandbox-risky")
    async with CometSession(
        DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=journal
    ) as comet:
        for _ in range(2):
            with pytest.raises(TaskFailedError) as caught:
                await comet.run(request)
        assert len(sandbox.ledger.charges) == charges
        assert "with a journal, only a run with retry_failed=True" in str(caught.value.hint)
        _ = [outcome async for outcome in comet.expand_many([request], retry_failed=True)]
        assert len(sandbox.ledger.charges) == charges + 1


async def test_deadline_hands_back_the_id(comet: CometSession, dog: Path) -> None:
    """A wait that is over says what resumes it, and the task goes on."""
    with pytest.raises(WaitTimeoutError) as caught:
        await comet.expand(dog, WIDE, timeout=2)
    assert caught.value.task_id is not None
    await asyncio.sleep(60)
    assert (await comet.get(caught.value.task_id)).succeeded


async def test_cancelled_submission_is_still_recorded(
    sandbox: Sandbox, clock: VirtualClock, dog: Path, tmp_path: Path
) -> None:
    """A caller that leaves in the middle of a paid request loses nothing."""
    async with CometSession(
        DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=tmp_path / "j.sqlite3"
    ) as comet:
        sandbox.faults.add(Fault("slow", on="create", seconds=3))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await comet.expand(dog, WIDE)
        task = await comet.expand(dog, WIDE)
    assert task.succeeded
    assert len(sandbox.ledger.posts) == 1


async def test_journal_pays_once_across_sessions(
    sandbox: Sandbox, clock: VirtualClock, dog: Path, tmp_path: Path
) -> None:
    """With a journal the same request in another session is the same purchase."""
    tasks = []
    for _ in range(2):
        async with CometSession(
            DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=tmp_path / "j.sqlite3"
        ) as comet:
            tasks.append(await comet.expand(dog, WIDE))
            outcome = await comet.run_job(tasks[0].external_task_id or "")
    assert tasks[0].id == tasks[1].id == (outcome.task and outcome.task.id)
    assert len(sandbox.ledger.charges) == 1


async def test_a_service_does_not_grow_with_its_jobs(
    sandbox: Sandbox, clock: VirtualClock, dog: Path, tmp_path: Path
) -> None:
    """What the phases of a folder's run remember is no use to single jobs, and not kept."""
    async with CometSession(
        DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=tmp_path / "j.sqlite3"
    ) as comet:
        submitted = await comet.submit(ExpandRequest(image=dog, margins=WIDE))
        await comet.expand(dog, WIDE)
        await comet.run_job(submitted.external_task_id or "")
        active = await comet._runs.own()
        assert (active._running, active._running_keys, active._ended) == ({}, set(), {})
        assert (active.sends, active.slots.used) == ({}, 0)
        assert not comet._runs._batches


async def test_run_job_needs_a_journal_that_knows_it(
    comet: CometSession, sandbox: Sandbox, clock: VirtualClock, tmp_path: Path
) -> None:
    """A job can be gone on with only where it was written down."""
    with pytest.raises(ConfigError, match="journal"):
        await comet.run_job("ce1-x")
    async with CometSession(
        DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=tmp_path / "j.sqlite3"
    ) as other:
        with pytest.raises(NotFoundError):
            await other.run_job("ce1-x")


@pytest.mark.parametrize(
    ("request_", "width"),
    [
        (GenerationRequest(prompt="a lighthouse", aspect_ratio="1:1"), None),
        (GenerationRequest(prompt="a lighthouse", n=2), None),
    ],
)
async def test_generation_rides_on_the_same_rails(
    comet: CometSession, request_: GenerationRequest, width: int | None
) -> None:
    """Another kind of task is submitted, waited for and listed like the first one."""
    task = await comet.run(request_)
    assert task.kind == "generation"
    assert len(task.images) == request_.n
    assert [listed.id async for listed in comet.list_tasks(kind="generation")] == [task.id]
    assert width is None


async def test_try_on_sends_both_images(
    comet: CometSession, sandbox: Sandbox, photo: bytes
) -> None:
    """A kind with two images streams both."""
    task = await comet.run(TryOnRequest(human=photo, cloth=photo))
    body = sandbox.ledger.posts[0].body
    assert task.succeeded
    assert {"human_image", "cloth_image", "model_name"} <= set(body)


async def test_expand_many_takes_any_iterable(
    comet: CometSession, make_photo: Callable[..., bytes]
) -> None:
    """Requests may come from an async generator; outcomes come as they end."""

    async def requests() -> AsyncIterator[ExpandRequest]:
        for tint in range(4):
            yield ExpandRequest(image=make_photo(320, 300, tint), margins=WIDE)

    outcomes = [outcome async for outcome in comet.expand_many(requests())]
    assert [outcome.status for outcome in outcomes] == ["done"] * 4
    assert all(outcome.task and outcome.task.images for outcome in outcomes)


async def test_expand_many_saves_below_a_folder(
    comet: CometSession, dog: Path, tmp_path: Path
) -> None:
    """With ``out=`` the images are saved under their number and name."""
    run = comet.expand_many([ExpandRequest(image=dog, margins=WIDE, n=2)], out=tmp_path / "out")
    (outcome,) = [outcome async for outcome in run]
    assert [path.name for path in outcome.files] == ["00001-dog-0.png", "00001-dog-1.png"]


@pytest.mark.parametrize("base", ["{tmp}/", "mem://results/"])
@pytest.mark.parametrize("name", ["wide", "wide.jpeg", "wide.jpg", "wide.PNG", "wide.old"])
async def test_a_result_is_copied_whatever_its_name_ends_with(
    sandbox: Sandbox, clock: VirtualClock, dog: Path, tmp_path: Path, base: str, name: str
) -> None:
    """The copy's extension is what the bytes are; nothing is paid or fetched again."""
    base = base.format(tmp=tmp_path)
    async with CometSession(
        DEFAULT_KEY,
        gateway=sandbox.url,
        clock=clock,
        journal=tmp_path / "journal.sqlite3",
        stores={"mem": lambda _: LocalStore(tmp_path)},
    ) as comet:
        await comet.expand(dog, WIDE, out=base + name)
        sandbox.faults.add(Fault("404", on="result", times=None))
        await comet.expand(dog, WIDE, out=base + "other")
        request = ExpandRequest(image=dog, margins=WIDE)
        (outcome,) = [done async for done in comet.expand_many([request], out=base + "folder")]
    assert [str(file) for file in (*outcome.files, *outcome.urls)] == [
        base + "folder/00001-dog.png"
    ]
    first = (tmp_path / name).read_bytes()
    assert (tmp_path / "other").read_bytes() == first
    assert (tmp_path / "folder" / "00001-dog.png").read_bytes() == first
    sandbox.assert_charged(1)


async def test_download_refuses_another_file_of_the_name(
    comet: CometSession, dog: Path, tmp_path: Path
) -> None:
    """A file that is there is not written over, unless that is asked for."""
    task = await comet.expand(dog, WIDE)
    target = tmp_path / "mine.png"
    target.write_bytes(b"mine")
    with pytest.raises(DownloadError, match="another file"):
        await comet.download(task.images[0], target)
    assert target.read_bytes() == b"mine"
    await comet.download(task.images[0], target, exists="replace")
    assert target.read_bytes() != b"mine"


async def test_the_names_of_all_results_are_checked_before_paying(
    comet: CometSession, dog: Path, tmp_path: Path
) -> None:
    """The second image of a request can't be saved, so none is bought."""
    mine = tmp_path / "out" / "dog-1.jpg"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    (outcome,) = [each async for each in comet.expand_folder(dog, mine.parent, WIDE, n=2)]
    assert outcome.status == "invalid"
    assert isinstance(outcome.error, InputError)
    assert f"{mine} exists already" in outcome.error.message
    assert mine.read_bytes() == b"mine"


async def test_download_gets_a_fresh_link(clock: VirtualClock, dog: Path, tmp_path: Path) -> None:
    """A link that expired is asked for anew by the task's id."""
    options = Options(url_lifetime=10)
    async with Sandbox(clock=clock, engine="stub", options=options) as sandbox:
        async with CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock) as comet:
            task = await comet.expand(dog, WIDE)
            await asyncio.sleep(3600)
            assert (await comet.download(task.images[0], tmp_path / "late.png")).is_file()


@pytest.mark.parametrize("many", [False, True], ids=["one", "folder"])
async def test_a_link_that_expired_before_it_was_used(
    clock: VirtualClock, dog: Path, tmp_path: Path, *, many: bool
) -> None:
    """The task is got again, and the job goes on with the new link, whatever records it."""

    def expire(event: Event) -> None:
        if isinstance(event, Changed) and event.task.succeeded:
            clock.shift(11)

    async with (
        Sandbox(clock=clock, engine="stub", options=Options(url_lifetime=10)) as sandbox,
        CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, on_event=expire) as comet,
    ):
        if many:
            out = tmp_path / "out"
            outcomes = [each async for each in comet.expand_folder(dog, out, WIDE)]
            assert [(each.status, each.error) for each in outcomes] == [("done", None)]
        else:
            await comet.expand(dog, WIDE, out=tmp_path / "wide.png")
        assert len(sandbox.ledger.charges) == 1


@pytest.mark.parametrize("days", [0, 31])
async def test_task_that_is_not_found_is_gone_after_30_days_only(
    clock: VirtualClock, dog: Path, tmp_path: Path, days: int
) -> None:
    """Gateways lose sight of tasks for a while, and what is paid is not given up for that."""

    def lose(event: Event) -> None:
        if isinstance(event, Changed) and event.task.succeeded:
            clock.shift(days * 86400)
            sandbox.faults.add(Fault("404", on="result", times=None))
            sandbox.faults.add(Fault("not_found", on="query", times=None))

    async with (
        Sandbox(clock=clock, engine="stub") as sandbox,
        CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, on_event=lose) as comet,
    ):
        (first,) = [each async for each in comet.expand_folder(dog, tmp_path / "out", WIDE)]
        sandbox.faults.clear()
        (second,) = [each async for each in comet.expand_folder(dog, tmp_path / "out", WIDE)]
        sandbox.assert_charged(1)
    if days:
        assert isinstance(first.error, ResultExpiredError)
        assert (first.status, second.status) == ("failed", "failed")
    else:
        assert isinstance(first.error, DownloadError)
        assert first.error.task_id == sandbox.tasks.all()[0].id
        assert (first.status, second.status) == ("pending", "done")


@pytest.mark.parametrize("letter", ["a", "犬"])
async def test_the_longest_name_can_be_saved(
    comet: CometSession, dog: Path, tmp_path: Path, letter: str
) -> None:
    """What is paid is saved under any name that the file system takes."""
    name = letter * (251 // len(letter.encode())) + ".png"
    await comet.expand(dog, WIDE, out=tmp_path / name)
    assert (tmp_path / name).is_file()


async def test_result_that_is_gone_is_reported(
    clock: VirtualClock, dog: Path, tmp_path: Path
) -> None:
    """After 30 days there is nothing to fetch, and the error says so."""
    async with Sandbox(clock=clock, engine="stub") as sandbox:
        async with CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock) as comet:
            task = await comet.expand(dog, WIDE)
            await asyncio.sleep(31 * 86400)
            with pytest.raises(ResultExpiredError):
                await comet.download(task.images[0], tmp_path / "never.png")
    assert list(tmp_path.glob("*.part")) == []


async def test_watermark_is_asked_for_and_saved(
    comet: CometSession, dog: Path, tmp_path: Path
) -> None:
    """The watermarked version is another image, there only if asked for."""
    task = await comet.expand(dog, WIDE, watermark=True)
    plain = await comet.download(task.images[0], tmp_path / "plain.png")
    marked = await comet.download(task.images[0], tmp_path / "marked.png", watermarked=True)
    assert plain.read_bytes() != marked.read_bytes()
    other = await comet.expand(dog, WIDE)
    with pytest.raises(InputError):
        await comet.download(other.images[0], tmp_path / "none.png", watermarked=True)


@pytest.mark.parametrize(
    ("image", "margins", "more", "field"),
    [
        ("nowhere.png", WIDE, {}, "image"),
        (b"", WIDE, {}, "image"),
        (b"text, not an image", WIDE, {}, "image"),
        ("http://user:secret@example.com/x.png", WIDE, {}, "image"),
        ("https://example.com/x.png", Margins.for_aspect("16:9"), {}, "margins"),
        (None, Margins(), {}, "margins"),
        (None, Margins.for_size(100, 100), {}, "size"),
        (None, Margins.for_aspect("1:4"), {}, "aspect"),
        (None, WIDE, {"n": 0}, "n"),
        (None, WIDE, {"n": 10}, "n"),
        (None, WIDE, {"prompt": "x" * 2501}, "prompt"),
        (None, WIDE, {"external_task_id": "a\nb"}, "external_task_id"),
    ],
)
async def test_bad_input_is_refused_before_it_is_sent(
    comet: CometSession,
    sandbox: Sandbox,
    dog: Path,
    image: object,
    margins: Margins,
    more: dict[str, object],
    field: str,
) -> None:
    """Each rule of the API is checked here: which field, nothing sent."""
    with pytest.raises(InputError) as caught:
        await comet.expand(dog if image is None else image, margins, **more)  # type: ignore[arg-type]  # wrong ones
    assert caught.value.field == field
    assert caught.value.sent is False
    assert sandbox.ledger.posts == []


async def test_wrong_key_is_an_error_of_the_key(sandbox: Sandbox, dog: Path) -> None:
    """A key that the server refuses is reported as such."""
    async with CometSession("sk-wrong", gateway=sandbox.url) as comet:
        with pytest.raises(AuthenticationError):
            await comet.expand(dog, WIDE)


async def test_unreachable_server_is_told_within_seconds(clock: VirtualClock, dog: Path) -> None:
    """A wrong address is tried a few times, then reported."""
    begin = asyncio.get_running_loop().time()
    async with CometSession("sk-x", gateway="http://127.0.0.1:9", clock=clock) as comet:
        with pytest.raises(NotSentError):
            await comet.expand(dog, WIDE)
    assert asyncio.get_running_loop().time() - begin < 15


async def test_refused_request_is_reported(comet: CometSession, dog: Path) -> None:
    """A prompt that the platform blocks is a rejection: nothing was paid."""
    with pytest.raises(RejectedError):
        await comet.expand(dog, WIDE, prompt="sandbox-blocked")


@pytest.mark.parametrize("key", ["", " ", "sk-a\nb", "sk-ä"])
def test_key_that_is_no_header_is_refused_at_once(key: str) -> None:
    """A key with a line break could smuggle a header."""
    with pytest.raises(ConfigError):
        CometSession(key)


def test_no_key_names_the_variable() -> None:
    """Without a key the error says which variable to set."""
    with pytest.raises(ConfigError, match="COMETAPI_KEY"):
        CometSession()


def test_environment_chooses_key_and_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key and root come from the environment."""
    monkeypatch.setenv("COMETAPI_KEY", "sk-env")
    monkeypatch.setenv("COMETAPI_BASE_URL", "https://gate.example.com/v1")
    comet = CometSession()
    assert str(comet.gateway.root) == "https://gate.example.com"
    assert "sk-env" not in repr(comet) + repr(vars(comet))


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_request_timeout_must_be_positive(timeout: float) -> None:
    """A timeout that can't be is refused."""
    with pytest.raises(InputError, match="request_timeout"):
        CometSession("sk-x", request_timeout=timeout)


def test_request_timeout_is_seconds_or_limits() -> None:
    """Seconds set the questions' limit and never shorten the wait for a paid answer."""
    assert CometSession("sk-x", request_timeout=5)._api.transport.timeouts.response == 60
    limits = Timeouts(request=3)
    assert CometSession("sk-x", request_timeout=limits)._api.transport.timeouts is limits


def test_two_runs_of_asyncio_share_a_session(dog: Path) -> None:
    """The same session works in two loops one after the other, and leaves no warning."""
    comet: CometSession | None = None

    async def once() -> bool:
        nonlocal comet
        port = comet.gateway.root.port if comet is not None else None
        async with Sandbox(engine="stub", clock=VirtualClock(), port=port or 0) as sandbox:
            comet = comet or CometSession(DEFAULT_KEY, gateway=sandbox.url)
            return (await comet.expand(dog, WIDE)).done

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                assert runner.run(once())
        comet = None
        gc.collect()


async def test_forgotten_session_is_reported_once(
    sandbox: Sandbox, dog: Path, clock: VirtualClock
) -> None:
    """One line, also where warnings are hidden; its connections are closed."""
    reports: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: reports.append(context["message"])
    )
    comet = CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock)
    await comet.submit(ExpandRequest(image=dog, margins=WIDE))
    connectors = [session.connector for session in (await comet._api.transport._pool()).owned]
    with pytest.warns(ResourceWarning, match="unclosed <CometSession"):  # noqa: PT031 - one step
        del comet
        gc.collect()
    await asyncio.sleep(1)
    assert len(reports) == 1
    assert reports[0].startswith("unclosed <CometSession")
    assert all(connector is not None and connector.closed for connector in connectors)


def test_session_is_not_pickled() -> None:
    """A session can't be sent to another process; ids can."""
    with pytest.raises(TypeError, match="task ids"):
        pickle.dumps(CometSession("sk-x"))


async def test_unknown_kind_is_refused(comet: CometSession) -> None:
    """A kind of task that nobody knows is refused before anything is asked."""
    with pytest.raises(InputError, match="kind"):
        await comet.get("1", kind="sculpture")


async def test_two_runs_over_one_journal_pay_once(
    sandbox: Sandbox, clock: VirtualClock, photos: Path, tmp_path: Path
) -> None:
    """Runs at the same time over the session's journal share locks and slots."""
    async with CometSession(
        DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=tmp_path / "j.sqlite3"
    ) as comet:

        async def once(out: str) -> list[str]:
            run = comet.expand_folder(photos, tmp_path / out, WIDE)
            return [str(outcome.status) async for outcome in run]

        first, second = await asyncio.gather(once("a"), once("b"))
    assert first == second == ["done"] * 3
    assert len(sandbox.ledger.posts) == 3
    assert len(list((tmp_path / "b").rglob("*.png"))) == 3


async def test_folders_that_share_a_journal_may_have_equal_names(
    sandbox: Sandbox, clock: VirtualClock, dog: Path, tmp_path: Path
) -> None:
    """Each folder has its own dog.png: the names in a session's journal say the folder."""
    async with CometSession(
        DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=tmp_path / "j.sqlite3"
    ) as comet:

        async def once(out: str, margins: Margins) -> Path:
            (outcome,) = [o async for o in comet.expand_folder(dog, tmp_path / out, margins)]
            assert outcome.error is None
            (path,) = outcome.files
            assert path.samefile(tmp_path / out / "dog.png")
            return path

        shapes = {"wide": WIDE, "tall": Margins(up=0.5)}
        files = {out: (await once(out, margins)).read_bytes() for out, margins in shapes.items()}
        again = {out: (await once(out, margins)).read_bytes() for out, margins in shapes.items()}
    assert files == again
    assert len(set(files.values())) == 2
    assert len(sandbox.ledger.posts) == 2


async def test_runs_into_one_folder_tell_of_their_own_images(
    sandbox: Sandbox, clock: VirtualClock, photos: Path, tmp_path: Path
) -> None:
    """What another run is working on is no left-over of an earlier one."""
    out = tmp_path / "out"
    async with CometSession(
        DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=out / JOURNAL_NAME
    ) as comet:

        async def once(delay: float, *names: str) -> list[str]:
            await asyncio.sleep(delay)
            sources = [photos / name for name in names]
            outcomes = [outcome async for outcome in comet.expand_folder(sources, out, WIDE)]
            assert all(outcome.done for outcome in outcomes)
            return sorted(Path(outcome.source).name for outcome in outcomes)

        sources = await asyncio.gather(once(0, "dog.png"), once(3, "cat.png", "trip/sea.png"))
    assert sources == [["dog.png"], ["cat.png", "sea.png"]]
    assert len(sandbox.ledger.posts) == 3


async def test_equal_images_in_several_subfolders(
    comet: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path
) -> None:
    """What was bought once is copied to each place, also into a folder that is not there yet."""
    out = tmp_path / "out"
    (photos / "zoo").mkdir()
    (photos / "zoo" / "rex.png").write_bytes((photos / "dog.png").read_bytes())
    outcomes = [o async for o in comet.expand_folder(photos, out, WIDE, concurrency=1)]
    assert [outcome.status for outcome in outcomes] == ["done"] * 4
    assert (out / "zoo" / "rex.png").read_bytes() == (out / "dog.png").read_bytes()
    assert len(sandbox.ledger.posts) == 3
    assert not list(out.rglob("*.part"))


async def test_a_folders_own_journal_may_move_with_it(
    sandbox: Sandbox, clock: VirtualClock, dog: Path, tmp_path: Path
) -> None:
    """A journal in its folder names files by their place there, whoever opened it."""
    for out in (tmp_path / "wide", tmp_path / "moved"):
        async with CometSession(
            DEFAULT_KEY,
            gateway=sandbox.url,
            clock=clock,
            journal=tmp_path / out.name / ".." / out.name / JOURNAL_NAME,
        ) as comet:
            (outcome,) = [o async for o in comet.expand_folder(dog, out, WIDE)]
            assert outcome.files == (out / "dog.png",)
        if out.name == "wide":
            out.rename(tmp_path / "moved")
    assert len(sandbox.ledger.posts) == 1
    assert not list(tmp_path.glob("moved/*.part"))


async def test_plan_shows_and_makes_nothing(
    comet: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path
) -> None:
    """A plan is made without sending or writing anything."""
    out = tmp_path / "out"
    (photos / "bad.png").write_bytes(b"no image")
    planned = [what async for _, what in comet.expand_folder(photos, out, WIDE).plan()]
    assert sum(isinstance(what, InputError) for what in planned) == 1
    assert len(planned) == 4
    assert not out.exists()
    assert sandbox.ledger.posts == []


async def test_limits_of_a_run_are_kept(
    comet: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path
) -> None:
    """A run buys no more than it may; the next one goes on with the rest."""
    out = tmp_path / "out"
    run = comet.expand_folder(photos, out, WIDE, max_spend="0.06", concurrency=1)
    statuses = [outcome.status async for outcome in run]
    assert statuses.count("done") == len(sandbox.ledger.charges) == 2
    again = [outcome.status async for outcome in comet.expand_folder(photos, out, WIDE)]
    assert again == ["done"] * 3
    assert len(sandbox.ledger.charges) == 3


async def test_money_is_not_limited_without_a_price(comet: CometSession) -> None:
    """A price of 0 is not taken for the list price."""
    with pytest.raises(InputError, match="needs a price above 0"):
        comet.expand_many([], max_spend=1, price=0)


@pytest.mark.parametrize("refusal", ["401", "1102"])
async def test_a_refused_lookup_does_not_say_that_the_request_was_refused(
    comet: CometSession, sandbox: Sandbox, dog: Path, tmp_path: Path, refusal: str
) -> None:
    """It may have been billed; that the account can't be used now says nothing about it."""
    await comet.expand(dog, WIDE)
    sandbox.faults.add(Fault("drop_after_charge", times=2))
    for call in ("find", "list"):
        sandbox.faults.add(Fault(refusal, on=call, times=None))
    run = comet.expand_folder(dog, tmp_path / "out", WIDE)
    (outcome,) = [outcome async for outcome in run]
    assert outcome.status == "uncertain"
    assert isinstance(run.stopped, AuthenticationError | AccountError)
    with pytest.raises(OutcomeUnknownError, match="can't be looked up") as caught:
        await comet.submit(ExpandRequest(image=dog, margins=Margins.uniform(0.2)))
    assert caught.value.external_task_id == sandbox.ledger.posts[-1].body["external_task_id"]
    sandbox.faults.clear()
    again = comet.expand_folder(dog, tmp_path / "out", WIDE)
    assert [outcome.status async for outcome in again] == ["done"]
    assert len(sandbox.ledger.posts) == 3


@pytest.mark.parametrize("why", ["interrupted", "no money"])
async def test_a_run_that_stops_waits_for_no_further_source(
    comet: CometSession, sandbox: Sandbox, why: str
) -> None:
    """A source that never ends, and has nothing at present, does not hold up the end."""
    closed = asyncio.Event()

    async def requests() -> AsyncGenerator[ExpandRequest, None]:
        try:
            yield ExpandRequest(image=make_png(320, 300), margins=Margins.uniform(0.2))
            await asyncio.Event().wait()
        finally:
            closed.set()

    run = comet.expand_many(requests())
    if why == "no money":
        sandbox.faults.add(Fault("1102", on="create", times=None))
    else:
        asyncio.get_running_loop().call_later(500, run.interrupt)
    async with asyncio.timeout(600):
        outcomes = [outcome async for outcome in run]
    assert [outcome.status for outcome in outcomes] == ["rejected" if why == "no money" else "done"]
    assert closed.is_set()


async def test_interrupted_run_goes_on_later(
    comet: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path
) -> None:
    """An interruption records what was sent, and the next run pays nothing again."""
    out = tmp_path / "out"
    run = comet.expand_folder(photos, out, WIDE)
    asyncio.get_running_loop().call_later(5, run.interrupt)
    first = [outcome async for outcome in run]
    assert [outcome.status for outcome in first] == ["pending"] * 3
    assert all(outcome.task and "billed" in str(outcome.error) for outcome in first)
    again = [outcome.status async for outcome in comet.expand_folder(photos, out, WIDE)]
    assert again == ["done"] * 3
    assert len(sandbox.ledger.posts) == 3


async def test_what_was_bought_again_is_what_later_runs_find(
    comet: CometSession, sandbox: Sandbox, dog: Path, tmp_path: Path
) -> None:
    """Once a failed task was bought again, a run that buys none again has its result, too."""

    async def expanded(*, retry_failed: bool = False) -> list[str]:
        run = comet.expand_folder(dog, tmp_path / "out", WIDE, retry_failed=retry_failed)
        return [outcome.status async for outcome in run]

    sandbox.tasks.hold()
    failing = asyncio.create_task(expanded())
    (await sandbox.tasks.next()).fail()
    assert await failing == ["failed"]
    sandbox.tasks.release()
    assert await expanded(retry_failed=True) == ["done"]
    assert await expanded() == await expanded(retry_failed=True) == ["done"]
    ((_, plan),) = [each async for each in comet.expand_folder(dog, tmp_path / "out", WIDE).plan()]
    assert not isinstance(plan, Exception)
    assert plan.record is not None
    assert plan.record.state == "done"
    assert len(sandbox.ledger.charges) == 2


@pytest.mark.parametrize("planned", [False, True], ids=["run", "plan"])
async def test_a_folder_can_be_opened_again_once_a_session_is_closed(
    comet: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path, *, planned: bool
) -> None:
    """Closing waits for a run that its caller has left: it still holds the folder's journal."""
    out = tmp_path / "out"
    async for _ in comet.expand_folder(photos / "trip", out, WIDE):
        pass
    async with CometSession(DEFAULT_KEY, gateway=sandbox.url) as other:
        run = other.expand_folder(photos, out, WIDE)
        async for _ in run.plan() if planned else run:
            break
    again = [outcome.status async for outcome in comet.expand_folder(photos, out, WIDE)]
    assert again == ["done"] * 3
    assert len(sandbox.ledger.charges) == 3


async def test_a_run_in_a_loop_that_was_stopped_is_not_waited_for(
    comet: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path
) -> None:
    """It does not continue while its loop does not: closing took all the time it was given."""
    async for _ in comet.expand_folder(photos / "trip", tmp_path / "out", WIDE):
        pass
    session, other = CometSession(DEFAULT_KEY, gateway=sandbox.url), VirtualLoop()

    async def leave() -> asyncio.Task[None]:
        plan = session.expand_folder(photos, tmp_path / "out", WIDE).plan()
        await anext(plan)
        leaving = asyncio.create_task(plan.aclose())
        await asyncio.sleep(0)
        return leaving

    leaving = await asyncio.to_thread(other.run_until_complete, leave())
    assert not leaving.done()
    begin = asyncio.get_running_loop().time()
    await session.aclose()
    assert asyncio.get_running_loop().time() - begin < 5
    await asyncio.to_thread(other.run_until_complete, leaving)
    other.close()


async def test_a_folder_is_expanded_right_after_its_plan_was_left(
    comet: CometSession, photos: Path, tmp_path: Path
) -> None:
    """The plan's journal is not closed yet: it serves the run as well."""
    async for _ in comet.expand_folder(photos / "trip", tmp_path / "out", WIDE):
        pass
    run = comet.expand_folder(photos, tmp_path / "out", WIDE)
    async for _ in run.plan():
        break
    assert [outcome.status async for outcome in run] == ["done"] * 3


async def test_sessions_share_a_journal_object(
    clock: VirtualClock, photo: bytes, tmp_path: Path
) -> None:
    """The same image in two sessions at once is one request, and both get its task.

    No lookup could tell the second what became of the request of the first.
    """
    options = Options(lookups=frozenset(), list_tasks=False)
    async with (
        Sandbox(clock=clock, seed=1, engine="stub", options=options) as sandbox,
        await SqliteJournal.open(tmp_path / "jobs.sqlite3", clock=clock) as journal,
        CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=journal) as one,
    ):
        sandbox.faults.add(Fault("slow", on="create", seconds=10))
        left = asyncio.create_task(one.expand(photo, WIDE))
        await asyncio.sleep(5)
        left.cancel()  # its request is on the way
        async with CometSession(
            DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=journal
        ) as two:
            tasks = await asyncio.gather(one.expand(photo, WIDE), two.expand(photo, WIDE))
        (charge,) = sandbox.ledger.charges
        assert {task.id for task in tasks} == {charge.task_id}


async def test_a_slot_is_given_back_when_another_session_takes_the_job_over(
    clock: VirtualClock, sandbox: Sandbox, photo: bytes, tmp_path: Path
) -> None:
    """Nobody polled for the first session then, whose next call waited for the slot forever."""
    async with (
        await SqliteJournal.open(tmp_path / "jobs.sqlite3", clock=clock) as journal,
        CometSession(
            DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=journal, concurrency=1
        ) as one,
        CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=journal) as two,
    ):
        sandbox.faults.add(Fault("slow", on="create", seconds=10))
        left = asyncio.create_task(one.expand(photo, WIDE))
        await asyncio.sleep(5)
        left.cancel()  # its request is on the way
        other = asyncio.create_task(two.expand(photo, WIDE))
        await asyncio.sleep(6)
        assert (await one.expand(photo, Margins.uniform(0.1))).succeeded
        assert (await other).succeeded
        assert len(sandbox.ledger.charges) == 2


class _Unhashable(MemoryJournal):
    """A journal that can't be the key of a dictionary."""

    __hash__ = None  # type: ignore[assignment]  # what a class with __eq__ gets from Python


async def test_a_journal_of_any_class_is_taken(
    sandbox: Sandbox, clock: VirtualClock, photo: bytes
) -> None:
    """The protocol asks for methods only."""
    async with CometSession(
        DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=_Unhashable()
    ) as comet:
        tasks = [await comet.expand(photo, WIDE) for _ in range(2)]
    assert tasks[0].id == tasks[1].id


async def test_a_session_that_is_closed_leaves_the_requests_of_others(
    clock: VirtualClock, sandbox: Sandbox, photo: bytes, tmp_path: Path
) -> None:
    """Two sessions may share a journal object; each cuts off no more than its own requests."""
    async with await SqliteJournal.open(tmp_path / "jobs.sqlite3", clock=clock) as journal:
        sessions = [
            CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=journal)
            for _ in range(2)
        ]
        async with sessions[0], sessions[1]:
            sandbox.faults.add(Fault("slow", on="create", seconds=10))
            buying = asyncio.create_task(sessions[0].expand(photo, WIDE))
            await asyncio.sleep(5)
            await sessions[1].aclose(0)
            assert (await buying).succeeded


async def test_copies_of_an_image_whose_task_fails_are_bought_again_once(
    comet: CometSession, clock: VirtualClock, sandbox: Sandbox, dog: Path, tmp_path: Path
) -> None:
    """A run buys what failed in earlier runs, not what it has just bought itself."""
    copies = [shutil.copy(dog, dog.with_name(f"copy-{number}.png")) for number in range(8)]

    async def expanded(*, retry_failed: bool) -> list[str]:
        run = comet.expand_folder(
            copies,
            tmp_path / "out",
            WIDE,
            prompt="sandbox-risky",
            retry_failed=retry_failed,
            concurrency=1,
        )
        return [outcome.status async for outcome in run]

    assert await expanded(retry_failed=False) == ["failed"] * 8
    assert len(sandbox.ledger.charges) == 1
    clock.shift(-3600)  # set back, it must not hide that they failed earlier
    for charges in (2, 3):
        assert await expanded(retry_failed=True) == ["failed"] * 8
        assert len(sandbox.ledger.charges) == charges


async def test_a_run_that_ends_cuts_off_no_request_of_another_call(
    sandbox: Sandbox, clock: VirtualClock, dog: Path, tmp_path: Path
) -> None:
    """While it waits for its own request to be recorded, others may begin to send."""
    journal = tmp_path / "jobs.sqlite3"
    async with CometSession(
        DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=journal
    ) as comet:
        await comet.expand(dog, WIDE)
        sandbox.faults.add(Fault("slow", on="create", times=None, seconds=10))
        left = asyncio.create_task(anext(aiter(comet.expand_folder(dog, tmp_path / "out", "2:1"))))
        await asyncio.sleep(2)
        left.cancel()
        await asyncio.sleep(3)
        task = await comet.submit(ExpandRequest(image=dog, margins=Margins.uniform(0.2)))
        assert task.id
        assert left.cancelled()
    assert len(sandbox.ledger.posts) == 3


async def test_runs_of_one_session_share_the_journal_of_a_folder(
    comet: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path
) -> None:
    """One that was left early may still be ending when the next begins; or two go on at a time."""

    def run() -> Run:
        return comet.expand_folder(photos, tmp_path / "out", WIDE)

    async def statuses() -> list[str]:
        return [outcome.status async for outcome in run()]

    async for _ in run():
        break
    assert await asyncio.gather(statuses(), statuses()) == [["done"] * 3] * 2
    assert len(sandbox.ledger.posts) == 3
    await (await SqliteJournal.open(tmp_path / "out" / JOURNAL_NAME)).aclose()


async def test_a_name_that_another_call_will_use_is_refused_before_it_is_paid(
    comet: CometSession, sandbox: Sandbox, dog: Path, tmp_path: Path
) -> None:
    """Only one of the two could be saved."""
    sandbox.tasks.hold()
    out = tmp_path / "wide.png"
    first = asyncio.create_task(comet.expand(dog, WIDE, out=out))
    task = await sandbox.tasks.next()
    with pytest.raises(InputError, match=r"in progress is to be saved as .*/wide\.png"):
        await comet.expand(dog, "2:1", out=out)
    task.release()
    assert (await first).succeeded
    assert len(sandbox.ledger.posts) == 1
    with pytest.raises(InputError, match="exists already"):
        await comet.expand(dog, "2:1", out=out)


async def test_a_result_that_is_there_in_time_is_saved(
    sandbox: Sandbox, clock: VirtualClock, dog: Path, tmp_path: Path
) -> None:
    """The time limit does not cut a download off: the task is paid, and has ended."""
    out = tmp_path / "wide.png"
    async with CometSession(
        DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=tmp_path / "jobs.sqlite3"
    ) as comet:
        await comet.expand(dog, WIDE)
        sandbox.faults.add(Fault("slow", on="result", seconds=15.0))
        await comet.expand(dog, WIDE, out=out, timeout=5)
    assert out.exists()
    assert len(sandbox.ledger.posts) == 1


@pytest.mark.parametrize("other", ["sub/../wide.png", "link/wide.png", "sub/../link/./wide.png"])
async def test_a_name_that_another_call_will_use_is_known_however_it_is_spelled(
    comet: CometSession, sandbox: Sandbox, dog: Path, tmp_path: Path, other: str
) -> None:
    """Links are followed first: what ``..`` leads to depends on them."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "away").symlink_to(tmp_path / "sub")
    sandbox.tasks.hold()
    first = asyncio.create_task(comet.expand(dog, WIDE, out=tmp_path / "wide.png"))
    await sandbox.tasks.next()
    with pytest.raises(InputError, match=r"in progress is to be saved as .*/wide\.png"):
        await comet.expand(dog, "2:1", out=f"{tmp_path}/{other}")
    assert len(sandbox.ledger.posts) == 1
    sandbox.tasks.release()
    await asyncio.gather(first, comet.expand(dog, "2:1", out=tmp_path / "away" / "wide.png"))
    assert (tmp_path / "sub" / "wide.png").exists()


@pytest.mark.parametrize("target", ["not-mounted", "circle"])
async def test_a_folder_that_is_a_link_to_nothing_is_refused_before_anything_is_paid(
    comet: CometSession, sandbox: Sandbox, dog: Path, tmp_path: Path, target: str
) -> None:
    """No folder can be made where such a link is, so the result could not be saved."""
    (tmp_path / "circle").symlink_to(tmp_path / target)
    with pytest.raises(InputError, match="circle is not a folder"):
        await comet.expand(dog, WIDE, out=tmp_path / "circle" / "wide.png")
    assert not sandbox.ledger.posts


async def test_a_session_that_closes_its_journal_ends_its_runs_as_closed(
    sandbox: Sandbox, clock: VirtualClock, photos: Path, tmp_path: Path
) -> None:
    """Their outcomes say what became of each image, and nothing speaks of a closed journal."""
    journal = tmp_path / "jobs.sqlite3"
    async with CometSession(
        DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=journal
    ) as comet:

        async def close() -> None:
            await asyncio.sleep(5)
            await comet.aclose()

        requests = [ExpandRequest(image=path, margins=WIDE) for path in photos.rglob("*.png")]
        run = comet.expand_many(requests)
        closing = asyncio.create_task(close())
        outcomes = [outcome async for outcome in run]
        await closing
    assert [type(outcome.error) for outcome in outcomes] == [SessionClosedError] * 3


async def test_an_interrupted_run_looks_nothing_up_any_more(
    comet: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path
) -> None:
    """A job that was put aside for a second look is left to the next run."""
    await comet.expand(photos / "trip" / "sea.png", WIDE)
    sandbox.faults.add(Fault("drop_after_charge"))
    for call in ("find", "list"):
        sandbox.faults.add(Fault("500", on=call, times=None))
    sandbox.tasks.hold()  # the others still run when the first look has ended
    run, loop = comet.expand_folder(photos, tmp_path / "out", WIDE), asyncio.get_running_loop()
    loop.call_later(1000, run.interrupt)
    outcomes = [outcome async for outcome in run]
    assert loop.time() < 1100
    assert [outcome.status for outcome in outcomes] == ["pending"] * 3
    (doubtful,) = [outcome.error for outcome in outcomes if outcome.task is None]
    assert doubtful is not None
    assert doubtful.sent is None
    assert "may be accepted and billed" in str(doubtful)


async def test_paid_jobs_of_lost_images_are_finished(
    comet: CometSession, photos: Path, tmp_path: Path
) -> None:
    """What was paid is fetched even if its image is no longer there."""
    out = tmp_path / "out"
    run = comet.expand_folder(photos, out, WIDE)
    asyncio.get_running_loop().call_later(5, run.interrupt)
    _ = [outcome async for outcome in run]
    (photos / "dog.png").unlink()
    again = {Path(o.source).name: o.status async for o in comet.expand_folder(photos, out, WIDE)}
    assert again == {"dog.png": "done", "cat.png": "done", "sea.png": "done"}


async def test_image_of_the_wanted_shape_is_copied(
    comet: CometSession, sandbox: Sandbox, dog: Path, tmp_path: Path
) -> None:
    """Where a rule adds nothing, nothing is paid."""
    run = comet.expand_folder(dog, tmp_path / "out", Margins.for_aspect("4:3"))
    (outcome,) = [outcome async for outcome in run]
    assert outcome.files[0].read_bytes() == dog.read_bytes()
    assert outcome.notes == ("it already has this shape: copied as it is, nothing was paid",)
    assert sandbox.ledger.posts == []


async def test_image_of_the_wanted_shape_is_converted_if_it_must_be(
    comet: CometSession, tmp_path: Path
) -> None:
    """A file that is converted although it needs no expansion says so."""
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (400, 300)).save(tmp_path / "scan.tif")
    run = comet.expand_folder(
        tmp_path / "scan.tif", tmp_path / "out", Margins.for_aspect("4:3"), prepare=True
    )
    (outcome,) = [outcome async for outcome in run]
    assert outcome.notes == (
        "converted from TIFF to PNG",
        "it already has this shape: saved as converted, nothing was paid",
    )


@pytest.mark.parametrize("checksum", [False, True])
async def test_a_converted_copy_is_recognised_by_the_next_run(
    comet: CometSession, tmp_path: Path, *, checksum: bool
) -> None:
    """It is no foreign file, although it differs from its source."""
    image = pytest.importorskip("PIL.Image")
    image.effect_noise((400, 300), 60).convert("CMYK").save(tmp_path / "print.jpg")
    for _ in range(3):
        run = comet.expand_folder(
            tmp_path / "print.jpg",
            tmp_path / "out",
            Margins.for_aspect("4:3"),
            prepare=True,
            checksum=checksum,
        )
        (outcome,) = [outcome async for outcome in run]
        assert outcome.status == "done", outcome.error
    assert [path.name for path in (tmp_path / "out").glob("[a-z]*")] == ["print.jpg"]


async def test_a_file_that_appears_later_renames_nothing(
    comet: CometSession, sandbox: Sandbox, tmp_path: Path
) -> None:
    """It gets another name, and earlier results stay where they are."""
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()

    async def run() -> dict[str, list[str]]:
        outcomes = [outcome async for outcome in comet.expand_folder(folder, out, WIDE)]
        return {Path(o.source).name: [file.name for file in o.files] for o in outcomes}

    (folder / "dog.png").write_bytes(make_png(320, 300, 1))
    assert await run() == {"dog.png": ["dog.png"]}
    before = (out / "dog.png").read_bytes()
    (folder / "dog.jpeg").write_bytes(make_png(320, 300, 2))
    expected = {"dog.png": ["dog.png"], "dog.jpeg": ["dog-jpeg.png"]}
    assert await run() == expected
    assert await run() == expected
    assert (out / "dog.png").read_bytes() == before
    assert sorted(path.name for path in out.glob("*.png")) == ["dog-jpeg.png", "dog.png"]
    assert len(sandbox.ledger.posts) == 2


async def test_what_a_run_leaves_out(comet: CometSession, photos: Path, tmp_path: Path) -> None:
    """Patterns choose, and the run counts what it passes over."""
    (photos / "notes.txt").write_text("words")
    run = comet.expand_folder(photos, tmp_path / "out", WIDE, exclude=["trip"], include="*.png")
    names = sorted([Path(outcome.source).name async for outcome in run])
    assert names == ["cat.png", "dog.png"]
    assert str(run.skipped) == "1 other file (1 .txt), 1 excluded"
    with pytest.raises(InputError, match="exclude must be shell patterns"):
        comet.expand_folder(photos, tmp_path / "out", WIDE, exclude=[""])


async def test_image_that_needs_a_missing_library_is_invalid(
    comet: CometSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running again would not help: it is refused, with what to install."""
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    run = comet.expand_folder(
        tmp_path / "phone.heic", tmp_path / "out", Margins.uniform(0.1), prepare=True
    )
    (outcome,) = [outcome async for outcome in run]
    assert outcome.status == "invalid"
    assert "pip install 'comet-async[heif]'" in str(outcome.error)


async def test_a_copy_of_an_image_that_changes_leaves_nothing(
    comet: CometSession, dog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun is removed; the outcome says why."""
    plain = shutil.copyfileobj

    def meanwhile(source: IO[bytes], target: IO[bytes]) -> None:
        with dog.open("ab") as file:
            file.write(b"more")
        plain(source, target)

    monkeypatch.setattr(shutil, "copyfileobj", meanwhile)
    run = comet.expand_folder(dog, tmp_path / "out", Margins.for_aspect("4:3"))
    (outcome,) = [outcome async for outcome in run]
    assert "changed while it was read" in str(outcome.error)
    assert not list((tmp_path / "out").glob(".*.part"))


async def test_leaving_a_run_early_is_clean(
    comet: CometSession, sandbox: Sandbox, photos: Path, tmp_path: Path
) -> None:
    """A loop that is left at the first outcome leaves a journal that goes on."""
    out = tmp_path / "out"
    async for _ in comet.expand_folder(photos, out, WIDE):
        break
    await asyncio.sleep(5)
    again = [outcome.status async for outcome in comet.expand_folder(photos, out, WIDE)]
    assert again == ["done"] * 3
    assert len(sandbox.ledger.posts) == 3


async def test_another_request_into_the_same_folder_is_refused_before_paying(
    comet: CometSession, sandbox: Sandbox, dog: Path, tmp_path: Path
) -> None:
    """A name that holds the result of other margins is not written over, and nothing is sent."""
    out = tmp_path / "out"
    _ = [outcome async for outcome in comet.expand_folder(dog, out, WIDE)]
    (again,) = [o async for o in comet.expand_folder(dog, out, Margins(up=0.5))]
    assert again.status == "invalid"
    assert "another request" in str(again.error)
    assert len(sandbox.ledger.posts) == 1


def test_loops_in_threads_share_a_journal(tmp_path: Path, make_photo: Callable[..., bytes]) -> None:
    """A session with a journal serves several loops at once."""
    over, url, errors = threading.Event(), list[str](), list[BaseException]()
    ready = threading.Event()

    async def serve() -> None:
        async with Sandbox(engine="stub", speed=200) as sandbox:
            url.append(sandbox.url)
            ready.set()
            while not over.is_set():  # noqa: ASYNC110 - set by another thread
                await asyncio.sleep(0.01)
            assert len(sandbox.ledger.charges) == 4

    server = threading.Thread(target=lambda: asyncio.run(serve()))
    server.start()
    ready.wait()
    comet = CometSession(DEFAULT_KEY, gateway=url[0], journal=tmp_path / "j.sqlite3")

    def use(number: int) -> None:
        try:
            asyncio.run(comet.expand(make_photo(320, 300, number % 4), WIDE))
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(comet.aclose())
    over.set()
    server.join()
    assert errors == []


async def test_an_opening_that_is_cut_short_lets_go_of_the_journal(
    comet: CometSession,
    dog: Path,
    tmp_path: Path,
    sandbox: Sandbox,
    clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next run in this process can open it, and so can a session that has it as its own."""

    async def hang(*_: object, **_more: object) -> None:
        await asyncio.Event().wait()

    out = tmp_path / "out"
    path = tmp_path / "journal.sqlite3"
    with monkeypatch.context() as patch:
        patch.setattr(SqliteJournal, "find", hang)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                _ = [outcome async for outcome in comet.expand_folder(dog, out, WIDE)]
        with pytest.raises(TimeoutError):
            async with (
                asyncio.timeout(5),
                CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=path),
            ):
                pass
    assert [outcome.status async for outcome in comet.expand_folder(dog, out, WIDE)] == ["done"]
    async with CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=path):
        pass


async def test_an_opening_that_is_cut_short_at_its_end_lets_go_of_the_journal(
    dog: Path, tmp_path: Path, sandbox: Sandbox, clock: VirtualClock
) -> None:
    """Its caller is cancelled after it was opened, and before the caller has heard of it."""
    path = tmp_path / "journal.sqlite3"
    session = CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=path)
    caller = asyncio.create_task(session.expand(dog, WIDE))
    opening: asyncio.Task[object] | None = None
    while opening is None or not opening.done():
        await asyncio.sleep(0)
        opening = session._runs._opening or opening
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    async with CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=path):
        pass
    assert (await session.expand(dog, WIDE)).succeeded
    await session.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://user:canary@host/database",
        "POSTGRESQL://user:canary@host/database",
        "sqlite:///journal.sqlite3",
    ],
)
def test_a_url_is_not_the_path_of_a_journal(url: str) -> None:
    """Else each machine of a service had a file of its own, and paid for the same images."""
    with pytest.raises(InputError, match=r"journal= is a URL") as caught:
        CometSession(DEFAULT_KEY, journal=url)
    assert "canary" not in f"{caught.value} {caught.value.as_dict()}"


@pytest.mark.parametrize("cancelled", [True, False])
async def test_closing_that_fails_can_be_repeated(
    sandbox: Sandbox,
    clock: VirtualClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cancelled: bool,
) -> None:
    """A journal that fails leaves no connection open, and the second attempt frees its file."""

    async def fail(_: SqliteJournal) -> None:
        if cancelled:
            raise asyncio.CancelledError
        raise JournalError("the disk is gone")

    path = tmp_path / "journal.sqlite3"
    comet = CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=path)
    await comet.__aenter__()
    assert [task async for task in comet.list_tasks()] == []
    with monkeypatch.context() as patch:
        patch.setattr(SqliteJournal, "aclose", fail)
        with pytest.raises(asyncio.CancelledError if cancelled else JournalError):
            await comet.aclose()
    assert comet._api.transport.unclosed == cancelled
    await comet.aclose()
    assert not comet._api.transport.unclosed
    async with CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=path):
        pass


async def test_a_run_is_printed_in_a_word(tmp_path: Path) -> None:
    """Where it saves, and none of its machinery."""
    async with CometSession("sk-x12345678") as comet:
        assert repr(comet.expand_folder(tmp_path, "wide", "16:9")) == "<Run into wide>"
        assert repr(comet.expand_many([])) == "<Run>"


async def test_results_of_many_have_names_that_any_disk_takes(
    comet: CometSession, tmp_path: Path, photo: bytes
) -> None:
    """A long name in a script with several bytes a letter is shortened before anything is paid."""
    image = SourceImage.from_bytes(photo, name="犬" * 100)
    run = comet.expand_many([ExpandRequest(image=image, margins=WIDE)], out=tmp_path)
    (outcome,) = [outcome async for outcome in run]
    assert outcome.done
    assert outcome.files[0].name.startswith("00001-犬")


async def test_a_file_that_is_found_twice_has_two_results(
    comet: CometSession, photos: Path, tmp_path: Path
) -> None:
    """Folders may overlap; each run looks for the results of both, and restores one."""

    async def files() -> list[Path]:
        run = comet.expand_folder([photos, photos / "trip"], tmp_path / "out", WIDE)
        found = [outcome.files[0] async for outcome in run if outcome.source.endswith("sea.png")]
        return sorted(found)

    first = await files()
    assert len(set(first)) == 2
    assert await files() == first
    first[0].unlink()
    assert await files() == first
    assert first[0].is_file()


async def test_a_session_that_is_closed_while_it_opens_its_journal_lets_go_of_it(
    sandbox: Sandbox, clock: VirtualClock, dog: Path, tmp_path: Path
) -> None:
    """The call that opens it ends, and another session can have the file."""
    path = tmp_path / "jobs.sqlite3"
    comet = CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock, journal=path)
    call = asyncio.create_task(comet.submit(ExpandRequest(image=dog, margins=WIDE)))
    await asyncio.sleep(0)
    await comet.aclose()
    with pytest.raises(SessionClosedError):
        await call
    await (await SqliteJournal.open(path)).aclose()
