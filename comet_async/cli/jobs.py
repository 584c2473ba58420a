"""``comet-async jobs``: what the journal of a folder knows, and the decisions only you can make."""

# ruff: noqa: PLC0415 - imported when the command runs: `--help` must be there at once

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import attrs
from cyclopts import Group, Parameter

from comet_async._journal.states import MEANINGS, JobState, check_move
from comet_async.cli import journal_files
from comet_async.cli.console import DONE, Screen, counted
from comet_async.cli.runtime import CURRENT
from comet_async.clock import SYSTEM_CLOCK
from comet_async.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from comet_async._journal.records import Changes, Destination, JobRecord, Journal


Action = Literal["attach", "resubmit", "abandon"]

_SHOW = Group("What to show", sort_key=1)
_DECIDE = Group("Decisions", sort_key=2)
_QUIET = frozenset({JobState.DONE})  # shown as a number only, unless asked for


@Parameter(name="*", group=_SHOW)
@attrs.frozen(kw_only=True)
class Choice:
    """What to show."""

    uncertain: Annotated[bool, Parameter(help="Only jobs that wait for your decision.")] = False
    all: Annotated[bool, Parameter(help="Also the jobs that are done.")] = False
    events: Annotated[
        str | None, Parameter(help="What happened to the job of this key, step by step.")
    ] = None
    json: Annotated[bool, Parameter(help="One JSON object a line for each job.")] = False


_ALL_OPEN = Choice()


async def jobs(
    folder: Annotated[Path, Parameter(help="The folder that --out named.")],
    action: Annotated[Action | None, Parameter(help="What to do with one job.")] = None,
    key: Annotated[str | None, Parameter(help="The job's key, as `jobs` shows it.")] = None,
    task_id: Annotated[str | None, Parameter(help="For attach: the provider's task id.")] = None,
    /,
    *,
    choice: Choice = _ALL_OPEN,
    i_accept_double_charge: Annotated[
        bool, Parameter(group=_DECIDE, help="For resubmit: you know that it may be paid already.")
    ] = False,
) -> int:
    """Show the jobs of a folder, or decide about one."""
    screen = CURRENT.get().screen
    screen.json = choice.json
    path = journal_files.path_of(folder)
    if action is not None:
        decision = _decision(action, key, task_id, accepted=i_accept_double_charge)
        return await _decide(path, decision, screen)
    async with journal_files.reading(path) as (journal, busy):
        if busy:
            screen.say("a run is using this journal: this is how it stood a moment ago")
        if choice.events is not None:
            return await _show_events(journal, choice.events, screen)
        return await _show_jobs(journal, choice, screen)


# ---------------------------------------------------------------------------- showing


async def _show_jobs(journal: Journal, choice: Choice, screen: Screen) -> int:
    rows = []
    async for record in journal_files.all_jobs(journal):
        if choice.uncertain and record.state is not JobState.UNCERTAIN:
            continue
        if screen.json:
            screen.emit(_as_record(record, await journal.destinations(record.key), screen))
        elif choice.all or choice.uncertain or record.state not in _QUIET:
            rows.append(_row(record))
    if not screen.json:
        _show_rows(rows, await journal.counts(), screen, asked=choice.uncertain)
    return DONE


def _show_rows(
    rows: Sequence[tuple[str, ...]],
    counts: Mapping[JobState, int],
    screen: Screen,
    *,
    asked: bool,
) -> None:
    """Write the table and the counts; *asked* says that uncertain jobs were asked for."""
    if rows:
        titles = ("state", "source", "key", "task", "since", "what is known")
        screen.table(titles, rows, long=("source", "what is known"))
    for state in JobState:
        if counts.get(state):
            screen.say(f"{counted(counts[state], 'job')} {state}: {MEANINGS[state]}")
    if not counts:
        screen.say("the journal is empty")
    elif asked and not counts.get(JobState.UNCERTAIN):
        screen.say("no job is uncertain: nothing to decide")
    if counts.get(JobState.UNCERTAIN):
        screen.say("comet-async jobs --help says what you can decide about uncertain jobs")


def _row(record: JobRecord) -> tuple[str, ...]:
    return (
        str(record.state),
        record.source,
        record.key,
        record.task_id or "-",
        _moment(record.updated_at)[:-4] + "Z",
        record.message or record.note or "-",
    )


def _as_record(
    record: JobRecord, destinations: tuple[Destination, ...], screen: Screen
) -> dict[str, object]:
    return {
        "key": record.key,
        "state": str(record.state),
        "source": screen.clean(record.source) if "://" in record.source else record.source,
        "task_id": record.task_id,
        "n": record.n,
        "files": [file.name for place in destinations for file in place.files if file.kept],
        "message": screen.clean(record.message),
        "units": record.units,
        "sent_at": None if record.sent_at is None else _moment(record.sent_at),
        "updated_at": _moment(record.updated_at),
    }


