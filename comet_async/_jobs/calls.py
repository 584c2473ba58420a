"""One caller's work on one job: how long it may take, how far it came, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import attrs

from comet_async._images.source import SourceImage
from comet_async._jobs.active import ENDING, ActiveJobs, Job
from comet_async._jobs.loops import finished
from comet_async._journal.states import JobState
from comet_async.errors import (
    BudgetExceededError,
    CometError,
    InputError,
    JournalError,
    WaitTimeoutError,
)
from comet_async.events import Failed
from comet_async.secret import repr_redacted

_LOOK = 0.05  # seconds

RUNNING = "the task continues and is billed: wait for its id again, do not submit it again"

SAME_IMAGE = "the same image again"
"""What a job needs whose image was never sent, and is not kept."""

_STALLED = (
    "another call has this job, in an event loop that is stopped: let that loop run on, or close it"
)


class TimeUpError(TimeoutError):
    """A call's time is over; never leaves this package."""


@attrs.define(eq=False)
class Deadline:
    """When a call's time is over."""

    seconds: float | None
    _alarm: asyncio.Timeout
    _at: float | None = attrs.field(default=None, init=False)

    def start(self) -> None:
        """Let the time run, if it does not already."""
        if self.seconds is None or self._at is not None:
            return
        self._at = asyncio.get_running_loop().time() + self.seconds
        if self.seconds:  # with no time at all, what is available at once is still returned
            self._alarm.reschedule(self._at)

    def check(self) -> None:
        """Raise an error if the time is over.

        Raises:
            TimeUpError: It is.
        """
        if self._at is not None and asyncio.get_running_loop().time() >= self._at:
            raise TimeUpError

    def stop(self) -> None:
        """End nothing more: what is paid and ready is not left unsaved for its time."""
        self._alarm.reschedule(None)

    def left(self) -> float | None:
        """Return the seconds that are left; from now on the caller watches them itself."""
        self.start()
        self._alarm.reschedule(None)
        if self._at is None:
            return None
        return max(0.0, self._at - asyncio.get_running_loop().time())


@attrs.define(eq=False)
class Call:
    """One caller's work on one job.

    Attributes:
        source: The image as the caller named it.
        deadline: When its time is over.
        key: The job's key, once it is known.
        job: The job as this call saw it last.
        images: Its images, if they are loaded.
        callback_url: The request's own callback URL.
        refusal: Why it was not accepted when it was last sent.
        lost: True when its request was cut off, or its answer could not be recorded.
        over: Set when it has ended.
    """

    source: str = attrs.field(repr=repr_redacted)
    deadline: Deadline
    key: str | None = None
    job: Job | None = None
    images: Mapping[str, SourceImage] | None = None
    callback_url: str | None = None
    refusal: CometError | None = None
    lost: bool = False
    over: asyncio.Event = attrs.field(factory=asyncio.Event, init=False, repr=False)

    @property
    def task_id(self) -> str | None:
        """The server's id of the task, once it is known."""
        return None if self.job is None else self.job.record.task_id

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the images before sending."""
        return tuple(note for image in (self.images or {}).values() for note in image.notes)

    def take_over(self, send: asyncio.Task[Job]) -> None:
        """Take over what became of the call's request, which *send* has sent to its end."""
        if send.cancelled():  # recorded as unknown, when the time for closing was over
            self.lost = True
        elif (error := send.exception()) is None:
            self.job = send.result()
        elif isinstance(error, JournalError) or not isinstance(error, CometError):
            # It could not be recorded, or it is unknown whether it was sent.
            self.lost = getattr(error, "sent", None) is not False


