"""What a run has come to so far, in numbers."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING

import attrs

from comet_async._journal.states import ACCEPTED, IN_DOUBT, JobState

if TYPE_CHECKING:
    from comet_async._journal.records import JobRecord
    from comet_async.outcomes import Outcome

_BOUGHT = ACCEPTED - {JobState.FAILED}  # failed tasks are not billed, as a rule
_RECENT = 50
_ENOUGH = 3  # outcomes from which a pace can be told


@attrs.define(eq=False, kw_only=True)
class RunTotals:
    """Counts of one run.

    Attributes:
        price: USD for one image; an estimate.
        since: When the run began, in seconds since 1970.
        clock: A clock that never goes back, in seconds.
        total: How many sources there are, once that is known.
        in_flight: Images that the service is working on.
        ended: Outcomes by their status.
        bought: Images bought by this run.
        doubtful: Images that this run may have bought.
        awaited: Sources that ended pending, with a task that the service has accepted.
    """

    price: Decimal
    since: float
    clock: Callable[[], float] = time.monotonic
    total: int | None = None
    in_flight: int = 0
    ended: Counter[str] = attrs.field(factory=Counter, init=False)
    bought: int = attrs.field(default=0, init=False)
    doubtful: int = attrs.field(default=0, init=False)
    awaited: int = attrs.field(default=0, init=False)
    _begin: float = attrs.field(init=False)
    _counted: set[str] = attrs.field(factory=set, init=False)
    _moments: deque[float] = attrs.field(factory=lambda: deque(maxlen=_RECENT), init=False)

    def __attrs_post_init__(self) -> None:
        self._begin = self.clock()

    def add(self, outcome: Outcome, record: JobRecord | None) -> None:
        """Count one outcome, with its job as the journal has it now."""
        self.ended[outcome.status] += 1
        self._moments.append(self.clock())
        if outcome.status == "pending" and record is not None and record.state in _BOUGHT:
            self.awaited += 1
        if record is None or record.key in self._counted or (record.sent_at or 0) < self.since:
            return
        self._counted.add(record.key)  # equal images share a job, and its price
        if record.state in _BOUGHT:
            self.bought += record.n
        elif record.state in IN_DOUBT:
            self.doubtful += record.n

    @property
    def count(self) -> int:
        """How many sources have ended."""
        return self.ended.total()

    @property
    def seconds(self) -> float:
        """How long the run has lasted."""
        return self.clock() - self._begin

    @property
    def left(self) -> float | None:
        """Seconds until the end at the pace of late, or None when that can't be told."""
        many = len(self._moments)
        if self.total is None or many < _ENOUGH:
            return None
        begin = self._moments[0] if many == _RECENT else self._begin
        pace = many / max(self.clock() - begin, 1e-3)
        return max(0, self.total - self.count) / pace

    @property
    def cost(self) -> Decimal:
        """USD for what this run has bought, what is in flight included; an estimate."""
        return self.price * (self.bought + self.in_flight)
