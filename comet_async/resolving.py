"""Jobs whose request got no answer: looked up until it is known what became of them."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs

from comet_async.clock import Clock
from comet_async.kinds import TaskKind
from comet_async.models import Task
from comet_async.records import JobRecord, Journal
from comet_async.recovery import Finding, Known, Lookup, Verdict
from comet_async.states import JobState

ABSENT_ROUNDS = 3
"""So many rounds in a row must show "absent" before a request may be sent again."""

SILENCE = 300.0
"""Seconds of lookups without any answer after which a job is left as it is."""

_LONGEST_PAUSE = 30.0
_ACKNOWLEDGED = frozenset(
    {
        JobState.SUBMITTED,
        JobState.SUCCEEDED,
        JobState.SAVING,
        JobState.DONE,
        JobState.FAILED,
    }
)


@attrs.define(eq=False)
class Resolver:
    """Finds out what became of requests, with the journal's other jobs as controls."""

    lookup: Lookup
    journal: Journal
    clock: Clock
    settle: float
    _known: dict[tuple[str, str], Known] = attrs.field(factory=dict, init=False)
    _fresh: dict[tuple[str, str], Known] = attrs.field(factory=dict, init=False)

    def acknowledged(self, record: JobRecord, task: Task) -> None:
        """Remember a task that surely exists: lookups can be tried on it."""
        known = Known(key=record.key, task_id=task.id)
        self._fresh.setdefault((record.account, record.kind), known)

    async def resolve(self, record: JobRecord, kind: TaskKind) -> Finding:
        """Return what became of the request of *record*.

        The settle time runs from here, by the monotonic clock: the request's connection has
        ended by now, in this process or with the process that made it.

        Returns:
            Found, or absent with proof, or unknown: nothing at hand can tell.
        """
        since = None if record.sent_at is None else datetime.fromtimestamp(record.sent_at, UTC)
        begin, pause, absent = self.clock.monotonic(), 1.0, 0
        while True:
            known = await self._find_known(record)
            finding = await self.lookup.look(kind, record.key, known=known, since=since)
            if finding.verdict is Verdict.FOUND:
                return finding
            absent = absent + 1 if finding.verdict is Verdict.ABSENT else 0
            waited = self.clock.monotonic() - begin
            if waited >= self.settle and self._conclusive(finding, absent, waited):
                return finding
            left = self.settle - waited
            await self.clock.sleep(min(pause, left) if left > 0 else min(pause, 2.0))
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _conclusive(self, finding: Finding, absent: int, waited: float) -> bool:
        if absent:
            return absent >= ABSENT_ROUNDS
        return not finding.silent or waited > SILENCE

    async def _find_known(self, record: JobRecord) -> Known | None:
        """Return a task of this account and kind that is known to exist, if there is one."""
        slot = record.account, record.kind
        if slot in self._fresh:  # the journal's may be old, and cleared by the server since
            return self._fresh[slot]
        if slot not in self._known:
            row = await self._newest(slot)
            if row is not None and row.task_id is not None:
                self._known[slot] = Known(key=row.key, task_id=row.task_id)
        return self._known.get(slot)

    async def _newest(self, slot: tuple[str, str]) -> JobRecord | None:
        """Return the job planned last that the server surely has: old ones it may have cleared."""
        newest: JobRecord | None = None
        after = ""
        while rows := await self.journal.find(_ACKNOWLEDGED, after=after):
            after = rows[-1].key
            for row in rows:
                if row.task_id is not None and (row.account, row.kind) == slot:
                    newest = row
        return newest