@attrs.define(eq=False)
class Calls:
    """The calls that one batch is working on.

    Whatever ends a call, its error names every id that is known: what was bought can be found.
    """

    active: ActiveJobs
    _calls: dict[asyncio.Task[object], Call] = attrs.field(factory=dict, init=False)
    # Why `end` cancelled a task.
    _reasons: dict[asyncio.Task[object], CometError] = attrs.field(factory=dict, init=False)
    _over: CometError | None = attrs.field(default=None, init=False)
    _limit_logged: bool = attrs.field(default=False, init=False)

    def end(self, reason: CometError) -> None:
        """End all calls with *reason*, later ones too; what is being sent is recorded first."""
        self._over = reason
        for task in list(self._calls):
            self._end(task, reason)

    def _end(self, task: asyncio.Task[object], reason: CometError) -> None:
        if task not in self._reasons:
            self._reasons[task] = reason
            loop = task.get_loop()
            if loop.is_running() and not loop.is_closed():
                loop.call_soon_threadsafe(self._cancel, task)

    def _cancel(self, task: asyncio.Task[object]) -> None:
        if task in self._reasons:  # otherwise its call has ended, and the caller goes on
            task.cancel()

    async def ended(
        self, timeout: float | None, *, caller: asyncio.Task[object] | None = None
    ) -> None:
        """Wait until all calls but that of the task *caller* have ended, or their loops have."""
        here = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                # A caller's own task may live on after the call, so the calls are watched instead.
                for task, call in list(self._calls.items()):  # other threads add and remove theirs
                    if task is caller:
                        continue
                    loop = task.get_loop()
                    if loop is here:
                        await call.over.wait()
                        continue
                    while loop.is_running() and not call.over.is_set():  # noqa: ASYNC110 - set there
                        await asyncio.sleep(_LOOK)

    @asynccontextmanager
    async def begin(
        self, source: str, *, timeout: float | None, at_once: bool
    ) -> AsyncGenerator[Call, None]:
        """Bound the block in time, and name the known ids in whatever ends it.

        Args:
            source: The image as the caller named it.
            timeout: Seconds, or None for no limit.
            at_once: Whether the time starts now, or when the job gets its slot.

        Yields:
            The call.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        alarm = asyncio.timeout(None)
        call = Call(source, Deadline(timeout, alarm))
        self._calls[task] = call
        if self._over is not None:
            self._end(task, self._over)
        try:
            async with alarm:
                if at_once:
                    call.deadline.start()
                yield call
        except CometError as error:
            error.task_id = error.task_id or call.task_id
            error.external_task_id = error.external_task_id or call.key
            self._report(call, error)
            raise
        except TimeoutError as error:
            if not alarm.expired() and not isinstance(error, TimeUpError):
                self._annotate(error, call)
                raise
            late = await self._timed_out(call)
            self._report(call, late)
            raise late from None
        except asyncio.CancelledError as error:
            reason = self._reasons.get(task)
            if reason is None or task.uncancel():
                self._annotate(error, call)
                raise
            raise await self._stopped(call, reason) from None
        except Exception as error:
            self._annotate(error, call)  # the caller's own function raised it
            raise
        finally:
            self._reasons.pop(task, None)
            del self._calls[task]
            call.over.set()

    def _report(self, call: Call, error: CometError) -> None:
        if call.job is None:
            return
        level = None
        if isinstance(error, BudgetExceededError):
            level = logging.DEBUG if self._limit_logged else None  # one line for all it stops
            self._limit_logged = True
        elif isinstance(error, InputError) and error.limit == SAME_IMAGE:
            level = logging.INFO  # as in each run, until somebody has the image again
        facts = {"error": type(error).__name__, "message": error.message}
        sent = True if error.task_id else self._sent(call)
        self.active.emit(Failed, call.job.record, level, **facts, sent=sent)

    def _is_being_sent(self, call: Call) -> bool:
        return call.key is not None and call.key in self.active.sends

    def _sent(self, call: Call) -> bool | None:
        """Return whether the request of *call* was accepted; None if that is not known."""
        if call.task_id is not None:
            return True
        if call.lost or self._is_being_sent(call):
            return None
        unknown = {JobState.SENDING, JobState.UNKNOWN, JobState.UNCERTAIN}
        return None if call.job is not None and call.job.record.state in unknown else False

    def _annotate(self, error: BaseException, call: Call) -> None:
        """Add to *error*, which can't carry ids, what its caller must know."""
        if call.task_id is not None:
            error.add_note(f"task {call.task_id} ({call.key}) continues and is billed")
        elif self._sent(call) is None:
            error.add_note(f"request {call.key} was sent and may be billed: look it up by this id")

    async def _timed_out(self, call: Call) -> WaitTimeoutError:
        if call.job is None and call.key is not None:  # it waited for another caller's work on it
            with contextlib.suppress(JournalError, TimeoutError):
                async with asyncio.timeout(ENDING):
                    record = await self.active.journal.get(call.key)
                call.job = None if record is None else Job(record)
        sent = self._sent(call)
        if sent is None:
            what = "the answer to the paid request has not come"
            hint = f"it may be accepted and billed: look {call.key} up, do not submit it again"
        elif sent:
            what, hint = f"task {call.task_id} has not ended", RUNNING
        else:
            what, hint = "nothing was sent", "try again later, or allow more time"
        if call.key is not None and self.active.locks.stalled(call.key):
            hint = f"{_STALLED}; {hint}"
        task = None if call.job is None else call.job.task
        what = f"{what} after {call.deadline.seconds:g} s"
        why = call.refusal or self.active.services.health.unreachable
        if sent is False and why is not None:
            what = f"{what}; the last attempt failed: {why.message}"
        error = WaitTimeoutError(
            what,
            hint=hint,
            retryable=sent is False,
            task=task,
            task_id=call.task_id,
            external_task_id=call.key,
        )
        error.sent = sent  # None means "not known", not the class's default
        return error

    async def _catch_up(self, call: Call) -> None:
        """Wait for the request that is being sent, and see how far the job has come."""
        if call.key is None:
            return
        if (send := self.active.sends.get(call.key)) is not None:
            await finished([send])
            if send.done():  # else its loop was stopped
                call.take_over(send)
        record = await self.active.journal.get(call.key)
        if record is not None and (call.job is None or record.fence > call.job.record.fence):
            call.job = Job(record, None if call.job is None else call.job.task)

    async def _stopped(self, call: Call, reason: CometError) -> CometError:
        """Return *reason* for one call; what was being sent is recorded first."""
        await self._catch_up(call)
        sent = self._sent(call)
        hint = reason.hint
        if sent:
            hint = RUNNING
        elif sent is None:
            hint = f"it may be accepted and billed: look {call.key} up, do not submit it again"
        error = type(reason)(
            reason.message, hint=hint, task_id=call.task_id, external_task_id=call.key
        )
        error.sent = sent  # None means "not known", not the class's default
        return error
