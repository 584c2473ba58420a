"""The simulation of a fleet: small, its promises hold, and it notices when one is broken."""

from __future__ import annotations

import pytest

pytest.importorskip("psycopg")

from benchmarks.fleet_simulation import Case, Costs, row, run

SLOW = Costs(granted=0.02, refused=0.02, each=0)


@pytest.mark.parametrize("killed", [0.0, 0.5])
def test_a_small_fleet(killed: float) -> None:
    """All images are made and charged once, the quota is kept, and nearly always in use."""
    fleet, seconds = run(Case(images=3000, workers=60, quota=120, killed=killed), SLOW)
    assert row(fleet, seconds)[0] == "3,000"
    assert fleet.counts["done"] == len(fleet.charges)
    assert max(fleet.taken.windows) <= 1
    assert fleet.taken.mean(120, fleet.killed_at or fleet.drained_at or 0) > 0.98
    assert (fleet.counts["looked up"] > 0) is bool(killed)
    # Each slot is told to one worker, and all together make ten requests a second besides.
    assert fleet.counts["refused"] - fleet.counts["rechecked"] < 2 * fleet.counts["granted"]
    assert fleet.counts["rechecked"] < 11 * fleet.now
    fleet.charges["ce1-0"] = 2
    with pytest.raises(AssertionError, match="1 twice"):
        row(fleet, seconds)
