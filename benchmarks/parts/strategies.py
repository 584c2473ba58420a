"""When to poll: what other clients do, how long tasks take, and the best that is possible."""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable, Mapping, Sequence

import attrs
import tenacity

from comet_async.schedules import FixedSchedule, LearnedSchedule, Schedule, TenacitySchedule

Make = Callable[[random.Random], Schedule]

OURS = "comet_async"
PEERS: Mapping[str, Make] = {
    "every 0.1 s (fal-client)": lambda rng: FixedSchedule(0.1, rng=rng),
    "every 0.5 s (replicate)": lambda rng: FixedSchedule(0.5, rng=rng),
    "every 1 s (openai)": lambda rng: FixedSchedule(1.0, rng=rng),
    "every 5 s": lambda rng: FixedSchedule(5.0, rng=rng),
    "every 6 ± 1.5 s (runwayml)": lambda rng: TenacitySchedule(lambda _: rng.uniform(4.5, 7.5)),
    "tenacity, 2ˣ, 1 to 30 s": lambda _: TenacitySchedule(tenacity.wait_exponential(min=1, max=30)),
    "tenacity, 1.5ˣ, 1 to 10 s": lambda _: TenacitySchedule(
        tenacity.wait_exponential(exp_base=1.5, min=1, max=10)
    ),
}
"""Strategies that learn nothing, by who uses them."""


def ours(rng: random.Random, aim: float | None = None) -> LearnedSchedule:
    """Return our schedule, which knows nothing so far."""
    return LearnedSchedule(rng=rng) if aim is None else LearnedSchedule(rng=rng, aim=aim)


# --------------------------------------------------------------------------- durations


def _normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


@attrs.frozen
class Hump:
    """Durations around *median*, lognormal with *sigma*; *weight* of all tasks are of these."""

    median: float
    sigma: float
    weight: float = 1.0

    @property
    def mean(self) -> float:
        """The mean duration."""
        return self.median * math.exp(self.sigma**2 / 2)


@attrs.frozen
class DurationHistogram:
    """How long tasks take.

    Attributes:
        name: In words.
        humps: The kinds of tasks.
    """

    name: str
    humps: tuple[Hump, ...]

    @property
    def mean(self) -> float:
        """The mean duration."""
        return sum(hump.weight * hump.mean for hump in self.humps)

    def draw(self, rng: random.Random) -> float:
        """Return one of them."""
        left = rng.random()
        for hump in self.humps:
            left -= hump.weight
            if left < 0.0:
                break
        return hump.median * math.exp(rng.gauss(0.0, hump.sigma))

    def ended(self, age: float) -> float:
        """Return the share that ended before *age*."""
        at = math.log(max(age, 1e-9))
        return sum(h.weight * _normal((at - math.log(h.median)) / h.sigma) for h in self.humps)

    def time_ended(self, age: float) -> float:
        """Return the mean of the durations up to *age*, the longer ones counting as nothing."""
        at = math.log(max(age, 1e-9))
        return sum(
            h.weight * h.mean * _normal((at - math.log(h.median)) / h.sigma - h.sigma)
            for h in self.humps
        )


ONE_HUMP = DurationHistogram("lognormal, median 20 s", (Hump(20.0, 0.5),))
TWO_HUMPS = DurationHistogram(
    "70 % around 12 s, 30 % around 60 s", (Hump(12, 0.25, 0.7), Hump(60, 0.25, 0.3))
)


# --------------------------------------------------------------------------- the optimum


@attrs.frozen
class Optimum:
    """The polls that are best for durations known exactly; a schedule that needs no learning.

    Attributes:
        ages: When to poll.
        polls: Mean number of polls a task.
        delay: Mean seconds from the end to the next poll.
    """

    ages: Sequence[float]
    polls: float
    delay: float

    def first(self, n: int = 1) -> float:
        """Return the first of the ages."""
        del n
        return self.ages[0]

    def next(self, age: float, attempt: int, n: int = 1) -> float:
        """Return the wait until the next of the ages."""
        del attempt, n
        k = bisect.bisect(self.ages, age + 1e-6)
        return self.ages[k] - age if k < len(self.ages) else self.ages[-1] / 10

    def learn(self, duration: float, n: int = 1) -> None:
        """Do nothing."""


def optimum(durations: DurationHistogram, price: float, step: float = 0.05) -> Optimum:
    """Return the polls that cost least, one poll costing what *price* seconds of delay do.

    Backwards through all ages: the best next poll after a poll at age *t* is found for the
    latest *t* first. It never lies later for an earlier *t*, which bounds the search.
    """
    last = max(hump.median * math.exp(4.5 * hump.sigma) for hump in durations.humps)
    count = int(last / step)
    ended = [durations.ended(k * step) for k in range(count + 1)]
    time = [durations.time_ended(k * step) for k in range(count + 1)]

    def delay(t: int, s: int) -> float:
        return s * step * (ended[s] - ended[t]) - (time[s] - time[t])

    best, after = [0.0] * (count + 1), [count] * (count + 1)
    for t in range(count - 1, -1, -1):
        choices = range(t + 1, after[t + 1] + 1)
        cost, after[t] = min((delay(t, s) + best[s], s) for s in choices)
        best[t] = cost + price * (1.0 - ended[t])
    ages, polls, late, t = [], 0.0, 0.0, 0
    while t < count:
        s = after[t]
        polls, late, t = polls + 1.0 - ended[t], late + delay(t, s), s
        ages.append(s * step)
    return Optimum(ages, polls, late)


def optimum_with(durations: DurationHistogram, polls: float) -> Optimum:
    """Return the best schedule of about so many *polls* a task."""
    cheap, dear = 0.01, 10.0
    for _ in range(12):
        price = math.sqrt(cheap * dear)
        found = optimum(durations, price)
        cheap, dear = (cheap, price) if found.polls < polls else (price, dear)
    return optimum(durations, cheap)
