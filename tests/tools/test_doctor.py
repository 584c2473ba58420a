"""The paid check: one small image shows what a gateway can do."""

from __future__ import annotations

import pytest

from comet_async import CometSession
from comet_async._images.formats import read_info
from comet_async._tools.doctor import examine_paid, sample
from comet_async.sandbox import DEFAULT_KEY, Fault, Options, Sandbox
from comet_async.testing import VirtualClock


def test_the_sample_is_an_image_that_the_api_takes() -> None:
    """It is the smallest PNG that may be sent."""
    info = read_info(sample())
    assert info is not None
    assert (info.format, info.width, info.height) == ("png", 300, 300)


async def verdicts(clock: VirtualClock, options: Options, *faults: Fault) -> dict[str, str]:
    """Return what the paid check finds on such a gateway, which is charged once."""
    async with Sandbox(clock=clock, engine="pillow", seed=1, options=options) as sandbox:
        for fault in faults:
            sandbox.faults.add(fault)
        async with CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock) as session:
            found = {check.name: check.verdict async for check in examine_paid(session)}
    assert len(sandbox.ledger.charges) == 1
    return found


async def test_a_good_gateway_passes_everything(clock: VirtualClock) -> None:
    """Where all works, all is proven."""
    found = await verdicts(clock, Options())
    assert set(found.values()) == {"ok"}
    assert {"submit", "lookup (path)", "lookup (query)", "list", "result"} <= set(found)


@pytest.mark.parametrize(
    ("options", "name", "verdict"),
    [
        (Options(lookups="B"), "lookup (path)", "note"),
        (Options(list_tasks=False), "list", "note"),
        (Options(echo_external_id=False), "list", "warning"),
    ],
)
async def test_what_a_gateway_lacks_is_reported(
    clock: VirtualClock, options: Options, name: str, verdict: str
) -> None:
    """A question that does not work is no error; it is said."""
    found = await verdicts(clock, options)
    assert found[name] == verdict
    assert found["result"] == "ok"


async def test_a_lookup_that_shows_anything_is_worthless(clock: VirtualClock) -> None:
    """A gateway that shows a task for an id that was never used proves nothing by it."""
    fault = Fault("other_task", on="find", times=None)
    found = await verdicts(clock, Options(), fault)
    assert found["lookup (path)"] != "ok"
