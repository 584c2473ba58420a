"""One job through its whole life: planned, sent, waited for.

Theory of operation: the money protocol
=======================================

**Roles.** The *server* is the only one that knows what it charged. The *journal* remembers what
we asked for; every change is one guarded write that is durable before the call returns.
`ActiveJobs` is what else this process knows: which caller works on a job, which requests are
being sent, which tasks are running. The `Sender` is the only code that sends a paid request. The
`Reconciler` finds out what became of a request whose answer was lost. The `JobRunner` moves a job
along the table of `comet_async._journal.states` until nothing more can be done. A session
without a journal uses the same code with a journal in memory that forgets what has ended.

**Identity.** A job's key is sent as ``external_task_id``. It is made from what is asked for, so
that the same request has the same key in every run, whatever its file is called.

**Order of writes.**

1. ``planned``, before anything else.
2. ``sending``, on the disk *before* the first byte of the request leaves.
3. ``submitted`` with the task's id, before the caller learns it, or one of: ``planned`` (provably
   not accepted), ``rejected`` (refused for good, not paid), ``unknown`` (everything else).
4. ``succeeded`` or ``failed``, when any poll of the session shows the end.
5. ``saving`` when the files are complete under temporary names, ``done`` when they are in place.

**The rule.** A request is sent only from ``planned``, and comes back to ``planned`` from
``unknown`` only with proof of absence: the same lookup has just found a task that surely
exists, several times, after the request can no longer arrive. It is sent again under the same
id, so that a server that knows it refuses it rather than charging twice.

**What a crash leaves.** Before 2: a planned job, not paid. Between 2 and 3: ``sending``, which the
next opening of the journal makes ``unknown``, so that it is looked up. After 3: a task that is
waited for again, free of charge. After 4: results that are fetched again. Nothing is charged
twice and nothing is lost.

**Cancellation.** The request is sent and recorded in a task of its own, shielded from the caller.
A caller may leave at any moment; the next one that wants the job joins that task.

**Slots** are taken before sending, and released when the job is neither being sent nor running;
any poll may show that. After a refusal or an outage all senders wait at one gate, and one
request goes on trial. While no request of the account has ever been accepted, one goes at a time,
and after two lost answers no more are sent: a job that stays planned is the control that shows
later what became of the others.

`JobRunner.run` starts from the journal's record and can be called again after anything: an error,
a cancelled task, a crash, in another process.
"""

from __future__ import annotations

import logging
from functools import partial

import attrs

from comet_async._backoff import ATTEMPTS, with_retries
from comet_async._jobs.active import ActiveJobs, Job, readable
from comet_async._jobs.calls import Call
from comet_async._jobs.loader import Loader
from comet_async._jobs.options import JobOptions
from comet_async._jobs.reconcile import Verdict
from comet_async._jobs.sender import Sender
from comet_async._journal.records import JobRecord, StoredImage
from comet_async._journal.states import JobState
from comet_async._journal.transitions import check_task_of
from comet_async.errors import (
    CometError,
    ConfigError,
    NotFoundError,
    NotSentError,
    OutcomeUnknownError,
    ResultMissingError,
    TaskFailedError,
)
from comet_async.events import Duplicate, LookedUp, Recovered, Resubmitted
from comet_async.models import Task
from comet_async.outcomes import as_task
from comet_async.requests import kind_named

logger = logging.getLogger("comet_async")

_ATTEMPTS_OF_RUN = 6  # in one go; about 15 seconds


