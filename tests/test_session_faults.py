"""Every fault of a paid request, against the sandbox's charge ledger.

Three things hold in every row: no image is charged twice (I1), each charge can be reached from
the journal (I2), and the key appears nowhere (I3). `docs/explanation/failures.md` lists the rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from comet_async import CometSession, Margins, Outcome
from comet_async._journal.records import JobRecord
from comet_async._journal.states import JobState
from comet_async.errors import JournalError
from comet_async.events import Event, Failed
from comet_async.journal import SqliteJournal
from comet_async.runs import JOURNAL_NAME
from comet_async.sandbox import Fault, Options, Sandbox
from comet_async.testing import VirtualClock

KEY = "sk-canary-5d1f0c2e9b7a4386"
MARGINS = Margins(left=0.25, right=0.25)


@attrs.frozen
class Row:
    """One row of the table: what goes wrong, and what must come out of it."""

    id: str
    faults: tuple[Fault, ...] = ()
    options: Options = attrs.field(factory=Options, kw_only=True)
    posts: int | None = attrs.field(default=None, kw_only=True)
    outcome: str = attrs.field(default="done", kw_only=True)


def rows(*cases: Row) -> pytest.MarkDecorator:
    """Return the parametrisation over *cases*; plain pytest runs one for each row of the table."""
    seen: set[str] = set()
    params = []
    for case in cases:
        number = case.id.partition("-")[0]
        marks = [pytest.mark.slow] if number in seen else []
        params.append(pytest.param(case, id=case.id, marks=marks))
        seen.add(number)
    return pytest.mark.parametrize("row", params)


async def run(
    row: Row, photos: Path, out: Path, clock: VirtualClock, **options: object
) -> tuple[dict[str, Outcome], Sandbox]:
    """Expand the folder through a sandbox in which the row's faults happen."""
    # A server that refuses used ids would hide a second purchase.
    options_ = attrs.evolve(row.options, unique_external_ids=False)
    async with Sandbox(clock=clock, seed=1, engine="stub", key=KEY, options=options_) as sandbox:
        for fault in row.faults:
            sandbox.faults.add(fault)
        async with CometSession(KEY, gateway=sandbox.url, clock=clock) as comet:
            run = comet.expand_folder(photos, out, MARGINS, **options)  # type: ignore[arg-type]  # its options, from a table
            outcomes = {Path(outcome.source).name: outcome async for outcome in run}
    return outcomes, sandbox


async def check_invariants(sandbox: Sandbox, out: Path) -> None:
    """Hold the ledger against the journal."""
    assert sandbox.ledger.charged_twice() == []
    journal = await SqliteJournal.open(out / JOURNAL_NAME)
    for charge in sandbox.ledger.charges:
        record = await journal.get(charge.external_task_id)
        assert record is not None
        assert record.state not in {JobState.PLANNED, JobState.REJECTED}
    await journal.aclose()
    for path in out.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()
        assert path.suffix != ".part"


SENT_ONCE = (
    Row("F07-drop", (Fault("drop_after_charge"),), posts=3),
    Row("F07-reset", (Fault("reset_after_charge"),), posts=3),
    Row("F08-hang", (Fault("hang_after_charge"),), posts=3),
    Row("F09-cut", (Fault("cut_reply", on="create"),), posts=3),
    Row("F09-truncated", (Fault("truncated", on="create"),), posts=3),
    Row("F10-garbage", (Fault("garbage_after_charge"),), posts=3),
    Row("F10-html", (Fault("html_after_charge", on="create"),), posts=3),
    Row("F10-empty", (Fault("empty_after_charge", on="create"),), posts=3),
    Row("F10-no-task-id", (Fault("no_task_id", on="create"),), posts=3),
    Row("F12-500", (Fault("500_after_charge"),), posts=3),
    Row("F12-502", (Fault("502_after_charge"),), posts=3),
    Row("F12-504", (Fault("504_after_charge"),), posts=3),
    Row("F12-520", (Fault("520_after_charge"),), posts=3),
    Row("F12-524", (Fault("524_after_charge"),), posts=3),
    Row("F18-307", (Fault("307_after_charge"),), posts=3),
    Row("F20-late", (Fault("late", seconds=0.5),), posts=3),
    Row("F20-later", (Fault("late", seconds=30),), posts=3),
)

