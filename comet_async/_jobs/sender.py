"""The one way to the server for paid requests, with a journal on disk or in memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import attrs

from comet_async._http.body import Body
from comet_async._jobs.active import ActiveJobs, Job
from comet_async._jobs.calls import Call
from comet_async._jobs.options import JobOptions
from comet_async._journal.records import CALLBACK, JobRecord, Limits, Refusal
from comet_async._journal.shared import SharedJournal
from comet_async._journal.states import JobState
from comet_async.errors import (
    BudgetExceededError,
    CometError,
    ConcurrencyLimitError,
    ConfigError,
    DuplicateTaskError,
    InputError,
    JournalError,
    JournalLostError,
    NotSentError,
    OutcomeUnknownError,
    RateLimitError,
    RejectedError,
    RunStoppedError,
    ServerError,
    SessionClosedError,
    StaleRecordError,
)
from comet_async.events import AnswerLost, NotAccepted, Submitted
from comet_async.models import Task
from comet_async.requests import kind_named

logger = logging.getLogger("comet_async")

UNREACHED = 10.0
"""Seconds of trying to reach the server before a program's own call is given up."""

BUSY = 300.0
"""Seconds of waiting for a busy server before a program's own call is given up. Three quick tries
do not outlast a full account, https://github.com/Comfy-Org/ComfyUI_frontend/issues/4117."""


class _NoSlotError(ConcurrencyLimitError):
    """All slots of the quota that the workers of a journal share are in use."""


