"""What a server's error means, as tables: by its code, by a known phrase, by its HTTP status.

The tables are data; `judge` is the one reader. It looks at the code first, because gateways
pass Kling's errors on under statuses of their own, and it knows two kinds of request:

* a *GET* costs nothing, so its errors say whether trying again may help;
* a *paid* request (POST) may have been accepted although an error came back. Whatever does
  not clearly say "not accepted" becomes `OutcomeUnknownError`, never a reason to pay again.

Sources:
    Kling, error codes: https://kling.ai/document-api/api/get-started/error-codes
    CometAPI, errors: https://apidoc.cometapi.com/errors/error-codes-handling and
        https://apidoc.cometapi.com/guides/error-codes-and-retry-strategy
    CometAPI, image expansion: https://apidoc.cometapi.com/api/video/kling/image-expansion
    new-api, which gateways of this family run: https://github.com/QuantumNous/new-api
        (types/error.go, service/error.go, relay/relay_task.go, controller/relay.go)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

import attrs

from comet_async.errors import (
    AccountError,
    AuthenticationError,
    CometError,
    ConcurrencyLimitError,
    DecodeError,
    DuplicateTaskError,
    NotFoundError,
    OutcomeUnknownError,
    RateLimitError,
    RejectedError,
    RouteUnavailableError,
    ServerError,
)


@attrs.frozen
class Verdict:
    """What an error means for the sender of the request.

    Attributes:
        error: The class to raise.
        words: What happened.
        hint: What to do next.
        retryable: Whether the same call may succeed later; None leaves it to the class.
        paid: What it means after a paid request, when that differs.
    """

    # The first three are positional, so that the tables below read as tables.
    error: type[CometError]
    words: str
    hint: str | None = None
    retryable: bool | None = attrs.field(default=None, kw_only=True)
    paid: Verdict | None = attrs.field(default=None, kw_only=True)

    @property
    def again(self) -> bool:
        """True when the same request may be sent again."""
        return self.error.default_retryable if self.retryable is None else self.retryable


@attrs.frozen(kw_only=True)
class Phrase:
    """A text that says more than the code or the status beside it.

    Attributes:
        pattern: How the text is known.
        verdict: What it means.
        refines: The errors that it makes more precise; it leaves all others alone.
        paid: Only after a paid request (True), only after a GET (False), or both (None).
        coded: True when it may also outvote a known code.
    """

    pattern: re.Pattern[str]
    verdict: Verdict
    refines: frozenset[type[CometError]]
    paid: bool | None = None
    coded: bool = True


_CHECK_KEY = "check the key, and that it belongs to this gateway and region"
_CHECK_ACCOUNT = "look at the account in the provider's console"
_TOP_UP = "add credit, then run again: what was not sent is not lost"
_CHANGE = "change the request, then send it again"
_LATER = "try again later"
_LOOK_UP = "do not submit it again: look it up by its external_task_id"
_OTHER_GATEWAY = (
    "CometAPI's own page says that its image expansion answers 404; Kling itself offers it: "
    "use the gateway 'kling' with KLING_API_KEY. On any other root, check its address"
)

UNKNOWN = Verdict(
    OutcomeUnknownError, "the answer does not say whether the request was accepted", _LOOK_UP
)
UNREADABLE = Verdict(DecodeError, "the answer can't be read", _LATER, paid=UNKNOWN)
REDIRECTED = Verdict(
    DecodeError,
    "the address redirects",
    "check the API root",
    paid=Verdict(
        OutcomeUnknownError,
        "the address redirects, and does not say whether the request was accepted",
        f"check the API root; {_LOOK_UP}",
    ),
)
NO_ROUTE = Verdict(RouteUnavailableError, "the gateway does not offer this route", _OTHER_GATEWAY)
NOT_FOUND = Verdict(
    NotFoundError,
    "the server does not know the task",
    "a new task may take a few seconds to show; a task of another account never does",
    paid=Verdict(RejectedError, "the server says that something named does not exist", _CHANGE),
)
_REJECTED = Verdict(RejectedError, "the request was refused", _CHANGE)
_DUPLICATE = Verdict(
    DuplicateTaskError,
    "the external_task_id is taken: this request was accepted before",
    "it was paid then: look it up by its external_task_id",
)
_NO_KEY = Verdict(AuthenticationError, "the key was refused", _CHECK_KEY)
_NO_CREDIT = Verdict(AccountError, "the account has no credit left", _TOP_UP)
_NO_RIGHT = Verdict(AccountError, "the account may not do this", _CHECK_ACCOUNT)
_TOO_FAST = Verdict(RateLimitError, "too many requests", "slow down; nothing was paid")
_TOO_MANY = Verdict(
    ConcurrencyLimitError,
    "the account has as many images in flight as it may have",
    "wait until a running task ends; nothing was paid",
)
_FAILED = Verdict(ServerError, "the server failed", _LATER, paid=UNKNOWN)

KLING: Mapping[int, Verdict] = MappingProxyType(
    {
        1000: _NO_KEY,
        1001: Verdict(AuthenticationError, "the request carried no key", _CHECK_KEY),
        1002: _NO_KEY,
        1003: Verdict(
            AuthenticationError,
            "the signed token is not valid yet",
            "check this machine's clock: it seems to run ahead",
            retryable=True,  # once, with a token signed again
        ),
        1004: Verdict(
            AuthenticationError,
            "the signed token has expired",
            "sign a new one; if that fails too, check this machine's clock",
            retryable=True,
        ),
        # 1100, 1101, 1102 and 1304 come with HTTP 429, yet no waiting helps.
        1100: Verdict(AccountError, "the account is not in order", _CHECK_ACCOUNT),
        1101: Verdict(AccountError, "the account is in arrears", _TOP_UP),
        1102: Verdict(AccountError, "the resource pack is used up or has expired", _TOP_UP),
        1103: Verdict(AccountError, "the account has no right to this API", _CHECK_ACCOUNT),
        1200: _REJECTED,
        1201: _REJECTED,
        1202: Verdict(RejectedError, "the route does not take this method", "check the API root"),
        1203: NOT_FOUND,
        1300: Verdict(RejectedError, "the platform's policy blocked the request", _CHANGE),
        1301: Verdict(RejectedError, "the content policy blocked the request", _CHANGE),
        1302: _TOO_FAST,
        1303: _TOO_MANY,
        1304: Verdict(
            AccountError,
            "this machine's address is not on the account's allow-list",
            "add the address in the provider's console",
        ),
        5000: _FAILED,
        # Maintenance: the one server error that says "not accepted".
        5001: Verdict(ServerError, "the server is out of service", _LATER),
        5002: Verdict(ServerError, "the server's backlog timed out", _LATER, paid=UNKNOWN),
    }
)
"""Kling's own numbers."""