SENT_AGAIN = (
    Row("F05-drop", (Fault("drop", on="accept"),)),
    Row("F05-reset", (Fault("reset", on="accept"),)),
    Row("F06-drop", (Fault("drop", on="create"),), posts=4),
    Row("F06-reset", (Fault("reset", on="create"),), posts=4),
    Row("F06-hang", (Fault("hang", on="create"),), posts=4),
    Row("F11-500", (Fault("500", on="create"),), posts=4),
    Row("F11-502", (Fault("502", on="create"),), posts=4),
    Row("F11-504", (Fault("504", on="create"),), posts=4),
    Row("F11-524", (Fault("524", on="create"),), posts=4),
    Row("F13-5001", (Fault("5001", on="create"),), posts=4),
    Row("F14-1303", (Fault("1303", on="create", times=20),), posts=23),
    Row("F14-1302", (Fault("1302", on="create", times=3),), posts=6),
    Row("F14-429", (Fault("429", on="create", times=3),), posts=6),
    Row("F18-308", (Fault("308", on="create"),), posts=4),
)


@pytest.mark.failure("F05", "F06", "F07", "F08", "F09", "F10", "F11", "F12", "F20")
@rows(*SENT_ONCE, *SENT_AGAIN)
async def test_every_image_is_paid_once_and_saved(
    row: Row, photos: Path, tmp_path: Path, clock: VirtualClock
) -> None:
    """Whatever happens to one request, all images come, and each is charged once."""
    out = tmp_path / "out"
    outcomes, sandbox = await run(row, photos, out, clock)
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    assert all(path.is_file() for outcome in outcomes.values() for path in outcome.files)
    assert len(sandbox.ledger.charges) == 3
    assert row.posts in {None, len(sandbox.ledger.posts)}
    await check_invariants(sandbox, out)


@pytest.mark.failure("F14")
@pytest.mark.parametrize("value", ["7", "Wed, 01 Jan 2031 00:00:00 GMT", "1e99", "-5", "soon"])
async def test_retry_after_of_any_kind_is_survived(
    value: str, photos: Path, tmp_path: Path, clock: VirtualClock
) -> None:
    """A Retry-After is honoured up to a minute; nonsense is not waited for."""
    row = Row("F14", (Fault("1303", on="create", times=2, retry_after=value),))
    begin = clock.time()
    outcomes, sandbox = await run(row, photos, tmp_path / "out", clock)
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    assert clock.time() - begin < 240
    assert sandbox.ledger.charged_twice() == []


ALONE = (
    Row("F07-alone", (Fault("drop_after_charge"),), posts=1),
    Row("F23-nothing-works", (Fault("drop_after_charge"),),
        options=Options(lookups="", list_tasks=False), posts=1, outcome="uncertain"),
    Row("F23-not-charged", (Fault("drop", on="create"),),
        options=Options(lookups="", list_tasks=False), posts=1, outcome="uncertain"),
    Row("F22-list-only", (Fault("drop_after_charge"),), options=Options(lookups=""), posts=1),
    Row("F26-other-task", (Fault("drop", on="create"), Fault("other_task", on="find", times=None)),
        options=Options(list_tasks=False), posts=1, outcome="uncertain"),
    Row("no-control", (Fault("drop", on="create"),), posts=1, outcome="uncertain"),
    Row("F21-not-found-yet", (Fault("drop_after_charge"),),
        options=Options(not_found_for=5), posts=1),
    Row("F25-lookup-fails", (Fault("drop_after_charge"), Fault("500", on="find", times=9)),
        posts=1),
)  # fmt: skip


