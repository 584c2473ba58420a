"""What a fleet's worker does with a job that did not end; the queue is in ``tests/postgres``."""

from __future__ import annotations

import pytest

pytest.importorskip("pgqueuer")

from comet_async import CometSession
from comet_async._fleet.consumer import PutBackError
from comet_async.errors import RateLimitError
from comet_async.fleet import FleetWorker


@pytest.mark.parametrize(
    ("asked", "attempts", "pause"),
    [(None, 2, 4), (None, 12, 300), (0, 2, 4), (7, 2, 7), (86_400, 2, 300)],
)
def test_the_pause_is_bounded(asked: float | None, attempts: int, pause: float) -> None:
    """Some servers ask for absurd pauses; a job must not wait for a day."""
    worker = FleetWorker(CometSession("key", journal="postgresql://nowhere/nothing"))
    with pytest.raises(PutBackError) as caught:
        worker._put_back("key", RateLimitError("busy", retry_after=asked), attempts)
    assert caught.value.pause == pause
