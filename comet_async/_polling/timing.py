"""When to poll each task that is waited for: the schedule, applied to real clocks.

No I/O and nothing of asyncio: one `PollTiming` serves all event loops of a waiter.
"""

from __future__ import annotations

import math
import random
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

import attrs

from comet_async._polling.watch import NEVER, NotificationState, WatchedTask
from comet_async.clock import Clock
from comet_async.models import Task, TaskStatus
from comet_async.schedules import LATE, SHORTEST, SPREAD, LearnedSchedule, Schedule

if TYPE_CHECKING:
    from comet_async._http.api import Submission

# A callback that is later than this after the end counts as lost.
_PUNCTUAL = 5.0
# The server's times of a task of ours are believed if they contradict what we saw by no more than
# this, seconds: they may be whole seconds, and its list may lag a little.
_CONTRADICTION = 5.0
# A schedule of the user's own may return anything, and so may a server for a task's duration.
_LONGEST = 86_400.0


@attrs.define(eq=False)
class ServerClock:
    """The server's clock, on our monotonic one.

    The local wall clock is read once, for a first guess: it may be hours off, and it may be set
    while tasks are waited for. The times in answers correct the guess. A moment that an answer
    names has passed when the answer comes; and a change that one answer did not show and the next
    one does, or a task that our own request made, happened between two moments of ours.
    """

    # Some gateways give whole seconds.
    _ROUNDING: ClassVar[float] = 1.0

    clock: Clock
    _guess: float | None = attrs.field(default=None, init=False)
    _least: float = attrs.field(default=-NEVER, init=False)
    _most: float = attrs.field(default=NEVER, init=False)

    @property
    def lag(self) -> float:
        """Our monotonic clock minus the server's clock, seconds."""
        if self._guess is None:
            self._guess = self.clock.monotonic() - self.clock.time()
        return min(max(self._guess, self._least), self._most)

    def observe(self, moment: float, *, received: float, after: float | None = None) -> None:
        """Record that *moment*, on the server's clock, lay between two moments of ours.

        Args:
            moment: The server's wall clock.
            received: When the answer with it came.
            after: When it had not come yet, if that is known.
        """
        least = -NEVER if after is None else after - moment - self._ROUNDING
        self._most = min(self._most, received - moment)
        self._least = max(self._least, least)
        if self._least > self._most:  # the server's clock was set: start again
            self._least, self._most = least, received - moment

    def age_of(self, moment: float, now: float) -> float:
        """Return the seconds from *moment* on the server's clock to *now*; negative if ahead."""
        return now - self.lag - moment


@attrs.define(eq=False)
class CallbackReliability:
    """Whether callbacks arrive: a share of those that could have, the last ones counting most.

    Polling rarely pays only where nearly all of them arrive: each one that does not delays its
    task's end until the next poll. With two processes behind one address about half arrive.

    Attributes:
        share: The share.
        proven: True if enough were seen, and nearly all arrived.
    """

    _WEIGHT: ClassVar[float] = 0.1
    _ENOUGH: ClassVar[int] = 3
    _NEARLY_ALL: ClassVar[float] = 0.75

    share: float = attrs.field(default=0.0, init=False)
    proven: bool = attrs.field(default=False, init=False)
    _seen: int = attrs.field(default=0, init=False)

    def record_delivered(self) -> None:
        """Record a callback about an end that a poll confirmed."""
        self._record(1.0)

    def record_lost(self) -> None:
        """Record an end that a poll had to find."""
        self._record(0.0)

    def _record(self, arrived: float) -> None:
        self._seen += 1
        self.share += max(self._WEIGHT, 1 / self._seen) * (arrived - self.share)
        self.proven = self._seen >= self._ENOUGH and self.share >= self._NEARLY_ALL


def _sane(wait: float) -> float:
    return max(SHORTEST, min(wait, _LONGEST))  # NaN is greater than nothing: it gives SHORTEST


class AdaptedSchedule:
    """A user's schedule with the interface of `LearnedSchedule`.

    Args:
        schedule: The user's own, or a fixed one.
    """

    version = 0
    ceiling = NEVER

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def __repr__(self) -> str:
        return repr(self._schedule)

    def first(self, n: int = 1, crowd: int = 1) -> float:  # noqa: ARG002  # as LearnedSchedule
        """Return the age of the first poll, whatever the crowd."""
        return _sane(self._schedule.first(n))

    def next(self, age: float, attempt: int, n: int = 1) -> float:
        """Return the wait until the next poll."""
        return _sane(self._schedule.next(age, attempt, n))

    def reschedule(self, age: float, due: float, n: int = 1) -> float:  # noqa: ARG002 - the protocol's signature
        """Return what is left of the wait: nothing was learned."""
        return due - age

    def longest(self, age: float, crowd: int) -> float:  # noqa: ARG002  # as LearnedSchedule
        """Return no limit: the user's schedule says when."""
        return NEVER

    def backstop(self, age: float, n: int = 1) -> float:  # noqa: ARG002 - the protocol's signature
        """Return 0: callbacks don't make the user's schedule sparser."""
        return 0.0

    def late(self) -> float:
        """Return the age at which a task that is reported unfinished deserves a second look."""
        return LATE

    def observe_alive(self, since: float, age: float, n: int = 1) -> None:
        """Do nothing: only ends are reported to a user's schedule."""

    def learn(self, duration: float, n: int = 1, *, since: float = 0.0) -> None:  # noqa: ARG002 - the protocol's signature
        """Report a duration."""
        self._schedule.learn(duration, n)