_RANGES = (range(1000, 1400), range(5000, 5100))

_LOST = Verdict(ServerError, "the gateway lost its own request", _LATER, paid=UNKNOWN)

WORDS: Mapping[str, Verdict] = MappingProxyType(
    {
        "task_not_exist": NOT_FOUND,
        "insufficient_user_quota": _NO_CREDIT,
        "pre_consume_token_quota_failed": Verdict(
            AccountError, "the key's own limit is used up", "raise the limit of this key"
        ),
        "insufficient_quota": _NO_CREDIT,
        # All of these are decided before the gateway passes anything on, also under HTTP 500
        # and 503 (CometAPI: a missing field gives 500, an unknown model 503).
        "invalid_request": _REJECTED,
        "read_request_body_failed": _REJECTED,
        "sensitive_words_detected": _REJECTED,
        "model_price_error": Verdict(
            RejectedError, "the gateway has no price for this", "use another gateway"
        ),
        "model_not_found": Verdict(
            RejectedError, "the gateway has no channel for this", "use another gateway"
        ),
        "api_not_implemented": NO_ROUTE,
        "not_implemented": NO_ROUTE,
        "invalid_api_platform": NO_ROUTE,
        # And these after it may have done so. fail_to_fetch_task is not among them: it
        # carries the upstream's own status and text, which say more.
        "do_request_failed": _LOST,
        "read_response_body_failed": _LOST,
        "unmarshal_response_failed": _LOST,
        "get_channel_failed": _LOST,
        "get_task_failed": _LOST,
    }
)
"""The gateways' words, in lower case."""

_ANY = frozenset(
    {
        AccountError,
        AuthenticationError,
        DecodeError,
        NotFoundError,
        RateLimitError,
        RejectedError,
        ServerError,
    }
)

PHRASES: tuple[Phrase, ...] = (
    # What CometAPI's page says that the route answers: {"code": null, "message": "404"}. The
    # page does not give the HTTP status, so any will do.
    Phrase(pattern=re.compile(r"\A404\Z"), verdict=NO_ROUTE, refines=_ANY, coded=False),
    # A retired endpoint of Kling's; the code that comes with it is not documented.
    Phrase(
        pattern=re.compile(r"\bAPI is no longer available", re.IGNORECASE),
        verdict=NO_ROUTE,
        refines=frozenset({RejectedError, NotFoundError, ServerError, DecodeError}),
    ),
    # Kling documents that the id must be unique, not what it answers when it is not. Taking
    # too much for a duplicate costs a lookup, taking too little costs a paid result. The message
    # may quote the id, which has up to 255 characters.
    Phrase(
        pattern=re.compile(
            r"(?:external[ _-]?(?:task[ _-]?)?id|task[ _-]?id).{0,320}?"
            r"(?:(?<!not[ _])exist|duplicat|repeat|already|unique|in use|taken|重复|已存在)"
            r"|\btask\b.{0,280}?already exist|duplicat\w{0,10}.{0,290}?(?:external|task)",
            re.IGNORECASE | re.DOTALL,
        ),
        verdict=_DUPLICATE,
        refines=frozenset({RejectedError, RouteUnavailableError, ServerError, DecodeError}),
        paid=True,
    ),
    Phrase(
        pattern=re.compile(
            r"\btask\b.{0,60}?\b(?:not (?:be )?(?:found|exist)|doesn't exist)"
            r"|task_(?:origin_)?not_(?:found|exist)|no such task|任务不存在",
            re.IGNORECASE | re.DOTALL,
        ),
        verdict=NOT_FOUND,
        refines=frozenset({RejectedError, RouteUnavailableError}),
        paid=False,
    ),
    # Gateways that drop the code keep the text.
    Phrase(
        pattern=re.compile(
            r"(?:quota|balance)\b.{0,20}?\bnot enough|insufficient (?:quota|balance|credit)"
            r"|额度不足|余额不足",
            re.IGNORECASE,
        ),
        verdict=_NO_CREDIT,
        refines=frozenset({RejectedError, RateLimitError}),
        coded=False,
    ),
    Phrase(
        pattern=re.compile(r"parallel task over resource pack limit", re.IGNORECASE),
        verdict=_TOO_MANY,
        refines=frozenset({RejectedError, RateLimitError}),
        coded=False,
    ),
)
"""Texts that matter, most telling first."""