async def _show_events(journal: Journal, key: str, screen: Screen) -> int:
    await _job(journal, key)
    events = await journal.events(key)
    if screen.json:
        for event in events:
            why = screen.clean(event.why)
            screen.emit({"at": _moment(event.at), "old": event.old, "new": event.new, "why": why})
        return DONE
    rows = [(_moment(event.at), event.old or "-", event.new, event.why) for event in events]
    screen.table(("when", "from", "to", "why"), rows, long=("why",))
    return DONE


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"


# ---------------------------------------------------------------------------- deciding


@attrs.frozen(kw_only=True)
class _Decision:
    """What was decided about one job.

    Attributes:
        key: The job.
        state: The state it is to enter.
        task_id: The provider's task, for attach.
        why: The reason, for the journal.
        done: What to say then.
    """

    key: str
    state: JobState
    task_id: str | None = None
    why: str
    done: str


def _decision(action: Action, key: str | None, task_id: str | None, *, accepted: bool) -> _Decision:
    """Return what the words of the command mean.

    Raises:
        InputError: A word is missing, or one too many.
    """
    if key is None:
        raise _wrong(f"{action} which job?", f"comet-async jobs DIR {action} KEY")
    if (task_id is None) is (action == "attach"):
        hint = "comet-async jobs DIR attach KEY TASK_ID; the others take no task id"
        raise _wrong(f"{action} needs {'a' if task_id is None else 'no'} task id", hint)
    if action == "attach":
        done = "the task is attached: the next run waits for it and saves its images, free"
        why = "you named the task"
        return _Decision(key=key, state=JobState.SUBMITTED, task_id=task_id, why=why, done=done)
    if action == "abandon":
        done = "the job is given up: no run looks for it or sends it any more"
        return _Decision(key=key, state=JobState.ABANDONED, why="you gave it up", done=done)
    if not accepted:
        raise _wrong(
            f"{key} may be paid already: sending it again may pay for it twice",
            "if that is what you want, add --i-accept-double-charge",
        )
    done = "the job will be sent again by the next run; if the first one was taken, both are paid"
    why = "you asked to send it again, at the risk of paying twice"
    return _Decision(key=key, state=JobState.PLANNED, why=why, done=done)


async def _decide(path: Path, decision: _Decision, screen: Screen) -> int:
    from comet_async.journal import SqliteJournal

    async with await SqliteJournal.open(path, verify_remote=True) as journal:  # sends nothing
        record = await _job(journal, decision.key)
        _check_state(record, decision)
        changes: Changes = {}
        if decision.task_id is not None:
            owner = await journal.by_task(decision.task_id)
            if owner is not None and owner.key != record.key:
                msg = f"task {decision.task_id} belongs to the job {owner.key}"
                raise _wrong(msg, "look at its time and image in the provider's console")
            await _check_task(decision.task_id, record, screen)
            changes = {"task_id": decision.task_id}
        now = SYSTEM_CLOCK.time()
        await journal.move(record, decision.state, now=now, why=decision.why, **changes)
    screen.say(f"{record.source}: {decision.done}")
    return DONE


async def _check_task(task_id: str, record: JobRecord, screen: Screen) -> None:
    """Ask the server for the task, free of charge: a slip would lose the real one.

    Raises:
        InputError: There is no such task, or it is another job's.
        CometError: The server can't be asked.
    """
    from comet_async.cli.endpoint import find_endpoint
    from comet_async.session import CometSession

    endpoint = find_endpoint(None)
    screen.hide(endpoint.credentials.secrets)
    try:
        async with CometSession(endpoint.credentials, gateway=endpoint.gateway) as comet:
            task = await comet.get(task_id, kind=record.kind)
    except NotFoundError:
        task = None
    if task is None:
        raise _wrong(f"the server knows no task {task_id}", "nothing was changed: check the id")
    if task.external_task_id not in {None, record.key}:
        msg = f"task {task_id} belongs to another request ({task.external_task_id})"
        raise _wrong(msg, "nothing was changed: look for the task that carries the job's key")


def _check_state(record: JobRecord, decision: _Decision) -> None:
    """Refuse a decision about a job that needs none.

    Raises:
        InputError: The job is in another state.
    """
    if record.state is JobState.UNCERTAIN:
        check_move(record.state, decision.state)
        return
    hint = MEANINGS[record.state]
    if record.state is JobState.UNKNOWN:
        hint = "run the command that made it again first: it looks the job up, free of charge"
    raise _wrong(f"{record.key} is {record.state}, not uncertain: nothing to decide", hint)


async def _job(journal: Journal, key: str) -> JobRecord:
    record = await journal.get(key)
    if record is None:
        raise _wrong(f"the journal has no job {key}", "comet-async jobs DIR --all shows the keys")
    return record


def _wrong(message: str, hint: str) -> InputError:
    return InputError(message, field="jobs", hint=hint)
