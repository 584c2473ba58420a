"""What became of a paid request whose answer was lost: evidence, not guesses.

A task that is found under our own id was accepted. That *nothing* is found means something
only when

* the same lookup has just found a task that is known to exist (a positive control): a gateway
  that does not pass our ids on answers "not found" for everything, and
* the request can no longer arrive: a settle time has passed since its connection ended.

A notification may name the task of an id of ours. It may be forged, so that task is polled, and
is ours if the server says so.

Without such proof the outcome stays unknown, and the request is not sent again.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import attrs

from comet_async._http.api import Api
from comet_async._journal.keys import random_key
from comet_async._journal.records import FindsNewest, JobRecord, Journal
from comet_async._journal.states import ON_SERVER
from comet_async.clock import Clock
from comet_async.errors import CometError, NotFoundError, RouteUnavailableError
from comet_async.models import Task, TaskKind
from comet_async.requests import kind_named
from comet_async.waiter import NotificationSource

LIST_PAGES = 20
LIST_SIZE = 500


CLOCK_SLACK = timedelta(minutes=5)
"""How far the server's clock and ours may differ."""


class Verdict(enum.Enum):
    """What a round of lookups showed."""

    FOUND = "found"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@attrs.frozen(kw_only=True)
class Finding:
    """The result of one round of lookups.

    Attributes:
        verdict: What it shows.
        task: The task, when found.
        silent: True when a lookup got no readable answer: looking again may show more.
        answered: True when one did, whatever it says.
    """

    verdict: Verdict
    task: Task | None = None
    silent: bool = False
    answered: bool = False


@attrs.frozen(kw_only=True)
class Known:
    """A task that is known to exist: what a lookup is tried on.

    Attributes:
        key: Our own id of it.
        task_id: The server's id of it.
        listed: True if all that is known about it comes from the server's list. It proves
            nothing about the list then, which may be old.
    """

    key: str
    task_id: str
    listed: bool = False