@attrs.define(eq=False)
class Sender:
    """Sends the paid requests of one batch.

    Attributes:
        active: The journal's jobs.
        options: How they are run.
        resolve: Finds out what became of a job whose answer was lost.
        stopped: Why nothing more is sent, or None.
        on_stop: Called when it stops.
    """

    active: ActiveJobs
    options: JobOptions
    resolve: Callable[[Job], Awaitable[Job]]
    stopped: CometError | None = attrs.field(default=None, init=False)
    on_stop: Callable[[], object] | None = attrs.field(default=None, init=False)

    def stop(self, error: CometError) -> None:
        """Send nothing more in this batch; what was sent continues."""
        if self.stopped is None:
            self.stopped = error
            if self.on_stop is not None:
                self.on_stop()

    async def send(self, call: Call, record: JobRecord) -> Job:
        """Send the request of a planned job until the server takes it or refuses it for good.

        Only a request that was provably not accepted is sent again.

        Returns:
            The job: ``submitted``, or ``unknown`` when the answer was lost.

        Raises:
            CometError: Why it was not accepted.
        """
        body = self._body(call, record)
        begin = self._now()
        while record.state is JobState.PLANNED:
            self._check(call, record)
            await self.active.acquire(
                record, wait=self.options.busy == "wait", single=self.options.single
            )
            call.deadline.start()
            try:
                return await self._with_slot(call, record, body, begin)
            except (NotSentError, RateLimitError, ServerError) as error:
                self.active.slots.release(record.key)
                call.refusal = error
                self._give_up(error, begin)
                record = await self.active.current(record)
                facts = {"error": type(error).__name__, "message": error.message}
                self.active.emit(NotAccepted, record, **facts)
        return Job(record)

    def _now(self) -> float:
        return self.active.services.clock.monotonic()

    def _body(self, call: Call, record: JobRecord) -> Body:
        services = self.active.services
        fields = dict(record.params)
        fields["external_task_id"] = record.key
        own = call.callback_url or fields.pop(CALLBACK, None)
        if callback := own or services.callback_url:
            fields[CALLBACK] = callback
        return Body.build(services.api.gateway.adapt(fields), call.images or {})

    def _check(self, call: Call, record: JobRecord) -> None:
        """Refuse to send when the batch has stopped or the caller's time is over."""
        health = self.active.services.health
        # Whether a server that could not be reached is back shows only when it is tried again.
        given_up = health.given_up() if health.unreachable is None else None
        if self.stopped is None and (error := given_up) is not None:
            if self.options.single:
                raise _not_sent(error, record.key)
            self.stop(error)
        if self.stopped is not None:
            raise _not_sent(self.stopped, record.key)
        call.deadline.check()

    def _patience(self) -> float:
        """Return the seconds for which this batch tries to reach the server."""
        if not self.options.single:
            return self.active.services.health.patience
        return 0.0 if self.options.busy == "raise" else UNREACHED

    def _give_up(self, error: CometError, begin: float) -> None:
        """Decide whether to try again after *error*.

        Raises:
            CometError: *error*; the job stays planned, nothing was paid.
        """
        waited = self._now() - begin + self.active.services.health.gate.remaining
        if self.options.single:
            limit = UNREACHED if isinstance(error, NotSentError) else BUSY
            if waited > limit or self.options.busy == "raise":
                raise error
        elif (reason := self.active.services.health.given_up()) is not None:
            self.stop(reason)
            raise error

    async def _with_slot(self, call: Call, record: JobRecord, body: Body, begin: float) -> Job:
        """Send once, when the journal's workers together have a slot left."""
        slots = self.active.shared_slots
        if slots is None:
            return await self._pass(call, record, body, begin)
        if not slots.crowded:
            with contextlib.suppress(_NoSlotError):
                return await self._pass(call, record, body, begin)
        self._check_patience(record)
        async with slots.turn(record.key), slots.queued(record.key) as place:
            while True:
                if await place.wait():
                    await self.active.poll_unclaimed(self.resolve)
                with contextlib.suppress(_NoSlotError):
                    return await self._pass(call, record, body, begin)

    def _check_patience(self, record: JobRecord) -> None:
        """Refuse to wait for a slot, if the caller does not.

        Raises:
            ConcurrencyLimitError: It does not.
        """
        if self.options.busy == "wait":
            return
        raise ConcurrencyLimitError(
            f"all {self.active.slots.most} slots are in use by this journal's workers",
            hint="nothing was sent: try again later",
            sent=False,
            external_task_id=record.key,
        )

    async def _pass(self, call: Call, record: JobRecord, body: Body, begin: float) -> Job:
        """Send once, when the gate that all senders share lets the request through."""
        ticket = await self._ticket(record, begin)
        with self.active.services.health.gate.passing(ticket) as passage:
            passage.conclusive = False  # our own refusal says nothing about the server
            self._check(call, record)
            passage.conclusive = True
            try:
                job = await self._shielded(call, record, body)
            except ConcurrencyLimitError as error:
                # While others of ours run, a slot becomes free when one of them ends.
                ours = isinstance(error, _NoSlotError) or self.active.slots.used > record.n
                passage.conclusive = not ours
                raise
            passage.conclusive = job.record.state is JobState.SUBMITTED
            return job

    async def _ticket(self, record: JobRecord, begin: float) -> int:
        """Wait at the gate that all senders share; return the ticket for its passage."""
        health = self.active.services.health
        if (ticket := health.gate.try_enter()) is not None:
            return ticket
        if self.options.busy == "raise" and health.gate.failures:
            reason = health.unreachable
            raise ConcurrencyLimitError(
                f"{'the server is busy' if reason is None else reason.message}; nothing was sent",
                hint="try again later",
                sent=False,
                external_task_id=record.key,
            )
        if not self.options.single:
            return await health.gate.enter()
        try:
            return await self._enter_soon(begin)
        except TimeoutError:
            error = health.unreachable or RateLimitError("the server has been busy for too long")
            raise _not_sent(error, record.key) from None

    async def _enter_soon(self, begin: float) -> int:
        """Wait at the gate, but for a program's own call not long for a dead server."""
        health = self.active.services.health
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, begin + UNREACHED - self._now())):
                return await health.gate.enter()
        if health.unreachable is not None:
            raise TimeoutError
        async with asyncio.timeout(max(0.0, begin + BUSY - self._now())):
            return await health.gate.enter()

    async def _shielded(self, call: Call, record: JobRecord, body: Body) -> Job:
        """Send and record in a task of its own: a cancelled caller does not abort the request."""
        task = asyncio.create_task(self._post(record, body), name=f"send {record.key}")
        self.active.send(record, task)
        try:
            return await asyncio.shield(task)
        except BaseException as error:
            if task.done():  # perhaps in this turn of the loop: the caller must learn what was sent
                call.take_over(task)
            if isinstance(error, asyncio.CancelledError):
                task.add_done_callback(_log_orphan)
            raise

    async def _post(self, record: JobRecord, body: Body) -> Job:
        services, shared = self.active.services, self.active.shared
        if shared is not None:
            body = attrs.evolve(body, check=partial(_check_lease, shared, shared.boot, record.key))
        began = self._now()
        sending = await self._begin(record, body)
        if self.active.shared_slots is not None:
            await self.active.shared_slots.started(record.key)
        if asyncio.current_task() in self.active.abandoned:
            raise StaleRecordError(
                f"another caller took {record.key} over while this event loop was stopped",
                hint="nothing was sent by this call: run it again to get the result",
                external_task_id=record.key,
            )
        try:
            task = await services.api.create(
                kind_named(record.kind), body, external_task_id=record.key
            )
            self._check_new(record, task)
        except CometError as caught:
            error = caught
        except asyncio.CancelledError:
            await self.active.move(sending, JobState.UNKNOWN, "closed before the answer came")
            raise
        else:
            seconds = self._now() - began
            job = await self.active.adopt(
                sending, task, "accepted", Submitted, n=record.n, seconds=seconds
            )
            await self.active.accepted()
            return job
        return await self._refused(sending, error)

    async def _begin(self, record: JobRecord, body: Body) -> JobRecord:
        """Record that the request is about to leave.

        Raises:
            ConcurrencyLimitError: The workers of the journal use all slots.
            BudgetExceededError: The run may not buy any more.
        """
        services = self.active.services
        now = services.clock.time()
        try:
            sending = await self.active.journal.send(
                record,
                now=now,
                post_deadline=now + services.api.transport.timeouts.post(body.length),
                limits=self._limits(),
                run=self.options.run,
            )
        except StaleRecordError:  # another worker moved the job, and may have sent it
            raise
        except JournalError as error:
            error.sent = False
            raise
        if sending is Refusal.IN_FLIGHT:
            raise _NoSlotError("all slots are in use", sent=False, external_task_id=record.key)
        if isinstance(sending, Refusal):
            what = "max_jobs" if sending is Refusal.JOBS else "max_spend"
            raise BudgetExceededError(
                f"the limit of this run is reached ({what})",
                hint="run again with a higher limit to continue",
                external_task_id=record.key,
            )
        return sending

    def _check_new(self, record: JobRecord, task: Task) -> None:
        """Refuse to believe an answer that names the task of another job that is running.

        Raises:
            OutcomeUnknownError: It does; which task is this job's is to be looked up.
        """
        other = self.active.running(task.id)
        if other is not None and other.key != record.key:
            raise OutcomeUnknownError(
                f"the answer names task {task.id}, which is that of {other.key}",
                external_task_id=record.key,
                hint="it may have been accepted and billed: look it up, do not submit it again",
            )

    def _limits(self) -> Limits:
        """Return what is checked when the request starts."""
        if self.active.shared is None:
            return self.options.limits
        return attrs.evolve(self.options.limits, in_flight=self.active.slots.most)

    async def _refused(self, record: JobRecord, error: CometError) -> Job:
        """Record what an unaccepted request means, then raise unless it is to be looked up."""
        health = self.active.services.health
        if isinstance(error, OutcomeUnknownError | DuplicateTaskError):
            if isinstance(error, OutcomeUnknownError):
                facts = {"error": type(error).__name__, "message": error.message}
                self.active.emit(AnswerLost, record, **facts)
                health.lost(error, self.options.settle)
                if not self.options.single and (reason := health.given_up()) is not None:
                    self.stop(reason)
            else:
                health.answered()
                self.active.duplicates.add(record.key)
            # The server had this request before this run sent it: it was paid for earlier, so it
            # does not count in this run.
            refund = isinstance(error, DuplicateTaskError) and record.attempt == 1
            return Job(
                await self.active.move(
                    record, JobState.UNKNOWN, error.message, error, refund=refund
                )
            )
        if isinstance(error, RejectedError):
            health.answered()
            await self.active.move(record, JobState.REJECTED, error.message, error)
            raise error
        if isinstance(error, StaleRecordError):  # the lease ended before the request was complete
            await self.active.move(record, JobState.PLANNED, error.message, error)
            raise error
        # Nothing was accepted: the server or the network said so, or the file changed.
        await self.active.move(record, JobState.PLANNED, error.message, error)
        health.failed(error, self._patience())
        if isinstance(error, ConcurrencyLimitError):
            await self.active.refused_for_concurrency()
        if error.account_wide or isinstance(error, ConfigError):
            self.stop(error)
        raise error