@pytest.mark.failure("F21", "F22", "F23", "F25", "F26")
@rows(*ALONE)
async def test_an_image_alone_is_never_guessed_at(
    row: Row, photo: bytes, tmp_path: Path, clock: VirtualClock
) -> None:
    """With no task to try the lookups on, "not found" proves nothing: it is not sent again."""
    (tmp_path / "dog.png").write_bytes(photo)
    out = tmp_path / "out"
    outcomes, sandbox = await run(row, tmp_path / "dog.png", out, clock)
    assert [outcome.status for outcome in outcomes.values()] == [row.outcome]
    assert len(sandbox.ledger.posts) == row.posts
    await check_invariants(sandbox, out)


REFUSED = (
    Row("F16-1201", (Fault("1201", on="create"),), outcome="rejected", posts=3),
    Row("F16-1301", (Fault("1301", on="create"),), outcome="rejected", posts=3),
    Row("F52-failed", options=Options(task_seconds=(9, 9)), outcome="done", posts=3),
)


@pytest.mark.failure("F16")
@rows(*REFUSED)
async def test_one_refused_image_does_not_stop_the_others(
    row: Row, photos: Path, tmp_path: Path, clock: VirtualClock
) -> None:
    """A request that is refused for what it says is one outcome; the others are done."""
    outcomes, sandbox = await run(row, photos, tmp_path / "out", clock)
    statuses = sorted(outcome.status for outcome in outcomes.values())
    assert statuses == sorted([row.outcome, "done", "done"])
    assert len(sandbox.ledger.posts) == row.posts
    await check_invariants(sandbox, tmp_path / "out")


STOPPING = ("1100", "1101", "1102", "1103", "1304", "401", "402", "1002")


@pytest.mark.failure("F15", "F17")
@pytest.mark.parametrize("kind", STOPPING)
async def test_account_problems_stop_the_run_and_lose_nothing(
    kind: str, photos: Path, tmp_path: Path, clock: VirtualClock
) -> None:
    """At most one more request in flight; the rest stays planned, and the next run does it all."""
    out = tmp_path / "out"
    row = Row("F15", (Fault(kind, on="create", times=None),))
    outcomes, sandbox = await run(row, photos, out, clock, concurrency=1)
    assert "done" not in {outcome.status for outcome in outcomes.values()}
    assert len(sandbox.ledger.posts) == 1
    outcomes, sandbox = await run(Row("again"), photos, out, clock)
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    await check_invariants(sandbox, out)