_TIMED_OUT = Verdict(ServerError, "the server did not answer in time", _LATER, paid=UNKNOWN)
_CONFLICT = Verdict(ServerError, "the server was not ready for it", _LATER, paid=UNKNOWN)
_NO_PAYMENT = attrs.evolve(_NO_CREDIT, words="the server asks for payment")
_TOO_LARGE = Verdict(RejectedError, "the request is too large", "send a smaller image")

STATUSES: Mapping[int, Verdict] = MappingProxyType(
    {
        401: _NO_KEY,
        402: _NO_PAYMENT,
        403: _NO_RIGHT,
        404: NO_ROUTE,
        408: _TIMED_OUT,
        409: _CONFLICT,
        413: _TOO_LARGE,
        425: _CONFLICT,
        429: _TOO_FAST,
        499: _TIMED_OUT,
    }
)
"""HTTP statuses of a parsed error without a known code; other 4xx are final."""

BARE: Mapping[int, Verdict] = MappingProxyType(
    {
        # Only these two say "not accepted" without a parsed error: proxies invent the others,
        # and may have passed the request on before.
        404: NO_ROUTE,
        413: _TOO_LARGE,
        401: attrs.evolve(_NO_KEY, paid=UNKNOWN),
        402: attrs.evolve(_NO_PAYMENT, paid=UNKNOWN),
        408: _TIMED_OUT,
        409: _CONFLICT,
        425: _CONFLICT,
        429: attrs.evolve(_TOO_FAST, paid=UNKNOWN),
        499: _TIMED_OUT,
    }
)
"""HTTP statuses of an answer that is no error of the API's (a web page, nothing, no JSON)."""


_LOST_TRACK = frozenset({408, 409, 425, 499})


def find(code: int | str | None) -> Verdict | None:
    """Return what *code* means, or None when no table has it."""
    if isinstance(code, str):
        return WORDS.get(code.lower())
    return None if code is None else KLING.get(code)


def is_known(code: int | str | None) -> bool:
    """Return True when *code* is surely an error's, be it a number that Kling added later."""
    if isinstance(code, int):
        return any(code in numbers for numbers in _RANGES)
    return find(code) is not None


def _by_status(status: int, *, envelope: bool) -> Verdict:
    verdict = (STATUSES if envelope else BARE).get(status)
    if verdict is not None:
        return verdict
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _FAILED
    if status >= HTTPStatus.BAD_REQUEST:
        return _REJECTED if envelope else UNREADABLE
    return REDIRECTED if status >= HTTPStatus.MULTIPLE_CHOICES else UNREADABLE


def _refine(verdict: Verdict, message: str, *, coded: bool, paid: bool) -> Verdict:
    for phrase in PHRASES:
        fits = phrase.paid in (None, paid) and (phrase.coded or not coded)
        if fits and verdict.error in phrase.refines and phrase.pattern.search(message):
            return phrase.verdict
    return verdict


def judge(
    *, status: int, code: int | str | None, message: str, envelope: bool, paid: bool
) -> Verdict:
    """Return what an answer without a task means.

    Args:
        status: Its HTTP status.
        code: The error code in it, if any.
        message: The text in it.
        envelope: True when it is an error of the API's own, not a proxy's page.
        paid: True when it answers a paid request.
    """
    known = find(code)
    verdict = known or _by_status(status, envelope=envelope)
    verdict = _refine(verdict, message, coded=known is not None, paid=paid)
    if not paid:
        return verdict
    verdict = verdict.paid or verdict
    # "Not accepted, send again" must not come under a status that says "I lost track".
    lost_track = status in _LOST_TRACK or status >= HTTPStatus.GATEWAY_TIMEOUT
    return UNKNOWN if verdict.again and lost_track else verdict
