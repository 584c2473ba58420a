"""Ids and random choices that look like the service's and can be repeated."""

from __future__ import annotations

import random
import string
import uuid
from datetime import UTC, datetime

# Kling's task ids count milliseconds from here, 2019-09-09, in their upper bits: six public pairs
# of id and creation time agree to within 45 ms.
_EPOCH_MS = 1_568_028_518_780
_LOW_BITS = 22


class Ids:
    """A source of ids; the same seed and the same times give the same ids.

    Args:
        seed: None for ids that differ from run to run.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 - looks, not secrets
        self._given: set[str] = set()

    def task_id(self, created_ms: int) -> str:
        """Return a new task id: 18 digits that sort by time of creation."""
        while True:
            low = self._random.getrandbits(_LOW_BITS)
            made = str((created_ms - _EPOCH_MS) << _LOW_BITS | low)
            if made not in self._given:
                self._given.add(made)
                return made

    def request_id(self) -> str:
        """Return Kling's kind of request id: a random UUID."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def comet_request_id(self, now: float) -> str:
        """Return CometAPI's: 23 digits of time, then eight letters."""
        moment = datetime.fromtimestamp(now, UTC)
        letters = "".join(self._random.choices(string.ascii_letters, k=8))
        return f"{moment:%Y%m%d%H%M%S%f}000{letters}"

    def delivery_id(self) -> str:
        """Return the id of a callback: 19 digits."""
        return str(self._random.randrange(10**18, 9 * 10**18))

    def between(self, span: tuple[float, float]) -> float:
        """Return a number within *span*."""
        return self._random.uniform(*span)
