"""``comet-async jobs``: what a journal knows, and the decisions only you can make.

A row is a job, or a source that has none: one that was invalid, or that needed no job.
"""

# ruff: noqa: PLC0415 - imported when the command runs: `--help` must be there at once

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import attrs
from cyclopts import Group, Parameter

from comet_async._journal.keys import next_attempt
from comet_async._journal.states import MEANINGS, WITHOUT_RESULT, JobState, check_move
from comet_async.cli import journal_files
from comet_async.cli.console import DONE, Screen, counted
from comet_async.cli.hints import in_options
from comet_async.cli.options import PROXY, USUAL, General, Named
from comet_async.cli.runtime import CURRENT
from comet_async.clock import SYSTEM_CLOCK
from comet_async.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from comet_async._journal.records import (
        Changes,
        Destination,
        JobRecord,
        Journal,
        SourceOutcome,
    )


Action = Literal["attach", "resubmit", "abandon"]

_SHOW = Group("What to show", sort_key=1)
_DECIDE = Group("Decisions", sort_key=2)
_QUIET = frozenset({JobState.DONE})  # shown as a number only, unless asked for
_FINISHED = "done"  # the outcome
_WITHOUT_JOB = {
    "copied": "already had this shape",
    "done": "finished by an earlier run",
    "equal": "same image as another source, billed once",
    "failed": "no result",
    "invalid": "can't be used as given; nothing was sent",
    "pending": "not sent by the last run; the next one continues here",
    "rejected": "not accepted; nothing was billed",
    "uncertain": "perhaps billed",
}
_MEANINGS = {
    # The command holds the journal, so no run is working on them.
    JobState.UNKNOWN: "The answer to the request was lost; the next run looks it up.",
    JobState.SENDING: "The request may have been sent; the next run looks it up.",
}


@Parameter(name="*", group=_SHOW)
@attrs.frozen(kw_only=True)
class Choice:
    """What to show."""

    uncertain: Annotated[bool, Parameter(help="Show only jobs that need your decision.")] = False
    all: Annotated[bool, Parameter(help="Show what is finished, too.")] = False
    events: Annotated[
        str | None,
        Parameter(metavar="KEY", help="Show what happened to one job, step by step."),
    ] = None
    json: Annotated[
        bool, Parameter(help="Print one JSON object per line, one for each job or source.")
    ] = False


_ALL_OPEN = Choice()


async def jobs(  # noqa: PLR0913 - the arguments and options, as --help shows them
    folder: Annotated[
        Named,
        Parameter(
            name="DIR|FILE|URL",
            help="The folder that was given as --out; or the journal itself, a file or a database.",
        ),
    ],
    action: Annotated[Action | None, Parameter(help="What to do with one job.")] = None,
    key: Annotated[str | None, Parameter(help="The job's key, as `jobs` shows it.")] = None,
    task_id: Annotated[str | None, Parameter(help="For attach: the provider's task id.")] = None,
    /,
    *,
    choice: Choice = _ALL_OPEN,
    i_accept_double_charge: Annotated[
        bool, Parameter(group=_DECIDE, help="For resubmit: you know that it may be billed already.")
    ] = False,
    proxy: Annotated[str | None, PROXY] = None,
    general: General = USUAL,  # noqa: ARG001 - read by the program before the command runs
) -> int:
    """Show the jobs of a folder, or decide about one."""
    screen = CURRENT.get().screen
    screen.json = choice.json
    where = str(folder)
    path = journal_files.place_of(where)
    if action is not None:
        _check_words(action, key, task_id)
        words = _Words(action, key or "", task_id, accepted=i_accept_double_charge, proxy=proxy)
        return await _decide(path, words, screen)
    async with journal_files.reading(path) as (journal, busy):
        if busy:
            screen.say("a run is using this journal; this was its content a moment ago")
        if choice.events is not None:
            return await _show_events(journal, choice.events, screen)
        return await _show_jobs(journal, where, choice, screen)


# ---------------------------------------------------------------------------- showing


