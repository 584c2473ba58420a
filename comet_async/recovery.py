"""What became of a paid request whose answer was lost: evidence, not guesses.

A task that is found under our own id was accepted. That *nothing* is found means something
only when

* the same question has just found a task that is known to exist (a positive control): a
  gateway that does not pass our ids on answers "not found" for everything, and
* the request can no longer arrive: a settle time has passed since its connection ended.

A callback may name the task of an id of ours. Anybody may have sent it, so the task that it names
is asked for, and is ours if the server says so.

Without such proof the outcome stays unknown. Money is never guessed with.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import attrs

from comet_async.api import Api
from comet_async.errors import CometError, NotFoundError, RouteUnavailableError
from comet_async.keys import random_key
from comet_async.kinds import TaskKind
from comet_async.models import Task

LIST_PAGES = 20
LIST_SIZE = 500


CLOCK_SLACK = timedelta(minutes=5)
"""How far the server's clock and ours may differ."""


class Verdict(enum.Enum):
    """What a round of questions showed."""

    FOUND = "found"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@attrs.frozen(kw_only=True)
class Finding:
    """The result of one round of questions.

    Attributes:
        verdict: What it shows.
        task: The task, when found.
        silent: True when a question got no readable answer: asking again may show more.
    """

    verdict: Verdict
    task: Task | None = None
    silent: bool = False


@attrs.frozen(kw_only=True)
class Known:
    """A task that is known to exist: what a question is tried on.

    Attributes:
        key: Our own id of it.
        task_id: The server's id of it.
    """

    key: str
    task_id: str


@attrs.define(eq=False)
class Lookup:
    """Asks a gateway for tasks by our own id, and knows which of its answers to believe.

    Attributes:
        api: The gateway.
        heard: Returns the task that a callback, if one came, names for our id.
    """

    api: Api
    heard: Callable[[str], str | None] = lambda _key: None
    _named: dict[str, str] = attrs.field(factory=dict, init=False)

    async def look(
        self, kind: TaskKind, key: str, *, known: Known | None, since: datetime | None = None
    ) -> Finding:
        """Ask once, in every way the gateway may understand, for the task of *key*.

        Args:
            kind: The task's kind.
            key: Our own id, as sent.
            known: A task to try the questions on; without one, nothing found means nothing.
            since: When the request was sent; older parts of the list need not be read.

        Returns:
            Found (with the task), absent (with proof), or unknown.

        Raises:
            AuthenticationError: The key was refused.
            AccountError: The account may not ask.
        """
        if (task := await self._told(kind, key)) is not None:
            return Finding(verdict=Verdict.FOUND, task=task)
        absent = silent = False
        for form in (*self.api.gateway.lookup_forms, "list"):
            answer = await self._ask(kind, key, form, since)
            if answer.task is not None and answer.task.external_task_id == key:
                return Finding(verdict=Verdict.FOUND, task=answer.task)
            silent = silent or answer.silent
            if known is None or answer.verdict is Verdict.UNKNOWN:
                continue
            if answer.task is not None:
                # Another task, or one that does not name its external id: believed only if
                # this question tells ids apart.
                if answer.task.external_task_id is None and await self._tells_apart(
                    kind, form, known
                ):
                    return Finding(verdict=Verdict.FOUND, task=answer.task)
            elif await self._finds(kind, form, known):
                absent = True
        verdict = Verdict.ABSENT if absent else Verdict.UNKNOWN
        return Finding(verdict=verdict, silent=silent)

    async def _told(self, kind: TaskKind, key: str) -> Task | None:
        """Return the task that a callback names for our id, if the server knows it as ours."""
        # Kept, because a notice is given once, and the server may be out of reach now.
        if told := self.heard(key):
            self._named[key] = told
        if key not in self._named:
            return None
        try:
            task = await self.api.get(self._named[key], kind=kind)
        except CometError:  # the other questions tell what the account may do
            return None
        return task if task.external_task_id == key else None

    async def _ask(
        self, kind: TaskKind, key: str, form: str, since: datetime | None = None
    ) -> Finding:
        """Return what one question shows, before it is judged."""
        try:
            if form == "list":
                task = await self._scan(kind, key, since)
            else:
                task = await self.api.find(key, kind=kind, form=form)  # type: ignore[arg-type]
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
        """Tell whether a question finds the task that is known to exist."""
        task = (await self._ask(kind, known.key, form)).task
        if task is None:
            return False
        # A list is searched by us, so it must name our ids; elsewhere the server searches.
        return task.external_task_id == known.key or (form != "list" and task.id == known.task_id)

    async def _tells_apart(self, kind: TaskKind, form: str, known: Known) -> bool:
        """Tell whether a question finds the known task, and nothing for an id never used."""
        nothing = await self._ask(kind, random_key(), form)
        return nothing.verdict is Verdict.ABSENT and await self._finds(kind, form, known)

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
            if page.tasks == shown:  # it ignores the page's number: nobody knows what follows
                break
            shown = page.tasks
            for task in shown:
                yield task
        msg = f"the list has no end, or is longer than {LIST_PAGES * LIST_SIZE} tasks"
        raise RouteUnavailableError(msg)


def _goes_back_to(moment: datetime, made: list[datetime]) -> bool:
    """Tell whether *made* surely runs from the newest to before *moment*."""
    return made[-1] < moment and made[-1] < made[0] and made == sorted(made, reverse=True)