def _check_lease(journal: SharedJournal, boot: str, key: str) -> None:
    """Refuse to complete a request once another worker may have taken its job over.

    Args:
        journal: Whose lease.
        boot: The lease's name when the request was recorded. A worker that was suspended may have
            a new one by now, which does not cover the jobs of the last one.
        key: The request's job.

    Raises:
        StaleRecordError: This worker's lease may have ended.
    """
    if journal.lease_left <= 0 or journal.boot != boot:
        raise StaleRecordError(
            f"this worker's lease ended before the request for {key} was complete",
            hint="nothing was accepted: another worker continues the job, or run it again",
            external_task_id=key,
        )


def _not_sent(reason: CometError, key: str) -> CometError:
    """Return the error of a job that is not sent because of *reason*."""
    if isinstance(reason, RunStoppedError):
        error: CometError = RunStoppedError(reason.message, hint=reason.hint)
    elif isinstance(reason, SessionClosedError):
        error = SessionClosedError(reason.message, hint=reason.hint)
    elif isinstance(reason, NotSentError):
        error = NotSentError(reason.message, hint=reason.hint)
    elif isinstance(reason, JournalLostError):
        error = JournalLostError(reason.message, hint=reason.hint)
    elif isinstance(reason, RateLimitError):
        error = RateLimitError(reason.message, sent=False, hint="try again later")
    else:
        error = RunStoppedError(
            f"not sent, because this run has stopped: {reason.message}",
            hint="run again to continue",
        )
    error.external_task_id = key
    return error


_ORPHAN = {"comet_caller": "gone"}
"""Marks log records for programs that tell their users in another way, as our command does."""


def _log_orphan(task: asyncio.Task[Job]) -> None:
    """Log the outcome of a request whose caller was cancelled or ran out of time."""
    if task.cancelled():
        return
    if (error := task.exception()) is not None:
        if not isinstance(error, CometError | InputError):
            logger.error("a request failed after its caller was gone", exc_info=error)
        return
    record = task.result().record
    if record.task_id is not None:
        logger.warning(
            "task %s (%s) was accepted and is billed, after its caller was gone",
            record.task_id,
            record.key,
            extra=_ORPHAN,
        )
    else:
        logger.warning(
            "request %s may have been accepted and billed, but its answer was lost; "
            "look it up with find(%r)",
            record.key,
            record.key,
            extra=_ORPHAN,
        )