async def _show_jobs(journal: Journal, folder: str, choice: Choice, screen: Screen) -> int:
    others = _Others(choice, screen)
    ended = await others.ends(journal) if screen.json else {}
    rows, again = [], Counter[JobState]()
    async for record in journal_files.all_jobs(journal, _states(choice, screen)):
        who = others.sources[record.key] = identity_of(record.source)
        if screen.json:
            places = await journal.destinations(record.key)
            screen.emit(_as_record(record, ended.get((record.key, who)), places, screen))
            continue
        repeated = await _repeated(journal, record)
        if repeated:
            again[record.state] += 1
        if choice.all or not repeated:
            rows.append(_row(record))
    if not choice.uncertain:
        await others.show(journal)
    if screen.json:
        return DONE
    rows += others.rows
    _show_rows(rows, screen)
    _show_counts(await journal.counts(), again, others.counts, choice, screen)
    for line in _choices(folder, [row[2] for row in rows], wanted=choice.uncertain):
        screen.say(line)
    return DONE


async def _repeated(journal: Journal, record: JobRecord) -> bool:
    """Return True if another job was made of *record* after it had failed."""
    if record.state not in WITHOUT_RESULT:
        return False
    return await journal.get(next_attempt(record.key)) is not None


def identity_of(source: str) -> int:
    """Return a number that identifies a source, however it is named: there may be a million."""
    from comet_async._tools.report.entries import identity

    return hash(identity(source))


@attrs.define(eq=False)
class _Others:
    """Sources that have no job of their own: there is none, or an equal image has it.

    Attributes:
        choice: What to show.
        screen: Where.
        sources: The source of each job that was shown, by the job's key.
        counts: How many there are, by `_word`.
        rows: Those of the table.
    """

    choice: Choice
    screen: Screen
    sources: dict[str, int] = attrs.field(factory=dict, init=False)
    counts: Counter[str] = attrs.field(factory=Counter, init=False)
    rows: list[tuple[str, ...]] = attrs.field(factory=list, init=False)

    async def ends(self, journal: Journal) -> dict[tuple[str, int], str]:
        """Return the last outcome by job and source."""
        from comet_async._tools.report.entries import all_outcomes

        return {
            (outcome.key, identity_of(outcome.source)): sys.intern(outcome.outcome)
            async for outcome in all_outcomes(journal)
            if outcome.key is not None
        }

    async def show(self, journal: Journal) -> None:
        """Go through all outcomes, of which few are shown and none is kept."""
        from comet_async._tools.report.entries import all_outcomes

        async for outcome in all_outcomes(journal):
            if outcome.key is not None and (
                self.sources.get(outcome.key) in {None, identity_of(outcome.source)}
            ):
                continue
            self.counts[_word(outcome)] += 1
            if self.screen.json:
                self.screen.emit(_source_as_record(outcome, self.screen))
            elif self.choice.all or outcome.outcome != _FINISHED:
                self.rows.append(_source_row(outcome))


def _states(choice: Choice, screen: Screen) -> Collection[JobState] | None:
    """Return the states of the jobs to show; None for all. A journal may hold a million."""
    if choice.uncertain:
        return {JobState.UNCERTAIN}
    return None if choice.all or screen.json else frozenset(JobState) - _QUIET


def _show_rows(rows: Sequence[tuple[str, ...]], screen: Screen) -> None:
    if rows:
        titles = ("state", "source", "key", "task", "since", "what is known")
        screen.table(titles, rows, long=("source", "what is known"))


def _show_counts(
    counts: Mapping[JobState, int],
    again: Mapping[JobState, int],
    others: Mapping[str, int],
    choice: Choice,
    screen: Screen,
) -> None:
    """Write how many jobs are in each state.

    Args:
        counts: How many jobs are in each state.
        again: How many of them were followed by another job for the same image.
        others: How many sources have no job of their own, by `_word`.
        choice: What was asked for.
        screen: Where to write.
    """
    where = "" if choice.all else " (see --all)"
    for state in JobState:
        repeated = again.get(state, 0)
        if many := counts.get(state, 0) - repeated:
            meaning = _MEANINGS.get(state, MEANINGS[state])
            meaning = meaning[:1].lower() + meaning[1:].rstrip(".")
            screen.say(f"{counted(many, 'job')} {state}: {meaning}")
        if repeated:
            screen.say(f"{counted(repeated, 'job')} {state} and tried again since{where}")
    for word, many in sorted(others.items()):
        screen.say(f"{counted(many, 'image')} {word}: {_WITHOUT_JOB[word]}")
    if not counts and not others:
        screen.say("the journal is empty")
    elif choice.uncertain and not counts.get(JobState.UNCERTAIN):
        screen.say("no job is uncertain: nothing to decide")


