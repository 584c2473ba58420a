"""One image through its whole life: planned, sent, waited for, saved.

`JobRunner.run` moves a job of the journal along the table of `comet_async._journal.states` until
nothing more can be done. Each step starts from the journal's record and ends with a record
that was written durably, so it can be called again after anything: an error, a cancelled
task, a crash, in another process.

The rule that money hangs on: a request is sent only from ``planned``, after ``sending`` is
safe on the disk; and a request whose outcome is unknown comes back to ``planned`` only with
proof that the server never took it (`comet_async._jobs.reconcile`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

import attrs

from comet_async._http.api import Api
from comet_async._http.body import Body
from comet_async._images.load import SourceImage
from comet_async._jobs.admission import ConcurrencyLimiter, JobClaims, SendBackoff
from comet_async._jobs.reconcile import Reconciler, TaskLookup, Verdict
from comet_async._journal.records import Changes, JobRecord, Journal, Limits, Refusal, StoredImage
from comet_async._journal.states import JobState
from comet_async.clock import Clock
from comet_async.errors import (
    BudgetExceededError,
    CometError,
    ConcurrencyLimitError,
    ConfigError,
    DuplicateTaskError,
    JournalError,
    NotFoundError,
    NotSentError,
    OutcomeUnknownError,
    RateLimitError,
    RejectedError,
    RunStoppedError,
    ServerError,
    TaskFailedError,
)
from comet_async.models import Task
from comet_async.requests import TaskKind
from comet_async.waiter import TaskWaiter

logger = logging.getLogger("comet_async.jobs")

_RECORD_TRIES = 5

Load = Callable[[JobRecord], Awaitable[Mapping[str, SourceImage]]]
"""Loads the images of a job anew from where its record says they are."""


@attrs.frozen(kw_only=True)
class JobOptions:
    """How jobs are run.

    Attributes:
        settle: Seconds after a request of unknown outcome during which its task may still
            appear. 60 by default.
        timeout: Seconds that one task is waited for; no limit by default.
        limits: What this run may buy.
        run: Name of this run, for those limits.
        verify_remote: Look for each new job on the server before it is sent for the first
            time: for a folder whose journal was lost.
    """

    settle: float = 60.0
    timeout: float | None = None
    limits: Limits
    run: str
    verify_remote: bool = False


@attrs.define(eq=False)
class JobRunner:
    """Runs the jobs of one journal on one account."""

    api: Api
    journal: Journal
    waiter: TaskWaiter
    claims: JobClaims
    clock: Clock
    kinds: Mapping[str, TaskKind]
    load: Load
    options: JobOptions
    callback_url: Callable[[], str | None] = lambda: None
    heard: Callable[[str], str | None] = lambda _key: None
    _resolver: Reconciler = attrs.field(init=False)
    _stopped: CometError | None = attrs.field(default=None, init=False)
    _persistence: SendBackoff = attrs.field(factory=SendBackoff, init=False)

    def __attrs_post_init__(self) -> None:
        self._resolver = Reconciler(
            lookup=TaskLookup(self.api, self.heard),
            journal=self.journal,
            clock=self.clock,
            settle=self.options.settle,
        )

    @property
    def quota(self) -> ConcurrencyLimiter:
        """The places for images in flight."""
        return self.claims.places

    @property
    def stopped(self) -> CometError | None:
        """The account problem that ended all sending, or None."""
        return self._stopped

    def stop(self, error: CometError) -> None:
        """Send nothing more in this run; what was sent goes on."""
        self._stopped = self._stopped or error

    async def run(
        self,
        record: JobRecord,
        images: Mapping[str, SourceImage] | None = None,
        *,
        until: JobState | None = None,
        timeout: float | None = None,
    ) -> JobRecord:
        """Move *record* as far as it goes: to ``succeeded`` or beyond, or to an end without.

        Args:
            record: The job, as the journal has it now.
            images: Its images, if they are loaded; else they are loaded when needed.
            until: Stop in this state.
            timeout: Seconds to wait for the task; by default as `JobOptions` say.

        Returns:
            The record, in a state that needs no more work here: ``succeeded``, ``saving``,
            ``done``, ``failed``, ``uncertain``, ``stranded``, ``expired``, ``abandoned``,
            or ``unknown`` while no proof can be had yet.

        Raises:
            CometError: Why the job can't go on now; the journal says how far it came.
        """
        if record.state in {JobState.REJECTED, JobState.UNCERTAIN, JobState.STRANDED}:
            record = await self._reexamine(record)
        while record.state is not until:
            match record.state:
                case JobState.PLANNED:
                    record = await self._send(record, images)
                case JobState.UNKNOWN:
                    record = await self._resolve(record)
                    if record.state is JobState.UNKNOWN:
                        break
                case JobState.SUBMITTED:
                    record = await self._wait(record, timeout)
                case JobState.SENDING:
                    # Sent by a task of this process that was left (a cancelled caller).
                    record = await self._join(record)
                case _:
                    self.quota.release(record.key)
                    break
        return record

    async def give_up(self, record: JobRecord) -> JobRecord:
        """Mark an unknown outcome as uncertain: nothing that is at hand can settle it."""
        why = "no lookup of this gateway could be proven to work"
        return await self._move(record, JobState.UNCERTAIN, why)

    # Sending ----------------------------------------------------------------------------

    async def _send(self, record: JobRecord, images: Mapping[str, SourceImage] | None) -> JobRecord:
        kind = self.kinds[record.kind]
        if self.options.verify_remote and record.attempt == 0:
            finding = await self._resolver.lookup.look(kind, record.key, known=None)
            if finding.task is not None:
                return await self._adopt(record, finding.task, "found on the server")
        body = self._body(record, images if images is not None else await self.load(record))
        attempt, begin = 0, self.clock.monotonic()
        while record.state is JobState.PLANNED:
            await self.quota.acquire(record.key, record.n)
            pause: float | None = None
            try:
                record = await self._post_shielded(record, kind, body)
            except (NotSentError, RateLimitError, ServerError) as error:
                attempt += 1
                pause = self._persistence.pause(error, attempt)
                self._check_persistence(error, begin, pause)
                logger.info("%s: %s; again in %.1f s", record.key, type(error).__name__, pause)
                record = await self._current(record)
            finally:
                if pause is not None or record.state is JobState.PLANNED:
                    self.quota.release(record.key)
            if pause is not None:
                await self.clock.sleep(pause)
        return record

    def _body(self, record: JobRecord, images: Mapping[str, SourceImage]) -> Body:
        fields = dict(record.params)
        fields["external_task_id"] = record.key
        if callback := self.callback_url():
            fields["callback_url"] = callback
        return Body.build(self.api.gateway.adapt(fields), images)

    async def _post_shielded(self, record: JobRecord, kind: TaskKind, body: Body) -> JobRecord:
        """Send and record in a task of our own: a cancelled caller must not cut it off."""
        if self._stopped is not None:
            msg = f"not sent, because this run has stopped: {self._stopped.message}"
            raise RunStoppedError(msg, hint="run again to continue")
        task = asyncio.create_task(self._post(record, kind, body), name=f"send {record.key}")
        self.claims.sending.add(task)
        task.add_done_callback(self._sent)
        return await asyncio.shield(task)

    def _sent(self, task: asyncio.Task[JobRecord]) -> None:
        self.claims.sending.discard(task)
        if not task.cancelled():
            task.exception()  # a caller that was cancelled never asks for it

    async def _post(self, record: JobRecord, kind: TaskKind, body: Body) -> JobRecord:
        now = self.clock.time()
        deadline = now + self.api.transport.timeouts.post(body.length)
        sending = await self.journal.send(
            record,
            now=now,
            post_deadline=deadline,
            limits=self.options.limits,
            run=self.options.run,
        )
        if isinstance(sending, Refusal):
            self.quota.release(record.key)
            msg = f"the limit of this run is reached ({sending.value})"
            raise BudgetExceededError(msg, hint="run again with a higher limit to continue")
        error: CometError
        try:
            task = await self.api.create(kind, body, external_task_id=record.key)
        except CometError as caught:
            error = caught
        else:
            self.quota.accepted()
            self._persistence.answered()
            return await self._adopt(sending, task, "accepted")
        return await self._refused(sending, error)

    async def _refused(self, record: JobRecord, error: CometError) -> JobRecord:
        """Record what an unaccepted request means, then raise unless it may be settled."""
        if isinstance(error, OutcomeUnknownError | DuplicateTaskError):
            return await self._move(record, JobState.UNKNOWN, error.message, error)
        if isinstance(error, RejectedError):
            await self._move(record, JobState.REJECTED, error.message, error)
            self.quota.release(record.key)
            raise error
        # Nothing was accepted: the server or the network said so, or the file changed.
        await self._move(record, JobState.PLANNED, error.message, error)
        if isinstance(error, ConcurrencyLimitError):
            self.quota.shrink()
        if error.account_wide or isinstance(error, ConfigError):
            self.stop(error)
        raise error

    def _check_persistence(self, error: CometError, begin: float, pause: float) -> None:
        """Give up when the server can't be reached, or the job's own time is over.

        Raises:
            CometError: *error*; the job stays planned, nothing was paid.
        """
        now, timeout = self.clock.monotonic() + pause, self.options.timeout
        if self._persistence.over(error, now):
            self.stop(error)
            raise error
        if timeout is not None and now - begin > timeout:
            raise error

    async def _join(self, record: JobRecord) -> JobRecord:
        name = f"send {record.key}"
        while any(task.get_name() == name for task in list(self.claims.sending)):
            await self.clock.sleep(0.05)  # perhaps another loop's task: not to be awaited here
        current = await self._current(record)
        if current.state is JobState.SENDING:
            return await self._move(current, JobState.UNKNOWN, "sent, and never recorded")
        return current

    async def _resolve(self, record: JobRecord) -> JobRecord:
        """Find out what became of a request; back to ``planned`` only with proof."""
        self.quota.hold(record.key, record.n)
        finding = await self._resolver.resolve(record, self.kinds[record.kind])
        if finding.task is not None:
            return await self._adopt(record, finding.task, "found on the server")
        if finding.verdict is Verdict.ABSENT:
            self.quota.release(record.key)
            return await self._move(record, JobState.PLANNED, "the server never took it")
        return record

    async def _reexamine(self, record: JobRecord) -> JobRecord:
        """Give a job that ended without a result another look, which costs nothing."""
        if record.state is JobState.UNCERTAIN:
            return await self._move(record, JobState.UNKNOWN, "looked at again")
        if record.state is JobState.STRANDED:
            return await self._move(record, JobState.SUBMITTED, "looked at again")
        # Refused requests were not paid: asking again is free, and the cause may be mended.
        return await self._move(record, JobState.PLANNED, "sent again: it was refused, not paid")

    # Waiting ----------------------------------------------------------------------------

    async def _wait(self, record: JobRecord, timeout: float | None) -> JobRecord:
        task_id = record.task_id or ""
        self.quota.hold(record.key, record.n)
        try:
            task = await self.waiter.wait(
                task_id, kind=record.kind, timeout=timeout or self.options.timeout
            )
        except TaskFailedError as error:
            return await self._ended(record, error.task, JobState.FAILED)
        except NotFoundError as error:
            why = "the server no longer knows the task"
            await self._move(record, JobState.STRANDED, why, error)
            raise
        except CometError as error:
            error.external_task_id = error.external_task_id or record.key
            if error.account_wide:
                self.stop(error)
            raise
        return await self._ended(record, task, JobState.SUCCEEDED)

    async def _ended(self, record: JobRecord, task: Task, state: JobState) -> JobRecord:
        images = tuple(map(StoredImage.of, task.images))
        self.quota.release(record.key)
        return await self.journal.move(
            record,
            state,
            now=self.clock.time(),
            why=task.message or str(task.status),
            images=images,
            images_seen_at=self.clock.time(),
            message=task.message,
            units=None if task.units is None else str(task.units),
        )

    # Recording --------------------------------------------------------------------------

    async def _adopt(self, record: JobRecord, task: Task, why: str) -> JobRecord:
        """Record the task's id. If the disk refuses, keep trying: the id is worth money."""
        for attempt in range(_RECORD_TRIES):
            try:
                moved = await self.journal.move(
                    record,
                    JobState.SUBMITTED,
                    now=self.clock.time(),
                    why=why,
                    task_id=task.id,
                    request_id=task.request_id,
                )
            except JournalError as error:
                logger.error(  # noqa: TRY400 - the traceback says nothing; the id must be seen
                    "task %s of %s is paid and could not be recorded: %s",
                    task.id,
                    record.key,
                    error,
                )
                if attempt == _RECORD_TRIES - 1:
                    error.task_id, error.external_task_id = task.id, record.key
                    raise
                await self.clock.sleep(2.0**attempt)
            else:
                self._resolver.acknowledged(record, task)
                return moved
        raise AssertionError

    async def _move(
        self, record: JobRecord, state: JobState, why: str, error: CometError | None = None
    ) -> JobRecord:
        details: Changes = {}
        if error is not None:
            details = {
                "status": error.status,
                "code": None if error.code is None else str(error.code),
                "request_id": error.request_id,
                "message": error.message,
            }
        return await self.journal.move(record, state, now=self.clock.time(), why=why, **details)

    async def _current(self, record: JobRecord) -> JobRecord:
        current = await self.journal.get(record.key)
        if current is None:
            msg = f"the journal lost {record.key}"
            raise JournalError(msg)
        return current
