"""`TaskWaiter`: know the moment a task is done, with the fewest requests."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import weakref
from collections.abc import AsyncIterable, Callable, Iterable
from types import TracebackType
from typing import Final, Protocol, Self, final

from comet_async._backoff import Backoff
from comet_async._polling.completion import has_result
from comet_async._polling.failures import FailurePolicy
from comet_async._polling.list_polling import ListPolling
from comet_async._polling.poller import Poller, Shared, TaskSource
from comet_async._polling.streams import AsCompleted, TaskStream, Transitions, kind_of
from comet_async._polling.timing import PollTiming
from comet_async._polling.watch import NEVER, Watch, WatchedTask
from comet_async._validation import check_least, check_task, check_timeout
from comet_async._wire.decode import Notification
from comet_async.errors import TaskFailedError
from comet_async.events import Event, EventSink
from comet_async.models import Task
from comet_async.schedules import ScheduleLike, as_schedule

__all__ = ["NotificationSource", "TaskSource", "TaskStream", "TaskWaiter"]


class _Unset(enum.Enum):
    """The one value that means "not given": None means "no limit"."""

    UNSET = enum.auto()


_UNSET: Final = _Unset.UNSET


class NotificationSource(Protocol):
    """What tells a waiter of callbacks; `CallbackReceiver` is one."""

    @property
    def url(self) -> str:
        """Where the server reports changes."""
        ...

    def subscribe(self, listener: Callable[[Notification], object]) -> Callable[[], None]:
        """Call *listener* with each notification from now on; return what ends that."""
        ...

    def early(
        self, task_id: str | None, external_task_id: str | None = None
    ) -> Notification | None:
        """Return the last notification that came for a task before anybody waited for it."""
        ...


class _Wait(asyncio.Future[Task]):
    """The end of a task, as one who waits for it gets it.

    A future and a `Watch` in one: 100,000 of them are 8 MB less than two objects each.
    """

    __slots__ = ("deadline", "entry", "timeout")

    follows = False

    def __init__(self, timeout: float | None) -> None:
        super().__init__()
        self.entry: WatchedTask | None = None
        self.timeout = timeout
        self.deadline = NEVER

    def changed(self, task: Task) -> None:
        """Do nothing: the end counts."""

    def ended(self, task: Task) -> None:
        """Take the last snapshot."""
        if not self.done():
            self.set_result(task)

    def failed(self, error: BaseException) -> None:
        """Take the reason why nothing more will come."""
        if not self.done():
            self.set_exception(error)


@final
class TaskWaiter:
    """Waits for any number of tasks: ten or a hundred thousand.

    One scheduler serves all of them. It learns how long tasks take, asks when an answer is
    likely to have changed, folds many questions into one call of the server's list where that
    works, and asks at once when a callback comes. Two who wait for one task cost one question.

    A wait ends for three reasons: the task ended, the deadline passed, or the account can't ask
    any more. Everything else (lost connections, failing servers, pages that are no answer,
    words that nobody knows) is waited out for *patience* seconds in a row. No end of a wait ends
    the task: it goes on and is paid for, and its id resumes the wait, in another process too.

    Closing it is optional: nothing is left in an event loop once nobody waits there. One waiter
    may be used in several event loops, also at once.

    Args:
        session: What is asked: a `CometSession`.
        timeout: Seconds that one task is waited for; None, the default, for no limit.
        schedule: When to ask: seconds for a fixed interval, a tenacity wait strategy, or a
            `Schedule`. By default the session's, else one that learns.
        callbacks: A `CallbackReceiver`. Once it has proven that callbacks arrive, a schedule
            that learns polls only as a safety net.
        patience: Seconds of failing answers in a row that are borne for one task. 300 by default.
        grace: Age in seconds up to which "not found" does not count as failing. 60 by default.
        fold: Use the server's list where it proves to work. True by default.
        concurrency: Most questions at a time in one event loop. 32 by default.
        on_event: Called in the event loop with each event of `comet_async.events`. The same
            events go to the log ``comet_async.waiter``.
        rng: Source of all randomness, for tests.

    Raises:
        InputError: A value can't be used.
    """

    def __init__(  # noqa: PLR0913  # what, when and how long; all but one by keyword
        self,
        session: TaskSource,
        *,
        timeout: float | None = None,
        schedule: ScheduleLike = None,
        callbacks: NotificationSource | None = None,
        patience: float = 300.0,
        grace: float = 60.0,
        fold: bool = True,
        concurrency: int = 32,
        on_event: Callable[[Event], object] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        check_timeout(timeout)
        check_least("patience", patience, 0)
        check_least("grace", grace, 0)
        check_least("concurrency", concurrency, 1)
        rng = rng or random.Random()  # noqa: S311  # spreads polls, guards nothing
        when = as_schedule(session.schedule if schedule is None else schedule, rng=rng)
        self._timeout = timeout
        self._shared = Shared(
            source=session,
            timing=PollTiming(clock=session.clock, schedule=when, rng=rng),
            patience=FailurePolicy(limit=patience, grace=grace, backoff=Backoff.of(None, rng=rng)),
            sink=EventSink(on_event),
            concurrency=concurrency,
            named=callbacks is not None,
        )
        self._counters = self._shared.counters
        self._shortcut = ListPolling if fold else None
        self._pollers: dict[asyncio.AbstractEventLoop, Poller] = {}
        self._callbacks = callbacks
        if callbacks is not None:
            weakref.finalize(self, callbacks.subscribe(_listener(weakref.ref(self))))

    def __repr__(self) -> str:
        schedule = self._shared.timing.schedule
        return f"<TaskWaiter with {self.waiting} tasks, {schedule!r}>"

    async def __aenter__(self) -> Self:
        """Return the waiter itself."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop; see `aclose`."""
        await self.aclose()

    async def aclose(self) -> None:
        """End all waits with `WaitTimeoutError`. The tasks themselves go on.

        Waits in other event loops end soon after.
        """
        here = asyncio.get_running_loop()
        for loop, poller in list(self._pollers.items()):
            if loop is here:
                await poller.stop()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(poller.dismiss)
        self._pollers.clear()

    # ------------------------------------------------------------------ counters

    @property
    def waiting(self) -> int:
        """How many tasks are waited for now."""
        return sum(len(poller.register) for poller in list(self._pollers.values()))

    @property
    def polls(self) -> int:
        """How many questions about single tasks were asked."""
        return self._counters.polls

    @property
    def list_calls(self) -> int:
        """How many pages of the server's list were asked for."""
        return self._counters.list_calls

    @property
    def notifications(self) -> int:
        """How many callbacks moved a poll to now."""
        return self._counters.notifications

    @property
    def retries(self) -> int:
        """How many questions failed and were asked again."""
        return self._counters.retries

    @property
    def finished(self) -> int:
        """How many tasks were seen to end."""
        return self._counters.finished

    @property
    def mean_delay(self) -> float:
        """Mean seconds between a task's end and its discovery, as the server's times tell."""
        return self._counters.delay_total / max(1, self._counters.finished)

    @property
    def longest_delay(self) -> float:
        """The longest of these delays."""
        return self._counters.delay_longest

    # ------------------------------------------------------------------ waiting

    async def wait(
        self,
        task: Task | str,
        *,
        timeout: float | _Unset | None = _UNSET,
        kind: str | None = None,
        n: int = 1,
    ) -> Task:
        """Wait until a task is done, and return it.

        Args:
            task: A snapshot, or the server's id. A snapshot tells the task's age, which saves
                a request; a task known by its id only is asked about at once.
            timeout: Seconds from now; None for no limit. The waiter's own by default. Shortly
                before it passes, the task is asked about once more; 0 asks nothing.
            kind: The task's kind, when only its id is given; ``"expand"`` by default.
            n: How many images it makes, if they take longer than one.

        Raises:
            TaskFailedError: The task failed; the error holds it.
            ResultMissingError: The server says that it succeeded, and has shown no readable image
                for a minute; the error carries the ids that resume the wait.
            WaitTimeoutError: It is still going on; the error tells how to resume.
            AuthenticationError: The key was refused.
            AccountError: The account may not ask.
            CometError: Answers failed for longer than the waiter's patience.
        """
        if isinstance(task, Task) and has_result(task):
            return _succeeded(task)
        watch = _Wait(self._limit(timeout))
        poller = self._watch(watch, task, kind_of(task, kind), n)
        try:
            return _succeeded(await watch)
        finally:
            poller.leave(watch)

    def transitions(
        self,
        task: Task | str,
        *,
        timeout: float | _Unset | None = _UNSET,
        kind: str | None = None,
        n: int = 1,
    ) -> TaskStream:
        """Iterate over a task's states: each once, in order, and never backwards.

        The first is the snapshot that was given, or the first answer; states that were passed
        between two polls are left out; the last one is final. ``succeed`` comes with its images.
        A task that failed is yielded as it is. Leaving the iterator ends its polling.

        Args:
            task: A snapshot, or the server's id.
            timeout: Seconds from the first step; None for no limit. The waiter's own by default.
            kind: The task's kind, when only its id is given; ``"expand"`` by default.
            n: How many images it makes, if they take longer than one.

        Raises:
            WaitTimeoutError: It is still going on; iterating on waits anew.
            CometError: As `wait` says; iterating on waits anew.
        """
        limit = self._limit(timeout)
        return TaskStream(Transitions(self._watch, task, limit, kind=kind_of(task, kind), n=n))

    def as_completed(
        self,
        tasks: Iterable[Task | str] | AsyncIterable[Task | str],
        *,
        timeout: float | _Unset | None = _UNSET,
        kind: str | None = None,
        n: int = 1,
        ahead: int = 1000,
    ) -> TaskStream:
        """Iterate over finished tasks in the order in which they end; failed ones too.

        Args:
            tasks: Snapshots or ids; any iterable, also an endless or async one. Taken one by
                one, so that an async generator may submit them meanwhile. One that occurs twice
                is yielded twice.
            timeout: Seconds for each task, from when it was taken; None for no limit. The
                waiter's own by default.
            kind: The kind of those given by their ids; ``"expand"`` by default.
            n: How many images each makes, if they take longer than one.
            ahead: Most tasks taken and not yet yielded. 1,000 by default.

        Raises:
            InputError: *ahead* is under 1.
            WaitTimeoutError: One task is still going on; the error tells which. Iterate on for
                the others.
            CometError: As `wait` says, for one task; iterate on for the others.
        """
        check_least("ahead", ahead, 1)
        limit = self._limit(timeout)
        return TaskStream(AsCompleted(self._watch, tasks, limit, kind=kind, n=n, ahead=ahead))

    # ------------------------------------------------------------------ loops

    def _limit(self, timeout: float | _Unset | None) -> float | None:
        if isinstance(timeout, _Unset):
            return self._timeout
        check_timeout(timeout)
        return timeout

    def _watch(self, watch: Watch, task: Task | str, kind: str, n: int) -> Poller:
        """Let *watch* wait in the running loop; return that loop's poller."""
        check_task(task)
        loop = asyncio.get_running_loop()
        poller = self._pollers.get(loop)
        if poller is None:
            for other in [other for other in self._pollers if other.is_closed()]:
                del self._pollers[other]
            poller = self._pollers[loop] = Poller(self._shared, self._shortcut)
        poller.watch(watch, task, kind, n)
        if self._callbacks is not None:
            early = (
                self._callbacks.early(task)
                if isinstance(task, str)
                else self._callbacks.early(task.id, task.external_task_id)
            )
            if early is not None:
                poller.hint(early)
        return poller

    def hint(self, notification: Notification) -> None:
        """Ask about a task now instead of later, if it is waited for: a callback may be about it.

        A `CallbackReceiver` does this by itself; this is for programs that hear otherwise. It may
        be called from any thread. What the notification claims is not believed.

        Args:
            notification: Which task.
        """
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        for loop, poller in list(self._pollers.items()):
            if loop is here:
                poller.hint(notification)
            else:
                with contextlib.suppress(RuntimeError):  # that loop was closed
                    loop.call_soon_threadsafe(poller.hint, notification)


def _succeeded(task: Task) -> Task:
    """Return *task*, or raise what it failed with."""
    if task.failed:
        raise TaskFailedError(
            f"task {task.id} failed: {task.message or 'no reason given'}",
            task=task,
            task_id=task.id,
            external_task_id=task.external_task_id,
            request_id=task.request_id,
        )
    return task


def _listener(ref: weakref.ref[TaskWaiter]) -> Callable[[Notification], None]:
    """Return a listener that does not keep its waiter alive."""

    def listen(notification: Notification) -> None:
        waiter = ref()
        if waiter is not None:
            waiter.hint(notification)

    return listen
