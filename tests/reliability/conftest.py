"""What the tests of the protocol share: simulations, images, and the history checker."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import comet_async
from tests.reliability.history import problems
from tests.reliability.simulation import Provider, Simulation
from tests.support.images import make_png


@functools.cache
def small_png(tint: int) -> bytes:
    """Return an image of 300 x 300 pixels, the smallest that is taken; made once."""
    return make_png(300, 300, tint)


@pytest.fixture(scope="session")
def images() -> list[bytes]:
    """Return twenty small images, all different."""
    return [small_png(tint) for tint in range(20)]


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch, images: list[bytes]) -> Callable[..., Simulation]:
    """Return the maker of simulations; its arguments are those of `Provider`, and a seed."""

    def make(*, seed: int = 0, settle: float = 60.0, **provider: Any) -> Simulation:
        return Simulation(
            patch=monkeypatch,
            provider=Provider(image=images[0], **provider),
            settle=settle,
            seed=seed,
        )

    return make


@pytest.fixture
def verdict() -> Callable[[Simulation], list[str]]:
    """Return the history checker's word on a simulation that has come to rest."""

    def check(simulation: Simulation) -> list[str]:
        provider, journal = simulation.provider, simulation.journal
        provider.pass_time(3600)  # whatever is late has come by then
        return problems(provider.charges, provider.posts, journal.records, journal._events)

    return check


@pytest.fixture
def volatile(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in memory where there is one.

    A killed process loses nothing that it has written, so ``fsync`` is not in question in tests
    that kill; on a disk they would mostly wait for it.
    """
    memory = Path("/dev/shm")  # noqa: S108 - the folder made in it is our own
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """Return the process that makes the processes."""
    # The tests, and not the tree beside them: the library comes from where pytest has it.
    path = tmp_path_factory.mktemp("path")
    (path / "tests").symlink_to(Path(__file__).parent.parent)
    (path / "comet_async").symlink_to(Path(comet_async.__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.reliability.victim"],
        env={**os.environ, "PYTHONPATH": str(path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.communicate(timeout=20)
