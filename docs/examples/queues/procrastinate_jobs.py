"""The jobs of a journal under Procrastinate: an entry of its queue holds a job's key, no more."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from procrastinate import App, BaseRetryStrategy, JobContext, PsycopgConnector, RetryDecision
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Job

from comet_async import CometError, CometSession, Margins, OutcomeStatus
from comet_async.postgres import PostgresJournal

DATABASE = os.environ["DATABASE_URL"]
ATTEMPTS = 20
HEARTBEAT = float(os.environ.get("HEARTBEAT", "10"))
QUOTA = 20  # images in flight, over all workers: the number of your resource pack

queue = App(connector=PsycopgConnector(conninfo=DATABASE))


class Retry(BaseRetryStrategy):
    """Try again what may succeed later: the journal sees to it that nothing is paid twice."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """Return when to try again, or None if that would not help."""
        if isinstance(exception, asyncio.CancelledError):  # the worker stops
            return RetryDecision(retry_in={"seconds": 0})
        if not isinstance(exception, CometError) or job.attempts >= ATTEMPTS:
            return None
        if exception.account_wide:  # every job would meet it until somebody acts
            return RetryDecision(retry_in={"minutes": 5})
        if exception.retryable:
            pause = exception.retry_after or min(300, 2**job.attempts)
            return RetryDecision(retry_in={"seconds": int(pause)})
        return None


@queue.task(name="run_job", pass_context=True, retry=Retry())
async def run_job(context: JobContext, key: str) -> None:
    """Continue with a job, from wherever it stands; the error says why it did not end well."""
    comet: CometSession = context.additional_context["comet"]
    outcome = await comet.run_job(key, timeout=None)
    if outcome.done:
        return
    error = outcome.error or CometError("it has not ended", external_task_id=key)
    if outcome.status in {OutcomeStatus.PENDING, OutcomeStatus.UNCERTAIN}:
        error.retryable = True  # looked at again later, free of charge
    raise error


async def enqueue(source: Path, out: Path) -> None:
    """Record the jobs of a folder's images, and queue their keys."""
    async with queue.open_async(), CometSession(journal=DATABASE, concurrency=QUOTA) as comet:
        run = comet.expand_folder(source.resolve(), out.resolve(), Margins.for_aspect("2:1"))
        async for job in run.record():  # not one request is sent
            if job.outcome is None:
                with suppress(AlreadyEnqueued):
                    await run_job.configure(queueing_lock=job.key).defer_async(key=job.key)


async def take_over() -> None:
    """Queue again what workers had that are gone; Procrastinate leaves that to its users."""
    while True:
        for job in await queue.job_manager.get_stalled_jobs(seconds_since_heartbeat=2 * HEARTBEAT):
            with suppress(ConnectorException):  # another worker was faster
                await queue.job_manager.retry_job(job)
        await asyncio.sleep(HEARTBEAT)


async def work() -> None:
    """Work until SIGTERM; jobs that have not ended 30 seconds later go back to the queue."""
    journal = await PostgresJournal.open(DATABASE, heartbeat=HEARTBEAT)
    async with (
        journal,
        CometSession(journal=journal, concurrency=QUOTA) as comet,
        queue.open_async(),
        asyncio.TaskGroup() as tasks,
    ):
        taking_over = tasks.create_task(take_over())
        await queue.run_worker_async(
            concurrency=2 * QUOTA,  # while half of them are in flight, others read and save
            additional_context={"comet": comet},
            update_heartbeat_interval=HEARTBEAT,
            stalled_worker_timeout=2 * HEARTBEAT,
            shutdown_graceful_timeout=30,
        )
        taking_over.cancel()
