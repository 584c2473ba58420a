"""The checks of a create call, in the order in which the service is believed to make them.

Kling API: Image expansion, https://klingai.com/document-api/api/image/common/outpainting, and the
pages of its neighbours. This is written from the documents alone: nothing of the library's own
checks is used, so a mistake in one of the two shows.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, TypeAlias

import attrs

from comet_async.geometry import Margins
from comet_async.sandbox._api.refusals import MalformedBodyError, RefusalError
from comet_async.sandbox.options import Options, Profile

MAX_BODY = 15 * 1024 * 1024
"""The largest request body in bytes: an image of 10 MB is 13.4 MB of Base64."""

MAX_IMAGE = 10 * 1024 * 1024
MAX_PROMPT = 2500
MAX_RATIO = 2
MAX_IMAGES = 9
ASPECTS = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9")

_DEEPEST = 32  # levels of objects and lists; the API has two
_LONGEST_INTEGER = 19  # digits, sign included

_COUNTS = frozenset(map(str, range(1, MAX_IMAGES + 1)))
_RATIOS = tuple(f"{side}_expansion_ratio" for side in ("up", "down", "left", "right"))
_AREA = Decimal(3) + Decimal("1e-6")

Fields: TypeAlias = Mapping[str, Any]
"""A request's JSON object."""


@attrs.frozen(kw_only=True)
class Source:
    """An image of the request: its bytes, or where to fetch them.

    Attributes:
        data: The decoded file; None for an address, and once it is no longer needed.
        url: The address; empty for a file.
    """

    data: bytes | None = attrs.field(default=None, repr=False)
    url: str = ""


@attrs.frozen(kw_only=True)
class Order:
    """A request that passed the checks.

    Attributes:
        kind: Name of the kind of task.
        n: How many images.
        sources: The images to start from.
        margins: How far to grow them; for the kind ``expand``.
        aspect: Shape of the image to make; for the kind ``generation``.
        prompt: Text that was checked and will not be followed.
        watermark: Whether a watermarked version is wanted, too.
        external_task_id: The client's own id, or empty.
        callback_url: Where changes are to be reported, or empty.
    """

    kind: str
    n: int = 1
    sources: tuple[Source, ...] = ()
    margins: Margins = Margins()
    aspect: str = "1:1"
    prompt: str = ""
    watermark: bool = False
    external_task_id: str = ""
    callback_url: str = ""

    def emptied(self) -> Order:
        """Return the order without the images' bytes."""
        return attrs.evolve(self, sources=tuple(Source(url=item.url) for item in self.sources))


@attrs.frozen(kw_only=True)
class Kind:
    """A kind of task.

    Attributes:
        name: Our word for it.
        path: Where it lives below ``/v1/``.
        check: Turns a request into an order.
    """

    name: str
    path: str
    check: Callable[[Fields, Options, Profile], Order]


def parse(body: bytes) -> Fields:
    """Return the body's JSON object.

    Raises:
        MalformedBodyError: It is something else.
        RefusalError: It is JSON that no other program could read back: not a number, a number
            beyond 64 bits, text that is not Unicode, or more than 32 levels deep.
    """
    try:
        fields = json.loads(body, parse_constant=_no_number, parse_int=_integer)
    except RecursionError:
        raise RefusalError(1200, "the body is nested too deeply") from None
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise MalformedBodyError
    _check_values(fields)
    return fields


def _no_number(name: str) -> object:
    raise RefusalError(1201, f"value '{name}' is invalid")


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_INTEGER:
        raise RefusalError(1201, f"value '{digits[:20]}…' is invalid")
    return int(digits)


def _check_values(fields: dict[str, Any]) -> None:
    """Refuse what the ledger and the pages could not show."""
    todo: list[tuple[object, int]] = [(fields, 1)]
    while todo:
        value, depth = todo.pop()
        if depth > _DEEPEST:
            raise RefusalError(1200, "the body is nested too deeply")
        if isinstance(value, dict):
            todo.extend((item, depth + 1) for pair in value.items() for item in pair)
        elif isinstance(value, list):
            todo.extend((item, depth + 1) for item in value)
        elif isinstance(value, str) and not _is_unicode(value):
            raise RefusalError(1201, "text must be valid Unicode")
        elif isinstance(value, float) and not math.isfinite(value):  # 1e999
            raise RefusalError(1201, f"value '{value}' is invalid")