def _choices(folder: str, keys: Sequence[str], *, wanted: bool) -> list[str]:
    """Return the commands that decide about an uncertain job, with a real key in them."""
    if not wanted or not keys:
        return []
    of = shlex.join(["comet-async", "jobs", folder])
    which = "for each of them, one of" if len(keys) > 1 else "one of"
    return [
        f"to decide, {which}:",
        f"  {of} attach {keys[0]} TASK_ID",
        "      you found its task in the provider's console",
        f"  {of} resubmit {keys[0]} --i-accept-double-charge",
        "      send it again; it may be billed twice",
        f"  {of} abandon {keys[0]}",
        "      give it up",
    ]


def _row(record: JobRecord) -> tuple[str, ...]:
    return (
        str(record.state),
        record.source,
        record.key,
        record.task_id or "-",
        _moment(record.updated_at)[:-4] + "Z",
        _known(record),
    )


def _word(outcome: SourceOutcome) -> str:
    """Return the state of a source that has no job of its own."""
    if outcome.key is not None:
        return "equal"
    return "copied" if outcome.copied else outcome.outcome


def _source_row(outcome: SourceOutcome) -> tuple[str, ...]:
    from comet_async._images.rules import without_source

    known = in_options(without_source(outcome.reason, outcome.source))
    if outcome.key is not None:
        known = known or "same image as another source"
    when = _moment(outcome.at)[:-4] + "Z"
    return _word(outcome), outcome.source, outcome.key or "-", "-", when, known or "-"


def _known(record: JobRecord) -> str:
    if record.state is JobState.SUBMITTED and record.message:
        return "its task was found after the answer was lost"
    return record.message or record.note or "-"


def _as_record(
    record: JobRecord,
    ended: str | None,
    destinations: tuple[Destination, ...],
    screen: Screen,
) -> dict[str, object]:
    return {
        "key": record.key,
        "state": str(record.state),
        "outcome": ended,
        "source": screen.clean(record.source) if "://" in record.source else record.source,
        "task_id": record.task_id,
        "n": record.n,
        "files": [file.name for place in destinations for file in place.files if file.kept],
        "message": screen.clean(record.message),
        "units": record.units,
        "sent_at": None if record.sent_at is None else _moment(record.sent_at),
        "updated_at": _moment(record.updated_at),
    }


