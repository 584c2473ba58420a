"""When to ask: the schedules by themselves, on numbers instead of clocks."""

# ruff: noqa: S311 - seeded draws; nothing is guarded by them
from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import tenacity
from hypothesis import given, strategies as st

from comet_async.errors import InputError
from comet_async.schedules import (
    SHORTEST,
    DurationHistogram,
    FixedSchedule,
    LearnedSchedule,
    ScheduleLike,
    TenacitySchedule,
    as_schedule,
    bin_of,
)

Draw = Callable[[random.Random], float]


def lognormal(median: float, sigma: float = 0.5) -> Draw:
    """Return a source of durations around *median*."""
    return lambda rng: median * math.exp(rng.gauss(0.0, sigma))


def two_humps(rng: random.Random) -> float:
    """Return a duration around 12 s, or, three times in ten, around 60 s."""
    return (12.0 if rng.random() < 0.7 else 60.0) * math.exp(rng.gauss(0.0, 0.25))


def poll(schedule: LearnedSchedule, duration: float) -> tuple[int, float]:
    """Follow one task; return its polls and the delay of the last one."""
    age, polls, seen = schedule.first(), 1, 0.0
    while age < duration:
        schedule.observe_alive(seen, age)
        seen, age, polls = age, age + schedule.next(age, polls), polls + 1
    schedule.learn(duration, since=seen)
    return polls, age - duration


def follow(schedule: LearnedSchedule, draw: Draw, count: int, seed: int = 3) -> tuple[float, float]:
    """Follow *count* tasks one by one; return mean polls and the share of time added."""
    rng = random.Random(seed)
    durations = [draw(rng) for _ in range(count)]
    results = [poll(schedule, duration) for duration in durations]
    polls = sum(polls for polls, _ in results) / count
    return polls, sum(delay for _, delay in results) / sum(durations)


def taught(draw: Draw, count: int = 64, **options: float) -> LearnedSchedule:
    """Return a schedule that has learned from *count* tasks."""
    schedule = LearnedSchedule(rng=random.Random(1), **options)
    follow(schedule, draw, count, seed=99)
    return schedule


@pytest.mark.parametrize("draw", [lognormal(20.0), two_humps], ids=["lognormal", "two humps"])
def test_learned_schedule_reaches_its_aim(draw: Draw) -> None:
    """After 64 tasks 6.5 polls notice a task after 6.5 % of its time, with one hump or two."""
    polls, added = follow(taught(draw), draw, 2000)
    assert polls <= 6.5
    assert added <= 0.065


@pytest.mark.parametrize("draw", [lognormal(20.0), two_humps], ids=["lognormal", "two humps"])
def test_learned_schedule_beats_every_fixed_interval(draw: Draw) -> None:
    """Polls times delay is a quarter less than the half that any fixed interval reaches."""
    polls, added = follow(taught(draw), draw, 2000)
    assert (polls - 0.5) * added <= 0.37


@pytest.mark.parametrize("median", [0.5, 2.0, 5.0, 20.0, 60.0, 180.0, 600.0])
def test_unknown_durations_are_hedged(median: float) -> None:
    """The first 64 tasks, of whatever duration, cost 8 polls and 15 % at most."""
    runs = [
        follow(LearnedSchedule(rng=random.Random(seed)), lognormal(median), 64, seed)
        for seed in range(5)
    ]
    assert sum(polls for polls, _ in runs) / 5 <= 8.0
    assert sum(added for _, added in runs) / 5 <= 0.15


def test_half_the_delay_costs_twice_the_polls() -> None:
    """The aim moves the schedule along the front."""
    draw = lognormal(20.0)
    few, late = follow(taught(draw, aim=4.0), draw, 500)
    many, soon = follow(taught(draw, aim=8.0), draw, 500)
    assert (few, many) == (pytest.approx(4.0, abs=0.4), pytest.approx(8.0, abs=0.4))
    assert late > 1.6 * soon


def test_schedule_follows_a_server_that_became_slower() -> None:
    """Old durations fade: after a change the schedule reaches its aim again."""
    schedule = taught(lognormal(10.0), 2000)
    follow(schedule, lognormal(40.0), 1000)
    polls, added = follow(schedule, lognormal(40.0), 1000)
    assert polls <= 7.0
    assert added <= 0.075


