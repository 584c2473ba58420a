"""`TaskWaiter`: find out the moment a task has ended, with as few requests as possible."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import weakref
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Final, Protocol, Self, cast, final

from comet_async._backoff import Backoff
from comet_async._polling.completion import has_result
from comet_async._polling.failures import RESUME, FailurePolicy
from comet_async._polling.poller import Poller, Shared
from comet_async._polling.source import TaskSource
from comet_async._polling.streams import AsCompleted, TaskStream, Transitions, kind_of
from comet_async._polling.timing import PollTiming
from comet_async._polling.watch import NEVER, Reason, Watch, WatchedTask
from comet_async._validation import (
    check_callbacks,
    check_event_loop,
    check_flag,
    check_id,
    check_number,
    check_offers,
    check_rng,
    check_several,
    check_text,
    check_timeout,
    wrong,
)
from comet_async._wire.decode import Notification
from comet_async.errors import TaskFailedError, WaitTimeoutError
from comet_async.events import Event, EventSink
from comet_async.models import Task
from comet_async.requests import MAX_N
from comet_async.schedules import ScheduleLike, as_schedule

__all__ = [
    "HasWaiter",
    "NotificationSource",
    "TaskSource",
    "TaskStream",
    "TaskWaiter",
    "UseDefault",
]


class UseDefault(enum.Enum):
    """Means "the waiter's own", where None means "no limit"."""

    DEFAULT = enum.auto()


_DEFAULT: Final = UseDefault.DEFAULT


class NotificationSource(Protocol):
    """What notifies a waiter of callbacks; `CallbackReceiver` is one."""

    @property
    def url(self) -> str:
        """Where the server reports changes."""
        ...

    def subscribe(self, listener: Callable[[Notification], object]) -> Callable[[], None]:
        """Call *listener* with each notification from now on; return a function that ends this."""
        ...

    def last_notification(
        self, task_id: str | None, external_task_id: str | None = None
    ) -> Notification | None:
        """Return and forget the last notification about a task; None if there is none."""
        ...


class HasWaiter(Protocol):
    """What has a waiter of its own; `CometSession` is one."""

    @property
    def waiter(self) -> TaskWaiter:
        """The waiter."""
        ...


class _Wait(asyncio.Future[Task]):
    """A future for a task's final snapshot.

    It is a `Watch`, too: 100,000 of them are 8 MB less than two objects each.
    """

    __slots__ = ("deadline", "entry", "timeout")

    follows = False

    def __init__(self, timeout: float | None, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.entry: WatchedTask | None = None
        self.timeout = timeout
        self.deadline = NEVER

    def changed(self, task: Task) -> None:
        """Do nothing: the end counts."""

    def ended(self, task: Task) -> None:
        """Take the last snapshot."""
        if not self.done():
            self.set_result(task)

    def failed(self, reason: Reason) -> None:
        """Take the reason why nothing more will come."""
        if not self.done():
            self.set_exception(reason())


@final
class TaskWaiter:
    """Waits for any number of tasks: ten or a hundred thousand.

    One scheduler serves all of them. It learns how long tasks take, polls when an answer is likely
    to have changed, replaces many polls with one call of the server's list where that works, and
    polls at once when a callback comes. Concurrent waits for the same task share their polls.

    A wait ends for three reasons: the task ended, the deadline passed, or the account can't poll
    any more. Everything else (lost connections, failing servers, web pages instead of answers,
    unknown statuses) is tolerated for *error_budget* seconds in a row. The end of a wait never
    ends the task: it continues and is billed, and its id resumes the wait, in another process too.

    Closing it is optional: once no task is waited for in an event loop, it leaves nothing behind
    there. One waiter may be used in several event loops, even at once.

    Args:
        session: What to poll: a `CometSession`. It shares what the session's own waiter has
            learned.
        timeout: Seconds that one task is waited for; None, the default, for no limit.
        schedule: When to poll: seconds for a fixed interval, a tenacity wait strategy, or a
            `Schedule`. By default the session's, else one that learns.
        callbacks: A `CallbackReceiver`; the session's by default. Once callbacks have proven to
            arrive, a schedule that learns polls only as a safety net.
        error_budget: Seconds of failed polls in a row that are tolerated for one task. 300 by
            default.
        not_found_grace: Age of a task in seconds up to which "not found" does not count as a
            failure. 60 by default.
        use_list: Use the server's list where it proves to work. True by default.
        concurrency: Most polls at a time in one event loop. 32 by default.
        on_event: Called in the event loop with each event of `comet_async.events`. The same
            events go to the log ``comet_async.waiter``.
        rng: Source of all randomness, for tests.

    Raises:
        InputError: A value can't be used.
    """

    def __init__(  # noqa: PLR0913  # what, when and how long; all but one by keyword
        self,
        session: HasWaiter | TaskSource,
        *,
        timeout: float | None = None,
        schedule: ScheduleLike = None,
        callbacks: NotificationSource | None = None,
        error_budget: float = 300.0,
        not_found_grace: float = 60.0,
        use_list: bool = True,
        concurrency: int = 32,
        on_event: Callable[[Event], object] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        check_timeout(timeout)
        check_callbacks(callbacks)
        check_number("error_budget", error_budget, least=0)
        check_number("not_found_grace", not_found_grace, least=0)
        check_flag("use_list", use_list)
        check_number("concurrency", concurrency, least=1, whole=True)
        check_rng(rng)
        rng = rng or random.Random()  # noqa: S311  # spreads polls, guards nothing
        own = getattr(session, "waiter", None)
        if isinstance(own, TaskWaiter):
            source = own._shared.source  # noqa: SLF001 - another of this class
            callbacks = callbacks or own._callbacks  # noqa: SLF001 - the same
        else:
            check_offers("session", session, ("poll", "clock", "schedule"), "a CometSession")
            source = cast("TaskSource", session)
        when = as_schedule(source.schedule if schedule is None else schedule, rng=rng)
        self._timeout = timeout
        self._shared: Shared = Shared(
            source=source,
            timing=PollTiming(clock=source.clock, schedule=when, rng=rng),
            policy=FailurePolicy(
                error_budget=error_budget,
                not_found_grace=not_found_grace,
                backoff=Backoff.of(getattr(source, "backoff", None), rng=rng),
            ),
            sink=EventSink(on_event),
            concurrency=concurrency,
            by_external_id=callbacks is not None,
            use_list=use_list,
        )
        self._counters = self._shared.counters
        self._pollers: dict[asyncio.AbstractEventLoop, Poller] = {}
        self._callbacks: NotificationSource | None = callbacks
        if callbacks is not None:
            weakref.finalize(self, callbacks.subscribe(_listener(weakref.ref(self))))

    def __repr__(self) -> str:
        schedule = self._shared.timing.schedule
        return f"<TaskWaiter with {self.waiting} tasks, {schedule!r}>"

    async def __aenter__(self) -> Self:
        """Return the waiter itself."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop; see `aclose`."""
        await self.aclose()

    async def aclose(self) -> None:
        """End all waits with `WaitTimeoutError`, those that begin meanwhile too.

        The tasks themselves continue. Waits in other event loops end soon after.
        """
        here = asyncio.get_running_loop()
        for loop, poller in list(self._pollers.items()):
            if loop is here:
                await poller.stop()
            else:
                with contextlib.suppress(RuntimeError):  # that loop was closed
                    loop.call_soon_threadsafe(poller.dismiss)
            self._pollers.pop(loop, None)

    # ------------------------------------------------------------------ counters

    @property
    def waiting(self) -> int:
        """How many tasks are waited for now."""
        return sum(len(poller.index) for poller in list(self._pollers.values()))

    @property
    def polls(self) -> int:
        """How many times single tasks were polled."""
        return self._counters.polls

    @property
    def list_calls(self) -> int:
        """How many pages of the server's list were requested."""
        return self._counters.list_calls

    @property
    def notifications(self) -> int:
        """How many callbacks moved a poll to now."""
        return self._counters.notifications

    @property
    def retries(self) -> int:
        """How many polls failed and were repeated."""
        return self._counters.retries

    @property
    def finished(self) -> int:
        """How many tasks were seen to end."""
        return self._counters.finished

    @property
    def mean_delay(self) -> float:
        """Mean seconds between a task's end and its discovery, by the server's times."""
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
        timeout: float | UseDefault | None = _DEFAULT,
        kind: str | None = None,
        n: int = 1,
    ) -> Task:
        """Wait until a task is done, and return it.

        Args:
            task: A snapshot, or the server's id. A snapshot says how old the task is, which saves
                a request; a task known by its id only is polled at once, unless this session
                submitted it.
            timeout: Seconds from now; None for no limit. The waiter's own by default. Shortly
                before it passes, the task is polled once more. With 0, it is polled once.
            kind: The task's kind, when only its id is given; ``"expand"`` by default.
            n: How many images it makes, if they take longer than one.

        Raises:
            InputError: An argument can't be used.
            TaskFailedError: The task failed; the error holds it.
            ResultMissingError: The server says that it succeeded, and has shown no readable image
                for a minute; the error carries the ids that resume the wait.
            WaitTimeoutError: It has not ended; the error says how to resume.
            SessionClosedError: The session was closed; the error has the ids that resume the wait.
            AuthenticationError: The key was refused.
            AccountError: The account may not use the API.
            CometError: Polls failed for longer than the waiter's error budget.
        """
        _check_waited(kind, n)
        if isinstance(task, Task) and has_result(task):
            return _succeeded(task)
        limit = self._limit(timeout)
        if limit == 0:
            return await self._poll_once(task, kind_of(task, kind))
        watch = _Wait(limit, check_event_loop())
        poller = self._watch(watch, task, kind_of(task, kind), n)
        try:
            return _succeeded(await watch)
        finally:
            poller.leave(watch)

    async def _poll_once(self, task: Task | str, kind: str) -> Task:
        check_task(task)
        task_id = task if isinstance(task, str) else task.id
        self._counters.polls += 1
        found = await self._shared.source.poll(task_id, kind=kind, timeout=None)
        if has_result(found):
            return _succeeded(found)
        raise WaitTimeoutError(
            f"task {found.id} is {found.status}",
            hint=RESUME,
            task=found,
            task_id=found.id,
            external_task_id=found.external_task_id,
        )

    def transitions(
        self,
        task: Task | str,
        *,
        timeout: float | UseDefault | None = _DEFAULT,
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
            InputError: An argument can't be used.
            WaitTimeoutError: It has not ended; continuing the iteration waits again.
            CometError: As `wait` says; continuing the iteration waits again.
        """
        _check_waited(kind, n)
        limit = self._limit(timeout)
        return TaskStream(Transitions(self._watch, task, limit, kind=kind_of(task, kind), n=n))

    def as_completed(
        self,
        tasks: Iterable[Task | str] | AsyncIterable[Task | str],
        *,
        timeout: float | UseDefault | None = _DEFAULT,
        kind: str | None = None,
        n: int = 1,
        prefetch: int = 1000,
    ) -> TaskStream:
        """Iterate over finished tasks in the order in which they end; failed ones too.

        Tasks that are found finished together come in the order of their ends, as the server says.

        Args:
            tasks: Snapshots or ids; any iterable, even an endless or async one. Taken one by
                one, so that an async generator may submit them meanwhile. One that occurs twice
                is yielded twice.
            timeout: Seconds for each task, from when it was taken; None for no limit. The
                waiter's own by default.
            kind: The kind of those given by their ids; ``"expand"`` by default.
            n: How many images each makes, if they take longer than one.
            prefetch: Most tasks taken and not yet yielded. 1,000 by default.

        Raises:
            InputError: An argument can't be used.
            WaitTimeoutError: One task has not ended; the error says which. Continue the
                iteration for the others.
            CometError: As `wait` says, for one task; continue the iteration for the others.
        """
        check_several("tasks", tasks, "an iterable of tasks or ids")
        _check_waited(kind, n)
        check_number("prefetch", prefetch, least=1, whole=True)
        limit = self._limit(timeout)
        return TaskStream(AsCompleted(self._watch, tasks, limit, kind=kind, n=n, prefetch=prefetch))

    # ------------------------------------------------------------------ loops

    def _limit(self, timeout: float | UseDefault | None) -> float | None:
        if isinstance(timeout, UseDefault):
            return self._timeout
        check_timeout(timeout)
        return timeout

    def _watch(self, watch: Watch, task: Task | str, kind: str, n: int) -> Poller:
        """Add *watch* in the running loop; return that loop's poller."""
        check_task(task)
        loop = check_event_loop()
        poller = self._pollers.get(loop)
        if poller is None:
            for other in list(self._pollers):  # other threads add their own
                if other.is_closed():
                    self._pollers.pop(other, None)
            poller = self._pollers[loop] = Poller(self._shared)
        poller.watch(watch, task, kind, n)
        if self._callbacks is not None:
            ids = (task, None) if isinstance(task, str) else (task.id, task.external_task_id)
            earlier = self._callbacks.last_notification(*ids)
            if earlier is not None:
                poller.notify(earlier)
        return poller

    def notify(self, notification: Notification) -> None:
        """Poll a task now instead of later, if it is waited for: a callback may be about it.

        A `CallbackReceiver` does this by itself; call it for notifications that reach you in
        another way, such as from another process. It may be called from any thread. What the
        notification claims is not believed.

        Args:
            notification: Which task.
        """
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        for loop, poller in list(self._pollers.items()):
            if loop is here:
                poller.notify(notification)
            else:
                with contextlib.suppress(RuntimeError):  # that loop was closed
                    loop.call_soon_threadsafe(poller.notify, notification)


def check_task(task: object) -> None:
    """Refuse a *task* that is neither a `Task` nor an id, such as a number or None.

    Raises:
        InputError: It is neither.
    """
    if not isinstance(task, Task | str) or not task:
        raise wrong("task", task, "a task or a task's id", hint="pass a Task, or its id as text")
    if isinstance(task, str):
        check_id("task", task)


def _check_waited(kind: object, n: object) -> None:
    """Refuse what can't be the kind of a task, or its number of images.

    Raises:
        InputError: It can't.
    """
    if kind is not None:
        check_text("kind", kind)
    check_number("n", n, least=1, most=MAX_N, whole=True)


def _succeeded(task: Task) -> Task:
    """Return *task*, or raise an error if it failed."""
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
            waiter.notify(notification)

    return listen
