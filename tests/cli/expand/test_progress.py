"""What is shown of a run: numbers that never go backwards, lines that say something new."""

from __future__ import annotations

import json
from decimal import Decimal

import attrs
import pytest

from comet_async._journal.records import JobRecord
from comet_async._journal.states import JobState
from comet_async.cli.console import Screen
from comet_async.cli.expand.progress import RunProgress
from comet_async.cli.expand.totals import RunTotals, billed
from comet_async.errors import (
    AuthenticationError,
    InputError,
    OutcomeUnknownError,
    RejectedError,
    RunStoppedError,
    WaitTimeoutError,
)
from comet_async.outcomes import Outcome, OutcomeStatus

START = 1_000.0


class Ticks:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def totals(clock: Ticks | None = None, total: int | None = None) -> RunTotals:
    """Return the numbers of a run that begins now."""
    return RunTotals(
        price=Decimal("0.028"), run="this", since=START, clock=clock or Ticks(), total=total
    )


def job(name: str, state: JobState = JobState.DONE, **more: object) -> JobRecord:
    """Return a job that this run sent and paid."""
    facts = JobRecord(
        key=f"ce1-{name}",
        kind="expand",
        account="account",
        state=state,
        run="this",
        sent_at=START + 1,
        params={},
        n=1,
        source=f"{name}.png",
        image_sha=name,
        created_at=START,
        updated_at=START + 5,
    )
    return attrs.evolve(facts, **more)


def done(name: str) -> Outcome:
    """Return the outcome of an image that is done."""
    return Outcome(source=name, status=OutcomeStatus.DONE, external_task_id=f"ce1-{name}")


def invalid(name: str, hint: str = "the content decides") -> Outcome:
    """Return the outcome of a file that is not an image."""
    error = InputError(f"image: {name} is text, no image", hint=hint)
    return Outcome(source=name, status=OutcomeStatus.INVALID, error=error)


@pytest.mark.parametrize(
    ("state", "accepted"),
    [
        (JobState.PLANNED, 0),
        (JobState.UNKNOWN, 0),
        (JobState.SUBMITTED, 1),
        # Its file was written while the run stopped.
        (JobState.DONE, 1),
    ],
)
def test_pending_jobs_that_the_server_accepted(state: JobState, accepted: int) -> None:
    """However far an interrupted job came: the next run does not pay for it again."""
    error = RunStoppedError("interrupted")
    pending = attrs.evolve(done("a"), status=OutcomeStatus.PENDING, error=error)
    shown = totals()
    shown.add(pending, job("a", state))
    assert shown.accepted == accepted


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (None, False),
        (job("a"), True),
        (job("a", JobState.FAILED), False),
        (job("a", JobState.UNCERTAIN), None),
        (job("a", JobState.SENDING), None),
        (job("a", JobState.PLANNED, run=None), False),
        (job("a", sent_at=START - 1), True),
        (job("a", run="earlier"), False),
        (job("a", run=None), False),
        (job("a", sent_at=None, run=None), False),
    ],
    ids=[
        "copied",
        "accepted",
        "failed",
        "uncertain",
        "being sent",
        "not sent",
        "by a clock that was set back",
        "by an earlier run",
        "known to the server",
        "found before it was sent",
    ],
)
def test_what_this_run_bought(record: JobRecord | None, expected: bool | None) -> None:
    """Only what the server newly accepted in this run is bought by it."""
    assert billed(record, "this") is expected


def test_the_cost_in_the_bar_never_falls() -> None:
    """It counts what the server has made: a task that it works on may still fail, unbilled."""
    counts = totals(total=2)
    counts.look([job("a", JobState.SUBMITTED), job("b", JobState.SUBMITTED)])
    assert (counts.bought, counts.cost_so_far) == (2, 0)
    counts.look([job("a", JobState.SUCCEEDED), job("b", JobState.FAILED)])
    assert (counts.bought, counts.failed, counts.cost_so_far) == (1, 1, Decimal("0.028"))
    counts.look([job("a")])
    assert (counts.bought, counts.failed, counts.cost_so_far) == (1, 1, Decimal("0.028"))


def test_the_cost_never_falls_and_never_exceeds_the_order() -> None:
    """Neither the end of an image nor an equal one changes what was counted."""
    counts = totals(total=3)
    costs = []
    for look in (
        [job("a", JobState.SENDING)],
        [job("a", JobState.SUBMITTED), job("b", JobState.SUBMITTED, run="earlier")],
        [job("c", JobState.UNKNOWN)],
        [job("c", JobState.SUBMITTED)],
        [],
    ):
        counts.look(look)
        costs.append(counts.cost)
    for name in ("a", "b", "c"):
        counts.add(done(name), job(name, run="earlier" if name == "b" else "this"))
        costs.append(counts.cost)
    assert costs == sorted(costs)
    assert costs[-1] == Decimal("0.056")


