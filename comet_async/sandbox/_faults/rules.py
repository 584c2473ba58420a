"""Which call goes wrong, and how: rules, and chances that a seed makes repeatable.

Example:
    >>> faults = Faults(Fault("drop_after_charge"), Fault("502", on="query", nth=3, times=2))
    >>> faults.add(Fault("1303", match="order-17", times=None))
    >>> chaos = Faults.parse("drop_after_charge=0.05,429=0.03,result.404=0.1", seed=7)
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

import attrs

from comet_async.errors import InputError
from comet_async.sandbox._api.refusals import CODES

Call: TypeAlias = Literal["create", "query", "find", "list", "result", "account", "accept"]
"""What goes wrong: one of the calls, or accepting a connection."""

ON: tuple[str, ...] = ("any", *get_args(Call))
"""What a fault can be on; ``any`` is create, query, find and list."""

_AFTER = "_after_charge"
_API: frozenset[str] = frozenset({"create", "query", "find", "list"})
_CALLS = _API | {"account", "result"}
_QUERIES = frozenset({"query", "find"})

STATUSES: Mapping[int, str] = MappingProxyType(
    {
        400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden",
        404: "Not Found", 408: "Request Timeout", 409: "Conflict", 410: "Gone",
        413: "Payload Too Large", 425: "Too Early", 429: "Too Many Requests",
        499: "Client Closed Request", 500: "Internal Server Error", 502: "Bad Gateway",
        503: "Service Unavailable", 504: "Gateway Timeout", 520: "Unknown Error",
        521: "Web Server Is Down", 522: "Connection Timed Out", 523: "Origin Is Unreachable",
        524: "A Timeout Occurred", 525: "SSL Handshake Failed",
    }
)  # fmt: skip
"""Kinds that are an HTTP status, with its words."""

REDIRECTS = ("301", "302", "303", "307", "308")


@attrs.frozen
class _Word:
    """A kind of fault that has a name: what it does, and on which calls it can be."""

    says: str
    on: frozenset[str]


WORDS: Mapping[str, _Word] = MappingProxyType(
    {
        # the connection
        "drop": _Word("close the connection without an answer (FIN)", _CALLS | {"accept"}),
        "reset": _Word("reset the connection (RST)", _CALLS | {"accept"}),
        "hang": _Word("never answer", _CALLS | {"accept"}),
        "garbage": _Word("send bytes that are not HTTP, then close", _CALLS | {"accept"}),
        "late": _Word("close the connection, and charge *seconds* later", frozenset({"create"})),
        # the answer
        "slow": _Word("send the answer drop by drop within *seconds*", _CALLS),
        "cut_reply": _Word("close in the middle of the answer", _CALLS),
        "truncated": _Word("send half of the body as if it were all", _CALLS),
        "html": _Word("send a page with status 200", _CALLS),
        "empty": _Word("send an empty body with status 200", _CALLS),
        "invalid_request": _Word("500 that means a malformed request (CometAPI)", _API),
        "model_not_found": _Word("503 that means no such model (CometAPI)", _API),
        "no_task_id": _Word("leave out the task's id", _API),
        "no_status": _Word("leave out the task's status", _API),
        "unknown_status": _Word("send a status word that is not documented", _API),
        "empty_data": _Word("send an empty list instead of the task", _QUERIES | {"list"}),
        "not_found": _Word("say that there is no such task", _QUERIES),
        "other_task": _Word("send another task", _QUERIES),
        # a result
        "wrong_magic": _Word("send bytes that are no image", frozenset({"result"})),
        "huge": _Word("announce 10 GB and start to send them", frozenset({"result"})),
        "endless": _Word("send without an end, chunked", frozenset({"result"})),
        "gzip": _Word("compress although the client did not accept it", frozenset({"result"})),
        "gzip_bomb": _Word("compress 128 MiB of nothing", frozenset({"result"})),
    }
)
"""Kinds that have a name. On create, those that change a good answer come after charging."""

_CHANGES_GOOD_ANSWER = frozenset(
    {"slow", "cut_reply", "truncated", "no_task_id", "no_status", "unknown_status"}
)


def _check_kind(_fault: object, _field: object, kind: str) -> None:
    word = str(kind).removesuffix(_AFTER)
    numbers = {str(number) for number in (*CODES, *STATUSES)}
    if word not in numbers and word not in REDIRECTS and word not in WORDS:
        raise InputError(
            f"fault {kind!r} is unknown",
            field="fault",
            value=kind,
            limit=", ".join(WORDS) + ", an HTTP status or one of Kling's error codes",
            hint=f"known are {', '.join(WORDS)}, HTTP statuses and Kling's codes; on create also "
            f"with {_AFTER} behind them",
        )


_LIMITS = {"times": (0, math.inf), "nth": (1, math.inf), "chance": (0, 1), "seconds": (0, math.inf)}


def _is_between(value: object, low: float, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and low <= value <= high


@attrs.frozen
class Fault:
    """One way in which calls go wrong.

    Attributes:
        kind: What happens: a word such as ``"drop"``, an HTTP status (``"502"``) or one of Kling's
            error codes (``"1303"``). On create it comes before anything is charged; with
            ``_after_charge`` behind, after.
        on: Which calls: ``"create"``, ``"query"``, ``"find"``, ``"list"``, ``"result"``,
            ``"account"``, ``"accept"`` (the connection itself), or ``"any"`` of the first four.
            Empty: ``"create"`` where only that makes sense, ``"result"`` or ``"query"`` likewise,
            else ``"any"``.
        times: How often; None for always.
        nth: From which matching call on, counted from 1.
        each: Count *times* and *nth* for each task by itself.
        match: Only tasks whose external id or id begins like this; empty for all calls.
        chance: Of going wrong, 0 to 1.
        seconds: How long ``late`` and ``slow`` take.
        retry_after: Header ``Retry-After`` of the answer, as it is to be sent.
        location: Where a redirect leads.
    """

    kind: str = attrs.field(validator=_check_kind)
    on: str = attrs.field(default="", kw_only=True)
    times: int | None = attrs.field(default=1, kw_only=True)
    nth: int = attrs.field(default=1, kw_only=True)
    each: bool = attrs.field(default=False, kw_only=True)
    match: str = attrs.field(default="", kw_only=True)
    chance: float = attrs.field(default=1.0, kw_only=True)
    seconds: float = attrs.field(default=5.0, kw_only=True)
    retry_after: str | None = attrs.field(default=None, kw_only=True)
    location: str = attrs.field(default="http://127.0.0.1:9/elsewhere", kw_only=True)

    def __attrs_post_init__(self) -> None:
        self._check_numbers()
        places = sorted(self._places())
        if not self.on:
            usual = "any" if set(places) >= _API else "query" if "query" in places else places[0]
            object.__setattr__(self, "on", usual)
        wanted = _API if self.on == "any" else {self.on}
        if not wanted <= set(places):
            raise InputError(
                f"fault {self.kind!r} can't be on {self.on!r}",
                field="fault",
                value=f"{self.on}.{self.kind}",
                limit="on " + ", ".join(places),
                hint=f"it can be on {', '.join(places)}",
            )

    @property
    def word(self) -> str:
        """The kind without ``_after_charge``."""
        return self.kind.removesuffix(_AFTER)

    @property
    def after_charge(self) -> bool:
        """Whether a create call is charged before it goes wrong."""
        return self.kind.endswith(_AFTER) or self.word in _CHANGES_GOOD_ANSWER

    def _check_numbers(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            always = name == "times" and value is None
            if not (always or _is_between(value, low, high)):
                raise InputError(
                    f"a fault's {name} can't be {value!r}",
                    field=name,
                    value=value,
                    limit=f"a number from {low} to {high}",
                )

    def _places(self) -> frozenset[str]:
        if self.kind.endswith(_AFTER):
            return frozenset({"create"})
        return WORDS[self.word].on if self.word in WORDS else _CALLS

    def concerns(self, call: Call, names: tuple[str, ...], *, charged: bool) -> bool:
        """Whether the fault is about this call.

        Args:
            call: What is being done.
            names: External id and id of the task concerned, as far as they are known.
            charged: Whether a create call is charged by now.
        """
        if self.on != call and not (self.on == "any" and call in _API):
            return False
        if call == "create" and self.after_charge != charged:
            return False
        return any(name.startswith(self.match) for name in names) or not self.match


@attrs.frozen(kw_only=True)
class Injection:
    """A fault that happened.

    Attributes:
        fault: Which.
        call: To what call.
        name: External id of the task concerned, or its id, or empty.
    """

    fault: Fault
    call: Call
    name: str


@attrs.define(eq=False)
class _Rule:
    """A fault with its counts."""

    fault: Fault
    number: int
    seen: Counter[str] = attrs.field(factory=Counter)
    fired: Counter[str] = attrs.field(factory=Counter)
    draws: Counter[str] = attrs.field(factory=Counter)

    def fires(self, call: Call, name: str, seed: int) -> bool:
        key = name if self.fault.each else ""
        self.seen[key] += 1
        spent = self.fault.times is not None and self.fired[key] >= self.fault.times
        if spent or self.seen[key] < self.fault.nth or not self._drawn(call, name, seed):
            return False
        self.fired[key] += 1
        return True

    def _drawn(self, call: Call, name: str, seed: int) -> bool:
        if self.fault.chance >= 1:
            return True
        # A draw of its own for each call of each task: the order in which tasks happen to come
        # does not matter, so a seed means the same in every run.
        draw = f"{call}|{name}"
        self.draws[draw] += 1
        text = f"{seed}|{self.number}|{draw}|{self.draws[draw]}"
        return random.Random(text).random() < self.fault.chance  # noqa: S311 - not a secret


class Faults:
    """All that is to go wrong; the first rule that applies to a call wins.

    Args:
        faults: Rules to begin with.
        seed: Makes chances repeatable; None takes a random one, kept in ``seed``.
    """

    def __init__(self, *faults: Fault, seed: int | None = None) -> None:
        self.seed: int = random.randrange(2**32) if seed is None else seed  # noqa: S311 - not a secret
        self.injected: list[Injection] = []
        """What happened so far, in order."""
        self._rules: list[_Rule] = []
        self._added = 0
        for fault in faults:
            self.add(fault)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.rules))}, seed={self.seed})"

    @classmethod
    def parse(cls, text: str, *, seed: int | None = None) -> Faults:
        """Return what *text* says: ``[CALL.]KIND[=CHANCE]``, several with commas between.

        A fault with a chance happens at random; one without always happens.

        Args:
            text: For example ``drop_after_charge=0.05,504_after_charge=0.03,result.404=0.1``.
            seed: Makes the chances repeatable.

        Raises:
            InputError: A part can't be read.
        """
        parts = (part.strip() for part in text.split(","))
        return cls(*(_parse(part) for part in parts if part), seed=seed)

    @property
    def rules(self) -> list[Fault]:
        """The rules, in the order in which they are asked."""
        return [rule.fault for rule in self._rules]

    def add(self, fault: Fault) -> Fault:
        """Add a rule behind the others and return it."""
        self._rules.append(_Rule(fault, self._added))
        self._added += 1
        return fault

    def remove(self, fault: Fault) -> None:
        """Remove a rule, if it is there."""
        self._rules = [rule for rule in self._rules if rule.fault is not fault]

    def clear(self) -> None:
        """Take all rules away."""
        self._rules.clear()

    def take(
        self, call: Call, names: tuple[str, ...] = (), *, charged: bool = False
    ) -> Fault | None:
        """Return the fault that this call is to meet, if any, and count it.

        Args:
            call: What is being done.
            names: External id and id of the task concerned, as far as they are known.
            charged: Whether a create call is charged by now.
        """
        known = tuple(name for name in names if name)
        name = known[0] if known else ""
        for rule in self._rules:
            if rule.fault.concerns(call, known, charged=charged) and rule.fires(
                call, name, self.seed
            ):
                self.injected.append(Injection(fault=rule.fault, call=call, name=name))
                return rule.fault
        return None


def _parse(part: str) -> Fault:
    head, equals, chance = part.partition("=")
    on, _, kind = head.strip().rpartition(".")
    try:
        share = float(chance) if equals else 1.0
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise InputError(
            f"fault {part!r} has no chance from 0 to 1",
            field="fault",
            value=part,
            limit="[CALL.]KIND[=CHANCE]",
        )
    return Fault(kind, on=on, times=None, chance=share)
