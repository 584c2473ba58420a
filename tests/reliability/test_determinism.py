"""Whole runs in simulated time: one seed, one trace, and the invariants in all of them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comet_async import CometSession, ExpandRequest, Margins, Outcome
from tests.reliability.mutants import MUTANTS, Plant
from tests.reliability.simulation import FATES, Simulation

MARGINS = Margins(left=0.25, right=0.25)
BLIND: dict[str, Any] = {"forms": frozenset(), "list_works": False}
SEEDS = int(os.environ.get("SEEDS", "50"))

Check = Callable[[Simulation], list[str]]


def folder(images: list[bytes], out: Path) -> Callable[[CometSession], object]:
    """Return the life of a program that expands all *images* into *out*."""

    async def life(comet: CometSession) -> list[Outcome]:
        requests = [ExpandRequest(image=image, margins=MARGINS) for image in images]
        return [outcome async for outcome in comet.expand_many(requests, out=out)]

    return life


def chaos(seed: int, share: float = 0.4) -> Callable[[str], str]:
    """Return fates that a seed decides; what is charged late or never is among them."""
    rng = random.Random(seed)  # noqa: S311 - not a secret
    return lambda _key: rng.choice(FATES) if rng.random() < share else "ok"


def run(
    simulate: Callable[..., Simulation], seed: int, images: list[bytes], out: Path
) -> tuple[Simulation, list[list[tuple[float, str]]]]:
    """Run a folder until it is done, killed at a random step of its first two boots."""
    dice = random.Random(f"options {seed}")  # noqa: S311 - not a secret
    simulation = simulate(
        seed=seed,
        fate=chaos(seed),
        rng=random.Random(seed),  # noqa: S311 - not a secret
        hidden=dice.choice([0, 0, 5]),
        broken=dice.choice([0, 0, 7]),
        list_works=dice.random() < 0.7,
        forms=frozenset(dice.choice([["path"], ["query"], ["path", "query", "flag"]])),
    )
    traces = []
    for kill_at in (dice.randrange(1, 400), dice.randrange(1, 400), None, None):
        simulation.boot(folder(images, out), kill_at=kill_at)
        traces.append(simulation.world.trace)
    return simulation, traces


@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= 5)) for seed in range(SEEDS)],
)
def test_random_faults_and_kills_cost_nothing_twice(
    seed: int,
    simulate: Callable[..., Simulation],
    verdict: Check,
    images: list[bytes],
    tmp_path: Path,
) -> None:
    """Twenty images, faults, two kills: all done, each paid once."""
    simulation, _ = run(simulate, seed, images, tmp_path)
    assert verdict(simulation) == []
    assert {str(record.state) for record in simulation.journal.records} == {"done"}
    assert len(simulation.provider.charges) == len(images)
    assert len(list(tmp_path.glob("*.png"))) == len(images)
    assert simulation.failures == []


@pytest.mark.parametrize("mutant", MUTANTS[:2], ids=lambda mutant: mutant.__name__)
def test_the_history_checker_finds_what_was_planted(
    mutant: Plant,
    simulate: Callable[..., Simulation],
    verdict: Check,
    images: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same runs with a planted bug: the checker turns red within a few seeds."""
    mutant(monkeypatch)
    found: list[str] = []
    for seed in range(10):
        simulation = simulate(seed=seed, fate=chaos(seed, 0.8), **BLIND)
        simulation.boot(folder(images[:6], tmp_path / str(seed)))
        found += [problem for problem in verdict(simulation) if problem.startswith("I1")]
    assert found


def test_one_seed_is_one_trace(
    simulate: Callable[..., Simulation], images: list[bytes], tmp_path: Path
) -> None:
    """The same seed leads through the same steps at the same moments, and another one does not."""
    first, again = (run(simulate, 7, images, tmp_path / name)[1] for name in "ab")
    other = run(simulate, 8, images, tmp_path / "c")[1]
    assert first == again
    assert first != other