@attrs.define(eq=False)
class TaskLookup:
    """Looks tasks up by our own id, and knows which of a gateway's answers to believe.

    Attributes:
        api: The gateway.
        callbacks: Where notifications arrive: they name tasks by our own ids.
    """

    api: Api
    callbacks: NotificationSource | None = None
    _named: dict[str, str] = attrs.field(factory=dict, init=False)

    async def look(
        self, kind: TaskKind, key: str, *, known: Known | None, since: datetime | None = None
    ) -> Finding:
        """Look once, in every way the gateway may understand, for the task of *key*.

        Args:
            kind: The task's kind.
            key: Our own id, as sent.
            known: A task to try the lookups on; without one, nothing found means nothing.
            since: When the request was sent; older parts of the list need not be read.

        Returns:
            Found (with the task), absent (with proof), or unknown.

        Raises:
            AuthenticationError: The key was refused.
            AccountError: The account may not use the API.
        """
        if (task := await self._notified(kind, key)) is not None:
            return Finding(verdict=Verdict.FOUND, task=task)
        absent = silent = answered = False
        for form in (*self.api.gateway.lookup_forms, "list"):
            answer = await self._look_up(kind, key, form, since)
            if answer.task is not None and answer.task.external_task_id == key:
                return Finding(verdict=Verdict.FOUND, task=answer.task)
            silent, answered = silent or answer.silent, answered or not answer.silent
            if known is None or answer.verdict is Verdict.UNKNOWN:
                continue
            if known.listed and form == "list":
                continue
            if answer.task is not None:
                # Another task, or one that does not name its external id: believed only if
                # this lookup distinguishes ids.
                if answer.task.external_task_id is None and await self.tells_apart(
                    kind, form, known
                ):
                    return Finding(verdict=Verdict.FOUND, task=answer.task)
            elif await self._finds(kind, form, known):
                absent = True
        verdict = Verdict.ABSENT if absent else Verdict.UNKNOWN
        return Finding(verdict=verdict, silent=silent, answered=answered)

    async def tells_apart(self, kind: TaskKind, form: str, known: Known) -> bool:
        """Return True if a lookup finds the known task, and nothing for an id never used.

        A gateway that ignores the id shows whatever it has, perhaps that very task.

        Args:
            kind: The task's kind.
            form: One of the gateway's lookup forms, or ``"list"``.
            known: A task that exists.

        Raises:
            AuthenticationError: The key was refused.
            AccountError: The account may not use the API.
        """
        nothing = await self._look_up(kind, random_key(), form)
        return nothing.verdict is Verdict.ABSENT and await self._finds(kind, form, known)

    async def _notified(self, kind: TaskKind, key: str) -> Task | None:
        """Return the task that a notification names for our id, if the server confirms it."""
        # Kept, because a notification is given once, and the server may be out of reach now.
        earlier = None if self.callbacks is None else self.callbacks.last_notification(None, key)
        if earlier is not None and earlier.task_id:
            self._named[key] = earlier.task_id
        if key not in self._named:
            return None
        try:
            task = await self.api.get(self._named[key], kind=kind)
        except CometError:  # the other lookups show what the account may do
            return None
        return task if task.external_task_id == key else None

    async def _look_up(
        self, kind: TaskKind, key: str, form: str, since: datetime | None = None
    ) -> Finding:
        """Return what one lookup shows, before it is judged."""
        try:
            if form == "list":
                task = await self._scan(kind, key, since)
            else:
                task = await self.api.find(key, kind=kind, form=form)  # type: ignore[arg-type]  # one of the gateway's forms
        except NotFoundError:
            return Finding(verdict=Verdict.ABSENT)
        except CometError as error:
            if error.account_wide and not isinstance(error, RouteUnavailableError):
                raise
            return Finding(verdict=Verdict.UNKNOWN, silent=error.retryable)
        if task is None:
            return Finding(verdict=Verdict.ABSENT)
        return Finding(verdict=Verdict.FOUND, task=task)

    async def _finds(self, kind: TaskKind, form: str, known: Known) -> bool:
        """Return True if a lookup finds the task that is known to exist."""
        task = (await self._look_up(kind, known.key, form)).task
        if task is None:
            return False
        # A list is searched by us, so it must name our ids; elsewhere the server searches.
        return task.external_task_id == known.key or (form != "list" and task.id == known.task_id)

    async def _scan(self, kind: TaskKind, key: str, since: datetime | None) -> Task | None:
        """Return the task of *key* from the list, or None when the list lacks it.

        A list that shows the newest first is read only as far back as *since*; whole pages
        only, because the order of a few tasks proves nothing.

        Raises:
            CometError: The list can't be read, or is too long to be read to its end.
        """
        made: list[datetime] = []
        async for task in self.tasks(kind):
            if task.external_task_id == key:
                return task
            made.append(task.created_at or datetime.max.replace(tzinfo=UTC))
            whole_page = len(made) % LIST_SIZE == 0
            if since and whole_page and _goes_back_to(since - CLOCK_SLACK, made):
                return None
        return None

    async def tasks(self, kind: TaskKind) -> AsyncIterator[Task]:
        """Yield the gateway's tasks of *kind* as its list shows them, at most 10,000.

        Raises:
            CometError: A page can't be read, or the list is longer than that.
        """
        shown: tuple[Task, ...] = ()
        for number in range(1, LIST_PAGES + 1):
            page = await self.api.page(number, LIST_SIZE, kind=kind)
            if not page.tasks:  # a short page proves nothing: a gateway may cap their size
                return
            if page.tasks == shown:  # it ignores the page number: what follows is unknown
                break
            shown = page.tasks
            for task in shown:
                yield task
        msg = f"the list has no end, or is longer than {LIST_PAGES * LIST_SIZE} tasks"
        raise RouteUnavailableError(msg)


def _goes_back_to(moment: datetime, made: list[datetime]) -> bool:
    """Return True if *made* surely runs from the newest to before *moment*."""
    return made[-1] < moment and made[-1] < made[0] and made == sorted(made, reverse=True)


ABSENT_ROUNDS = 3
"""Rounds in a row that must show "absent" before a request may be sent again."""