def test_an_equal_image_is_counted_once() -> None:
    """Two names of one image are one purchase, and the second name is said to be equal."""
    counts = totals()
    assert counts.add(done("a"), job("a")) is None
    copy = attrs.evolve(done("a"), source="copy")
    assert counts.add(copy, job("a")) == "a"
    assert (counts.bought, counts.equal) == (1, 1)


def test_what_is_left_goes_by_what_this_run_waited_for() -> None:
    """A hundred images of earlier runs, done in the first second, do not make it look fast."""
    clock = Ticks()
    counts = totals(clock, total=115)
    for number in range(100):
        counts.add(
            attrs.evolve(done(f"old{number}"), already_there=True),
            job(f"old{number}", run="earlier", sent_at=START - 60, updated_at=START - 1),
        )
    refused = Outcome(source="bad", status=OutcomeStatus.REJECTED, error=RejectedError("no"))
    for number in range(5):  # neither do those that the server refuses at once
        counts.add(refused, job(f"bad{number}", state=JobState.REJECTED))
    assert counts.left is None
    for number in range(5):
        clock.now += 2
        counts.add(done(f"new{number}"), job(f"new{number}"))
    assert counts.left == 10
    assert counts.earlier == 100


def test_a_resumed_image_is_not_bought_again() -> None:
    """What an earlier run bought is done now, and its cost is not this run's."""
    counts = totals()
    counts.add(done("a"), job("a", run="earlier", sent_at=START - 60))
    assert (counts.bought, counts.earlier, counts.attached) == (0, 0, 0)


def test_an_image_that_the_server_knew_is_said_to_be() -> None:
    """A request that another folder had paid for costs this run nothing."""
    counts = totals()
    counts.add(done("a"), job("a", run=None))
    assert (counts.bought, counts.attached) == (0, 1)


def test_plain_progress_speaks_every_ten_seconds(capfd: pytest.CaptureFixture[str]) -> None:
    """Where no bar can be drawn, a line about the whole comes when nothing else did."""
    clock = Ticks()
    counts = totals(clock)
    counts.look([job("a", JobState.SENDING), job("b", JobState.SUBMITTED)])
    with RunProgress(Screen(), counts) as progress:
        progress.refresh()
        clock.now = 11
        progress.refresh()
        progress.refresh()
    assert capfd.readouterr().err == ("… 0 of … · 1 uploading · 1 waiting · 2/16 slots · 11 s\n")


def test_what_is_sent_again_is_counted() -> None:
    """From the refusal until the request is accepted, or its image has ended."""
    counts = totals(total=3)
    for name in ("a", "b", "c"):
        counts.resend(f"ce1-{name}")
    counts.look([job("a", JobState.SENDING)])
    assert (counts.retrying, counts.uploading, counts.retries) == (2, 1, 3)
    counts.look([job("a", JobState.SUBMITTED)])
    counts.add(done("b"), job("b"))
    counts.look([])
    assert counts.retrying == 1
    facts = RunProgress(Screen(), counts).facts(width=None)
    assert "1 retrying" in facts


def test_a_server_that_is_gone_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    """Once, when some polls have failed in a row; and again after it had come back."""
    counts = totals(total=2)
    with RunProgress(Screen(), counts) as progress:
        for failures in (1, 2, 3):
            progress.poll_failed("NotSentError", failures)
        assert not capfd.readouterr().err
        progress.poll_failed("NotSentError", 4)
        progress.poll_failed("ConnectionLostError", 5)
        text = "warning: the server can't be reached; still trying, and what was sent is recorded\n"
        assert capfd.readouterr().err == text
        progress.ended(done("a"))
        progress.poll_failed("NotSentError", 4)
        assert capfd.readouterr().err.endswith(text)
    assert counts.retries == 6


def test_what_has_ended_is_not_waited_for() -> None:
    """Between two looks at the journal, the figures still fit each other."""
    counts = totals(total=3)
    counts.look(
        [job("a", JobState.SUBMITTED), job("b", JobState.SAVING), job("c", JobState.SENDING)]
    )
    assert (counts.waiting, counts.saving, counts.uploading) == (1, 1, 1)
    counts.add(done("a"), job("a"))
    counts.add(done("b"), job("b"))
    assert (counts.count, counts.waiting, counts.saving, counts.uploading) == (2, 0, 0, 1)


