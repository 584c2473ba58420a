"""A folder against a quota takes little longer than it must, although nothing is learned yet."""

# ruff: noqa: S311 - seeded durations; nothing is guarded by them
from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import pytest

# Behind all else: the benchmarks are no part of the package, which is tested as installed.
sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.core.quota import Tasks, serving
from comet_async import CometSession, Gateway, LearnedSchedule, Margins
from tests.support.images import make_png

QUOTA = 16


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 6])
@pytest.mark.parametrize(
    ("count", "takes", "lists", "most"),
    [(64, 20.0, True, 1.08), (96, 3.0, True, 1.15), (64, 20.0, False, 1.15), (96, 3.0, False, 1.2)],
    ids=["20 s, list", "3 s, list", "20 s", "3 s"],
)
async def test_no_slot_is_empty_for_long(
    tmp_path: Path, seed: int, count: int, takes: float, lists: bool, most: float
) -> None:
    """The shortest possible time is that of the same tasks with never an empty slot."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(count):
        (photos / f"{number}.png").write_bytes(make_png(300, 300, number))
    begun = 1_767_225_600.0
    server = Tasks(
        make_png(300, 300),
        QUOTA,
        takes,
        lists,
        now=lambda: begun + asyncio.get_running_loop().time(),
    )
    server._random = random.Random(seed)
    schedule = LearnedSchedule(rng=random.Random(seed))
    async with (
        serving(server) as root,
        CometSession(
            "key", gateway=Gateway.comet(root), concurrency=QUOTA, schedule=schedule
        ) as comet,
    ):
        run = comet.expand_folder(photos, tmp_path / "wide", Margins.uniform(0.2))
        assert [outcome.done async for outcome in run] == [True] * count
    assert server.refused == 0
    assert (server.ended - server.begun) / server._least() <= most
