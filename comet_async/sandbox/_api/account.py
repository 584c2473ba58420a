"""What is left in the account, as each service reports it."""

from __future__ import annotations

import attrs
from aiohttp import web

from comet_async.sandbox._api.answers import Answer, Dialect, json_answer
from comet_async.sandbox._api.refusals import RefusalError
from comet_async.sandbox.ledger import USD
from comet_async.sandbox.options import DAY, Profile
from comet_async.sandbox.state import State


@attrs.define(eq=False)
class Account:
    """Handlers of the calls about money.

    Args:
        state: What all handlers share.
    """

    state: State

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/user/quota", self.quota),
            web.get("/v1/dashboard/billing/subscription", self.subscription),
            web.get("/v1/dashboard/billing/usage", self.usage),
            web.get("/account/costs", self.costs),
        ]

    async def quota(self, request: web.Request) -> web.StreamResponse:
        """Return CometAPI's balance; the key is in the query (Balance API, apidoc.cometapi.com)."""
        dialect = self.state.dialect("comet")
        key = request.query.get("key")
        if not key or (self.state.key is not None and key != self.state.key):
            return await self._send(request, dialect, dialect.openai(401, "Invalid token", code=""))
        used = self._used_usd()
        shown = {
            "username": "sandbox",
            "total_quota": round(self.state.options.balance_usd - used, 6),
            "total_used_quota": used,
            "request_count": len(self.state.ledger.posts),
            "keys": [{"name": "sandbox", "remain_quota": -1, "used_quota": used}],
        }
        return await self._send(request, dialect, json_answer(shown))

    async def subscription(self, request: web.Request) -> web.StreamResponse:
        """Return how much may be spent in all, in US dollars."""
        shown = {"object": "billing_subscription", "hard_limit_usd": self.state.options.balance_usd}
        return await self._shown(request, "comet", json_answer(shown))

    async def usage(self, request: web.Request) -> web.StreamResponse:
        """Return how much was spent, in cents."""
        shown = {"object": "list", "total_usage": round(self._used_usd() * 100, 4)}
        return await self._shown(request, "comet", json_answer(shown))

    async def costs(self, request: web.Request) -> web.StreamResponse:
        """Return what is left of Kling's resource packs."""
        # Kling API: Account usage, https://klingai.com/document-api/api/assets/account-usage
        span = (request.query.get(name, "") for name in ("start_time", "end_time"))
        if not all(value.isascii() and value.isdigit() for value in span):
            dialect = self.state.dialect("kling")
            answer = dialect.coded(1201, "start_time and end_time are required")
            return await self._send(request, dialect, answer)
        return await self._shown(request, "kling", None)

    async def _shown(
        self, request: web.Request, profile: Profile, answer: Answer | None
    ) -> web.StreamResponse:
        dialect = self.state.dialect(profile)
        try:
            self.state.check_key(request, profile)
        except RefusalError as exc:
            return await self._send(request, dialect, dialect.refusal(exc))
        return await self._send(request, dialect, answer or self._packs(dialect))

    async def _send(
        self, request: web.Request, dialect: Dialect, answer: Answer
    ) -> web.StreamResponse:
        return await self.state.send(request, dialect, answer, self.state.take("account"))

    def _used_usd(self) -> float:
        # CometAPI's own price for this call is not published: Kling's list price stands in.
        return round(USD * self.state.ledger.images, 6)

    def _packs(self, dialect: Dialect) -> Answer:
        total = self.state.options.pack_units
        left = max(0, total - self.state.ledger.units)
        now = round(self.state.clock.time() * 1000)
        month = round(30 * DAY * 1000)
        pack = {
            "resource_pack_name": "Sandbox images",
            "resource_pack_id": "sandbox-pack-1",
            "resource_pack_type": "decreasing_total",
            "total_quantity": float(total),
            "remaining_quantity": float(left),
            "purchase_time": now - month,
            "effective_time": now - month,
            "invalid_time": now + month,
            "status": "online" if left else "runOut",
        }
        data = {"code": 0, "msg": "success", "resource_pack_subscribe_infos": [pack]}
        head = {"code": 0, "message": "SUCCEED", "request_id": dialect.request_id}
        return json_answer(head | {"data": data})
