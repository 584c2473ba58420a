"""The server's object becomes a `Task`, field by field.

Only an id or a state is needed; whatever else is missing or odd is left out, because a task
that is paid for must not become unreadable for the sake of a detail. Fields follow Kling's
"Image expansion" page (https://klingai.com/document-api/api/image/common/outpainting) and
the task wrapper of the new-api gateway family (https://github.com/QuantumNous/new-api,
dto/task.go).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from operator import attrgetter
from types import MappingProxyType
from typing import TypeAlias

from comet_async._wire.envelope import (
    JSON,
    MAX_ITEMS,
    Object,
    identifier,
    parse,
    read_fault,
    says_success,
    task_identifier,
    text,
    tidy,
    word,
)
from comet_async.models import ResultImage, Task, TaskStatus

RESULT_KEYS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(
        ("text2video", "image2video", "omni-video", "video-extend", "lip-sync", "effects"),
        "videos",
    )
)
"""Where a kind's results are in ``task_result``; in ``images`` unless named here."""

NO_STATUS = "unknown"
"""The status of a task whose answer names none."""

AnswerId: TypeAlias = Callable[[], str | None]


def read_task(
    chain: list[Object],
    answer_id: AnswerId,
    *,
    kind: str,
    requested: str | None = None,
    sent: str | None = None,
    default_status: str = NO_STATUS,
) -> Task | None:
    """Return the task at the end of *chain*, or None when there is none.

    Args:
        chain: The objects from the outermost to the task's own, as `envelope.unwrap` finds
            them.
        answer_id: Returns the id in the answer's headers, for an answer without one in its body.
        kind: The task's kind.
        requested: The id that was requested; the task keeps it, whatever id the gateway's own
            supplier gave it.
        sent: Our own id that the request carried, which few servers echo at once.
        default_status: The status to give a task whose answer names none.
    """
    facts = merge(chain)
    status = read_status(chain, facts)
    task_id = first_task_id(chain)
    if task_id is None and (requested is None or status is None):
        return None
    task_id = requested or task_id or ""
    images = _images(facts, kind, task_id)
    if status is TaskStatus.SUCCEED and not images:
        images = _only_url(facts, kind, task_id)
    return Task(
        id=task_id,
        status=status or default_status,
        message=_reason(chain) if status is TaskStatus.FAILED else "",
        external_task_id=sent or external_id(facts),
        images=images,
        created_at=_moment(facts.get("created_at"), facts.get("submit_time")),
        updated_at=_moment(
            facts.get("updated_at"), facts.get("finish_time"), facts.get("start_time")
        ),
        units=_units(facts.get("final_unit_deduction")),
        kind=kind,
        request_id=first_id(chain, "request_id") or answer_id(),
        raw=MappingProxyType(chain[-1] if "task_id" in chain[-1] else facts),
    )


# Kling's own words for the states that need no reason.
_PLAIN: Mapping[str, TaskStatus] = {
    state.value: state for state in TaskStatus if state is not TaskStatus.FAILED
}


def read_plain(
    facts: JSON, outer: JSON, answer_id: AnswerId, *, kind: str, requested: str | None = None
) -> Task | None:
    """Return what `read_task` does, in half the time, if *facts* are as Kling documents them.

    A page shows 500 tasks, and is read beside whatever else runs in the event loop.

    Args:
        facts: What may be the task's own object.
        outer: The object whose ``data`` it is; None if what is around it is not about it.
        answer_id: Returns the id in the answer's headers, for an answer without one in its body.
        kind: The task's kind.
        requested: The id that was requested; the task keeps it.

    Returns:
        None at any surprise: then `envelope.unwrap` and `read_task` look closer.
    """
    outer = outer if isinstance(outer, dict) else {}
    if not isinstance(facts, dict) or "task_id" in outer or "task_status" in outer:
        return None
    get = facts.get
    given, created, updated = get("task_status"), get("created_at"), get("updated_at")
    status = _PLAIN.get(given) if isinstance(given, str) else None
    task_id = requested or task_identifier(get("task_id"))
    if status is None or task_id is None:
        return None
    if not isinstance(created, int) or not _LEAST_MILLISECONDS <= created < _MOST:
        return None
    if not isinstance(updated, int) or not _LEAST_MILLISECONDS <= updated < _MOST:
        return None
    images = _images(facts, kind, task_id) if "task_result" in facts else ()
    if status is TaskStatus.SUCCEED and not images:
        return None
    request_id = identifier(outer.get("request_id")) or identifier(get("request_id"))
    return Task(
        id=task_id,
        status=status,
        external_task_id=external_id(facts),
        images=images,
        created_at=datetime.fromtimestamp(created / 1000, UTC),
        updated_at=datetime.fromtimestamp(updated / 1000, UTC),
        units=_units(get("final_unit_deduction")),
        kind=kind,
        request_id=request_id or answer_id(),
        raw=MappingProxyType(facts),
    )


