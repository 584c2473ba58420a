"""How long to go on trying to send a request, and how long to pause in between."""

from __future__ import annotations

import logging
import random

import attrs

from comet_async.errors import CometError, NotSentError

logger = logging.getLogger("comet_async.persistence")

FIRST_CONTACT = 40.0
"""Seconds after which a server that was never reached is given up: a wrong address."""

LASTING = 300.0
"""Seconds after which a server that was reached before, and no longer is, is given up."""

_LONGEST_PAUSE = 30.0
_UNREACHED_PAUSE = 5.0  # knocking costs the server nothing while it is away
_RETRY_CAP = 60.0
# One for all: to seed it costs more than to send a small request.
_RANDOM = random.Random()  # noqa: S311 - spreads retries, guards nothing


@attrs.define(eq=False)
class Persistence:
    """Remembers whether a server can be reached at all.

    Attributes:
        first_contact: Seconds to try to reach it for the first time.
        lasting: Seconds to try to reach it again.
    """

    first_contact: float = FIRST_CONTACT
    lasting: float = LASTING
    _reached: bool = attrs.field(default=False, init=False)
    _failing_since: float | None = attrs.field(default=None, init=False)

    def answered(self) -> None:
        """Note that the server gave an answer, whatever it says."""
        self._reached, self._failing_since = True, None

    def over(self, error: CometError, now: float) -> bool:
        """Tell whether *error* is one too many, if the next try is at *now* (seconds).

        Only a server that can't be reached is given up: one that answers "not now" will have
        room again.
        """
        if not isinstance(error, NotSentError):
            self.answered()
            return False
        if self._failing_since is None:
            self._failing_since = now
            logger.warning("the server can't be reached: %s; trying on", error.message)
        limit = self.lasting if self._reached else self.first_contact
        return now - self._failing_since > limit

    def pause(self, error: CometError, attempt: int) -> float:
        """Return the seconds to wait after attempt number *attempt* (from 1) met *error*.

        What the server asks for, up to 60 s; else from one second, doubled, with jitter:
        https://klingai.com/document-api/api/get-started/concurrency-rules asks for
        exponential backoff from at least one second.
        """
        if error.retry_after is not None:
            return min(error.retry_after, _RETRY_CAP) + _RANDOM.uniform(0, 0.5)
        longest = _UNREACHED_PAUSE if isinstance(error, NotSentError) else _LONGEST_PAUSE
        return min(2.0 ** min(attempt - 1, 16), longest) * _RANDOM.uniform(1, 1.5)