def test_tasks_that_still_run_are_learned_from() -> None:
    """The first of a batch to end is its fastest: those that did not end yet count, too."""
    fooled, wise = DurationHistogram(), DurationHistogram()
    for durations in (fooled, wise):
        durations.record_end(10.0)
    for _ in range(63):
        wise.record_survival(0.0, 15.0)
    there = bin_of(10.0)
    assert wise.chances()[there] < 0.1 * fooled.chances()[there]


def test_a_seed_decides_everything() -> None:
    """The same seed and the same tasks give the same polls."""
    one, other = taught(lognormal(20.0)), taught(lognormal(20.0))
    assert [one.next(age, 1) for age in range(60)] == [other.next(age, 1) for age in range(60)]


def busiest(moments: list[float]) -> int:
    """Return the most *moments* within a tenth of a second."""
    return max(sum(start <= moment < start + 0.1 for moment in moments) for start in moments)


def test_tasks_submitted_together_are_spread() -> None:
    """A thousand tasks of one moment are asked about over at least two seconds."""
    schedule = taught(lognormal(20.0))
    firsts = [schedule.first(1, crowd) for crowd in range(1000)]
    assert max(firsts) - min(firsts) > 2.0
    assert busiest(firsts) < 60


def test_tasks_of_which_nothing_is_known_are_spread_too() -> None:
    """Some are asked about soon, because they may be quick; not a thousand at once."""
    schedule = LearnedSchedule(rng=random.Random(1))
    firsts = [schedule.first(1, crowd) for crowd in range(1000)]
    assert min(firsts) < 0.5
    assert max(firsts) < 30.0
    assert busiest(firsts) < 150


def test_polls_that_the_longest_interval_bounds_do_not_meet() -> None:
    """A thousand tasks of ten hours are not polled together every four minutes."""
    schedule = LearnedSchedule(rng=random.Random(1))
    for _ in range(64):
        schedule.learn(36_000.0)
    waits = [schedule.first() for _ in range(1000)]
    assert busiest(waits) < 20
    assert busiest([schedule.next(600.0, 3) for _ in waits]) < 20
    assert busiest([schedule.reschedule(1.0, wait) for wait in waits]) < 20


def test_tasks_put_off_are_polled_once_something_is_known() -> None:
    """Those of a crowd that would be asked about late have their place in the first step then."""
    schedule = LearnedSchedule(rng=random.Random(1))
    dues = [schedule.first(1, crowd) for crowd in range(1000)]
    for _ in range(3):
        schedule.learn(1.0)
    assert max(schedule.reschedule(0.5, due) for due in dues if due > 0.5) < 1.0


@given(
    durations=st.lists(st.floats(0.0, 1e6), max_size=40),
    age=st.floats(0.0, 1e6),
    floor=st.floats(SHORTEST, 10.0),
    ceiling=st.floats(10.0, 1000.0),
)
def test_intervals_stay_within_their_bounds(
    durations: list[float], age: float, floor: float, ceiling: float
) -> None:
    """Whatever was learned, no interval is shorter than the floor or longer than the ceiling."""
    schedule = LearnedSchedule(rng=random.Random(1), floor=floor, ceiling=ceiling)
    for duration in durations:
        schedule.learn(duration)
    assert floor <= schedule.first() <= ceiling
    assert floor <= schedule.next(age, 3) <= ceiling
    assert 0.0 <= schedule.reschedule(age, age + 5.0) <= ceiling
    assert 0.0 < schedule.backstop(age) <= ceiling


def test_a_new_plan_keeps_the_spread_of_the_old_one() -> None:
    """Tasks spread over a step are spread over a step after what was learned meanwhile."""
    schedule = LearnedSchedule(rng=random.Random(1))
    dues = [schedule.first() for _ in range(100)]
    schedule.learn(8.0)
    again = sorted(schedule.reschedule(0.0, due) for due in dues)
    assert len({round(due, 3) for due in again}) > 90


@pytest.mark.parametrize("learned", [1, 2, 4, 8])
def test_version_tells_of_a_new_plan_while_little_is_known(learned: int) -> None:
    """Each of the first ends changes the plan enough to move the polls of waiting tasks."""
    schedule = LearnedSchedule()
    versions = {schedule.version}
    for _ in range(learned):
        schedule.learn(20.0)
        versions.add(schedule.version)
    assert len(versions) == learned + 1


def test_version_rests_once_durations_are_known() -> None:
    """Later plans differ too little from the one before."""
    schedule = taught(lognormal(20.0), 200)
    before = schedule.version
    follow(schedule, lognormal(20.0), 100)
    assert schedule.version == before