def test_what_does_not_fit_is_left_out() -> None:
    """In a narrow window how many, for how long and what it costs remain."""
    counts = totals(total=24)
    counts.look([job("a", JobState.SENDING), job("b", JobState.SUBMITTED), job("c")])
    counts.retries = 3
    progress = RunProgress(Screen(), counts)
    assert progress.facts(width=40) == "0 of 24 · about $0.028 · 0 s"
    assert progress.facts(width=10) == "0 of 24"


def test_equal_problems_are_written_once(capfd: pytest.CaptureFixture[str]) -> None:
    """A thousand images with one defect do not fill the screen; the end counts them."""
    counts = totals()
    with RunProgress(Screen(), counts) as progress:
        for name in ("a.png", "b.png", "c.png"):
            progress.ended(invalid(name))
    err = capfd.readouterr().err
    assert err == "invalid   a.png: is text, no image\n          the content decides\n"
    assert [len(sources) for sources in counts.unfinished.values()] == [3]


def test_ids_do_not_tell_reasons_apart(capfd: pytest.CaptureFixture[str]) -> None:
    """Two answers that were lost are one problem, and so are two waits that were too short."""
    counts = totals()
    with RunProgress(Screen(), counts) as progress:
        for name in ("a", "b"):
            key = f"ce1-{name}"
            lost = OutcomeUnknownError(f"{key} may be billed", hint=f"look {key} up later")
            late = WaitTimeoutError(f"task {name} is processing after 0.9{name} s", task_id=name)
            for error, status in ((lost, "uncertain"), (late, "pending")):
                outcome = Outcome(
                    source=name,
                    status=OutcomeStatus(status),
                    external_task_id=key,
                    error=error,
                )
                progress.ended(outcome)
    assert [(why.reason, why.hint) for why in counts.unfinished] == [
        ("may be billed", "look it up later"),
        ("it timed out, but was accepted and billed", None),
    ]
    capfd.readouterr()


def test_what_a_stop_leaves_is_not_listed(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither an interruption nor a refused key is written once for each image."""
    counts = totals()
    stopped = RunStoppedError("interrupted")
    refused = AuthenticationError("the key was refused")
    with RunProgress(Screen(), counts) as progress:
        progress.ended(Outcome(source="a", status=OutcomeStatus.PENDING, error=stopped))
        progress.ended(Outcome(source="b", status=OutcomeStatus.REJECTED, error=refused))
    assert capfd.readouterr().err == ""
    assert [why.status for why in counts.unfinished] == ["pending", "not sent"]


def test_images_of_earlier_runs_are_a_number(capfd: pytest.CaptureFixture[str]) -> None:
    """They are listed with -v only."""
    with RunProgress(Screen(), totals()) as progress:
        progress.ended(done("a.png"), earlier=True)
    assert capfd.readouterr().err == ""
    with RunProgress(Screen(verbose=True), totals()) as progress:
        progress.ended(done("a.png"), earlier=True)
    assert capfd.readouterr().err == "earlier   a.png\n"


def test_quiet_shows_problems_only(capfd: pytest.CaptureFixture[str]) -> None:
    """With --quiet a cron job writes nothing as long as all is well."""
    with RunProgress(Screen(quiet=True), totals()) as progress:
        progress.ended(done("a.png"))
        assert capfd.readouterr().err == ""
        progress.ended(invalid("b.png"))
    assert "b.png" in capfd.readouterr().err


def test_events_for_programs(capfd: pytest.CaptureFixture[str]) -> None:
    """With --json-progress each message and each look is one JSON object."""
    screen = Screen(events=True)
    with RunProgress(screen, totals(total=2)) as progress:
        progress.ended(done("a.png"))
        screen.event("progress", progress.event())
    message, look = map(json.loads, capfd.readouterr().err.splitlines())
    assert message == {"event": "message", "text": "done      a.png"}
    assert (look["event"], look["total"], look["billed_images"]) == ("progress", 2, 0)


@pytest.mark.parametrize("width", [50, 80, 100])
def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """On a terminal a bar lives below the lines, on one line, and is gone at the end."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    counts = totals(Ticks(), total=2)
    screen = Screen()
    assert screen.live
    with screen.console.capture() as captured, RunProgress(screen, counts) as progress:
        counts.add(done("a.png"), None)
        progress.ended(done("a.png"))
    assert "1 of 2" in captured.get()


def test_a_data_uri_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    """Its text is the whole image."""
    with RunProgress(Screen(), totals()) as progress:
        progress.ended(done("data:image/png;base64,AAAA"))
    assert capfd.readouterr().err == "done      data URI\n"
