"""What it costs to make a task of an answer: ours, attrs with cattrs, msgspec, pydantic.

The others get classes with the same fields and the same kinds of values (an enumeration,
moments, an amount), written as their documentation shows, and answers in the documented shape.
"""

from __future__ import annotations

import datetime
import enum
import importlib.util
import json
import timeit
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import Any

import attrs

from benchmarks.core.bench import Bench, table
from benchmarks.core.report import Section
from benchmarks.core.shapes import kling_task
from comet_async._wire.decode import Reply, decode_task

_ID = "860000000001"
_URL = "https://example.com/result.png"


class Status(enum.StrEnum):
    """The documented states."""

    SUBMITTED = "submitted"
    PROCESSING = "processing"
    SUCCEED = "succeed"
    FAILED = "failed"


@attrs.frozen
class Image:
    """One image."""

    index: int
    url: str
    watermark_url: str | None = None


@attrs.frozen
class Result:
    """The images."""

    images: tuple[Image, ...] = ()


@attrs.frozen
class Info:
    """What the caller sent along."""

    external_task_id: str | None = None


@attrs.frozen
class Facts:
    """One task."""

    task_id: str
    task_status: Status
    created_at: datetime.datetime
    updated_at: datetime.datetime
    task_status_msg: str = ""
    task_info: Info = Info()
    task_result: Result = Result()
    final_unit_deduction: Decimal | None = None


@attrs.frozen
class Answer:
    """What stands around it."""

    code: int
    message: str
    request_id: str
    data: Facts


Decode = Callable[[bytes], object]


def _moment(value: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(value / 1000, datetime.UTC)


def _ours(body: bytes) -> object:
    return decode_task(Reply(status=200, body=body), kind="expand", task_id=_ID)


def _cattrs() -> Decode:
    import cattrs  # noqa: PLC0415 - of the benchmark's group

    converter = cattrs.Converter()
    converter.register_structure_hook(datetime.datetime, lambda value, _: _moment(value))
    converter.register_structure_hook(Decimal, lambda value, _: Decimal(value))
    return lambda body: converter.structure(json.loads(body), Answer)


def _msgspec() -> Decode:
    import msgspec  # noqa: PLC0415 - of the benchmark's group

    def struct(name: str, fields: list[Any]) -> Any:  # noqa: ANN401 - a class made at run time
        return msgspec.defstruct(name, fields, frozen=True)

    image = struct("Image", [("index", int), ("url", str), ("watermark_url", str | None, None)])
    result = struct("Result", [("images", tuple[image, ...], ())])
    info = struct("Info", [("external_task_id", str | None, None)])
    moment = float  # msgspec reads seconds or text as a moment, and Kling writes milliseconds
    fields = [
        ("task_id", str),
        ("task_status", Status),
        ("created_at", moment),
        ("updated_at", moment),
        ("task_status_msg", str, ""),
        ("task_info", info | None, None),
        ("task_result", result | None, None),
        ("final_unit_deduction", Decimal | None, None),
    ]
    outer = [("code", int), ("message", str), ("request_id", str), ("data", struct("F", fields))]
    decode: Decode = msgspec.json.Decoder(struct("Answer", outer)).decode
    return decode


def _pydantic() -> Decode:
    import pydantic  # noqa: PLC0415 - comes with the generated clients

    def model(name: str, **fields: Any) -> Any:  # noqa: ANN401 - a class made at run time
        return pydantic.create_model(name, **fields)

    image = model("Image", index=(int, ...), url=(str, ...), watermark_url=(str | None, None))
    result = model("Result", images=(tuple[image, ...], ()))
    facts = model(
        "Facts",
        task_id=(str, ...),
        task_status=(Status, ...),
        created_at=(datetime.datetime, ...),
        updated_at=(datetime.datetime, ...),
        task_status_msg=(str, ""),
        task_info=(model("Info", external_task_id=(str | None, None)) | None, None),
        task_result=(result | None, None),
        final_unit_deduction=(Decimal | None, None),
    )
    answer = model(
        "Answer", code=(int, ...), message=(str, ...), request_id=(str, ...), data=(facts, ...)
    )
    decode: Decode = answer.model_validate_json
    return decode


_MAKERS: dict[str, tuple[str, Callable[[], Decode]]] = {
    "comet_async": ("attrs", lambda: _ours),
    "attrs + cattrs": ("cattrs", _cattrs),
    "msgspec": ("msgspec", _msgspec),
    "pydantic": ("pydantic", _pydantic),
}


def _answer(task: object) -> dict[str, object]:
    return {"code": 0, "message": "SUCCEED", "request_id": "r" * 31, "data": task}


def _odd(**changes: object) -> bytes:
    return json.dumps(_answer(kling_task(_ID, "succeed", _URL) | changes)).encode()


def oddities() -> dict[str, bytes]:
    """Return answers that gateways give, with a task in them that was paid for."""
    plain = kling_task(_ID, "succeed", _URL)
    image = {"index": "0", "url": _URL}
    bare = {key: value for key, value in plain.items() if not key.endswith("_at")}
    return {
        "a new state": _odd(task_status="reviewing"),
        "no moments": json.dumps(_answer(bare)).encode(),
        "moments as text": _odd(created_at="1722769557708", updated_at=""),
        "an index as text": _odd(task_result={"images": [image]}),
        "a null": _odd(task_info=None, task_result=None, task_status="processing"),
        "an amount of 8.0": _odd(final_unit_deduction=8.0),
        "a wrapper more": json.dumps(_answer({"data": plain, "task_id": _ID})).encode(),
        "a code as text": json.dumps(_answer(plain) | {"code": "success"}).encode(),
    }


def _read(decode: Decode, body: bytes) -> bool:
    with suppress(Exception):  # each library has its own
        decode(body)
        return True
    return False


def _best(work: Callable[[], object], number: int) -> float:
    return 1e6 * min(timeit.repeat(work, number=number, repeat=9)) / number


def decode(bench: Bench) -> Section:
    """Measure all in turns, in this process."""
    number = bench.count(2000, 20)
    bodies = [
        json.dumps(_answer(kling_task(_ID, status, url)), separators=(",", ":")).encode()
        for status, url in (("processing", None), ("succeed", _URL))
    ]
    plain = [f"{_best(partial(json.loads, body), number):.1f}" for body in bodies]
    rows = [["json.loads alone", *plain, "–"]]
    odd = oddities()
    for name, (module, make) in _MAKERS.items():
        if importlib.util.find_spec(module) is None:
            continue
        read = make()
        times = [f"{_best(partial(read, body), number):.1f}" for body in bodies]
        survived = sum(_read(read, body) for body in odd.values())
        rows.append([name, *times, f"{survived} of {len(odd)}"])
    head = ("decoder", "µs, unfinished", "µs, finished", "odd answers read")
    return Section(
        name="decode",
        title="From bytes to a task",
        words="Best of nine. The odd answers are ones that gateways give for tasks that are paid: "
        + ", ".join(odd)
        + ". The choice: a decoder written by hand over attrs classes. It costs a few µs of an "
        "exchange that costs 120 to 250, needs no library, and is the only one that does not "
        "lose a paid task to a surprise in a field that is not used; declared models would "
        "need every field to be optional and of any type, and the same code behind them.",
        limit="`json.loads`, and the classes of the standard library that the values become.",
        tables=[table("", head, rows)],
    )
