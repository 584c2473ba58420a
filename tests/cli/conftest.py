"""What the tests of the command line have: a sandbox, and a way to run a command in-process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import pytest

from comet_async.cli.app import run
from comet_async.sandbox import DEFAULT_KEY, Sandbox


@attrs.frozen
class Ended:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """The JSON lines of standard output."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def outcomes(self) -> dict[str, int]:
        """How many sources ended how."""
        words = [line["outcome"] for line in self.lines]
        return {word: words.count(word) for word in words}


Command = Callable[..., Awaitable[Ended]]


@pytest.fixture
def comet(capfd: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs `comet-async` with its arguments on the test's loop."""

    async def call(*words: object) -> Ended:
        capfd.readouterr()
        status = await run([str(word) for word in words])
        return Ended(status, *capfd.readouterr())

    return call


@pytest.fixture
async def sandbox(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    """Return a sandbox to which the environment leads, as it would lead to the service."""
    async with Sandbox(engine="pillow", seed=1) as running:
        monkeypatch.setenv("COMETAPI_API_ROOT", running.url)
        monkeypatch.setenv("COMETAPI_KEY", DEFAULT_KEY)
        yield running