def _source_as_record(outcome: SourceOutcome, screen: Screen) -> dict[str, object]:
    """Return a source without a job of its own as a JSON line shows it."""
    source = outcome.source
    return {
        "key": outcome.key,
        "state": None,
        "outcome": outcome.outcome,
        "source": screen.clean(source) if "://" in source else source,
        "task_id": None,
        "n": None,
        "files": list(outcome.files),
        "message": screen.clean(outcome.reason),
        "units": None,
        "sent_at": None,
        "updated_at": _moment(outcome.at),
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


@attrs.frozen
class _Words:
    """A decision as it was typed."""

    action: Action
    key: str
    task_id: str | None
    accepted: bool = attrs.field(kw_only=True)
    proxy: str | None = attrs.field(kw_only=True, repr=False)


@attrs.frozen(kw_only=True)
class _Decision:
    """What a decision does to a job.

    Attributes:
        state: The state it enters.
        why: The reason, for the journal.
        done: What to say then.
    """

    state: JobState
    why: str
    done: str


_DECISIONS = {
    "attach": _Decision(
        state=JobState.SUBMITTED,
        why="you named the task",
        done="the task is attached: the next run waits for it and saves its images, free",
    ),
    "abandon": _Decision(
        state=JobState.ABANDONED,
        why="you gave it up",
        done="the job is given up: no run looks for it or sends it any more",
    ),
    "resubmit": _Decision(
        state=JobState.PLANNED,
        why="you asked to send it again, at the risk of paying twice",
        done="the next run sends the job again; if the first one was accepted, both are billed",
    ),
}


def _check_words(action: Action, key: str | None, task_id: str | None) -> None:
    """Refuse a decision with a word missing, or one too many.

    Raises:
        InputError: As said.
    """
    if key is None:
        raise _wrong(f"{action} which job?", f"comet-async jobs DIR {action} KEY")
    if (task_id is None) is (action == "attach"):
        hint = "comet-async jobs DIR attach KEY TASK_ID; the others take no task id"
        raise _wrong(f"{action} needs {'a' if task_id is None else 'no'} task id", hint)


async def _decide(path: Path | str, words: _Words, screen: Screen) -> int:
    decision = _DECISIONS[words.action]
    async with journal_files.opened(path, verify_remote=True) as journal:  # sends nothing
        record = await _job(journal, words.key)
        _check_state(record, decision)
        if words.action == "resubmit" and not words.accepted:
            raise _wrong(
                f"{words.key} may be billed already: sending it again may bill it twice",
                "if that is what you want, add --i-accept-double-charge",
            )
        changes: Changes = {}
        if words.task_id is not None:
            await _check_owner(journal, words.task_id, record)
            await _check_task(words.task_id, record, screen, proxy=words.proxy)
            changes = {"task_id": words.task_id, "message": ""}
        now = SYSTEM_CLOCK.time()
        await journal.move(record, decision.state, now=now, why=decision.why, **changes)
    screen.say(f"{record.source}: {decision.done}")
    return DONE


async def _check_owner(journal: Journal, task_id: str, record: JobRecord) -> None:
    owner = await journal.by_task(task_id)
    if owner is not None and owner.key != record.key:
        raise _wrong(
            f"task {task_id} belongs to the job {owner.key}",
            "look at its time and image in the provider's console",
        )


async def _check_task(
    task_id: str, record: JobRecord, screen: Screen, *, proxy: str | None
) -> None:
    """Look the task up on the server, free of charge: a slip would lose the real one.

    Raises:
        InputError: There is no such task, or it is another job's.
        CometError: The server can't be reached.
    """
    from comet_async.cli.endpoint import find_endpoint
    from comet_async.session import CometSession

    endpoint = find_endpoint(None, proxy)
    screen.hide(endpoint.credentials.secrets)
    try:
        async with CometSession(
            endpoint.credentials, gateway=endpoint.gateway, network=endpoint.network
        ) as comet:
            task = await comet.get(task_id, kind=record.kind)
    except NotFoundError:
        task = None
    if task is None:
        raise _wrong(f"the server has no task {task_id}", "nothing was changed: check the id")
    if task.external_task_id not in {None, record.key}:
        raise _wrong(
            f"task {task_id} belongs to another request ({task.external_task_id})",
            "nothing was changed: look for the task that carries the job's key",
        )


def _check_state(record: JobRecord, decision: _Decision) -> None:
    """Refuse a decision about a job that needs none.

    Raises:
        InputError: The job is in another state.
    """
    if record.state is JobState.UNCERTAIN:
        check_move(record.state, decision.state)
        return
    hint = MEANINGS[record.state]
    if record.state in {JobState.UNKNOWN, JobState.SENDING}:
        hint = "run the command that made it again first: it looks the job up, free of charge"
    elif record.state is JobState.FAILED:
        hint = "run the command that made it again with --retry-failed to buy it again"
    raise _wrong(f"{record.key} is {record.state}, not uncertain: nothing to decide", hint)


async def _job(journal: Journal, key: str) -> JobRecord:
    record = await journal.get(key)
    if record is None:
        raise _wrong(f"the journal has no job {key}", "comet-async jobs DIR --all lists the keys")
    return record


def _wrong(message: str, hint: str) -> InputError:
    return InputError(message, field="jobs", hint=hint)
