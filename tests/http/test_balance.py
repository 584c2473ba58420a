"""What is left in the account, as each gateway tells it."""

from __future__ import annotations

from decimal import Decimal

import attrs
import pytest
from aiohttp import web

from comet_async import ApiKey, CometSession, Gateway, Secret
from comet_async.models import Balance
from comet_async.sandbox import DEFAULT_KEY, Fault, Sandbox
from comet_async.testing import VirtualClock
from tests.support.servers import answering, serving


async def test_cometapi_tells_dollars(comet: CometSession) -> None:
    """CometAPI's limit less its usage is what is left."""
    assert await comet.balance() == Balance(remaining=Decimal(10), unit="USD")


async def test_kling_tells_units(sandbox: Sandbox, clock: VirtualClock) -> None:
    """Kling's live packs are added up."""
    gateway = Gateway(name="kling-here", root=sandbox.url, prefix="/v1")
    async with CometSession(ApiKey(Secret(DEFAULT_KEY)), gateway=gateway, clock=clock) as comet:
        assert await comet.balance() == Balance(remaining=Decimal(2000), unit="units")


@pytest.mark.parametrize("kind", ["404", "html", "drop", "truncated", "empty"])
async def test_a_gateway_that_does_not_tell_is_no_error(
    comet: CometSession, sandbox: Sandbox, kind: str
) -> None:
    """Whatever goes wrong, the balance is just not known."""
    sandbox.faults.add(Fault(kind, on="account", times=None))
    assert await comet.balance() is None


@pytest.mark.parametrize("body", [b"[" * 100_000, b"NaN", b"\xff", b"9" * 5_000])
async def test_what_can_not_be_read_is_no_error(body: bytes) -> None:
    """Not even what is nested too deeply to be read."""
    async with (
        serving(answering(web.Response(body=body))) as server,
        CometSession(DEFAULT_KEY, gateway=str(server.url)) as comet,
    ):
        assert await comet.balance() is None


@pytest.mark.parametrize(
    ("balance", "text"),
    [
        (Balance(remaining=Decimal("9.5"), unit="USD"), "USD 9.50"),
        (Balance(remaining=Decimal(16), unit="units"), "16 units"),
        (Balance(remaining=None, unit="USD"), "no limit"),
    ],
)
def test_balance_reads_well(balance: Balance, text: str) -> None:
    """A balance is text for people."""
    assert str(balance) == text
    assert attrs.asdict(balance)["unit"] == balance.unit
