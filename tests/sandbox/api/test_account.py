"""What the account has left, as both services tell it."""

from __future__ import annotations

from typing import Any

import pytest

from comet_async.sandbox import Options

Start = Any  # the fixture `start`


@pytest.mark.parametrize("path", ["/user/quota", "/user/quota?key=wrong"])
async def test_balance_needs_the_key(start: Start, path: str) -> None:
    """CometAPI's balance call takes the key from the query."""
    client = await start()
    assert (await client.request("GET", path)).status == 401


async def test_comet_balance(start: Start) -> None:
    """What was charged is missing from the balance, in all three answers about money."""
    client = await start()
    await client.create(n=5)
    quota = (await client.request("GET", "/user/quota?key=sandbox-key")).json
    assert (quota["total_quota"], quota["total_used_quota"]) == (9.86, 0.14)
    assert (quota["request_count"], quota["keys"][0]["remain_quota"]) == (1, -1)
    limit = await client.request("GET", "/v1/dashboard/billing/subscription")
    usage = await client.request("GET", "/v1/dashboard/billing/usage")
    assert (limit.json["hard_limit_usd"], usage.json["total_usage"]) == (10.0, 14.0)


async def test_kling_packs(start: Start) -> None:
    """Kling tells what is left of the pack, and needs a span of time to do so."""
    client = await start(options=Options(pack_units=40))
    await client.create(n=5)
    assert (await client.request("GET", "/account/costs")).json["code"] == 1201
    reply = await client.request("GET", "/account/costs?start_time=0&end_time=1")
    pack = reply.data["resource_pack_subscribe_infos"][0]
    assert (pack["total_quantity"], pack["remaining_quantity"]) == (40, 0)
    assert (pack["status"], reply.data["code"]) == ("runOut", 0)


async def test_account_calls_need_a_key(start: Start) -> None:
    """They are refused as the other calls are."""
    client = await start()
    client.key = "wrong"
    comet = await client.request("GET", "/v1/dashboard/billing/usage")
    kling = await client.request("GET", "/account/costs?start_time=0&end_time=1")
    assert (comet.status, kling.status, kling.json["code"]) == (401, 401, 1002)
