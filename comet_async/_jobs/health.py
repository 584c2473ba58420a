"""What the answers to paid requests say about the server."""

from __future__ import annotations

import logging
import threading

import attrs

from comet_async._backoff import Gate
from comet_async.clock import Clock
from comet_async.errors import CometError, NotSentError, OutcomeUnknownError, RunStoppedError

logger = logging.getLogger("comet_async")

FIRST_CONTACT = 40.0
"""Seconds after which a server that was never reached is given up: a wrong address. A server or a
network that comes up within half a minute must be waited for."""

LASTING = 300.0
"""Seconds after which a server that was reached before, and no longer answers, is given up."""

LOST_AT_FIRST = 2
"""Lost answers in a row that stop sending while no request has ever been accepted. Then nothing
exists that a lookup could be tried on, so each further request would end uncertain as well."""

COOL_DOWN = 60.0
"""Seconds after the last lost answer until a request may try again whether the server is well."""

LOST_IN_A_ROW = 3
"""Lost answers in a row that stop sending once they have lasted for `LASTING`."""


@attrs.define(eq=False)
class ServerHealth:
    """What the answers to paid requests say about the server; shared by all senders of a session.

    Attributes:
        clock: Measures how long it has been failing.
        gate: Holds all senders back after a refusal that concerns all of them.
    """

    clock: Clock
    gate: Gate
    _reached: bool = attrs.field(default=False, init=False)
    # Since when it can't be reached, and the last error, which came at `_failed_at`.
    _unreachable: tuple[float, CometError] | None = attrs.field(default=None, init=False)
    _failed_at: float = attrs.field(default=0.0, init=False)
    _lost: int = attrs.field(default=0, init=False)
    _lost_since: float = attrs.field(default=0.0, init=False)
    _lost_at: float = attrs.field(default=0.0, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def trust(self) -> None:
        """Record that this account's requests have been accepted before."""
        self._reached = self.gate.trusted = True

    def accepted(self) -> None:
        """Record an accepted request, whether its answer came or a lookup found its task."""
        self.answered()
        if not self.gate.trusted or self.gate.failures:
            self.gate.open()

    def answered(self) -> None:
        """Record an answer that says what became of the request."""
        with self._lock:
            self._reached, self._unreachable, self._lost = True, None, 0

    def failed(self, error: CometError, patience: float) -> None:
        """Record that a request was not accepted because of *error*.

        Args:
            error: Why.
            patience: Seconds for which the caller will try to reach the server.
        """
        if not isinstance(error, NotSentError):
            self.answered()
            return
        with self._lock:
            now, known = self.clock.monotonic(), self._unreachable
            # A failure long ago, with nothing tried since then, is not a part of this one.
            first = known is None or now - self._failed_at > LASTING
            since = now if known is None or first else known[0]
            self._unreachable, self._failed_at = (since, error), now
        if first and patience:
            logger.warning("%s; retrying for about %.0f s", error.message, patience)

    def lost(self, error: CometError, settle: float) -> None:
        """Record that the answer to a request was lost: it may have been accepted.

        The next request goes alone. Until one has been accepted, it also waits until the first
        one's task should have appeared.
        """
        with self._lock:
            self._lost += 1
            self._lost_at = self.clock.monotonic()
            if self._lost == 1:
                self._lost_since = self._lost_at
            if self.gate.trusted and self._lost < LOST_IN_A_ROW:
                return
        wait = None if self.gate.trusted else settle
        self.gate.failed(OutcomeUnknownError(error.message, retry_after=wait))

    @property
    def unreachable(self) -> CometError | None:
        """Why the server can't be reached at present, or None."""
        return None if self._unreachable is None else self._unreachable[1]

    @property
    def patience(self) -> float:
        """Seconds for which a run tries to reach a server that does not answer."""
        return LASTING if self._reached else FIRST_CONTACT

    def given_up(self) -> CometError | None:
        """Return why a run should send nothing more, or None."""
        now = self.clock.monotonic()
        if self._unreachable is not None:
            since, error = self._unreachable
            return error if now - since > self.patience else None
        if now - self._lost_at > COOL_DOWN:
            return None
        if not self.gate.trusted and self._lost >= LOST_AT_FIRST:
            hint = (
                "run again when the server has recovered: the first request that is accepted "
                "then shows whether these were"
            )
        elif self._lost >= LOST_IN_A_ROW and now - self._lost_since > LASTING:
            hint = (
                "run again when the server has recovered: what was sent is looked up, free of "
                "charge"
            )
        else:
            return None
        return RunStoppedError(
            f"the answers to the last {self._lost} paid requests were lost, so no more are sent",
            hint=hint,
        )
