"""How long tasks take: a histogram of hazards, learned from those that ended and those that run.

A hazard is the chance that a task which is alive at some age ends just then. Pure arithmetic.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TypeAlias

SHORTEST = 0.05
"""Nothing is resolved finer than this, seconds; no schedule asks more often either."""

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


# What is believed before the first task has ended: half of them within 20 s, with tails so
# wide that 2 % end within half a second and 3 % take over 10 minutes. Seen in the wild: 8, 12
# and 41 s for images and 1.7 s for a refusal (captured answers in CometAPI's and Kling's
# documents); 32 s for images and 164 to 455 s for videos (ComfyUI's built-in averages,
# https://github.com/comfyanonymous/ComfyUI, comfy_api_nodes).
_PRIOR_MEDIAN = 20.0


def _believed_survival(age: float) -> float:
    return _PRIOR_MEDIAN / (_PRIOR_MEDIAN + age)


_BELIEVED: Sequence[float] = tuple(
    1.0 - _believed_survival(b) / _believed_survival(a) for a, b in itertools.pairwise(EDGES)
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


class Durations:
    """What is known about how long tasks take: ends and survivals per bin of age.

    Tasks that still run count too, up to the age at which they were last seen. Without them the
    first tasks of a batch to end, which are its fastest, would pass for typical.
    """

    # What the neighbourhood and the belief above weigh, in tasks. The belief counts for less the
    # more tasks were there: one poll then tells about all of them, so each needs fewer. Where 64
    # of ten minutes are submitted at once, that saves two of twelve polls each.
    _BELIEF = 2.0
    _CROWD = 0.2
    _NEIGHBOURS = 1.0
    _REACH = 5
    _PASSES = 3
    _BLEND = 8.0  # so many ends weigh as much as what was believed
    # Old records fade: at this many ends all counts are halved.
    _ENOUGH = 512

    def __init__(self) -> None:
        self.count = 0.0
        self.total = 0.0
        self._ends = [0.0] * BINS
        # Difference array of "how many were seen alive in this bin": two updates a record.
        self._alive = [0.0] * (BINS + 1)

    @property
    def mean(self) -> float:
        """Mean duration of the tasks that ended; 0 while none has."""
        return self.total / self.count if self.count else 0.0

    @property
    def trust(self) -> float:
        """How much the records count against what was believed, from 0 to 1."""
        return self.count / (self.count + self._BLEND)

    def survived(self, since: float, age: float) -> None:
        """Take note that a task, seen alive at *since*, was alive at *age* too."""
        if age > since:
            self._alive[bin_of(since)] += 1.0
            self._alive[bin_of(age)] -= 1.0

    def ended(self, duration: float) -> None:
        """Take note that a task ended at the age of *duration*."""
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

        Each bin leans on its own record, where that is thin on its neighbourhood's, and where
        nobody has been yet on what was believed at first. The step in the middle matters for a
        batch: when 64 tasks of the same age have not ended so far, the next bin is not much
        likelier to see an end than the last ones were.
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
        for k, believed in enumerate(_BELIEVED):
            crowd = max(wide_risk[k], ahead[k] * (1.0 - self.trust))
            belief = self._BELIEF / (1.0 + crowd / self._CROWD)
            near = (wide_ends[k] + belief * believed) / (wide_risk[k] + self._BELIEF)
            own = (ends[k] + self._NEIGHBOURS * near) / (risk[k] + self._NEIGHBOURS)
            chances.append(min(0.95, own))
        return chances
