"""When to ask about each task that is waited for: the schedule, applied to real clocks.

No I/O and nothing of asyncio: one `PollTiming` serves all event loops of a waiter.
"""

from __future__ import annotations

import random
from datetime import datetime
from typing import ClassVar

import attrs

from comet_async._polling.watch import NEVER, Hints, WatchedTask
from comet_async.clock import Clock
from comet_async.models import Task, TaskStatus
from comet_async.schedules import SHORTEST, LearnedSchedule, Schedule

# A callback that is later than this after the end counts as lost.
_PUNCTUAL = 5.0
# What counts as a long time where nothing was learned.
_LATE = 120.0
# A schedule of the user's own may give anything.
_LONGEST = 86_400.0


@attrs.define(eq=False)
class ServerClock:
    """How far our wall clock is ahead of the server's, from the times in its answers.

    An answer can't tell of a moment that is still to come, and a change that was not there at
    one poll and is there at the next happened in between. The clocks are trusted as they are
    until they contradict that.
    """

    # Some gateways tell whole seconds.
    _ROUNDING: ClassVar[float] = 1.0

    offset: float = attrs.field(default=0.0, init=False)
    _least: float = attrs.field(default=-NEVER, init=False)
    _most: float = attrs.field(default=NEVER, init=False)

    def told(self, moment: float, *, received: float, before: float | None = None) -> None:
        """Take note of a moment that an answer told.

        Args:
            moment: The server's wall clock.
            received: Ours when the answer came.
            before: Ours at the last look before the moment, if there was one.
        """
        self._most = min(self._most, received - moment)
        if before is not None:
            self._least = max(self._least, before - moment - self._ROUNDING)
        if self._least > self._most:  # one of the clocks was set: begin anew
            self._least, self._most = -NEVER, received - moment
        self.offset = min(max(0.0, self._least), self._most)

    def since(self, moment: float, now: float) -> float:
        """Return the seconds from *moment* on the server to *now* here; never negative."""
        return max(0.0, now - self.offset - moment)


@attrs.define(eq=False)
class CallbackReliability:
    """Whether callbacks arrive: a share of those that could have, the last ones counting most.

    Attributes:
        share: The share.
        proven: True when at least half of them arrive.
    """

    _WEIGHT: ClassVar[float] = 0.1

    share: float = attrs.field(default=0.0, init=False)
    proven: bool = attrs.field(default=False, init=False)

    def delivered(self) -> None:
        """Take note of one that told of an end which a poll confirmed."""
        self._set(1.0 if not self.share else self.share + self._WEIGHT * (1.0 - self.share))

    def lost(self) -> None:
        """Take note of an end that a poll had to find."""
        self._set(self.share * (1.0 - self._WEIGHT))

    def _set(self, share: float) -> None:
        self.share = share
        self.proven = share >= 0.5  # noqa: PLR2004  # "at least half", as above


def _sane(wait: float) -> float:
    return max(SHORTEST, min(wait, _LONGEST))  # NaN is greater than nothing: it gives SHORTEST


