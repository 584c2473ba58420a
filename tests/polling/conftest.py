"""What the tests of polling share: a server of tasks in memory, and a waiter on it."""

from __future__ import annotations

import random

import pytest

from comet_async.testing import VirtualClock
from comet_async.waiter import TaskWaiter
from tests.support.task_server import TaskServer


@pytest.fixture
def server(clock: VirtualClock) -> TaskServer:
    """Return a server of tasks in memory."""
    return TaskServer(clock=clock)


@pytest.fixture
def waiter(server: TaskServer) -> TaskWaiter:
    """Return a waiter that does the same in every run."""
    return TaskWaiter(server, rng=random.Random(1))  # noqa: S311 - repeatable, not secret