def merge(chain: list[Object]) -> Object:
    """Return all that *chain* says about the task; what stands nearest to it wins."""
    for level in chain[:-1]:
        if "task_id" in level:
            break
    else:
        # Kling's own form: nothing outside the object is about the task.
        return chain[-1] if chain else {}
    return {key: value for level in chain for key, value in level.items() if value is not None}


def first_id(chain: list[Object], key: str) -> str | None:
    """Return the outermost id under *key*, or None."""
    for level in chain:
        if key in level:
            found = identifier(level[key])
            if found:
                return found
    return None


def first_task_id(chain: list[Object], key: str = "task_id") -> str | None:
    """Return the outermost id of a task under *key*, or None if there is none or it is unusable.

    The outermost is the one that the gateway answers to.
    """
    return task_identifier(first_id(chain, key))


def external_id(facts: Object) -> str | None:
    """Return our own id of the task, if it is echoed; Kling's empty one counts as none."""
    info = facts.get("task_info")
    return identifier(info.get("external_task_id")) if isinstance(info, dict) else None


def read_status(chain: list[Object], facts: Object) -> TaskStatus | str | None:
    """Return the task's state, a new word as it is, or None when there is none."""
    given = state(facts.get("task_status"))
    if given and facts is chain[-1]:
        return given
    words = (level.get("status") for level in reversed(chain) if "task_id" in level)
    outer = next(filter(None, map(state, words)), None)
    # A gateway that gave the task up goes on showing what it last saw of Kling's object.
    gave_up = outer is TaskStatus.FAILED and given is not TaskStatus.SUCCEED
    return outer if gave_up else given or outer


def state(value: JSON) -> TaskStatus | str | None:
    """Return the state that *value* means, a new word as it is, or None for no word."""
    given = word(value)
    if not given:
        return None
    parsed = TaskStatus.parse(given)
    return parsed if isinstance(parsed, TaskStatus) else tidy(given, limit=64)


def _reason(chain: list[Object]) -> str:
    # Never from "message", which says SUCCEED of a failed task. A gateway that looked there
    # says SUCCEED in fail_reason: https://github.com/QuantumNous/new-api/pull/2532
    for level in reversed(chain):
        for key in ("task_status_msg", "fail_reason"):
            given = text(level.get(key))
            if given and not says_success(given):
                return tidy(read_fault(parse(given)).message or given)
    # Without a reason the word itself is one, unless it says no more than "failed".
    words = (word(level.get(key)) for level in reversed(chain) for key in ("task_status", "status"))
    failure = next((given for given in words if state(given) is TaskStatus.FAILED), "failed")
    plain = failure.lower() in {"failed", "failure"}
    return "" if plain else f"the status is {tidy(failure, limit=64)!r}"


# ------------------------------------------------------------------------------ images


def _images(facts: Object, kind: str, task_id: str) -> tuple[ResultImage, ...]:
    items = _result_items(facts.get("task_result"), RESULT_KEYS.get(kind, "images"))
    images: list[ResultImage] = []
    for place, item in enumerate(items):
        if not isinstance(item, dict) or item.get("index") != place:
            return _numbered([*map(_as_object, items)], kind, task_id)
        if url := word(item.get("url")):
            images.append(_image(item, place, url, kind, task_id))
    return tuple(images)


