"""The account's balance: money on CometAPI, units in Kling's packs.

CometAPI: the calls that its own command line makes with the normal key
(https://pypi.org/project/cometapi-cli/). Its other balance page wants the key in the query of a
separate host (https://apidoc.cometapi.com/pricing/balance-query), where proxies would log it, so
that one is left out. Kling: https://klingai.com/document-api/api/assets/account-usage.
"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any

from yarl import URL

from comet_async._http.api import Api
from comet_async.errors import CometError
from comet_async.models import Balance

UNLIMITED = Decimal(100_000_000)
"""A limit from here on means none, as CometAPI's command line reads it."""

_OK = 200
_USAGE_SPAN = 365 * 86400
_LIVE = {"online", "toBeOnline"}


async def balance(api: Api) -> Balance | None:
    """Return what remains in the account, or None when the gateway does not say.

    It is free; Kling allows one such request a second, and its figure may lag by hours.
    """
    reader = _kling if api.gateway.name.startswith("kling") else _comet
    try:
        return await reader(api)
    except (
        CometError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        InvalidOperation,
        RecursionError,  # JSON that is nested too deeply
    ):
        return None  # a gateway that does not say is not worth an error


async def _comet(api: Api) -> Balance | None:
    root = api.gateway.root / "v1" / "dashboard" / "billing"
    limit = await _get(api, root / "subscription")
    usage = await _get(api, root / "usage")
    if limit is None or usage is None:
        return None
    total = Decimal(str(limit["hard_limit_usd"]))
    used = Decimal(str(usage["total_usage"])) / 100  # in cents
    return Balance(remaining=None if total >= UNLIMITED else total - used, unit="USD")


async def _kling(api: Api) -> Balance | None:
    now = int(api.clock.time())
    query = {"start_time": (now - _USAGE_SPAN) * 1000, "end_time": now * 1000}
    answer = await _get(api, (api.gateway.root / "account" / "costs").with_query(query))
    if answer is None:
        return None
    packs = answer["data"]["resource_pack_subscribe_infos"]
    live = [Decimal(str(pack["remaining_quantity"])) for pack in packs if pack["status"] in _LIVE]
    return Balance(remaining=sum(live, Decimal(0)), unit="units")


async def _get(api: Api, url: URL) -> Any:  # noqa: ANN401 - JSON of two kinds, read above
    reply = await api.fetch(url)
    return json.loads(reply.body) if reply.status == _OK else None