def adapt(schedule: Schedule) -> LearnedSchedule | AdaptedSchedule:
    """Return *schedule* with all that `PollTiming` needs of it."""
    return schedule if isinstance(schedule, LearnedSchedule) else AdaptedSchedule(schedule)


def _server_clock(timing: PollTiming) -> ServerClock:
    return ServerClock(timing.clock)


# Nothing is converted or checked when a field is set, as `round_trip` is after each poll.
@attrs.define(eq=False, on_setattr=attrs.setters.NO_OP)
class PollTiming:
    """Decides when to poll, and learns from the answers. Moments are monotonic.

    Attributes:
        clock: Ours.
        schedule: How polls lie over a task's life.
        rng: Source of what spreads them.
        server: The server's clock.
        callbacks: Whether callbacks arrive.
        round_trip: How long an exchange takes, seconds.
    """

    clock: Clock
    schedule: LearnedSchedule | AdaptedSchedule = attrs.field(converter=adapt)
    rng: random.Random
    server: ServerClock = attrs.field(
        init=False, default=attrs.Factory(_server_clock, takes_self=True)
    )
    callbacks: CallbackReliability = attrs.field(factory=CallbackReliability, init=False)
    round_trip: float = attrs.field(default=0.2, init=False)

    @property
    def version(self) -> tuple[int, bool]:
        """A token that changes whenever waiting tasks should be rescheduled."""
        return self.schedule.version, self.callbacks.proven

    def first(
        self,
        entry: WatchedTask,
        snapshot: Task | None,
        submission: Submission | None,
        now: float,
        crowd: int,
    ) -> float:
        """Return when to poll first.

        Args:
            entry: The task.
            snapshot: What its waiter knows of it, if anything.
            submission: Our own request for it, if this session sent it.
            now: The moment.
            crowd: How many tasks are waited for.
        """
        wait = 0.0
        if submission is not None:
            self._date_by_submission(entry, snapshot, submission, now)
        elif snapshot is not None:
            self._date_by_server(entry, snapshot, now)
            entry.alive_at = now
        if entry.seen_alive:
            age = now - entry.created
            wait = self.schedule.backstop(age, entry.n) if self.callbacks.proven else 0.0
            wait = wait or self.schedule.first(entry.n, crowd) - age
        if wait <= 0.0:
            # It may be over already. A crowd of such tasks is not polled at once.
            wait = self.rng.random() * min(2.0, crowd / 500)
        return now + wait

    def next(self, entry: WatchedTask, now: float, crowd: int) -> float:
        """Return when to poll a task again that was seen unfinished just now.

        For one task the best density of polls goes with sqrt(hazard); for m tasks that one
        request serves it goes with sqrt(m x hazard).

        Args:
            entry: The task.
            now: The moment.
            crowd: How many tasks the poll serves.
        """
        age = max(0.0, now - entry.created)
        wait = self.schedule.backstop(age, entry.n) if self.callbacks.proven else 0.0
        if not wait:
            wait = self.schedule.next(age, max(1, entry.polls), entry.n)
            if crowd > 1:
                wait = min(wait / math.sqrt(crowd), self.schedule.longest(age, crowd))
        if entry.notified is not None and entry.notified.pending:
            wait = min(wait, max(0.0, entry.notified.not_before - now))
        return now + wait

    def reschedule(self, entry: WatchedTask, now: float) -> float:
        """Return when to poll, by what was learned since that was last decided."""
        age = max(0.0, now - entry.created)
        due = max(age, entry.due - entry.created)
        wait = self.schedule.backstop(age, entry.n) if self.callbacks.proven else 0.0
        wait = wait or self.schedule.reschedule(age, due, entry.n)
        # Rescheduled again and again, a poll must not be put off forever, nor all to one moment.
        longest = self.schedule.ceiling * (1.0 - SPREAD * self.rng.random())
        latest = max(entry.alive_at, entry.polled_at) + longest
        return min(now + wait, max(now, latest))

    def last_look(self, entry: WatchedTask, now: float, when: float) -> float:
        """Return *when*, or the moment of a last poll if the deadline comes before it."""
        if not entry.deadline <= when < NEVER:
            return when
        look = entry.deadline - min(5.0, max(0.1, 3 * self.round_trip))
        failed = entry.failures.at if entry.failures is not None else -NEVER
        if max(entry.polled_at, entry.alive_at, failed) >= look:
            return entry.deadline
        return max(now, look)

    # ------------------------------------------------------------------ learning

    def age_of(self, moment: datetime, now: float) -> float:
        """Return the seconds from a *moment* that the server named to *now*; never negative."""
        return max(0.0, self.server.age_of(moment.timestamp(), now))

    def _date_by_submission(
        self, entry: WatchedTask, snapshot: Task | None, submission: Submission, now: float
    ) -> None:
        """Set when *entry* was created: while our request for it was on its way."""
        sent, answered = min(submission.sent, now), min(submission.answered, now)
        created = snapshot.created_at if snapshot is not None else None
        if created is not None:
            self.server.observe(created.timestamp(), received=answered, after=sent)
            entry.created = min(answered, max(sent, created.timestamp() + self.server.lag))
        else:
            entry.created = (sent + answered) / 2
        entry.own, entry.alive_at = True, answered

    def _date_by_server(self, entry: WatchedTask, task: Task, now: float) -> None:
        """Set when *entry* was created, as the server says, unless we know better."""
        if task.created_at is not None and not entry.own:
            entry.created = now - self.age_of(task.created_at, now)

    def observe_server_time(self, entry: WatchedTask, task: Task, sent: float, now: float) -> None:
        """Learn about the server's clock, and from it about the task's age.

        Args:
            entry: The task.
            task: What the answer says.
            sent: When the request for it was sent.
            now: When the answer came.
        """
        if task.updated_at is not None:
            changed = entry.status not in (None, task.status) and entry.seen_alive
            # A list may be out of date: where a task's own answer differs from what the list
            # showed, believing both would make a clock look wrong.
            if entry.listed and sent == entry.polled_at:
                changed = False
            after = entry.alive_at if changed else None
            self.server.observe(task.updated_at.timestamp(), received=now, after=after)
        if entry.polls <= 1:
            self._date_by_server(entry, task, now)

    def observe_alive(self, entry: WatchedTask, sent: float) -> None:
        """Record that a task was unfinished at the moment *sent*."""
        if entry.seen_alive:
            since = max(0.0, entry.alive_at - entry.created)
            self.schedule.observe_alive(since, sent - entry.created, entry.n)
        entry.alive_at = max(entry.alive_at, sent)
        entry.listed = sent != entry.polled_at

    def observe_end(self, entry: WatchedTask, task: Task, now: float, *, notified: bool) -> float:
        """Learn how long a task took; return how long ago it ended."""
        duration, delay = self._measure(entry, task, now)
        since = max(0.0, entry.alive_at - entry.created)
        if duration <= _LONGEST:  # else its times are false, whatever they say
            self.schedule.learn(duration, entry.n, since=since)
        if not notified and self.callbacks.share and delay > _PUNCTUAL:
            self.callbacks.record_lost()
        return delay

    def _measure(self, entry: WatchedTask, task: Task, now: float) -> tuple[float, float]:
        """Return how long the task took, and how long ago it ended."""
        if task.created_at is not None and task.updated_at is not None:
            # Both by the server's clock, so it does not matter what that clock says.
            duration = max(0.0, (task.updated_at - task.created_at).total_seconds())
            if not entry.own:
                return duration, self.age_of(task.updated_at, now)
            age, seen = now - entry.created, entry.alive_at - entry.created
            # Unless they are of two clocks, or name other moments than the start and the end.
            if seen - _CONTRADICTION <= duration <= age + _CONTRADICTION:
                return duration, max(0.0, age - duration)
        # Not given: somewhere since the last answer, at half of the way as the best guess.
        delay = (now - entry.alive_at) / 2 if entry.seen_alive else 0.0
        return max(0.0, now - delay - entry.created), delay

    # ------------------------------------------------------------------ callbacks

    def worth_polling(self, entry: WatchedTask, status: TaskStatus | str | None) -> bool:
        """Return True if a callback that claims *status* is a reason to poll now.

        Nothing is believed: a claim is only compared with what is known and wanted. A state in
        the middle concerns only those who follow changes.
        """
        if not isinstance(status, TaskStatus):
            return True
        wanted = status.rank > 1 or entry.followed
        return wanted and status.rank > entry.rank

    def on_callback(self, entry: WatchedTask, now: float) -> float:
        """Record a callback; return when it may cause a poll."""
        entry.notified = state = entry.notified or NotificationState()
        state.pending = True
        return max(now, state.not_before)

    def on_poll_sent(self, entry: WatchedTask, now: float) -> None:
        """Record that a poll is being sent."""
        entry.polled_at = now
        entry.polls += 1
        if entry.notified is not None:
            entry.notified.caused_poll, entry.notified.pending = entry.notified.pending, False

    def score_callback(self, entry: WatchedTask, now: float, *, changed: bool, done: bool) -> bool:
        """Learn from an answer whether a callback was right; return True if one caused the poll.

        Only ends prove that callbacks arrive: it is ends that are waited for. One that announces
        nothing new makes the next ones wait longer, so that a flood of them does not become a
        flood of polls.
        """
        state = entry.notified
        if state is None or not state.caused_poll:
            return False
        state.caused_poll = False
        if changed:
            state.useless = 0
            if done:
                self.callbacks.record_delivered()
        else:
            state.useless += 1
            state.not_before = now + 0.2 * 2.0 ** min(state.useless, 16)
        return True
