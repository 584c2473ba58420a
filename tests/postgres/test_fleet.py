"""Workers of a queue, killed, stopped and cut off at random (F70 to F74)."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from comet_async.sandbox import Fault, Faults, Options
from tests.postgres.fleet import Fleet, fleet

IMAGES = 300
# An id may be used twice, so that a request that is sent twice is charged twice.
OPTIONS = Options(unique_external_ids=False, submitted_seconds=(0, 0.2), task_seconds=(0.3, 1.2))


def weather(seed: int) -> Faults:
    """Return the faults: lost replies and charges behind a 504."""
    return Faults(
        Fault("drop_after_charge", times=None, chance=0.03),
        Fault("504_after_charge", times=None, chance=0.02),
        Fault("drop", on="create", times=None, chance=0.02),
        seed=seed,
    )


async def hurt(running: Fleet, dice: random.Random) -> None:
    """Do one thing that no worker expects."""
    places = sorted(running.programs)
    match dice.choice(["kill", "kill", "stop", "stop", "cut", "restart"]):
        case "kill" if places:
            place = dice.choice(places)
            running.kill(place)
            await asyncio.sleep(dice.uniform(0, 3))
            running.start(place)
        case "stop" if places:
            await running.stop(dice.choice(places), dice.uniform(1, 4) * running.heartbeat)
        case "cut":
            await running.cut(dice.randrange(running.workers), dice.uniform(0.5, 4))
        case _:
            await running.restart(dice.choice(["fast", "immediate"]))


@pytest.mark.slow
@pytest.mark.real_loop
@pytest.mark.failure("F70", "F71", "F72", "F73", "F74")
@pytest.mark.parametrize("seed", range(int(os.environ.get("FLEET_SEEDS", "1"))))
async def test_a_fleet_at_random(seed: int, tmp_path: Path) -> None:
    """Whatever happens to whom: each image is charged once and saved, never over quota."""
    dice = random.Random(seed)  # noqa: S311 - not a secret
    async with fleet(
        tmp_path, faults=weather(seed), options=OPTIONS, heartbeat=2.0, settle=1.5
    ) as running:
        jobs = await running.plan(IMAGES)
        for place in range(running.workers):
            running.start(place)
        for _ in range(8):
            await asyncio.sleep(dice.uniform(0.5, 3))
            await hurt(running, dice)
        await running.finished(600)
        print(seed, await running.check(jobs))  # noqa: T201 - figures for who asks, with -rP


@pytest.mark.slow
@pytest.mark.real_loop
@pytest.mark.failure("F70", "F71")
async def test_a_worker_that_is_suspended_and_one_that_is_killed(tmp_path: Path) -> None:
    """The others finish without them; the one that wakes up changes nothing and pays nothing."""
    async with fleet(
        tmp_path, options=OPTIONS, heartbeat=1.0, settle=1.0, workers=3, quota=12
    ) as running:
        jobs = await running.plan(60)
        for place in range(3):
            running.start(place)
        while len(running.sandbox.ledger.charges) < 12:  # noqa: ASYNC110 - other processes work
            await asyncio.sleep(0.05)
        running.kill(0)
        await running.stop(1, 5 * running.heartbeat)
        await running.finished(120)
        await running.check(jobs)
