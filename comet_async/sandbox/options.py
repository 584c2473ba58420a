"""How the sandbox behaves where the real services differ, or where their behaviour is unknown.

The defaults follow Kling's documents; every odd thing that was seen on some gateway is a switch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import attrs

from comet_async.errors import InputError

Profile: TypeAlias = Literal["comet", "kling"]
"""Which service an answer imitates: CometAPI (paths below /kling/v1) or Kling (below /v1)."""

Shape: TypeAlias = Literal["object", "list", "wrapper", "wrapper2"]
"""How an answer holds its task.

``object``: Kling's documented form. ``list``: the same in a list of one. ``wrapper``: the form of
new-api gateways (https://github.com/QuantumNous/new-api, dto/task.go) with the task at
``data.data``; ``wrapper2``: with Kling's whole answer there, so the task is at ``data.data.data``.
"""

ErrorShape: TypeAlias = Literal["native", "wrapped", "openai", "task_error"]
"""How an error of the API is shown.

``native``: ``{"code": 1201, "message": …}``. ``wrapped``: the same below ``data.data``.
``openai``: ``{"error": {…}}``. ``task_error``: ``{"code": "fail_to_fetch_task", "message": <the
native form as text>}``.
"""

MissingRoute: TypeAlias = Literal["null", "null_200", "html", "redirect", "invalid_url"]
"""How CometAPI says that it does not have a route.

``null``: 404 with ``{"code": null, "message": "404"}``; ``null_200``: the same with status 200;
``html``: a page; ``redirect``: 301; ``invalid_url``: new-api's 404.
"""

AccountTrouble: TypeAlias = Literal["arrears", "empty", "no_right", "ip", "abnormal"]

DAY = 86_400.0


def _words(value: Mapping[str, str | tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
    return {word: (said,) if isinstance(said, str) else tuple(said) for word, said in value.items()}


def _shapes(value: Shape | tuple[Shape, ...]) -> tuple[Shape, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _frozen(value: Iterable[str]) -> frozenset[str]:
    return frozenset(value)


def _lookups(value: Iterable[str]) -> frozenset[str]:
    letters = frozenset("".join(value).upper())
    if letters <= frozenset("ABCD"):
        return letters
    raise InputError(
        f"lookups={value!r} names an unknown form",
        field="lookups",
        value=value,
        limit='letters of "ABCD", or an empty text for none',
    )


def _value(defaults: Options | CallbackOptions, name: str, text: str) -> object:
    """Return the value of a switch, read from *text*."""
    known = {field.name for field in attrs.fields(type(defaults))} - {"callbacks"}
    if name not in known:
        names = ", ".join(sorted(known))
        raise InputError(
            f"option {name!r} is unknown",
            field="options",
            value=name,
            limit=names,
            hint=f"known are {names}",
        )
    try:
        value = json.loads(text, parse_constant=str)
    except ValueError:
        value = text
    value = tuple(value) if isinstance(value, list) else value
    default = getattr(defaults, name)
    if default is None or value is None or isinstance(value, _ALIKE.get(type(default), object)):
        return value
    raise InputError(
        f"option {name} can't be {text!r}",
        field="options",
        value=text,
        limit=f"a value like the default, {default!r}",
    )


# What stands for a value of each type.
_ALIKE: Mapping[type, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (int, float),
    str: (str,),
    tuple: (tuple, str),
    frozenset: (tuple, str),
    dict: (dict,),
}


@attrs.frozen(kw_only=True)
class CallbackOptions:
    """How callbacks are sent.

    Attributes:
        secret: Signs them as Standard Webhooks do; ``whsec_`` and Base64. None sends unsigned.
        repeat: How often each is sent.
        backwards: Hold a task's callbacks until it ends, then send the last one first.
        drop: Status words whose callbacks are never sent.
        before_answer: Deliver the first one before the create call is answered.
        form: ``legacy``, the bare task; ``new``, the body of Kling's newer API.
    """

    secret: str | None = attrs.field(default=None, repr=False)
    repeat: int = 1
    backwards: bool = False
    drop: frozenset[str] = attrs.field(default=frozenset(), converter=_frozen)
    before_answer: bool = False
    form: Literal["legacy", "new"] = "legacy"


@attrs.frozen(kw_only=True)
class Options:
    """Every switch of the sandbox.

    Attributes:
        submitted_seconds: Shortest and longest time in ``submitted``.
        task_seconds: Shortest and longest time from creation to success.
        failure_seconds: From creation to failure.
        shape: The form of a query's answer; several are used in rotation, query by query.
        created_shape: The form of a create call's answer.
        error_shape: The form of errors; None is ``native`` for Kling, ``wrapped`` for CometAPI.
        errors_as_200: Send errors of the API with HTTP status 200.
        malformed_status: What CometAPI answers to a body that is no JSON object: 500 or 400.
        request_id: Whether a query's answer has one.
        created_request_id: Whether a create call's answer has one; None: only Kling's.
        message: The message of good answers.
        words: Other words for a status; several are used in rotation, query by query.
        status_msg: What ``task_status_msg`` is while there is nothing to say.
        echo_external_id: Whether ``task_info`` repeats the external id.
        unit_deduction: Whether the charge is shown.
        image_index: Whether images carry their ``index``.
        watermark_in_query: Whether a query of one task tells ``watermark_url``; lists always do.
        bottom: What ``bottom_expansion_ratio`` without ``down_`` means; None: nothing for Kling,
            the same as ``down_`` for CometAPI.
        lenient_n: Take ``n`` as a numeric string, too.
        lenient_ratios: Take a missing ratio as 0.
        blocked_words: A prompt with one of them is refused.
        risky_words: A prompt with one of them is accepted, and the task fails.
        unique_external_ids: Refuse an external id that was used before.
        lookups: The forms in which a task is found by its external id. A: in the path;
            B: ``?external_task_id=X``; C: path and ``?external_task_id=true``; D: path and
            ``?external_task_id=X``. Where A works, C and D do as well.
        list_tasks: Whether the list call exists.
        list_order: Its order.
        not_found_for: Seconds for which a new task is not found by any lookup.
        route_missing: CometAPI does not offer these routes, and says so in this form.
        unknown_path: How CometAPI answers a path that it does not have.
        account: An account that may not create tasks.
        retry_after: Header ``Retry-After`` of "too many in flight".
        url_lifetime: Seconds for which a result's address works. A later query tells a new one.
        result_lifetime: Seconds after which the result itself is gone.
        results_root: Root of the results' addresses; None: the sandbox's own.
        access_key: Issuer (``iss``) of Kling's signed tokens.
        secret_key: What they are signed with.
        balance_usd: Money in the CometAPI account at the start.
        pack_units: Units in the Kling account's pack at the start.
        callbacks: How callbacks are sent.
    """

    submitted_seconds: tuple[float, float] = (0.0, 2.0)
    task_seconds: tuple[float, float] = (8.0, 40.0)
    failure_seconds: float = 1.6

    shape: tuple[Shape, ...] = attrs.field(default=("object",), converter=_shapes)
    created_shape: Shape = "object"
    error_shape: ErrorShape | None = None
    errors_as_200: bool = False
    malformed_status: Literal[400, 500] = 500
    request_id: bool = True
    created_request_id: bool | None = None
    message: str = "SUCCEED"
    words: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict, converter=_words)
    status_msg: Literal["empty", "null", "absent"] = "empty"
    echo_external_id: bool = True
    unit_deduction: bool = True
    image_index: bool = True
    watermark_in_query: bool = True

    bottom: Literal["ignore", "alias"] | None = None
    lenient_n: bool = False
    lenient_ratios: bool = False
    blocked_words: tuple[str, ...] = ("sandbox-blocked",)
    risky_words: tuple[str, ...] = ("sandbox-risky",)
    unique_external_ids: bool = True

    lookups: frozenset[str] = attrs.field(default=frozenset("ABCD"), converter=_lookups)
    list_tasks: bool = True
    list_order: Literal["newest", "oldest"] = "newest"
    not_found_for: float = 0.0
    route_missing: MissingRoute | None = None
    unknown_path: Literal["html", "redirect"] = "html"
    account: AccountTrouble | None = None
    retry_after: str | None = None

    url_lifetime: float = 30 * DAY
    result_lifetime: float = 30 * DAY
    results_root: str | None = None

    access_key: str = "sandbox-access-key"
    secret_key: str = attrs.field(default="sandbox-secret-key-of-32-characters", repr=False)
    balance_usd: float = 10.0
    pack_units: int = 2_000
    callbacks: CallbackOptions = CallbackOptions()

    @classmethod
    def parse(cls, pairs: Iterable[str]) -> Options:
        """Return the switches that *pairs* set.

        Args:
            pairs: Each ``NAME=VALUE``; a value is JSON, or text as it is. Callbacks' switches are
                named ``callbacks.NAME``. For example ``task_seconds=[0, 1]`` or ``lookups=A``.

        Raises:
            InputError: A name is unknown, or a value is of another type than the default.
        """
        own: dict[str, Any] = {}
        callbacks: dict[str, Any] = {}
        for pair in pairs:
            name, _, text = (part.strip() for part in pair.partition("="))
            if name.startswith("callbacks."):
                short = name.removeprefix("callbacks.")
                callbacks[short] = _value(CallbackOptions(), short, text)
            else:
                own[name] = _value(cls(), name, text)
        if callbacks:
            own["callbacks"] = CallbackOptions(**callbacks)
        return cls(**own)

    def request_id_on_create(self, profile: Profile) -> bool:
        """Whether the answer to a create call has a ``request_id``."""
        # CometAPI's captured answers have none (https://apidoc.cometapi.com, text-to-audio).
        return profile == "kling" if self.created_request_id is None else self.created_request_id

    def errors_of(self, profile: Profile) -> ErrorShape:
        """The form of the API's errors."""
        return self.error_shape or ("native" if profile == "kling" else "wrapped")

    def takes_bottom(self, profile: Profile) -> bool:
        """Whether ``bottom_expansion_ratio`` means ``down_expansion_ratio``."""
        return (self.bottom or ("ignore" if profile == "kling" else "alias")) == "alias"