def _is_unicode(text: str) -> bool:
    """Return True if *text* has no lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def external_id(fields: Fields) -> str:
    """Return the request's own id as far as it has one."""
    value = fields.get("external_task_id")
    return value if isinstance(value, str) else ""


def _check_expand(fields: Fields, options: Options, profile: Profile) -> Order:
    source = _image(fields, "image", needed=True)
    margins = _margins(fields, options, profile)
    return attrs.evolve(_common(fields, options, "expand"), sources=source, margins=margins)


def _check_generation(fields: Fields, options: Options, _profile: Profile) -> Order:
    source = _image(fields, "image", needed=False)
    if not fields.get("prompt"):
        raise RefusalError(1201, "prompt can not be null")
    aspect = fields.get("aspect_ratio", "16:9")
    if aspect not in ASPECTS:
        raise _invalid("aspect_ratio", aspect)
    return attrs.evolve(_common(fields, options, "generation"), sources=source, aspect=aspect)


def _check_try_on(fields: Fields, options: Options, _profile: Profile) -> Order:
    human = _image(fields, "human_image", needed=True)
    cloth = _image(fields, "cloth_image", needed=True)
    return attrs.evolve(_common(fields, options, "try_on"), sources=human + cloth, n=1)


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind(name="expand", path="images/editing/expand", check=_check_expand),
            Kind(name="generation", path="images/generations", check=_check_generation),
            Kind(name="try_on", path="images/kolors-virtual-try-on", check=_check_try_on),
        )
    }
)
"""The kinds of task, by name."""


def _common(fields: Fields, options: Options, kind: str) -> Order:
    """Check what all kinds share, in the order n, prompt, ids."""
    return Order(
        kind=kind,
        n=_count(fields.get("n", 1), lenient=options.lenient_n),
        prompt=_text(fields, "prompt", limit=MAX_PROMPT),
        watermark=_wants_watermark(fields.get("watermark_info")),
        external_task_id=_text(fields, "external_task_id"),
        callback_url=_text(fields, "callback_url"),
    )


def _wants_watermark(info: object) -> bool:
    return isinstance(info, dict) and info.get("enabled") is True


def _invalid(field: str, value: object) -> RefusalError:
    return RefusalError(1201, f"{field} value '{str(value)[:100]}' is invalid")


def _image(fields: Fields, name: str, *, needed: bool) -> tuple[Source, ...]:
    value = fields.get(name)
    if not value:
        if needed:
            raise RefusalError(1201, f"{name} can not be null")
        return ()
    if not isinstance(value, str):
        raise RefusalError(1201, "File is not in a valid base64 format")
    if value[:8].lower().startswith(("http://", "https://")):
        return (Source(url=value),)
    try:
        data = base64.b64decode(value, validate=True)  # refuses "data:…;base64,", too
    except (binascii.Error, ValueError):
        raise RefusalError(1201, "File is not in a valid base64 format") from None
    if len(data) > MAX_IMAGE:
        raise RefusalError(1201, f"{name} size exceeds 10MB")
    return (Source(data=data),)


def _margins(fields: Fields, options: Options, profile: Profile) -> Margins:
    values = {name: fields.get(name) for name in _RATIOS}
    if values["down_expansion_ratio"] is None and options.takes_bottom(profile):
        values["down_expansion_ratio"] = fields.get("bottom_expansion_ratio")
    for name, value in values.items():
        if value is None and not options.lenient_ratios:
            raise RefusalError(1201, f"{name} can not be null")
    up, down, left, right = (
        _ratio(name, 0 if value is None else value) for name, value in values.items()
    )
    if (1 + up + down) * (1 + left + right) > _AREA:
        raise RefusalError(1201, "the expanded area can not exceed 3 times the original area")
    return Margins(float(up), float(down), float(left), float(right))


def _ratio(name: str, value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(name, value)
    if not 0 <= value <= MAX_RATIO:  # NaN fails, too
        raise _invalid(name, value)
    return Decimal(repr(value))


def _count(value: object, *, lenient: bool) -> int:
    if lenient and isinstance(value, str) and value in _COUNTS:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_IMAGES:
        raise _invalid("n", value)
    return value


def _text(fields: Fields, name: str, *, limit: int | None = None) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _invalid(name, value)
    if limit is not None and len(value) > limit:
        raise RefusalError(1201, f"{name} must be less than or equal to {limit} characters")
    return value