SILENCE = 300.0
"""Seconds of lookups without an answer after which a job is left as it is."""

_LONGEST_PAUSE = 30.0


@attrs.define(eq=False)
class Reconciler:
    """Finds out what became of requests, with tasks that surely exist as controls.

    A control is a task that this session saw accepted, else one that the journal knows, else
    one that the server's list shows.
    """

    lookup: TaskLookup
    journal: Journal
    clock: Clock
    _known: dict[tuple[str, str], Known] = attrs.field(factory=dict, init=False)
    _fresh: dict[tuple[str, str], Known] = attrs.field(factory=dict, init=False)

    def acknowledged(self, record: JobRecord, task: Task) -> None:
        """Remember a task that surely exists: lookups can be tried on it."""
        known = Known(key=record.key, task_id=task.id)
        self._fresh.setdefault((record.account, record.kind), known)

    async def resolve(self, record: JobRecord, settle: float) -> Finding:
        """Return what became of the request of *record*.

        The settle time runs from here, by the monotonic clock: the request's connection has
        ended by now, in this process or with the process that made it.

        Args:
            record: The job.
            settle: Seconds during which its task may still appear.

        Returns:
            Found, or absent with proof, or unknown: no lookup can answer it now.
        """
        kind = kind_named(record.kind)
        since = None if record.sent_at is None else datetime.fromtimestamp(record.sent_at, UTC)
        begin, pause, absent = self.clock.monotonic(), 1.0, 0
        while True:
            # What an answer shows is as old as its question: it may have taken long, or this
            # process may have been suspended meanwhile.
            asked = self.clock.monotonic() - begin
            known = await self._find_known(record)
            finding = await self.lookup.look(kind, record.key, known=known, since=since)
            if finding.verdict is Verdict.FOUND:
                return finding
            absent = absent + 1 if finding.verdict is Verdict.ABSENT else 0
            if asked >= settle and self._conclusive(finding, absent, asked):
                return finding
            left = settle - (self.clock.monotonic() - begin)
            await self.clock.sleep(min(pause, left) if left > 0 else min(pause, 2.0))
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _conclusive(self, finding: Finding, absent: int, waited: float) -> bool:
        if absent:
            return absent >= ABSENT_ROUNDS
        return not finding.silent or waited > SILENCE

    async def has_control(self, record: JobRecord) -> bool:
        """Return True if a task is known on which lookups for *record* can be tried."""
        return await self._find_known(record) is not None

    async def _find_known(self, record: JobRecord) -> Known | None:
        """Return a task of this account and kind that is known to exist, if there is one."""
        group = record.account, record.kind
        if group in self._fresh:  # the journal's may be old, and cleared by the server since
            return self._fresh[group]
        if group not in self._known:
            row = await self._newest(group)
            if row is not None and row.task_id is not None:
                self._known[group] = Known(key=row.key, task_id=row.task_id)
            elif (listed := await self._listed(record)) is not None:
                self._known[group] = listed
        return self._known.get(group)

    async def _newest(self, group: tuple[str, str]) -> JobRecord | None:
        """Return the job planned last that the server surely has: old ones it may have cleared."""
        account, kind = group
        if isinstance(self.journal, FindsNewest):
            return await self.journal.newest(ON_SERVER, account=account, kind=kind)
        newest: JobRecord | None = None
        after = ""
        while rows := await self.journal.find(ON_SERVER, after=after):
            after = rows[-1].key
            for row in rows:
                if row.task_id is not None and (row.account, row.kind) == group:
                    newest = row
        return newest

    async def _listed(self, record: JobRecord) -> Known | None:
        """Return a task of another job that the server's list shows, if there is one."""
        try:
            page = await self.lookup.api.page(1, LIST_SIZE, kind=kind_named(record.kind))
        except CometError:  # without a list there is no control; the lookups say what is wrong
            return None
        for task in page.tasks:
            key = task.external_task_id
            if key is not None and key != record.key:
                return Known(key=key, task_id=task.id, listed=True)
        return None