@attrs.define(eq=False)
class PollTiming:
    """Tells when to ask, and learns from what came back. Moments are monotonic.

    Attributes:
        clock: Ours.
        schedule: How polls lie over a task's life.
        rng: Source of what spreads them.
        server: The server's clock.
        trust: Whether callbacks arrive.
        round_trip: How long an exchange takes, seconds.
    """

    clock: Clock
    schedule: Schedule
    rng: random.Random
    server: ServerClock = attrs.field(factory=ServerClock, init=False)
    trust: CallbackReliability = attrs.field(factory=CallbackReliability, init=False)
    round_trip: float = attrs.field(default=0.2, init=False)

    @property
    def version(self) -> tuple[int, bool]:
        """Something that changes when waiting tasks should be planned anew."""
        return getattr(self.schedule, "version", 0), self.trust.proven

    def first(self, entry: WatchedTask, snapshot: Task | None, now: float, crowd: int) -> float:
        """Return when to ask first.

        Args:
            entry: The task.
            snapshot: What its waiter knows of it, if anything.
            now: The moment.
            crowd: How many tasks are waited for.
        """
        wait = 0.0
        if snapshot is not None:
            self._date(entry, snapshot, now)
            entry.seen = now
            age = now - entry.born
            wait = self._relaxed(entry, age) or _sane(self._first(entry.n, crowd)) - age
        if wait <= 0.0:
            # It may be over already. A crowd of such tasks is not asked about at once.
            wait = self.rng.random() * min(2.0, crowd / 500)
        return now + wait

    def _first(self, n: int, crowd: int) -> float:
        if isinstance(self.schedule, LearnedSchedule):
            return self.schedule.first(n, crowd)
        return self.schedule.first(n)

    def next(self, entry: WatchedTask, now: float, pace: float) -> float:
        """Return when to ask again about a task that was seen unfinished just now.

        Args:
            entry: The task.
            now: The moment.
            pace: How many times denser the polls should be than the schedule says.
        """
        age = max(0.0, now - entry.born)
        wait = self._relaxed(entry, age)
        wait = wait or _sane(self.schedule.next(age, max(1, entry.polls), entry.n)) / pace
        if entry.notifications is not None and entry.notifications.waiting:
            wait = min(wait, max(0.0, entry.notifications.after - now))
        return now + wait

    def again(self, entry: WatchedTask, now: float) -> float:
        """Return when to ask, by what was learned since that was last decided."""
        if not isinstance(self.schedule, LearnedSchedule):
            return entry.due
        age = max(0.0, now - entry.born)
        due = max(age, entry.due - entry.born)
        wait = self._relaxed(entry, age) or self.schedule.again(age, due, entry.n)
        # Planned anew again and again, a poll must not be put off for ever.
        latest = max(entry.seen, entry.asked) + self.schedule.ceiling
        return min(now + wait, max(now, latest))

    def last_look(self, entry: WatchedTask, now: float, when: float) -> float:
        """Return *when*, or the moment of a last look if the deadline comes before it."""
        if not entry.deadline <= when < NEVER:
            return when
        look = entry.deadline - min(5.0, max(0.1, 3 * self.round_trip))
        failed = entry.trouble.at if entry.trouble is not None else 0.0
        if max(entry.asked, entry.seen, failed) >= look:
            return entry.deadline
        return max(now, look)

    def _relaxed(self, entry: WatchedTask, age: float) -> float:
        """Return the wait of a task whose end a callback will announce; 0 for all others."""
        if self.trust.proven and isinstance(self.schedule, LearnedSchedule):
            return self.schedule.backstop(age, entry.n)
        return 0.0

    def late(self) -> float:
        """Return the age at which a task that is said to go on deserves a second look.

        One task in twenty is that old, so this costs little.
        """
        if isinstance(self.schedule, LearnedSchedule):
            return min(_LATE, 1.3 * self.schedule.backstop(0.0))
        return _LATE

    # ------------------------------------------------------------------ learning

    def age_of(self, moment: datetime) -> float:
        """Return the seconds from a *moment* that the server told to now; never negative."""
        return self.server.since(moment.timestamp(), self.clock.time())

    def _date(self, entry: WatchedTask, task: Task, now: float) -> None:
        """Set when *entry* was created, if *task* tells."""
        if task.created_at is not None:
            entry.born = now - self.age_of(task.created_at)

    def told(self, entry: WatchedTask, task: Task, sent: float, now: float) -> None:
        """Learn about the server's clock, and from it about the task's age.

        Args:
            entry: The task.
            task: What the answer says.
            sent: When the question was sent.
            now: When the answer came.
        """
        if task.updated_at is not None:
            changed = entry.status is not None and entry.seen and entry.status != task.status
            # A list may be out of date: where a task's own answer differs from what the list
            # showed, taking both at their word would make a clock look wrong.
            if entry.listed and sent == entry.asked:
                changed = False
            received = self.clock.time()
            self.server.told(
                task.updated_at.timestamp(),
                received=received,
                before=received - (now - entry.seen) if changed else None,
            )
        if entry.polls <= 1:
            self._date(entry, task, now)

    def lived(self, entry: WatchedTask, sent: float) -> None:
        """Take note that a task was unfinished when a question was sent."""
        if entry.seen and isinstance(self.schedule, LearnedSchedule):
            since = max(0.0, entry.seen - entry.born)
            self.schedule.alive(since, sent - entry.born, entry.n)
        entry.seen = max(entry.seen, sent)
        entry.listed = sent != entry.asked

    def ended(self, entry: WatchedTask, task: Task, now: float, *, hinted: bool) -> float:
        """Learn how long a task took; return how long ago it ended."""
        duration, delay = self._measure(entry, task, now)
        if isinstance(self.schedule, LearnedSchedule):
            since = max(0.0, entry.seen - entry.born) if entry.seen else 0.0
            self.schedule.learn(duration, entry.n, since=since)
        else:
            self.schedule.learn(duration, entry.n)
        if not hinted and self.trust.share and delay > _PUNCTUAL:
            self.trust.lost()
        return delay

    def _measure(self, entry: WatchedTask, task: Task, now: float) -> tuple[float, float]:
        """Return how long the task took, and how long ago it ended."""
        if task.created_at is not None and task.updated_at is not None:
            duration = (task.updated_at - task.created_at).total_seconds()
            return max(0.0, duration), self.age_of(task.updated_at)
        # Untold: somewhere since the last look, at half of the way as the best guess.
        delay = (now - entry.seen) / 2 if entry.seen else 0.0
        return max(0.0, now - delay - entry.born), delay

    # ------------------------------------------------------------------ callbacks

    def worth_asking(self, entry: WatchedTask, status: TaskStatus | str | None) -> bool:
        """Tell whether a callback that claims *status* is a reason to ask now.

        Nothing is believed: a claim is only compared with what is known and wanted. A state in
        the middle concerns only those who follow changes.
        """
        if not isinstance(status, TaskStatus):
            return True
        wanted = status.rank > 1 or entry.followed
        return wanted and status.rank > entry.rank

    def hinted(self, entry: WatchedTask, now: float) -> float:
        """Take note of a callback; return when it may be obeyed."""
        entry.notifications = notifications = entry.notifications or Hints()
        notifications.waiting = True
        return max(now, notifications.after)

    def asking(self, entry: WatchedTask, now: float) -> None:
        """Take note that a poll is being sent."""
        entry.asked = now
        entry.polls += 1
        if entry.notifications is not None:
            entry.notifications.obeyed, entry.notifications.waiting = (
                entry.notifications.waiting,
                False,
            )

    def judge_hint(self, entry: WatchedTask, now: float, *, changed: bool, done: bool) -> bool:
        """Learn from an answer whether a callback told the truth; return whether one led to it.

        Only ends prove that callbacks arrive: it is ends that are waited for.

        One that tells of nothing new makes the next ones wait longer, so that a flood of them
        does not become a flood of polls.
        """
        notifications = entry.notifications
        if notifications is None or not notifications.obeyed:
            return False
        notifications.obeyed = False
        if changed:
            notifications.useless = 0
            if done:
                self.trust.delivered()
        else:
            notifications.useless += 1
            notifications.after = now + 0.2 * 2.0 ** min(notifications.useless, 16)
        return True
