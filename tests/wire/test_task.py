"""The quick reader of documented answers: what it reads, the careful one reads the same."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from comet_async._wire.envelope import header_id, unwrap
from comet_async._wire.task import read_plain, read_task
from comet_async.models import Task, TaskStatus

MOMENT = 1_722_769_557_708
URL = "https://cdn.example/a.png?sign=1"
IMAGE = {"index": 0, "url": URL}
DOCUMENTED: dict[str, Any] = {
    "task_id": "878106242831892487",
    "task_status": "succeed",
    "task_status_msg": "",
    "task_info": {"external_task_id": "order-17"},
    "task_result": {"images": [IMAGE, {"index": 1, "url": URL, "watermark_url": f"{URL}&mark"}]},
    "created_at": MOMENT,
    "updated_at": MOMENT + 1,
    "final_unit_deduction": "8",
}
GONE = object()
ODD = st.sampled_from([
    GONE, None, True, False, 0, 1, -1, 7.5, 1e300, MOMENT, MOMENT // 1000, str(MOMENT), 10**14,
    "", " ", "7", " 7 ", "x" * 300, "\x00", "SUCCESS", " succeed ", "succeed", "submitted",
    "failed", "reviewing", URL, [], {}, [IMAGE], {"images": []}, {"images": None},
    {"images": [IMAGE, IMAGE]}, {"images": [{"index": "1", "url": URL}, IMAGE]},
    {"images": [None, IMAGE]}, {"images": [{"index": 5, "url": f" {URL} "}]},
    {"images": [{"index": 0, "url": 7}, {"index": True, "url": URL}]},
    {"external_task_id": " "}, {"external_task_id": 17},
])  # fmt: skip
KEYS = st.sampled_from([*DOCUMENTED, "request_id", "data", "status", "result_url", "submit_time"])
ODDITIES = st.dictionaries(KEYS, ODD, max_size=3)


def changed(plain: dict[str, Any], oddities: dict[str, Any]) -> dict[str, Any]:
    """Return *plain* with some values changed, and those that are to be gone left out."""
    return {key: value for key, value in (plain | oddities).items() if value is not GONE}


def both(
    facts: dict[str, Any],
    envelope: dict[str, Any] | None,
    decoded: str | None,
    headers: dict[str, str],
) -> tuple[Task | None, Task | None]:
    """Return what the quick reader and the careful one make of an answer, or of a list's item."""
    answer = facts if envelope is None else {**envelope, "data": facts}
    answer_id = partial(header_id, headers)
    quick = read_plain(facts, envelope, answer_id, kind="expand", requested=decoded)
    return quick, read_task(unwrap(answer)[0], answer_id, kind="expand", requested=decoded)


@given(
    ODDITIES,
    st.none() | ODDITIES,
    st.sampled_from([None, "", "878106242831892487", "another"]),
    st.sampled_from([{}, {"x-request-id": "from-a-header"}]),
)
def test_a_shortcut_reads_nothing_otherwise(
    facts: dict[str, Any],
    envelope: dict[str, Any] | None,
    decoded: str | None,
    headers: dict[str, str],
) -> None:
    """Whatever is odd in an answer: the quick reader gives the careful one's task, or none."""
    outer = None if envelope is None else changed({"code": 0, "request_id": "r"}, envelope)
    quick, careful = both(changed(DOCUMENTED, facts), outer, decoded, headers)
    if quick is not None:
        assert careful is not None
        assert attrs.asdict(quick, recurse=False) == attrs.asdict(careful, recurse=False)
        assert type(quick.status) is type(careful.status) is TaskStatus


@pytest.mark.parametrize("word", ["submitted", "processing", "succeed"])
@pytest.mark.parametrize("envelope", [None, {"code": 0, "request_id": "r"}])
@pytest.mark.parametrize("decoded", [None, "878106242831892487"])
def test_documented_answers_are_read_quickly(
    word: str, envelope: dict[str, Any] | None, decoded: str | None
) -> None:
    """An answer as Kling documents it, alone or in a list, takes the quick way."""
    facts = json.loads(json.dumps(DOCUMENTED | {"task_status": word}))
    quick, careful = both(facts, envelope, decoded, {})
    assert quick is not None
    assert quick == careful
    assert (quick.status, len(quick.images), quick.external_task_id) == (word, 2, "order-17")