@attrs.define(eq=False)
class JobRunner:
    """Runs jobs of one journal with one set of options."""

    active: ActiveJobs
    options: JobOptions
    loader: Loader
    sender: Sender = attrs.field(init=False)
    # Since when no lookup of a job that was not sent yet has been answered.
    _silent_since: float | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.sender = Sender(self.active, self.options, self._resolve)

    async def run(self, call: Call, record: JobRecord) -> Job:
        """Move *record* as far as it goes: to ``succeeded`` or beyond, or to an end without.

        Args:
            call: Whose work it is.
            record: The job, as the journal has it now.

        Returns:
            The job in a state that needs no more work here: ``succeeded``, ``saving``, ``done``,
            ``failed``, ``expired``, ``abandoned``, ``submitted`` if that is all that is wanted,
            or ``unknown`` while there is no proof yet.

        Raises:
            CometError: Why the job can't continue now; the journal says how far it came.
        """
        self._check_account(record)
        call.job = job = Job(await self._reexamined(record))
        while (advanced := await self._step(call, job)) is not job:
            call.job = job = advanced
        return job

    async def _step(self, call: Call, job: Job) -> Job:
        """Return *job* one state further, or itself when nothing is left to do."""
        match job.record.state:
            case JobState.PLANNED:
                return await self._send(call, job.record)
            case JobState.SENDING:
                # Its request is being sent by another asyncio task of this process.
                return await self._join(job.record)
            case JobState.UNKNOWN:
                return await self._resolve(job)
            case JobState.SUBMITTED if not self.options.until_submitted:
                return await self._wait(call, job)
            case JobState.SUCCEEDED | JobState.SAVING | JobState.DONE if not job.record.images:
                return await self._find_result(job)
            case _:
                return job

    async def give_up(self, call: Call, job: Job) -> Job:
        """Mark an unknown outcome as uncertain: no lookup can settle it now."""
        if job.record.state is not JobState.UNKNOWN:
            return job
        if job.record.key in self.active.duplicates:
            why = "the server refuses its id as taken, and no lookup shows its task"
        elif await self.active.reconciler.has_control(job.record):
            why = "no lookup of this gateway could be proven to work"
        else:
            why = (
                "no task of this account is known yet on which a lookup could be tried: expand "
                "any other image with this journal, which settles this one, too"
            )
        call.job = Job(await self.active.move(job.record, JobState.UNCERTAIN, why))
        return call.job

    def _check_account(self, record: JobRecord) -> None:
        """Refuse a job of another account or gateway, unless it was never paid for.

        Raises:
            ConfigError: It was.
        """
        ours = self.active.services.account
        unpaid = record.state in {JobState.PLANNED, JobState.REJECTED}
        if unpaid or not record.account or record.account == ours:
            return
        gateway, _, name = record.account.partition("-")
        if gateway != ours.partition("-")[0]:
            what, hint = (
                "another gateway",
                "use that gateway, or another folder or journal for this one",
            )
        else:
            what = f"another account ({name})"
            hint = (
                "use that account's key, or give this one its own journal; if it is the same "
                f"account under a new key, set account={name!r} or COMETAPI_ACCOUNT={name}"
            )
        raise ConfigError(
            f"job {record.key} belongs to {what}", hint=hint, external_task_id=record.key
        )

    async def _reexamined(self, record: JobRecord) -> JobRecord:
        """Give a job that ended without a result another look, which costs nothing."""
        if record.state is JobState.UNCERTAIN:
            return await self.active.move(record, JobState.UNKNOWN, "looked up again")
        if record.state is JobState.STRANDED:
            return await self.active.move(record, JobState.SUBMITTED, "polled again")
        if record.state is JobState.REJECTED:
            # Not paid, and its cause may have been fixed.
            why = "sent again: it was refused, not paid"
            return await self.active.move(record, JobState.PLANNED, why)
        return record

    async def _send(self, call: Call, record: JobRecord) -> Job:
        services = self.active.services
        if record.account != services.account:
            now = services.clock.time()
            record = await self.active.journal.note(record, now=now, account=services.account)
        if self.options.verify_remote and not record.attempt:
            task = await self._look_first(record)
            if task is not None:
                return await self.active.adopt(record, task, "found on the server", Duplicate)
        if call.images is None:
            call.images = await self.loader.reload(record)
        return await self.sender.send(call, record)

    async def _look_first(self, record: JobRecord) -> Task | None:
        """Return the task of a job that may have been sent before, if a lookup finds it.

        A run waits for a server that answers no lookup as it does for one that can't be reached.

        Raises:
            NotSentError: No lookup got an answer.
        """
        services, answered, tries = self.active.services, False, 0

        async def look() -> Task | None:
            nonlocal answered, tries
            lookup = self.active.reconciler.lookup
            finding = await lookup.look(kind_named(record.kind), record.key, known=None)
            answered, tries = answered or finding.answered, tries + 1
            lacking = answered and tries >= ATTEMPTS  # the gateway may lack the others
            if finding.task is None and finding.silent and not lacking:
                raise NotSentError(
                    f"the server did not answer whether it knows {record.key}: nothing was sent",
                    hint="run again later",
                )
            self._silent_since = None
            return finding.task

        attempts = ATTEMPTS if self.options.single else _ATTEMPTS_OF_RUN
        while True:
            try:
                return await with_retries(
                    look,
                    clock=services.clock,
                    backoff=services.downloader.backoff,
                    attempts=attempts,
                )
            except NotSentError as error:
                if self.options.single or self.sender.stopped is not None:
                    raise
                if self._is_silent_for_long():
                    self.sender.stop(error)
                    raise
            except CometError as error:
                if error.account_wide:
                    self.sender.stop(error)
                raise

    def _is_silent_for_long(self) -> bool:
        """Return True if no lookup of this run has been answered for longer than it waits."""
        now, health = self.active.services.clock.monotonic(), self.active.services.health
        if self._silent_since is None:
            self._silent_since = now
            logger.warning(
                "the server answers no lookup; retrying for about %.0f s", health.patience
            )
        return now - self._silent_since > health.patience

    async def _join(self, record: JobRecord) -> Job:
        """Wait for the request of a caller that is gone."""
        await self.active.join(record.key)
        current = await self.active.current(record)
        if current.state is JobState.SENDING:
            why = "sent, and never recorded"
            current = await self.active.move(current, JobState.UNKNOWN, why)
        return Job(current)

    async def _resolve(self, job: Job) -> Job:
        """Find out what became of a request; back to ``planned`` only with proof."""
        record = job.record
        self.active.slots.hold(record.key, record.n)
        try:
            finding = await self.active.reconciler.resolve(record, self.options.settle)
        except CometError as error:
            if not error.account_wide:
                raise
            self.sender.stop(error)
            # The error itself would say that this request was refused.
            raise OutcomeUnknownError(
                f"request {record.key} may have been accepted and billed, and can't be looked up: "
                f"{error.message}",
                status=error.status,
                code=error.code,
                request_id=error.request_id,
                sent=True,
                hint=f"do not submit it again: look {record.key} up once the account can be used; "
                "with a journal each run does that, free of charge",
            ) from error
        absent = finding.verdict is Verdict.ABSENT
        found = True if finding.task is not None else False if absent else None
        self.active.emit(LookedUp, record, found=found)
        if finding.task is not None:
            adopt = partial(self.active.adopt, record, finding.task, "found on the server")
            if record.key in self.active.duplicates:
                self.active.duplicates.discard(record.key)
                return await adopt(Duplicate)
            return await adopt(Recovered, n=record.n)
        # The server knows the id of a duplicate, whatever its lookups say: a request under it would
        # be refused again, and again.
        if absent and record.key not in self.active.duplicates:
            self.active.emit(Resubmitted, record, attempt=record.attempt)
            self.active.slots.release(record.key)
            why = "the server never accepted it"
            return Job(await self.active.move(record, JobState.PLANNED, why))
        return job

    async def _wait(self, call: Call, job: Job) -> Job:
        record = job.record
        self.active.resume_running(record)
        snapshot = job.task or as_task(record)
        if self.options.on_submitted is not None and snapshot is not None:
            self.options.on_submitted(snapshot)
        try:
            task = await self.active.services.waiter.wait(
                job.task or record.task_id or "",
                kind=record.kind,
                n=record.n,
                timeout=call.deadline.left(),
            )
        except TaskFailedError as error:
            return await self.active.ended(record, error.task)
        except NotFoundError as error:
            await self.active.strand(record, error)
            raise
        except CometError as error:
            if error.account_wide:
                self.sender.stop(error)
            if isinstance(error, ResultMissingError):
                self.active.stop_running(record)
            raise
        if not readable(task, record.n):
            self.active.stop_running(record)
            raise _missing(task)
        return await self.active.ended(record, task)

    async def _find_result(self, job: Job) -> Job:
        """Poll a task that succeeded, and whose images were never seen."""
        record, services = job.record, self.active.services
        task = await services.api.get(record.task_id or "", kind=kind_named(record.kind))
        check_task_of(record, task)
        images = tuple(map(StoredImage.of, readable(task, record.n)))
        if not images:
            raise _missing(task)
        now = services.clock.time()
        noted = await self.active.journal.note(record, now=now, images=images, images_seen_at=now)
        return Job(noted, task)


def _missing(task: Task) -> ResultMissingError:
    return ResultMissingError(
        f"task {task.id} succeeded, but shows no image that can be read",
        hint="it is billed; wait for it again later",
        task=task,
        task_id=task.id,
    )
