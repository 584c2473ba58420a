"""What a run has come to so far, in numbers that never go backwards."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

import attrs

from comet_async._journal.records import is_billed
from comet_async._journal.states import BILLED, IN_DOUBT, READY, WITHOUT_RESULT, JobState
from comet_async.errors import RunStoppedError

if TYPE_CHECKING:
    from comet_async._journal.records import JobRecord
    from comet_async.outcomes import Outcome

ACTIVE = frozenset(
    {
        JobState.SENDING,
        JobState.UNKNOWN,
        JobState.SUBMITTED,
        JobState.SUCCEEDED,
        JobState.SAVING,
    }
)
"""States of jobs that are being worked on."""

_STAGES: Mapping[JobState, str] = {
    JobState.SENDING: "uploading",
    JobState.SUBMITTED: "waiting",
    JobState.UNKNOWN: "waiting",
    JobState.SUCCEEDED: "saving",
    JobState.SAVING: "saving",
}
_NOT_ACCEPTED = frozenset({JobState.PLANNED, JobState.REJECTED})
_SETTLED = READY | WITHOUT_RESULT
_OPEN_QUESTION = IN_DOUBT | {JobState.SENDING}
_RECENT = 50
_ENOUGH = 3  # endings from which a rate can be estimated


def billed(record: JobRecord | None, run: str) -> bool | None:
    """Return whether a run made the server bill a job.

    Args:
        record: The job, or None when there is none.
        run: The run's name. Times would not tell: clocks are set.

    Returns:
        False also for a job that the server had accepted earlier, under whatever folder; None
        while that is not known.
    """
    # It has none if the server knew the request: nothing is counted for this run.
    if record is None or record.run != run or record.state in _NOT_ACCEPTED:
        return False
    return None if record.state in _OPEN_QUESTION else is_billed(record)


@attrs.frozen(kw_only=True)
class Unfinished:
    """Why some sources are not done.

    Attributes:
        status: How they ended.
        reason: Why, without the source's name.
        hint: What to do about it, or None.
    """

    status: str
    reason: str
    hint: str | None


@attrs.define(eq=False, kw_only=True)
class RunTotals:
    """Counts of one run.

    Attributes:
        price: USD for one image; an estimate.
        run: The run's name in the journal.
        since: When the run began, in seconds since 1970.
        slots: Most images in flight.
        clock: A clock that never goes back, in seconds.
        total: How many sources there are, once that is known.
        uploading: Requests on their way.
        waiting: Images that the server is working on.
        saving: Results that are being saved.
        retrying: Images whose request was not accepted, and will be sent again.
        retries: Requests and polls that failed and were repeated.
        ended: Outcomes by their status.
        earlier: Sources that were done before the run began.
        copied: Sources that needed no expansion.
        attached: Sources whose request the server knew already.
        equal: Sources that equal another one.
        doubtful: Images that this run may have bought.
        accepted: Sources that ended pending, with a task that the server has accepted.
        unfinished: Sources that are not done, by their reason.
        not_sent: Sources that the run did not come to, by their status: it had stopped.
    """

    price: Decimal
    run: str
    since: float
    slots: int = 16
    clock: Callable[[], float] = time.monotonic
    total: int | None = None
    uploading: int = 0
    waiting: int = 0
    saving: int = 0
    retrying: int = 0
    retries: int = 0
    ended: Counter[str] = attrs.field(factory=Counter, init=False)
    earlier: int = attrs.field(default=0, init=False)
    copied: int = attrs.field(default=0, init=False)
    attached: int = attrs.field(default=0, init=False)
    equal: int = attrs.field(default=0, init=False)
    doubtful: int = attrs.field(default=0, init=False)
    accepted: int = attrs.field(default=0, init=False)
    unfinished: dict[Unfinished, list[str]] = attrs.field(factory=dict, init=False)
    not_sent: Counter[str] = attrs.field(factory=Counter, init=False)
    _begin: float = attrs.field(init=False)
    _bought: dict[str, int] = attrs.field(factory=dict, init=False)
    _settled: dict[str, int] = attrs.field(factory=dict, init=False)
    _failed: dict[str, int] = attrs.field(factory=dict, init=False)
    _first: dict[str, str] = attrs.field(factory=dict, init=False)
    _doubted: set[str] = attrs.field(factory=set, init=False)
    _active: dict[str, tuple[str, int]] = attrs.field(factory=dict, init=False)
    _resent: dict[str, int] = attrs.field(factory=dict, init=False)
    _moments: deque[float] = attrs.field(factory=lambda: deque(maxlen=_RECENT), init=False)

    def __attrs_post_init__(self) -> None:
        self._begin = self.clock()

    def look(self, records: Iterable[JobRecord]) -> None:
        """Take in the jobs that are being worked on."""
        counts, again = Counter[str](), 0
        self._active = {}
        for record in records:
            stage = _STAGES.get(record.state)
            if stage is not None:
                self._active[record.key] = stage, record.n
                counts[stage] += record.n
            if record.state is JobState.SENDING:
                again += self._resent.get(record.key, 0)
            else:
                self._resent.pop(record.key, None)
            self._count(record)
        self.uploading = counts["uploading"]
        self.waiting = counts["waiting"]
        self.saving = counts["saving"]
        self.retrying = sum(self._resent.values()) - again

    def resend(self, key: str) -> None:
        """Count a request that was not accepted, and will be sent again."""
        self.retries += 1
        self._resent[key] = 1

    def _count(self, record: JobRecord) -> bool | None:
        bought = billed(record, self.run)
        if bought:
            self._bought[record.key] = record.n  # once for equal images, which share a job
            if record.state in _SETTLED:
                self._settled[record.key] = record.n
        elif record.state is JobState.FAILED and record.run == self.run:
            self._bought.pop(record.key, None)
            self._failed[record.key] = record.n
        return bought

    def add(self, outcome: Outcome, record: JobRecord | None) -> str | None:
        """Count one outcome, with its job as the journal has it now.

        Returns:
            The source that the outcome's image equals, or None.
        """
        self.ended[outcome.status] += 1
        self._resent.pop(outcome.external_task_id or "", None)
        # What has ended is not counted as under way until the next look.
        stage, n = self._active.pop(outcome.external_task_id or "", ("", 0))
        if stage:
            setattr(self, stage, max(0, getattr(self, stage) - n))
        bought = self._count(record) if record is not None else False
        first = outcome.source
        if record is None:
            self.earlier += outcome.already_there
            self.copied += outcome.done and not outcome.already_there
        else:
            first = self._first.setdefault(record.key, outcome.source)
            self._classify(outcome, record, bought=bought, equal=first != outcome.source)
        return None if first == outcome.source else first

    def _classify(
        self, outcome: Outcome, record: JobRecord, *, bought: bool | None, equal: bool
    ) -> None:
        if outcome.already_there:
            self.earlier += 1
        elif outcome.done and equal:
            self.equal += 1
        elif outcome.done and not bought and (record.sent_at is None or self._sent_now(record)):
            self.attached += 1
        if bought is None and record.key not in self._doubted:
            self._doubted.add(record.key)
            self.doubtful += record.n
        if outcome.status == "pending" and record.state in BILLED:
            self.accepted += 1
        waited_for = record.updated_at > self.since and record.state not in _NOT_ACCEPTED
        if waited_for and not isinstance(outcome.error, RunStoppedError):
            self._moments.append(self.clock())

    def _sent_now(self, record: JobRecord) -> bool:
        return (record.sent_at or 0) >= self.since

    def note(self, why: Unfinished, source: str) -> int:
        """Remember why a source is not done; return how many have the same reason."""
        sources = self.unfinished.setdefault(why, [])
        sources.append(source)
        return len(sources)

    @property
    def count(self) -> int:
        """How many sources have ended."""
        return self.ended.total()

    @property
    def all_done(self) -> bool:
        """True when each source is known to be done: nothing is left for a further run."""
        return self.count == self.ended["done"] == self.total

    @property
    def all_earlier(self) -> bool:
        """True when each source was done before this run began."""
        return 0 < self.count == self.earlier

    @property
    def seconds(self) -> float:
        """How long the run has lasted."""
        return self.clock() - self._begin

    @property
    def left(self) -> float | None:
        """Seconds until the end at the recent rate, or None when that can't be estimated.

        Only what this run waited for shows how fast it is.
        """
        many = len(self._moments)
        if self.total is None or many < _ENOUGH:
            return None
        begin = self._moments[0] if many == _RECENT else self._begin
        rate = many / max(self.clock() - begin, 1e-3)
        return max(0, self.total - self.count) / rate

    @property
    def in_flight(self) -> int:
        """How many images have a slot."""
        return self.uploading + self.waiting

    @property
    def bought(self) -> int:
        """Images that the server has newly accepted in this run, without those that failed."""
        return sum(self._bought.values())

    @property
    def failed(self) -> int:
        """Images that the server accepted in this run, and failed to make."""
        return sum(self._failed.values())

    @property
    def cost(self) -> Decimal:
        """USD for what this run has bought; an estimate."""
        return self.price * self.bought

    @property
    def cost_so_far(self) -> Decimal:
        """USD for the images that the server has made in this run: it never goes down."""
        return self.price * sum(self._settled.values())
