"""What a journal can do in addition if several processes use it at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from comet_async._journal.records import JobRecord, Journal


class Signal(Protocol):
    """Set when something may have changed."""

    async def wait(self, timeout: float) -> bool:
        """Wait until it is set, at most *timeout* seconds; return whether it was."""
        ...


@runtime_checkable
class SharedJournal(Journal, Protocol):
    """A journal of several workers, which hold its jobs by leases.

    A worker claims a job before it works on it. If its lease ends, others take its jobs over; the
    worker's own changes are refused from then on (`StaleRecordError`).
    """

    @property
    def lease_left(self) -> float:
        """Seconds until this worker's lease ends at the earliest; negative if it has ended."""
        ...

    async def claim(self, key: str) -> JobRecord | None:
        """Begin to work on a job.

        Returns:
            The job as it is now; None while another worker has it, or if there is no such job.
        """
        ...

    async def release(self, key: str) -> None:
        """Stop working on a job, and wake those who wait for it."""
        ...

    async def unclaimed(self, account: str, *, limit: int) -> list[JobRecord]:
        """Return jobs that no worker has, of *account*, in ``submitted`` or ``unknown``."""
        ...

    def impatient(self) -> AbstractContextManager[None]:
        """Inside, operations do not wait for a database that does not answer."""
        ...

    def listening_for_job(self, key: str) -> AbstractContextManager[Signal]:
        """Yield a signal that is set when another worker releases a job."""
        ...

    def listening_for_slot(self, account: str) -> AbstractContextManager[Signal]:
        """Yield a signal that is set when it is this worker's turn to request a slot."""
        ...

    async def queue_for_slot(self, account: str) -> int:
        """Queue this worker for a slot; return how many others wait.

        A worker that requests a slot and gets none keeps its place when it queues again.
        """
        ...

    async def unqueue_for_slot(self, account: str) -> None:
        """Leave the queue without a slot; with one, `send` does it."""
        ...

    async def quota(self, account: str) -> int | None:
        """Return how many images of *account* the server takes; None if it never refused one."""
        ...

    async def shrink(self, account: str) -> int:
        """Record that the server takes no more images of *account* now; return how many it took."""
        ...

    async def grow(self, account: str, most: int, clean: int) -> int | None:
        """Count an accepted request; each *clean* in a row allow one more image, up to *most*.

        Returns:
            How many may be in flight; None when nothing but *most* limits them.
        """
        ...

    async def send_hint(self, task_id: str, key: str) -> None:
        """Tell all workers that a task may have changed."""
        ...

    def on_hint(self, handler: Callable[[str, str], object]) -> Callable[[], None]:
        """Call *handler*, in any thread, with task id and key of each hint; return what ends it."""
        ...