def _result_items(result: JSON, key: str) -> list[JSON]:
    """Return the result's items; gateways also write a part or all of it as JSON text."""
    result = _from_text(result)
    items = _from_text(result.get(key)) if isinstance(result, dict) else result
    if isinstance(items, list):
        return items[:MAX_ITEMS]
    return [items] if isinstance(items, dict | str) else []


def _from_text(value: JSON) -> JSON:
    """Return the JSON in *value* if it is an object or a list written as text."""
    if not isinstance(value, str):
        return value
    given = value.strip()
    return parse(given) if given.startswith(("{", "[")) else value


def _as_object(item: JSON) -> Object:
    """Return *item* as an object with a ``url``; some gateways give only the address."""
    item = _from_text(item)
    if isinstance(item, dict):
        return item
    return {"url": item} if _is_address(word(item)) else {}


def _is_address(value: str) -> bool:
    return value.lower().startswith(("https://", "http://"))


def _numbered(items: list[Object], kind: str, task_id: str) -> tuple[ResultImage, ...]:
    """Return the images by their own indexes, or by their places when those are no use."""
    given = [_index(item.get("index")) for item in items]
    places = range(len(items)) if -1 in given or len(set(given)) < len(given) else given
    images: list[ResultImage] = []
    for place, item in zip(places, items, strict=True):
        if url := word(item.get("url")):
            images.append(_image(item, place, url, kind, task_id))
    return tuple(sorted(images, key=_BY_INDEX))


_BY_INDEX = attrgetter("index")


def _image(item: Object, index: int, url: str, kind: str, task_id: str) -> ResultImage:
    marked = word(item.get("watermark_url")) or None
    return ResultImage(index=index, url=url, watermark_url=marked, task_id=task_id, kind=kind)


def _index(value: JSON) -> int:
    # A number in Kling's documents, text in its own client, missing on some gateways.
    if isinstance(value, str) and re.fullmatch("[0-9]{1,3}", value):
        value = int(value)
    return value if isinstance(value, int) and 0 <= value <= _LARGEST_INDEX else -1


_LARGEST_INDEX = 999  # beyond it is a time or an id, which no database may take


def _only_url(facts: Object, kind: str, task_id: str) -> tuple[ResultImage, ...]:
    # Some gateways put the result's address beside the task instead of into it.
    for key in ("result_url", "fail_reason"):
        url = word(facts.get(key))
        if _is_address(url):
            return (ResultImage(index=0, url=url, task_id=task_id, kind=kind),)
    return ()


# --------------------------------------------------------------------- times and amounts

# Kling writes milliseconds, gateways write seconds into their wrappers. What is less than
# seconds since 2001 is a placeholder, and the year 5138 is far enough to distinguish the two.
_LEAST_SECONDS, _LEAST_MILLISECONDS, _MOST = 10**9, 10**11, 10**14


def _moment(*values: JSON) -> datetime | None:
    """Return the first of *values* that is a moment."""
    for value in values:
        seconds = None if value is None else _seconds(value)
        if seconds is not None:
            return datetime.fromtimestamp(seconds, UTC)
    return None


def _seconds(value: JSON) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    # Neither True nor NaN nor a placeholder such as 0 or 1 passes here.
    if not isinstance(value, (int, float)) or not _LEAST_SECONDS <= value < _MOST:
        return None
    return value / 1000 if value >= _LEAST_MILLISECONDS else value


def _units(value: JSON) -> Decimal | None:
    if value is None:
        return None
    given = str(value) if isinstance(value, float) else text(value)
    if not 0 < len(given) < 40:  # noqa: PLR2004 - longer than any amount
        return None
    try:
        units = Decimal(given)
    except InvalidOperation:
        return None
    # 1e999999 is a number of 7 characters and a text of a million.
    return units if units.is_finite() and abs(units.adjusted()) <= 20 else None  # noqa: PLR2004 - far beyond any amount
