"""When to poll a task again: pure arithmetic, all figures in seconds.

The learned schedule rests on one result. The likelier a task of age *t* is to end right then
(the hazard rate *h*), the more a poll at that age is worth. At a density of *d* polls a second,
polling costs *d* and leaves a mean delay of h / 2d between "finished" and "noticed"; for a
given number of polls, that delay is least if *d* follows sqrt(h). So the schedule keeps a
histogram of hazards, learned from the tasks that ended *and* from those that still run, and
places its polls at equal steps of the integral of sqrt(h).
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import random
from collections.abc import Sequence
from typing import Protocol, TypeAlias, cast

import attrs

from comet_async._backoff import SHORTEST_WAIT, WaitStrategy, wait_of
from comet_async._validation import check_number, check_rng
from comet_async.errors import InputError

__all__ = ["SHORTEST", "FixedSchedule", "LearnedSchedule", "Plan", "Schedule"]

SHORTEST = SHORTEST_WAIT
"""Nothing is resolved finer than this, seconds; no schedule polls more often either."""

# Bins of age: 0 to 0.05 s, then each 12 % longer, up to a day. Wide enough that 64 tasks say
# something about a bin, narrow enough to see two humps that lie a factor of two apart.
_START = SHORTEST
_STEP = math.log(1.12)
BINS = 127
EDGES: Sequence[float] = (0.0, *(_START * math.exp(_STEP * k) for k in range(BINS)))
WIDTHS: Sequence[float] = tuple(b - a for a, b in itertools.pairwise(EDGES))
MIDDLES: Sequence[float] = tuple((a + b) / 2 for a, b in itertools.pairwise(EDGES))


def bin_of(age: float) -> int:
    """Return the number of the bin that holds *age*."""
    if age <= _START:
        return 0
    return min(BINS - 1, int(math.log(age / _START) / _STEP) + 1)


# The prior, before the first task has ended: half of the tasks take up to 20 s, with tails so
# wide that 2 % end within half a second and 3 % take over 10 minutes. Seen in the wild: 8, 12
# and 41 s for images and 1.7 s for a refusal (captured answers in CometAPI's and Kling's
# documents); 32 s for images and 164 to 455 s for videos (ComfyUI's built-in averages,
# https://github.com/comfyanonymous/ComfyUI, comfy_api_nodes).
_PRIOR_MEDIAN = 20.0


def _prior_survival(age: float) -> float:
    return _PRIOR_MEDIAN / (_PRIOR_MEDIAN + age)


_PRIOR: Sequence[float] = tuple(
    1.0 - _prior_survival(b) / _prior_survival(a) for a, b in itertools.pairwise(EDGES)
)

Numbers: TypeAlias = Sequence[float]


def _spread(values: Numbers, reach: int) -> list[float]:
    """Return the moving average of *values* over *reach* bins on both sides."""
    sums = [0.0, *itertools.accumulate(values)]
    last, width = len(values), 2 * reach + 1
    return [(sums[min(last, k + reach + 1)] - sums[max(0, k - reach)]) / width for k in range(last)]


def _soften(values: Numbers, passes: int) -> Numbers:
    """Return *values* smoothed *passes* times with the weights 1, 2, 1."""
    for _ in range(passes):
        padded = (values[0], *values, values[-1])
        values = [
            (a + 2 * b + c) / 4 for a, b, c in zip(padded, padded[1:], padded[2:], strict=False)
        ]
    return values


class DurationHistogram:
    """What is known about how long tasks take: ends and survivals per bin of age.

    Tasks that still run count too, up to the age at which they were last seen. Without them the
    first tasks of a batch to end, which are its fastest, would pass for typical.
    """

    # The weight of a bin's neighbourhood and of the prior above, in tasks. The prior counts for
    # less the more tasks reached the age: one poll then says something about all of them, so
    # each needs fewer. Where 64 tasks of ten minutes are submitted at once, that saves two of
    # twelve polls each.
    _PRIOR_WEIGHT = 2.0
    _CROWD = 0.2
    _NEIGHBOURS = 1.0
    _REACH = 5
    _PASSES = 3
    _BLEND = 8.0  # this many ends weigh as much as the prior
    # Old records fade: at this many ends all counts are halved.
    _ENOUGH = 512

    def __init__(self) -> None:
        self.count: float = 0.0
        self.total: float = 0.0
        self._ends = [0.0] * BINS
        # Difference array of "how many were seen alive in this bin": two updates a record.
        self._alive = [0.0] * (BINS + 1)

    @property
    def mean(self) -> float:
        """Mean duration of the tasks that ended; 0 while none has."""
        return self.total / self.count if self.count else 0.0

    @property
    def trust(self) -> float:
        """How much the records count against the prior, from 0 to 1."""
        return self.count / (self.count + self._BLEND)

    def record_survival(self, since: float, age: float) -> None:
        """Record that a task, seen unfinished at the age *since*, was unfinished at *age* too."""
        if age > since:
            self._alive[bin_of(since)] += 1.0
            self._alive[bin_of(age)] -= 1.0

    def record_end(self, duration: float) -> None:
        """Record that a task ended at the age of *duration*."""
        self.count += 1.0
        self.total += duration
        self._ends[bin_of(duration)] += 1.0
        if self.count >= self._ENOUGH:
            self._fade()

    def _fade(self) -> None:
        self.count /= 2
        self.total /= 2
        self._ends = [value / 2 for value in self._ends]
        self._alive = [value / 2 for value in self._alive]

    def chances(self) -> list[float]:
        """Return for each bin the chance that a task alive at its start ends in it.

        Each bin leans on its own record; where that is thin, on its neighbourhood's; and where
        no task has been yet, on the prior. The neighbourhood matters for a batch: when 64 tasks
        of the same age have not ended so far, the next bin is not much likelier to see an end
        than the last ones were.
        """
        alive = list(itertools.accumulate(self._alive[:-1]))
        risk: Numbers = [max(0.0, a) + e for a, e in zip(alive, self._ends, strict=True)]
        wide_ends = _spread(_spread(self._ends, self._REACH), self._REACH)
        wide_risk = _spread(_spread(risk, self._REACH), self._REACH)
        # Tasks seen alive that did not end so far: while little is known, what they outlived
        # counts against the ages ahead of them, too.
        ahead = [risk[0] - e for e in itertools.accumulate(self._ends, initial=0.0)]
        ends, risk = _soften(self._ends, self._PASSES), _soften(risk, self._PASSES)
        chances: list[float] = []
        for k, prior in enumerate(_PRIOR):
            crowd = max(wide_risk[k], ahead[k] * (1.0 - self.trust))
            weight = self._PRIOR_WEIGHT / (1.0 + crowd / self._CROWD)
            near = (wide_ends[k] + weight * prior) / (wide_risk[k] + self._PRIOR_WEIGHT)
            own = (ends[k] + self._NEIGHBOURS * near) / (risk[k] + self._NEIGHBOURS)
            chances.append(min(0.95, own))
        return chances


class Schedule(Protocol):
    """When to poll a task; one object serves all tasks of a waiter."""

    def first(self, n: int = 1) -> float:
        """Return the age at which a new task of *n* images is polled first."""
        ...

    def next(self, age: float, attempt: int, n: int = 1) -> float:
        """Return how long to wait after the poll number *attempt* found a task unfinished.

        Args:
            age: Seconds since the task was created.
            attempt: How many polls it has had, from 1.
            n: How many images it makes.
        """
        ...

    def learn(self, duration: float, n: int = 1) -> None:
        """Record that a task of *n* images took *duration* seconds."""
        ...


class FixedSchedule:
    """Poll every *seconds*; the first poll comes after 0.5 to 1.5 times as long.

    The random start spreads tasks that were submitted together, and costs no extra request.

    Args:
        seconds: The interval.
        rng: Source of the random start.

    Raises:
        InputError: *seconds* is not a positive number.
    """

    def __init__(self, seconds: float, *, rng: random.Random | None = None) -> None:
        check_rng(rng)
        check_number("schedule", seconds, above=0)
        self._seconds = max(SHORTEST, float(seconds))
        self._rng = rng or random.Random()  # noqa: S311  # spreads polls, guards nothing

    def __repr__(self) -> str:
        return f"FixedSchedule({self._seconds:g})"

    def first(self, n: int = 1) -> float:  # noqa: ARG002  # the protocol's signature
        """Return half to one and a half intervals."""
        return self._seconds * (0.5 + self._rng.random())

    def next(self, age: float, attempt: int, n: int = 1) -> float:  # noqa: ARG002 - the protocol's signature
        """Return the interval."""
        return self._seconds

    def learn(self, duration: float, n: int = 1) -> None:
        """Do nothing: the interval is fixed."""


@attrs.frozen
class Plan:
    """Where the polls lie: their density per bin of age, and its running sum.

    Attributes:
        rates: Polls a second, for each bin.
        polls: How many polls a task has had when it enters each bin.
        late: The age that one task in ten outlives.
    """

    rates: Numbers
    polls: Numbers
    late: float

    def polls_at(self, age: float) -> float:
        """Return how many polls lie before *age*."""
        k = bin_of(age)
        return self.polls[k] + self.rates[k] * (age - EDGES[k])

    def age_after(self, polls: float) -> float:
        """Return the age before which *polls* lie."""
        k = min(BINS - 1, bisect.bisect_right(self.polls, polls) - 1)
        return EDGES[k] + (polls - self.polls[k]) / self.rates[k]


# --------------------------------------------------------------------------- the schedule


SPREAD = 0.25
"""The last share of the longest interval, over which polls that it bounds are spread."""

LATE = 120.0
"""What counts as a long life of a task, seconds, where nothing shorter was learned."""


# Density of the polls while nothing is known. `benchmarks/waiting.py` prints what that means for
# tasks of half a second to ten minutes.
_PRICE = 6.0 / 5.5


class LearnedSchedule:
    """Places polls where they are worth most, and learns how long tasks take.

    Args:
        aim: Mean number of polls per task, once durations are known. Twice the polls, half the
            delay: with 6.4, the end of a task is noticed after another 6 % of its duration.
        floor: Shortest interval, seconds.
        ceiling: Longest interval, seconds.
        rng: Source of the jitter. With a seeded one the schedule is deterministic.

    Attributes:
        ceiling: As given.
        version: Counts up whenever waiting tasks should be rescheduled.

    Raises:
        InputError: *aim* is under 1, *floor* under 0.05, or *ceiling* under *floor*.
    """

    # The first poll comes after 0.7 to 1.7 steps. The range is one step wide, so tasks submitted
    # together are spread evenly. Starting at 0.7 instead of 0.5 saves 0.2 polls per task and
    # adds little delay, because a task hardly ever ends before its first poll.
    _FIRST = 0.7
    # Where more tasks than this wait, their first polls are spread over up to three further
    # steps. Not over more: when thousands wait nothing is rescheduled, and the last of them are
    # 20 s old at their first poll as it is.
    _SCOUTS = 32
    _LATER = 3.0
    # The longest step between two polls that many share, as a share of their age.
    _SHARED = 0.1
    # How many ends it takes until new plans no longer move the polls of waiting tasks.
    _YOUNG = 64

    def __init__(
        self,
        *,
        aim: float = 6.4,
        floor: float = SHORTEST,
        ceiling: float = 240.0,
        rng: random.Random | None = None,
    ) -> None:
        check_number("aim", aim, least=1)
        check_number("floor", floor, least=SHORTEST)
        check_number("ceiling", ceiling, least=floor)
        check_rng(rng)
        self._aim = aim
        self._steps = aim - (1.0 - self._FIRST)
        self._floor = floor
        self.ceiling: float = ceiling
        self._rng = rng or random.Random()  # noqa: S311  # spreads polls, guards nothing
        self._durations = DurationHistogram()
        self._scales: dict[int, _Scale] = {}
        self._records = 0
        self._due: tuple[float, float] = (0.0, 0.0)
        self.version: int = 0
        self._plan = self._past = _first_plan(self._steps, floor, ceiling)

    def __repr__(self) -> str:
        return f"LearnedSchedule(aim={self._aim:g}, learned={self.learned})"

    @property
    def learned(self) -> int:
        """How many durations the schedule rests on."""
        return int(self._durations.count)

    def first(self, n: int = 1, crowd: int = 1) -> float:
        """Return the age of the first poll; tasks submitted together are spread over a step.

        While nothing is known the first step is short. So where a *crowd* waits, the first polls
        are spread over a few more steps: the early ones are scouts, whose results say when to
        poll the others.
        """
        steps = 1.0
        if crowd > self._SCOUTS:
            doubt = 1.0 - self._durations.trust
            steps += doubt * min(self._LATER, math.log2(crowd / self._SCOUTS))
        return self._after(0.0, self._FIRST + steps * self._rng.random(), n)

    def next(self, age: float, attempt: int, n: int = 1) -> float:  # noqa: ARG002 - the protocol's signature
        """Return the wait until the next poll, with 10 % of jitter."""
        return self._after(age, 0.9 + 0.2 * self._rng.random(), n)

    def reschedule(self, age: float, due: float, n: int = 1) -> float:
        """Return the new wait of a task of *age* whose poll was planned at the age *due*.

        What was left of its step under the plan before the newest one is taken over, so that
        tasks spread by the old plan stay spread.
        """
        scale = self._scale(n)
        left = self._past.polls_at(due / scale) - self._past.polls_at(age / scale)
        if left > self._FIRST + 1.0:  # it was put off while nothing was known
            left = self._FIRST + left % 1.0
        polls = self._plan.polls_at(age / scale) + max(0.0, left)
        return self._capped(max(0.0, self._plan.age_after(polls) * scale - age))

    def longest(self, age: float, crowd: int) -> float:
        """Return the longest wait for a poll that serves a *crowd* of tasks.

        Tasks of one batch take about as long, so while nothing is known all of them may end
        soon after one long step has begun. A poll that many share is cheap enough for short ones.
        """
        return age * max(self._SHARED, 2.0 / crowd)

    def backstop(self, age: float, n: int = 1) -> float:
        """Return the wait until the next poll of a task whose end will be announced.

        Polls are a safety net then: the first where nine tasks in ten are over, and few after.
        """
        late = self._plan.late * self._scale(n) * (1.0 + 0.25 * self._rng.random())
        return self._capped(max(late - age, 0.35 * age, 1.0))

    def late(self) -> float:
        """Return the age at which a task that is reported unfinished deserves a second look.

        One task in twenty is that old, so this costs little.
        """
        return min(LATE, 1.3 * self.backstop(0.0))

    def observe_alive(self, since: float, age: float, n: int = 1) -> None:
        """Record that a task, seen unfinished at the age *since*, is unfinished at *age*."""
        scale = self._scale(n)
        self._durations.record_survival(since / scale, age / scale)
        self._recorded()

    def learn(self, duration: float, n: int = 1, *, since: float = 0.0) -> None:
        """Record that a task took *duration*; `observe_alive` covered it up to the age *since*."""
        duration = max(duration, SHORTEST)
        self._scales.setdefault(n, _Scale()).learn(duration)
        scale = self._scale(n)
        self._durations.record_survival(since / scale, duration / scale)
        self._durations.record_end(duration / scale)
        self._recorded()

    def _after(self, age: float, polls: float, n: int) -> float:
        scale = self._scale(n)
        plan = self._plan
        wait = plan.age_after(plan.polls_at(age / scale) + polls) * scale - age
        return self._capped(max(self._floor, wait))

    def _capped(self, wait: float) -> float:
        """Return *wait*, bounded: what exceeds the ceiling is spread, so that no two polls meet."""
        if wait < self.ceiling:
            return wait
        return max(self._floor, self.ceiling * (1.0 - SPREAD * self._rng.random()))

    def _scale(self, n: int) -> float:
        """Return how many times longer a task of *n* images takes than the usual one.

        All tasks share one histogram, of durations divided by this.
        """
        if len(self._scales) < 2 or n not in self._scales:  # noqa: PLR2004 - one alone shows no scale
            return 1.0
        usual = next(iter(self._scales.values()))
        return self._scales[n].against(usual)

    def _recorded(self) -> None:
        """Make a new plan when a tenth more is known than at the last one."""
        self._records += 1
        ends, records = self._due
        if self._records < records and self._durations.count < ends:
            return
        plan = _plan(self._durations, self._steps, self._floor, self.ceiling)
        self._past, self._plan = self._plan, plan
        self._due = (self._durations.count * 1.1 + 1e-9, self._records * 1.1)
        if self._durations.count <= self._YOUNG:
            self.version += 1


def _plan(known: DurationHistogram, steps: float, floor: float, ceiling: float) -> Plan:
    """Return the densities that make *steps* polls notice the ends soonest."""
    polls = 0.0
    weights: list[float] = []
    survivors = [1.0]
    for k, chance in enumerate(known.chances()):
        # While the scale is unknown a second counts for a short task more than for a long.
        scale = (MIDDLES[k] + known.total) / (1.0 + known.count)
        hazard = -math.log1p(-chance) / WIDTHS[k]
        weights.append(math.sqrt(hazard / scale))
        polls += survivors[-1] * (1.0 - chance / 2) * weights[-1] * WIDTHS[k]
        survivors.append(survivors[-1] * (1.0 - chance))
    price = steps * polls**-known.trust * _PRICE ** (1.0 - known.trust)
    most, least = 1.0 / floor, 1.0 / ceiling
    rates = [min(most, max(least, price * weight)) for weight in weights]
    sums = itertools.accumulate(map(float.__mul__, rates, WIDTHS), initial=0.0)
    late = bisect.bisect_left([-value for value in survivors], -0.1)
    return Plan(rates, tuple(sums)[:-1], EDGES[min(late, BINS)])


@functools.lru_cache(maxsize=8)
def _first_plan(steps: float, floor: float, ceiling: float) -> Plan:
    """Return the plan while nothing is known: the same for each session, and slow to make."""
    return _plan(DurationHistogram(), steps, floor, ceiling)


class _Scale:
    """Mean logarithm of the durations of tasks with one number of images."""

    __slots__ = ("_count", "_mean")

    def __init__(self) -> None:
        self._count = 0
        self._mean = 0.0

    def learn(self, duration: float) -> None:
        self._count = min(self._count + 1, 256)
        self._mean += (math.log(duration) - self._mean) / self._count

    def against(self, usual: _Scale) -> float:
        """Return the ratio to *usual*, cautious while there are few records."""
        trust = self._count / (self._count + 4.0)
        return math.exp(trust * (self._mean - usual._mean))


class TenacitySchedule:
    """Polls when a tenacity wait strategy says so.

    The strategy sees the number of polls as ``attempt_number`` and the task's age as
    ``seconds_since_start``. No interval is shorter than 0.05 s.

    Args:
        strategy: Such as ``wait_random_exponential(max=30)``.
    """

    def __init__(self, strategy: WaitStrategy) -> None:
        self._strategy = strategy

    def __repr__(self) -> str:
        return f"TenacitySchedule({self._strategy!r})"

    def first(self, n: int = 1) -> float:  # noqa: ARG002  # the protocol's signature
        """Return what the strategy waits after the first attempt: the submission."""
        return wait_of(self._strategy, 1, age=0.0)

    def next(self, age: float, attempt: int, n: int = 1) -> float:  # noqa: ARG002 - the protocol's signature
        """Return what the strategy waits after poll number *attempt*."""
        return wait_of(self._strategy, attempt + 1, age=age)

    def learn(self, duration: float, n: int = 1) -> None:
        """Do nothing: the strategy is the user's."""


ScheduleLike: TypeAlias = Schedule | WaitStrategy | float | None
"""What ``schedule=`` takes: seconds, a tenacity wait strategy, a `Schedule`, or None."""


def as_schedule(value: ScheduleLike, *, rng: random.Random | None = None) -> Schedule:
    """Return the schedule that *value* stands for.

    Args:
        value: Seconds for a fixed interval, a tenacity wait strategy such as
            ``wait_exponential(max=30)``, a `Schedule`, or None for a new `LearnedSchedule`.
        rng: Source of the jitter of a schedule that is created here.

    Raises:
        InputError: It is none of these.
    """
    if value is None:
        return LearnedSchedule(rng=rng)
    # bool is an int, but `schedule=True` is not an interval.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return FixedSchedule(value, rng=rng)
    if hasattr(value, "first") and hasattr(value, "next") and hasattr(value, "learn"):
        return cast("Schedule", value)
    if callable(value):
        return TenacitySchedule(value)
    raise InputError(
        f"schedule={value!r} can't be used",
        field="schedule",
        value=value,
        limit="seconds, a tenacity wait strategy, or a schedule",
        hint="pass seconds, a tenacity wait strategy, or an object with first, next and learn",
    )