def test_backstop_waits_until_nearly_all_are_done() -> None:
    """A task whose end is announced is asked about when nine in ten have ended."""
    schedule = taught(lognormal(20.0), 500)
    assert 30.0 < schedule.backstop(0.0) < 60.0


def test_more_images_scale_the_durations() -> None:
    """Tasks of four images that take three times longer are asked about three times later."""
    schedule = LearnedSchedule(rng=random.Random(1))
    rng = random.Random(2)
    for _ in range(200):
        duration = lognormal(10.0, 0.2)(rng)
        schedule.learn(duration)
        schedule.learn(3.0 * duration, n=4)
    one = sum(schedule.first() for _ in range(200))
    four = sum(schedule.first(4) for _ in range(200))
    assert four == pytest.approx(3.0 * one, rel=0.2)


def test_fixed_schedule_keeps_its_interval() -> None:
    """After a random start the interval is what was asked for."""
    schedule = FixedSchedule(5, rng=random.Random(1))
    firsts = [schedule.first() for _ in range(100)]
    schedule.learn(3.0)
    assert 2.5 <= min(firsts) < max(firsts) <= 7.5
    assert schedule.next(10.0, 3) == 5.0


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
def test_fixed_schedule_refuses_nonsense(seconds: float) -> None:
    """An interval is a positive number of seconds."""
    with pytest.raises(InputError, match="is not a number above 0"):
        FixedSchedule(seconds)


@pytest.mark.parametrize(
    "options", [{"aim": 0.5}, {"floor": 0.0}, {"floor": 9.0, "ceiling": 5.0}, {"ceiling": math.inf}]
)
def test_learned_schedule_refuses_nonsense(options: dict[str, float]) -> None:
    """Contradictory bounds are refused at once."""
    with pytest.raises(InputError, match="is not a number of at least"):
        LearnedSchedule(**options)


def test_schedules_show_what_they_are() -> None:
    """Their repr helps in a log."""
    assert repr(FixedSchedule(5)) == "FixedSchedule(5)"
    assert repr(LearnedSchedule()) == "LearnedSchedule(aim=6.4, learned=0)"


@pytest.mark.parametrize(
    ("value", "made"),
    [(None, LearnedSchedule), (5, FixedSchedule), (0.5, FixedSchedule)],
    ids=["nothing", "int", "float"],
)
def test_simple_schedules(value: ScheduleLike, made: type) -> None:
    """Nothing gives the schedule that learns, a number a fixed interval."""
    assert isinstance(as_schedule(value), made)


def test_a_schedule_stays_what_it_is() -> None:
    """What has the three methods is used as it is."""
    schedule = LearnedSchedule()
    assert as_schedule(schedule) is schedule


@pytest.mark.parametrize("value", ["5", True, object()], ids=["text", "bool", "object"])
def test_other_things_are_refused(value: object) -> None:
    """The error tells what can be given."""
    with pytest.raises(InputError, match="can't be used") as caught:
        as_schedule(value)  # type: ignore[arg-type]  # that is the point
    assert "tenacity" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (tenacity.wait_fixed(3), [3, 3, 3, 3]),
        (tenacity.wait_exponential(multiplier=1, max=6), [1, 2, 4, 6]),
        (tenacity.wait_incrementing(start=1, increment=2), [1, 3, 5, 7]),
        (tenacity.wait_chain(*[tenacity.wait_fixed(n) for n in (1, 5)]), [1, 5, 5, 5]),
        (tenacity.wait_none(), [SHORTEST] * 4),
        (lambda state: state.seconds_since_start / 2 + 1, [1.0, 6.0, 11.0, 16.0]),
        (lambda _state: math.nan, [SHORTEST] * 4),
    ],
    ids=["fixed", "exponential", "incrementing", "chain", "none", "function", "nan"],
)
def test_tenacity_decides_when(strategy: ScheduleLike, expected: list[float]) -> None:
    """The strategy sees the number of the poll and the task's age."""
    schedule = as_schedule(strategy)
    schedule.learn(9.0)
    waits = [schedule.first()] + [schedule.next(10.0 * n, n) for n in (1, 2, 3)]
    assert waits == expected
    assert isinstance(schedule, TenacitySchedule)
    assert repr(schedule).startswith("TenacitySchedule(")