@pytest.mark.failure("F28")
async def test_equal_images_are_paid_once_and_saved_twice(
    photo: bytes, tmp_path: Path, clock: VirtualClock
) -> None:
    """Two names of the same image are one purchase and two files."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.png"):
        (photos / name).write_bytes(photo)
    outcomes, sandbox = await run(Row("F28"), photos, tmp_path / "out", clock)
    files = [path for outcome in outcomes.values() for path in outcome.files]
    assert len(sandbox.ledger.charges) == 1
    assert len({path.name for path in files}) == 2
    assert len({path.read_bytes() for path in files}) == 1


@pytest.mark.failure("F47")
async def test_a_lost_journal_is_made_up_for_by_looking_first(
    photos: Path, tmp_path: Path, clock: VirtualClock
) -> None:
    """With ``verify_remote`` a folder whose journal was deleted is not bought again."""
    out = tmp_path / "out"
    async with Sandbox(clock=clock, seed=1, engine="stub", key=KEY) as sandbox:
        async with CometSession(KEY, gateway=sandbox.url, clock=clock) as comet:
            first = [outcome async for outcome in comet.expand_folder(photos, out, MARGINS)]
            for path in (out / JOURNAL_NAME).parent.iterdir():
                path.unlink()
            again = comet.expand_folder(photos, out, MARGINS)
            assert {outcome.status async for outcome in again} == {"invalid"}
            looked = comet.expand_folder(photos, out, MARGINS, verify_remote=True)
            assert {outcome.status async for outcome in looked} == {"done"}
    assert len(first) == len(sandbox.ledger.charges) == len(sandbox.ledger.posts) == 3


RESULTS = [
    Row(f"F56-{kind}", (Fault(kind, on="result", times=2),))
    for kind in ("404", "403", "410", "truncated", "wrong_magic", "html", "empty", "huge",
                 "cut_reply", "500", "drop", "hang", "gzip_bomb")
] + [Row("F56-gzip", (Fault("gzip", on="result", times=None),))]  # fmt: skip


@pytest.mark.failure("F56")
@rows(*RESULTS)
async def test_bad_results_are_fetched_again_and_never_saved(
    row: Row, photos: Path, tmp_path: Path, clock: VirtualClock
) -> None:
    """A result that does not come whole is fetched again, free, and no torn file is left."""
    out = tmp_path / "out"
    async with Sandbox(clock=clock, seed=1, engine="stub", key=KEY, options=row.options) as sandbox:
        for fault in row.faults:
            sandbox.faults.add(fault)
        async with CometSession(KEY, gateway=sandbox.url, clock=clock) as comet:
            for _ in range(2):
                outcomes = [outcome async for outcome in comet.expand_folder(photos, out, MARGINS)]
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert len(sandbox.ledger.charges) == 3
    assert all(path.read_bytes().startswith(b"\x89PNG") for o in outcomes for path in o.files)
    await check_invariants(sandbox, out)


async def test_a_purchase_that_cannot_be_recorded_is_said_twice(
    photos: Path,
    tmp_path: Path,
    clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At once, and when the last try has failed: the task's id must be seen, but not five times."""
    move = SqliteJournal.move

    async def full(*args: Any, **options: Any) -> JobRecord:
        if args[2] is JobState.SUBMITTED:
            raise JournalError("disk is full", retryable=True)
        return await move(*args, **options)

    monkeypatch.setattr(SqliteJournal, "move", full)
    async with (
        Sandbox(clock=clock, seed=1, engine="stub", key=KEY) as sandbox,
        CometSession(KEY, gateway=sandbox.url, clock=clock, journal=tmp_path / "jobs") as comet,
    ):
        with pytest.raises(JournalError) as caught:
            await comet.expand(next(photos.glob("*.png")), MARGINS)
        (charge,) = sandbox.ledger.charges
    about = f"task {caught.value.task_id} of {charge.external_task_id} is billed and could not be"
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"{about} recorded, trying again: disk is full",
        f"{about} recorded: disk is full",
    ]


@pytest.mark.parametrize(
    ("refused", "faults", "sent"),
    [
        (JobState.SENDING, (), False),
        (JobState.SUBMITTED, (), True),
        (JobState.UNKNOWN, (Fault("drop_after_charge"),), None),
    ],
)
async def test_what_cannot_be_recorded_is_not_called_unsent(
    refused: JobState,
    faults: tuple[Fault, ...],
    sent: bool | None,
    photo: bytes,
    tmp_path: Path,
    clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error and its event agree with the account book; only what never left was not sent."""
    disk_is_full = JournalError("disk is full", retryable=True)
    move = SqliteJournal.move

    async def full(*args: Any, **options: Any) -> JobRecord:
        if refused in {JobState.SENDING, *args[2:]}:
            raise disk_is_full
        return await move(*args, **options)

    if refused is JobState.SENDING:
        monkeypatch.setattr(SqliteJournal, "send", full)
    else:
        monkeypatch.setattr(SqliteJournal, "move", full)
    events: list[Event] = []
    async with Sandbox(clock=clock, seed=1, engine="stub", key=KEY) as sandbox:
        for fault in faults:
            sandbox.faults.add(fault)
        async with CometSession(
            KEY, gateway=sandbox.url, clock=clock, journal=tmp_path / "jobs", on_event=events.append
        ) as comet:
            with pytest.raises(JournalError) as caught:
                await comet.expand(photo, MARGINS)
            assert len(sandbox.ledger.charges) == int(sent is not False)
    assert caught.value.sent is sent
    assert [event.sent for event in events if isinstance(event, Failed)] == [sent]
