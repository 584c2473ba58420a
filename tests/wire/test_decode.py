"""Answers in, values or errors out: every recorded shape, every class of error, and noise."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from comet_async._wire.decode import (
    Notification,
    Reply,
    decode_created,
    decode_notification,
    decode_page,
    decode_task,
    retry_after,
)
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
from comet_async.models import Task, TaskPage, TaskStatus

SAMPLES = Path(__file__).parents[1] / "samples"
OURS = "ce1-order-17"


def reply(answer: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Return an answer; bytes are sent as they are, all else as JSON."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return Reply(status=status, headers=headers or {}, body=body)


def sample(name: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Return a recorded answer."""
    return reply((SAMPLES / name).read_bytes(), status, headers)


def created(answer: Reply) -> Task:
    """Read *answer* as that to a paid request."""
    return decode_created(answer, kind="expand", external_task_id=OURS)


def decoded(answer: Reply, task_id: str | None = None) -> Task:
    """Read *answer* as that to a question for one task."""
    return decode_task(answer, kind="expand", task_id=task_id)


def page(answer: Reply) -> TaskPage:
    """Read *answer* as a page of the list."""
    return decode_page(answer, kind="expand", number=1, size=30)


def kling(**fields: object) -> dict[str, Any]:
    """Return Kling's envelope around a task with *fields*."""
    return {"code": 0, "message": "SUCCEED", "data": {"task_id": "7", **fields}}


def utc(*parts: int) -> datetime:
    """Return a moment in UTC; the last part is milliseconds."""
    return datetime(*parts[:-1], parts[-1] * 1000, tzinfo=UTC)  # type: ignore[misc,arg-type]  # six numbers


# ------------------------------------------------------------------- recorded answers

CREATED: list[tuple[str, dict[str, object]]] = [
    (
        "created.json",
        {
            "id": "878106242831892487",
            "status": TaskStatus.SUBMITTED,
            "request_id": "5b1f6c1e-0f0e-4a57-9a57-2f4f3a1f7c11",
            "created_at": utc(2026, 4, 28, 14, 9, 21, 501),
        },
    ),
    ("created_without_request_id.json", {"id": "861254119619698760", "request_id": None}),
    ("created_other_id.json", {"id": "2032273942220931072", "status": TaskStatus.SUBMITTED}),
    (
        "created_video_object.json",
        {
            "id": "task_7Jq2",
            "status": TaskStatus.SUBMITTED,
            "created_at": utc(2026, 3, 10, 8, 17, 45, 0),
        },
    ),
]

DECODED: list[tuple[str, dict[str, object]]] = [
    (
        "processing.json",
        {
            "id": "878106242831892487",
            "status": TaskStatus.PROCESSING,
            "external_task_id": None,
            "images": (),
            "message": "",
            "units": None,
            "updated_at": utc(2026, 4, 28, 14, 9, 23, 321),
            "done": False,
        },
    ),
    (
        "succeed.json",
        {
            "status": TaskStatus.SUCCEED,
            "external_task_id": "order-17",
            "units": Decimal(16),
            "message": "",
            "succeeded": True,
        },
    ),
    ("succeed_without_index.json", {"units": Decimal(8), "succeeded": True}),
    ("failed.json", {"failed": True, "message": "Image pixel is invalid", "images": ()}),
    ("wrapper_failure.json", {"failed": True, "message": "Image pixel is invalid"}),
    ("wrapper_in_progress.json", {"status": TaskStatus.PROCESSING, "id": "860260753860210752"}),
    ("wrapper_one_deep.json", {"succeeded": True, "id": "860260753860210752"}),
    (
        "wrapper_two_deep.json",
        {
            "succeeded": True,
            "id": "860260753860210752",
            "created_at": utc(2026, 3, 10, 8, 17, 45, 0),
            "updated_at": utc(2026, 3, 10, 8, 19, 50, 0),
            "request_id": "7e91db5f-0000-4000-8000-000000000000",
        },
    ),
    ("single_as_list.json", {"status": TaskStatus.PROCESSING}),
]

# The file, the status it came with, what it means for a paid request and for a question.
ERRORS: list[tuple[str, int, type[CometError], type[CometError]]] = [
    ("error_base64.json", 400, RejectedError, RejectedError),
    ("error_base64.json", 200, RejectedError, RejectedError),
    ("error_parallel.json", 429, ConcurrencyLimitError, ConcurrencyLimitError),
    ("error_balance.json", 429, AccountError, AccountError),
    ("error_wrapped.json", 400, RejectedError, RejectedError),
    ("error_wrapped.json", 500, RejectedError, RejectedError),
    ("error_openai.json", 400, RejectedError, RejectedError),
    ("error_openai.json", 401, AuthenticationError, AuthenticationError),
    ("error_openai.json", 500, OutcomeUnknownError, ServerError),
    ("error_quota.json", 403, AccountError, AccountError),
    ("error_malformed.json", 500, RejectedError, RejectedError),
    ("error_no_channel.json", 503, RejectedError, RejectedError),
    ("error_invalid_url.json", 404, RouteUnavailableError, RouteUnavailableError),
    ("error_no_task.json", 400, RejectedError, NotFoundError),
    ("error_upstream_text.json", 429, ConcurrencyLimitError, ConcurrencyLimitError),
    ("error_saturated.json", 429, RateLimitError, RateLimitError),
    ("error_retired.json", 400, RouteUnavailableError, RouteUnavailableError),
    ("route_missing.json", 200, RouteUnavailableError, RouteUnavailableError),
    ("route_missing.json", 404, RouteUnavailableError, RouteUnavailableError),
    ("route_missing.json", 500, RouteUnavailableError, RouteUnavailableError),
    ("timeout_page.txt", 524, OutcomeUnknownError, ServerError),
    ("timeout_page.txt", 200, OutcomeUnknownError, DecodeError),
    ("empty_list.json", 200, OutcomeUnknownError, NotFoundError),
]


def test_every_recorded_answer_is_used() -> None:
    """No sample lies about unread, and each one has its source."""
    files = {path.name for path in SAMPLES.iterdir()} - {"README.md"}
    used = {row[0] for row in [*CREATED, *DECODED, *ERRORS]}
    sources = (SAMPLES / "README.md").read_text("utf-8")

    assert files == used | {"list.json", "callback.json", "callback_new.json"}
    assert all(f"`{name}`" in sources for name in files)


@pytest.mark.parametrize(("name", "expected"), CREATED, ids=[row[0] for row in CREATED])
def test_recorded_creation(name: str, expected: dict[str, object]) -> None:
    """A recorded answer to a paid request becomes the task it made, under our own id."""
    task = created(sample(name))
    assert {key: getattr(task, key) for key in expected} == expected
    assert task.external_task_id == OURS


@pytest.mark.parametrize(("name", "expected"), DECODED, ids=[row[0] for row in DECODED])
def test_recorded_task(name: str, expected: dict[str, object]) -> None:
    """A recorded answer to a question becomes the task that it shows."""
    task = decoded(sample(name))
    assert {key: getattr(task, key) for key in expected} == expected


@pytest.mark.parametrize(("name", "status", "paid", "asked_for"), ERRORS)
def test_recorded_error(
    name: str, status: int, paid: type[CometError], asked_for: type[CometError]
) -> None:
    """A recorded error means what the tables say, for a paid request and for a question."""
    with pytest.raises(paid) as for_paid:
        created(sample(name, status))
    with pytest.raises(asked_for) as for_read:
        decoded(sample(name, status))
    assert type(for_paid.value) is paid
    assert type(for_read.value) is asked_for


def test_recorded_images() -> None:
    """The images come in order, with their task, and with the watermarked version."""
    task = decoded(sample("succeed.json"))
    assert [(image.index, image.watermark_url) for image in task.images] == [
        (0, None),
        (1, "https://cdn.example/y-mark.png"),
    ]
    assert {(image.task_id, image.kind) for image in task.images} == {(task.id, "expand")}


def test_recorded_list() -> None:
    """A page keeps the server's order, and is the last one when it is short."""
    listed = page(sample("list.json"))
    assert [task.id for task in listed.tasks] == ["878106242831892487", "878106242831892488"]
    assert [task.status for task in listed.tasks] == ["succeed", "processing"]
    assert (listed.number, listed.size, listed.last) == (1, 30, True)


def test_recorded_callbacks() -> None:
    """Both forms of callback name the task and the state that they claim."""
    old = decode_notification(sample("callback.json").body)
    new = decode_notification(sample("callback_new.json").body)
    assert old == Notification(
        task_id="878106242831892487", external_task_id="order-17", status=TaskStatus.SUCCEED
    )
    assert new == Notification(task_id="1234567890", status=TaskStatus.SUCCEED)


# ----------------------------------------------------------------- answers to a paid request

CODE_5001 = {"code": 5001, "message": "under maintenance"}
ACCEPTED = {"code": 1201, "message": "external_task_id already exists"}
HTML = b"<html><head><title>502 Bad Gateway</title></head></html>"
PLAIN = {"message": "something"}

# What came, its HTTP status, and the class. One block per row of the rule it tests.
PAID: list[tuple[object, int, type[CometError]]] = [
    # A success that names no task, or nothing that can be read.
    ({"code": 0, "message": "SUCCEED"}, 200, OutcomeUnknownError),
    ({"code": 0, "data": {"task_id": ""}}, 200, OutcomeUnknownError),
    ({"code": 0, "data": {"task_id": None, "task_status": "submitted"}}, 200, OutcomeUnknownError),
    ({"code": 0, "data": {"task_id": 8.78e17}}, 200, OutcomeUnknownError),
    ({"code": "success", "data": None}, 200, OutcomeUnknownError),
    ({}, 200, OutcomeUnknownError),
    (None, 200, OutcomeUnknownError),
    (b"", 200, OutcomeUnknownError),
    (b"", 204, OutcomeUnknownError),
    (b'{"code":0,"data":{"task_id":"87810', 200, OutcomeUnknownError),
    (b'{"code":0,"message":"\xff"}', 200, OutcomeUnknownError),
    (b"[" * 100_000, 200, OutcomeUnknownError),
    (b'{"code":0,"data":{"task_id":' + b"9" * 5000 + b"}}", 200, OutcomeUnknownError),
    (HTML, 200, OutcomeUnknownError),
    # A proxy may have passed the request on before it said this.
    (HTML, 301, OutcomeUnknownError),
    (kling(task_status="submitted"), 300, OutcomeUnknownError),
    ({"code": 1999}, 307, OutcomeUnknownError),
    (b"", 308, OutcomeUnknownError),
    (HTML, 400, OutcomeUnknownError),
    ({"detail": "no"}, 400, OutcomeUnknownError),
    ({"code": 0, "message": "SUCCEED"}, 400, OutcomeUnknownError),
    (HTML, 401, OutcomeUnknownError),
    (HTML, 402, OutcomeUnknownError),
    (HTML, 403, OutcomeUnknownError),
    (b"", 429, OutcomeUnknownError),
    # The server lost track of it.
    (PLAIN, 408, OutcomeUnknownError),
    (PLAIN, 409, OutcomeUnknownError),
    (PLAIN, 425, OutcomeUnknownError),
    (PLAIN, 499, OutcomeUnknownError),
    (b"", 408, OutcomeUnknownError),
    (b"", 409, OutcomeUnknownError),
    (b"", 425, OutcomeUnknownError),
    (b"", 499, OutcomeUnknownError),
    (b"", 500, OutcomeUnknownError),
    (PLAIN, 500, OutcomeUnknownError),
    ({"code": 5000, "message": "internal"}, 500, OutcomeUnknownError),
    (HTML, 502, OutcomeUnknownError),
    (HTML, 503, OutcomeUnknownError),
    (PLAIN, 503, OutcomeUnknownError),
    ({"code": 5002, "message": "timed out"}, 504, OutcomeUnknownError),
    *[(HTML, status, OutcomeUnknownError) for status in range(520, 528)],
    ({"code": "do_request_failed", "message": "x"}, 500, OutcomeUnknownError),
    ({"code": "fail_to_fetch_task", "message": "bad gateway"}, 502, OutcomeUnknownError),
    # Not accepted, but under a status that says otherwise.
    (CODE_5001, 504, OutcomeUnknownError),
    ({"code": 1303}, 524, OutcomeUnknownError),
    ({"code": 1302}, 408, OutcomeUnknownError),
    # Not accepted: send it again later.
    ({"code": 1302, "message": "too fast"}, 429, RateLimitError),
    ({"code": 1303}, 200, ConcurrencyLimitError),
    ({"code": "1303"}, 429, ConcurrencyLimitError),
    ({"code": 1303.0}, 429, ConcurrencyLimitError),
    (PLAIN, 429, RateLimitError),
    ({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, 429, RateLimitError),
    ({"code": "task_failed", "message": "parallel task over resource pack limit"}, 400,
     ConcurrencyLimitError),
    (CODE_5001, 503, ServerError),
    # The account, the key.
    *[({"code": code}, 429, AccountError) for code in (1100, 1101, 1102, 1304)],
    ({"code": 1103}, 403, AccountError),
    (PLAIN, 402, AccountError),
    (PLAIN, 403, AccountError),
    ({"code": "pre_consume_token_quota_failed", "message": "x"}, 403, AccountError),
    ({"error": {"message": "user quota is not enough", "code": ""}}, 400, AccountError),
    ({"error": {"message": "余额不足"}}, 429, AccountError),
    *[({"code": code}, 401, AuthenticationError) for code in range(1000, 1005)],
    (PLAIN, 401, AuthenticationError),
    # Refused for what it says, whatever the gateway made of the status.
    *[({"code": code}, 400, RejectedError) for code in (1200, 1201, 1300, 1301)],
    *[({"code": code}, 404, RejectedError) for code in (1202, 1203)],
    ({"code": 1201, "message": "image can not be null"}, 502, RejectedError),
    ({"code": 1201, "message": "image can not be null"}, 409, RejectedError),
    ({"code": "task_failed", "message": "image can not be null"}, 400, RejectedError),
    ({"code": 1399, "message": "a new one"}, 400, RejectedError),
    ({"error": "image can not be null"}, 422, RejectedError),
    (b"", 413, RejectedError),
    (PLAIN, 413, RejectedError),
    ({"code": "invalid_request", "message": "x"}, 500, RejectedError),
    ({"code": "READ_REQUEST_BODY_FAILED", "message": "x"}, 400, RejectedError),
    # The external id is taken: it was paid before.
    (ACCEPTED, 400, DuplicateTaskError),
    (ACCEPTED, 500, DuplicateTaskError),
    (PLAIN | {"message": "externalTaskId must be unique"}, 400, DuplicateTaskError),
    (PLAIN | {"message": "Duplicate external task id"}, 409, DuplicateTaskError),
    (PLAIN | {"message": "the task already exists"}, 400, DuplicateTaskError),
    (ACCEPTED | {"message": "external_task_id 重复"}, 400, DuplicateTaskError),
    (ACCEPTED | {"message": "external_task_id does not exist"}, 400, RejectedError),
    (ACCEPTED | {"message": "external_task_id is too long"}, 400, RejectedError),
    # No such route.
    (HTML, 404, RouteUnavailableError),
    (b"", 404, RouteUnavailableError),
    ({"code": 404, "message": "Not Found"}, 404, RouteUnavailableError),
    ({"code": None, "message": 404}, 401, RouteUnavailableError),
    ({"error": {"message": "API not implemented", "code": "api_not_implemented"}}, 501,
     RouteUnavailableError),
]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    PAID,
    ids=[f"{number}-{row[1]}-{row[2].__name__}" for number, row in enumerate(PAID)],
)
def test_answer_to_a_paid_request(answer: object, status: int, expected: type[CometError]) -> None:
    """What is not surely refused is unknown; what is surely refused says how."""
    with pytest.raises(expected) as caught:
        created(reply(answer, status))
    error = caught.value
    assert type(error) is expected
    assert (error.external_task_id, error.status) == (OURS, status)
    assert error.hint


def test_what_may_be_sent_again() -> None:
    """Only "not accepted, come back" and a token to be signed anew allow another request."""
    again = {
        (json.dumps(answer), status)
        for answer, status, _ in PAID
        if not isinstance(answer, bytes) and _refusal(answer, status).retryable
    }
    codes = {json.loads(answer).get("code") for answer, _ in again}
    assert codes == {1302, 1303, "1303", 5001, 1003, 1004, "task_failed", None}
    assert {status for _, status in again} == {200, 400, 401, 429, 503}


def _refusal(answer: object, status: int) -> CometError:
    with pytest.raises(CometError) as caught:
        created(reply(answer, status))
    return caught.value


@pytest.mark.parametrize(
    "words",
    [
        "external_task_id '{}' already exists",
        "task {} already exists",
        "duplicate value {} for external_task_id",
    ],
)
def test_a_duplicate_is_recognized_whatever_the_length_of_its_id(words: str) -> None:
    """A refusal that quotes the longest possible id still says that the task is paid."""
    answer = ACCEPTED | {"message": words.format("é" * 255)}
    assert type(_refusal(answer, 400)) is DuplicateTaskError


def test_not_accepted_says_that_it_was_sent() -> None:
    """The server's own refusal proves that the request reached it."""
    assert _refusal(CODE_5001, 503).sent is True
    assert _refusal({}, 200).sent is None


@pytest.mark.parametrize(
    ("code", "status"),
    [(1303, 200), (1303, 429), (1201, 400), (1201, 200), (1002, 401), (1102, 429), (5001, 503)],
)
def test_a_named_task_is_never_paid_again(code: int, status: int) -> None:
    """Whatever an answer says besides, one that names a task leaves the outcome open."""
    error = _refusal({"code": code, "message": "bad", "data": {"task_id": "7"}}, status)
    assert type(error) is OutcomeUnknownError
    assert error.task_id == "7"
    assert error.code == code


@pytest.mark.parametrize(
    "answer",
    [
        {"code": 1201, "data": [{"task_id": "7"}]},
        {"code": 1201, "error": {"task_id": 7}},
        {"code": 1201, "taskId": "7"},
        {"code": 1201, "data": {"task_id": "../../x?y#z"}},
        {"code": "fail_to_fetch_task", "message": '{"code": 1201, "data": {"task_id": "7"}}'},
    ],
    ids=["list", "error", "camel case", "unusable", "in a text"],
)
def test_a_task_is_named_anywhere(answer: object) -> None:
    """Where the id stands, and whether it can be asked for, makes no difference."""
    assert type(_refusal(answer, 400)) is OutcomeUnknownError


@pytest.mark.parametrize("value", [None, "", 0])
def test_an_empty_id_names_no_task(value: object) -> None:
    """Servers fill the fields of a refusal with nothing."""
    assert type(_refusal({"code": 1201, "data": {"task_id": value}}, 400)) is RejectedError


def test_a_duplicate_may_name_the_first_task() -> None:
    """It says more than "open": the request was accepted earlier."""
    answer = {"code": 1201, "message": "external_task_id exists", "data": {"task_id": "7"}}
    assert type(_refusal(answer, 400)) is DuplicateTaskError


UNUSABLE = ["../../x?y#z", "..", ".", "a b", "a/b", "a%2Fb", "7?x=1", "7#", "é", "a\\b", "x" * 257]


@pytest.mark.parametrize("task_id", UNUSABLE)
def test_an_id_that_can_not_be_asked_for_is_not_an_id(task_id: str) -> None:
    """The request is looked up by its own id instead."""
    assert type(_refusal(kling(task_id=task_id, task_status="submitted"), 200)) is (
        OutcomeUnknownError
    )
    assert decoded(reply(kling(task_id=task_id, task_status="submitted")), "7").id == "7"
    with pytest.raises(DecodeError):
        page(reply({"code": 0, "data": [{"task_id": task_id, "task_status": "submitted"}]}))


@pytest.mark.parametrize("task_id", ["8781", "ce1-a.b_c", "cgt-2026:7", "a==", "v~1@x+y"])
def test_ids_of_other_families_can_be_asked_for(task_id: str) -> None:
    """Whatever can stand in a path."""
    assert created(reply(kling(task_id=task_id))).id == task_id


@pytest.mark.parametrize(
    "answer",
    [
        {"code": "0", "data": {"task_id": "7"}},
        {"data": {"task_id": "7"}},
        {"code": "Success", "data": {"task_id": "7", "status": "SUBMITTED"}},
        {"code": 20000, "data": {"task_id": 7}},
        {"code": 0, "data": [{"task_id": "7"}]},
        {"task_id": "7"},
    ],
)
def test_a_paid_request_needs_only_an_id(answer: object) -> None:
    """Whatever the word for success, an id makes the task, submitted unless told otherwise."""
    task = created(reply(answer))
    assert (task.id, task.status, task.external_task_id) == ("7", TaskStatus.SUBMITTED, OURS)


@pytest.mark.parametrize("status", [300, 301, 308])
def test_redirect_points_at_the_address(status: int) -> None:
    """A redirected paid request is open, and the hint names the likely mistake."""
    assert "API root" in str(_refusal(b"", status))


def test_how_an_error_reads() -> None:
    """What happened, in whose words, under which numbers, and what to do."""
    assert str(_refusal({"code": 1201, "message": "image can not be null"}, 400)) == (
        "the request was refused: image can not be null [HTTP 400, code 1201] "
        "(change the request, then send it again)"
    )
    assert str(_refusal(b"", 413)) == (
        "the request is too large: an empty answer [HTTP 413] (send a smaller image)"
    )


def test_missing_route_names_the_other_gateway() -> None:
    """The error says that CometAPI itself says so, and where to go."""
    text = str(_refusal({"code": None, "message": "404"}, 200))
    assert "CometAPI's own page" in text
    assert "KLING_API_KEY" in text


def test_clock_hint() -> None:
    """A token from the future is most likely a clock that runs ahead."""
    assert "clock" in str(_refusal({"code": 1003}, 401))


# --------------------------------------------------------------------- answers to a question

READ: list[tuple[object, int, type[CometError], str]] = [
    (b"", 200, DecodeError, "$"),
    (b"not JSON", 200, DecodeError, "$"),
    (b"[1, 2", 200, DecodeError, "$"),
    (HTML, 403, DecodeError, "$"),
    (b"<p>", 400, DecodeError, "$"),
    (b"", 302, DecodeError, "$"),
    ([], 200, DecodeError, "$"),
    ({}, 200, DecodeError, "$.task_id"),
    ({"code": 0, "data": None}, 200, DecodeError, "$.data"),
    ({"code": 0, "data": "soon"}, 200, DecodeError, "$.data"),
    ({"code": 0, "data": {}}, 200, DecodeError, "$.data.task_id"),
    ({"code": 1999, "data": []}, 200, DecodeError, "$.data"),
    ({"code": 0, "data": [{"task_id": "1"}, {"task_id": "2"}]}, 200, DecodeError, "$.data"),
    ({"code": 0, "data": [{"task_id": "8"}]}, 200, DecodeError, "$.data"),
    ({"code": 0, "data": []}, 200, NotFoundError, ""),
    ({"code": 1203}, 404, NotFoundError, ""),
    ({"error": {"message": "Task not found"}}, 404, NotFoundError, ""),
    ({"code": 1201, "message": "task does not exist"}, 400, NotFoundError, ""),
    ({"code": 1201, "message": "task_id is invalid"}, 400, RejectedError, ""),
    ({"message": "x", "data": {"task_id": "7", "data": {"code": 1203}}}, 200, NotFoundError, ""),
    (kling(task_status="succeed"), 500, ServerError, ""),
    (b"", 404, RouteUnavailableError, ""),
    (b"", 401, AuthenticationError, ""),
    (b"", 402, AccountError, ""),
    (b"", 429, RateLimitError, ""),
    (PLAIN, 408, ServerError, ""),
    (PLAIN, 409, ServerError, ""),
    (HTML, 502, ServerError, ""),
    ({"code": 5000}, 500, ServerError, ""),
    ({"code": "get_task_failed", "message": "x"}, 500, ServerError, ""),
]


@pytest.mark.parametrize(("answer", "status", "expected", "path"), READ)
def test_answer_to_a_read(
    answer: object, status: int, expected: type[CometError], path: str
) -> None:
    """A question's error says what went wrong, and where in the answer."""
    with pytest.raises(expected) as caught:
        decoded(reply(answer, status), "7")
    error = caught.value
    assert type(error) is expected
    assert getattr(error, "path", "") == path
    assert (error.task_id, error.status, error.sent) == ("7", status, True)


def test_error_carries_every_id() -> None:
    """An error has all that support or a later try needs."""
    answer = sample("error_quota.json", 403, {"retry-after": "7"})
    with pytest.raises(AccountError) as caught:
        decode_task(answer, kind="expand", task_id="7", external_task_id=OURS, now=lambda: 0.0)
    error = caught.value
    assert (error.task_id, error.external_task_id) == ("7", OURS)
    assert (error.status, error.code) == (403, "insufficient_user_quota")
    assert error.request_id == "20260205132859798638387SIHCnxzJ"
    assert error.retry_after is None  # trying again does not help


def test_request_id_of_the_body_then_of_the_header() -> None:
    """The body's own id wins; without one the gateway's header is taken."""
    header = {"x-cometapi-request-id": "20260617165550885561292gJBlzjtp"}
    assert decoded(sample("processing.json", headers=header)).request_id == (
        "9ab376fc-9059-487f-9e2a-c9c89f1a344f"
    )
    assert (
        created(sample("created_other_id.json", headers=header)).request_id
        == (header["x-cometapi-request-id"])
    )
    with pytest.raises(RejectedError) as caught:
        created(sample("error_openai.json", 400, header))
    assert caught.value.request_id == header["x-cometapi-request-id"]
    with pytest.raises(ConcurrencyLimitError) as caught_too:
        created(sample("error_parallel.json", 429, header))
    assert caught_too.value.request_id == "5b1f6c1e-0f0e-4a57-9a57-2f4f3a1f7c11"


def test_web_page_is_named_by_its_title() -> None:
    """A proxy's page is told by its title, never quoted."""
    with pytest.raises(ServerError, match=r"a web page, 'api\.cometapi\.com . 524: A timeout"):
        decoded(sample("timeout_page.txt", 524))
    with pytest.raises(DecodeError, match="a web page "):
        decoded(reply(b"<html>"))


# ------------------------------------------------------------------------------ which task


def test_only_our_task_of_a_list() -> None:
    """A gateway that answers with its whole list may still show the one asked for."""
    others = [{"task_id": "1", "task_status": "failed"}, {"task_id": "7", "task_status": "failed"}]
    assert decoded(reply({"code": 0, "data": others}), "7").id == "7"


def test_only_our_external_id_of_a_list() -> None:
    """The same for a question by our own id."""
    tasks = [
        {"task_id": "1", "task_info": {"external_task_id": "another"}},
        {"task_id": "2", "task_info": {"external_task_id": OURS}},
    ]
    found = decode_task(reply({"code": 0, "data": tasks}), kind="expand", external_task_id=OURS)
    assert (found.id, found.external_task_id) == ("2", OURS)


def test_task_keeps_the_id_that_was_asked_for() -> None:
    """A gateway's supplier has ids of its own, by which the gateway can't be asked."""
    assert decoded(reply(kling(task_status="processing")), "gateway-1").id == "gateway-1"


def test_gateways_id_wins_over_its_suppliers() -> None:
    """In a wrapper the outer id is the one that the gateway answers to."""
    answer = {"code": "success", "data": {"task_id": "task_1", "status": "QUEUED"} | kling()}
    assert created(reply(answer)).id == "task_1"


def test_missing_id_is_the_one_asked_for() -> None:
    """A state without an id can only be that of the task asked for."""
    answer = reply({"code": 0, "data": {"task_status": "processing"}})
    assert decoded(answer, "7").id == "7"
    with pytest.raises(DecodeError):
        decoded(answer)


@pytest.mark.parametrize(
    "item", [{"task_status": "processing"}, {"task_id": " "}, {"task_id": True}, None, [], "7"]
)
def test_page_with_a_gap_is_refused(item: object) -> None:
    """A page is evidence of absence too, so it is read whole or not at all."""
    with pytest.raises(DecodeError) as caught:
        page(reply({"code": 0, "data": [{"task_id": "7"}, item]}))
    assert (caught.value.path, caught.value.sent) == ("$.data[1].task_id", True)


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        ({"code": 1203}, 404, RouteUnavailableError),
        (HTML, 404, RouteUnavailableError),
        ({"code": 1303, "data": []}, 200, ConcurrencyLimitError),
        ({"code": 4711, "data": []}, 200, DecodeError),
        ({"code": 0, "data": None}, 200, DecodeError),
        (kling(), 200, DecodeError),
        (b"", 500, ServerError),
    ],
)
def test_page_errors(answer: object, status: int, expected: type[CometError]) -> None:
    """A missing list is a missing route, never an absent task, and never an empty page."""
    with pytest.raises(expected) as caught:
        page(reply(answer, status))
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {"code": 0, "data": []},
        {"code": "success", "data": {"code": 0, "data": []}},
    ],
)
def test_empty_page(answer: object) -> None:
    """An empty list is an empty page, wrapped or not."""
    assert page(reply(answer)).tasks == ()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"task_id": "7"}, Notification(task_id="7")),
        ({"id": 7, "status": "odd"}, Notification(task_id="7", status="odd")),
        ({"external_id": OURS, "status": "failed"},
         Notification(external_task_id=OURS, status=TaskStatus.FAILED)),
        (kling(task_status="SUCCEED"), Notification(task_id="7", status=TaskStatus.SUCCEED)),
    ],
)  # fmt: skip
def test_notification(body: object, expected: Notification) -> None:
    """A callback needs one id; all else it may leave out."""
    assert decode_notification(json.dumps(body).encode()) == expected


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"task_id": ""}', b'{"task_id"', b"\xff"])
def test_notification_of_nothing(body: bytes) -> None:
    """A callback that names no task is refused."""
    with pytest.raises(DecodeError):
        decode_notification(body)


# ------------------------------------------------------------------------------ odd fields


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"task_status": "SUCCEED"}, TaskStatus.SUCCEED),
        ({"task_status": " Succeeded "}, TaskStatus.SUCCEED),
        ({"task_status": "reviewing"}, "reviewing"),
        ({"task_status": "a\nb" + " cd" * 99}, "a b" + " cd" * 20 + "…"),
        ({"task_status": "\x07"}, "unknown"),
        ({"task_status": None}, "unknown"),
        ({"task_status": 3}, "unknown"),
        ({"task_status": "", "status": "FAILURE"}, TaskStatus.FAILED),
        ({}, "unknown"),
    ],
)
def test_states(fields: dict[str, object], expected: str) -> None:
    """Known words in any case, new words as they are, and a plain word for none."""
    assert decoded(reply(kling(**fields))).status == expected


NO_TIMES: list[object] = [0, 1, -5, 10**30, True, None, "soon", "nan", float("nan"), []]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1777385361501, utc(2026, 4, 28, 14, 9, 21, 501)),
        (1777385361, utc(2026, 4, 28, 14, 9, 21, 0)),
        ("1777385361501", utc(2026, 4, 28, 14, 9, 21, 501)),
        (1777385361.5, utc(2026, 4, 28, 14, 9, 21, 500)),
        *[(value, None) for value in NO_TIMES],
    ],
    ids=repr,
)
def test_times(value: object, expected: datetime | None) -> None:
    """Milliseconds and seconds, numbers and text; placeholders and nonsense are nothing."""
    assert decoded(reply(kling(created_at=value))).created_at == expected


def test_times_of_a_wrapper_alone() -> None:
    """Without Kling's object the wrapper's own times serve, zeros left out."""
    task = decoded(sample("wrapper_in_progress.json"))
    assert task.created_at == utc(2026, 3, 10, 8, 17, 45, 0)
    assert task.updated_at == utc(2026, 3, 10, 8, 18, 35, 0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("16", Decimal(16)),
        (8, Decimal(8)),
        (0.5, Decimal("0.5")),
        ("0.028", Decimal("0.028")),
        *[
            (value, None)
            for value in (None, "", "free", "NaN", "Infinity", "1e999999", "9" * 50, True)
        ],
    ],
    ids=repr,
)
def test_units(value: object, expected: Decimal | None) -> None:
    """What was charged is exact, whether text or number; nonsense is nothing."""
    assert decoded(reply(kling(final_unit_deduction=value))).units == expected


@pytest.mark.parametrize(
    ("indexes", "expected"),
    [
        ([1, 0], ["b", "a"]),
        (["1", "0"], ["b", "a"]),
        ([None, None], ["a", "b"]),
        ([0, 0], ["a", "b"]),
        ([1, None], ["a", "b"]),
        (["x", 0], ["a", "b"]),
        ([-1, 0], ["a", "b"]),
    ],
)
def test_indexes(indexes: list[object], expected: list[str]) -> None:
    """Images stand by their own index, or by their place when those are no use."""
    images = [{"index": index, "url": url} for index, url in zip(indexes, "ab", strict=True)]
    task = decoded(reply(kling(task_status="succeed", task_result={"images": images})))
    assert [image.url for image in task.images] == expected
    assert [image.index for image in task.images] == [0, 1]


@pytest.mark.parametrize("item", [None, "a", {}, {"url": None}, {"url": " "}, {"url": 7}])
def test_image_without_an_address(item: object) -> None:
    """What has no address is left out; the others keep their places."""
    images = [item, {"url": "https://cdn.example/b.png"}]
    task = decoded(reply(kling(task_status="succeed", task_result={"images": images})))
    assert [image.index for image in task.images] == [1]


@pytest.mark.parametrize(
    "result",
    [None, {}, [], "x", "{", '{"images": []}', {"images": None}, {"images": {}}, {"images": ["a"]}],
)
def test_no_result(result: object) -> None:
    """A result that is none leaves the task without images."""
    assert decoded(reply(kling(task_status="succeed", task_result=result))).images == ()


A, B = "https://cdn.example/a.png?sign=1", "https://cdn.example/b.png"


@pytest.mark.parametrize(
    "result",
    [
        {"images": [A, B]},
        {"images": [f" {A} ", {"url": B}]},
        {"images": [json.dumps({"index": 1, "url": B}), json.dumps({"index": 0, "url": A})]},
        {"images": json.dumps([A, B])},
        {"images": json.dumps([{"index": 0, "url": A}, {"index": 1, "url": B}])},
        json.dumps({"images": [{"url": A}, {"url": B}]}),
        [{"url": A}, {"url": B}],
        [A, B],
        json.dumps([A, B]),
    ],
)
def test_images_in_other_forms(result: object) -> None:
    """Plain addresses, JSON written as text, and a result that is the list itself."""
    task = decoded(reply(kling(task_status="succeed", task_result=result)))
    assert [(image.index, image.url) for image in task.images] == [(0, A), (1, B)]


@pytest.mark.parametrize("images", [A, {"url": A}, json.dumps({"url": A})])
def test_one_image_without_a_list(images: object) -> None:
    """A list of one is left out by some."""
    task = decoded(reply(kling(task_status="succeed", task_result={"images": images})))
    assert [(image.index, image.url) for image in task.images] == [(0, A)]


def test_a_swamp_of_images() -> None:
    """A body that is all images does not become as many objects."""
    images = [{"url": A}] * 5000
    task = decoded(reply(kling(task_status="succeed", task_result={"images": images})))
    assert len(task.images) == 500


def test_a_swamp_of_tasks() -> None:
    """A page with more tasks than anybody may ask for is not the last one."""
    tasks = [{"task_id": str(number), "task_status": "submitted"} for number in range(5000)]
    answer = reply({"code": 0, "data": tasks})
    found = decode_page(answer, kind="expand", number=1, size=500)
    assert len(found.tasks) == 500
    assert not found.last


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("canceled", "the status is 'canceled'"),
        ("TIMED_OUT", "the status is 'TIMED_OUT'"),
        ("failed", ""),
    ],
)
def test_an_end_without_a_reason_has_its_word(word: str, reason: str) -> None:
    """The server's own reason comes first."""
    assert decoded(reply(kling(task_status=word))).message == reason
    shown = decoded(reply(kling(task_status=word, task_status_msg="by the platform")))
    assert (shown.status, shown.message) == (TaskStatus.FAILED, "by the platform")


@pytest.mark.parametrize("word", ["rendering", "partially_completed"])
def test_images_beside_an_unknown_status_are_kept(word: str) -> None:
    """Whether they are the result is for the waiter to find out."""
    task = decoded(reply(kling(task_status=word, task_result={"images": [A]})))
    assert (task.status, [image.url for image in task.images]) == (word, [A])


@pytest.mark.parametrize("key", ["result_url", "fail_reason"])
def test_result_beside_the_task(key: str) -> None:
    """Some gateways put the one address next to the task, even where reasons stand."""
    wrapper = {"task_id": "7", "status": "SUCCESS", key: "https://cdn.example/a.png"}
    task = decoded(reply({"code": "success", "data": wrapper}))
    assert [image.url for image in task.images] == ["https://cdn.example/a.png"]
    assert task.message == ""


@pytest.mark.parametrize("info", [None, {}, [], {"external_task_id": ""}, {"external_task_id": {}}])
def test_no_external_id(info: object) -> None:
    """An empty echo, as in Kling's own sample, is none."""
    assert decoded(reply(kling(task_info=info))).external_task_id is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"task_status_msg": None}, ""),
        ({"task_status_msg": "SUCCEED"}, ""),
        ({"task_status_msg": "", "fail_reason": "no\nway"}, "no way"),
        ({"fail_reason": '{"code":1301,"message":"blocked"}'}, "blocked"),
        ({"message": "SUCCEED", "task_status_msg": "why"}, "why"),
    ],
)
def test_reasons(fields: dict[str, object], expected: str) -> None:
    """Why a task failed comes from where reasons stand, never from a word for success."""
    task = decoded(reply(kling(task_status="failed", **fields)))
    assert (task.message, task.failed) == (expected, True)


def test_klings_reason_before_the_gateways() -> None:
    """Of two reasons the one nearest to the task is reported."""
    wrapper = {"task_id": "7", "status": "FAILURE", "fail_reason": "upstream"}
    inner = {"task_id": "7", "task_status": "failed", "task_status_msg": "why"}
    assert decoded(reply({"code": "success", "data": wrapper | {"data": inner}})).message == "why"


def test_only_failed_tasks_have_a_reason() -> None:
    """Text beside a task that goes on is no reason for anything."""
    assert decoded(reply(kling(task_status="processing", task_status_msg="busy"))).message == ""


@pytest.mark.parametrize(("inner", "failed"), [("processing", True), ("succeed", False)])
def test_gateway_that_gave_up(inner: str, failed: bool) -> None:
    """A wrapper's failure ends a task that Kling's last seen object shows as running."""
    wrapper = {"task_id": "7", "status": "FAILURE", "fail_reason": "timeout"}
    answer = {"code": "success", "data": wrapper | {"data": {"task_status": inner}}}
    assert decoded(reply(answer)).failed is failed


def test_raw_is_the_servers_own_object() -> None:
    """What the library does not know stays there to be read, and only to be read."""
    task = decoded(reply(kling(task_status="processing", later="new")))
    assert task.raw["later"] == "new"
    with pytest.raises(TypeError):
        task.raw["later"] = "changed"  # type: ignore[index]  # the point of the test


def test_raw_of_a_wrapper_alone() -> None:
    """Without an object of Kling's the wrapper's facts are the raw ones."""
    answer = {"task_id": "7", "status": "SUCCESS", "data": {"task_result": {"images": []}}}
    assert decoded(reply(answer)).raw["status"] == "SUCCESS"


def test_videos() -> None:
    """Another kind's results stand under another key."""
    result = {"videos": [{"id": "v", "url": "https://cdn.example/a.mp4", "duration": "5"}]}
    answer = reply(kling(task_status="succeed", task_result=result))
    task = decode_task(answer, kind="text2video")
    assert [image.url for image in task.images] == ["https://cdn.example/a.mp4"]


# ------------------------------------------------------------------------------ waiting

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "3600"}, 3600.0),
        ({"retry-after": "99999999"}, None),
        *[({"retry-after": text}, None) for text in ("", "soon", "nan", "inf", "1e3", "٣")],
        ({"retry-after": "Thu, 01 Jan 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Thu, 01 Jan 2026 12:00:30 -0000"}, 30.0),
        ({"retry-after": "Thu, 01 Jan 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Thu, 01 Jan 2099 12:00:00 GMT"}, None),
        ({"retry-after": "Thu, 99 Jan 2026 12:00:00 GMT"}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    """Seconds, milliseconds and dates; nonsense and more than a day say nothing."""
    assert retry_after(headers, now=NOON) == expected


def test_retry_after_date_needs_a_clock() -> None:
    """Without a clock a date says nothing."""
    headers = {"retry-after": "Thu, 01 Jan 2026 12:00:30 GMT"}
    assert retry_after(headers, now=None) is None


# ------------------------------------------------------------------------------ properties

WORDS = st.sampled_from(["submitted", "processing", "succeed", "failed", "reviewing"])
TIMES = st.integers(1_600_000_000_000, 1_900_000_000_000)
IMAGES = st.lists(st.fixed_dictionaries({"url": st.just("https://cdn.example/a.png")}), max_size=3)
OBJECTS = st.fixed_dictionaries(
    {"task_id": st.integers(10**17, 10**18).map(str), "task_status": WORDS},
    optional={
        "task_status_msg": st.sampled_from(["", "Image pixel is invalid"]),
        "task_info": st.sampled_from([{}, {"external_task_id": OURS}]),
        "task_result": st.none() | st.fixed_dictionaries({"images": IMAGES}),
        "created_at": TIMES,
        "updated_at": TIMES,
        "final_unit_deduction": st.sampled_from(["8", 8, 0.5]),
        "unheard_of": st.text(),
    },
)
GATEWAY_WORDS = {
    "submitted": "SUBMITTED",
    "processing": "IN_PROGRESS",
    "succeed": "SUCCESS",
    "failed": "FAILURE",
    "reviewing": "UNKNOWN",
}


def wrapped(task: dict[str, Any], form: str) -> object:
    """Return *task* as one of the gateways shows it."""
    bare = {"code": 0, "message": "SUCCEED", "request_id": "r", "data": task}
    wrapper = {
        "task_id": task["task_id"],
        "status": GATEWAY_WORDS[task["task_status"]],
        "fail_reason": "",
        "progress": "30%",
        "data": task,
    }
    forms: dict[str, object] = {
        "list": bare | {"data": [task]},
        "text code": bare | {"code": "0"},
        "no code": {"data": task},
        "no envelope": task,
        "one deep": {"code": "success", "message": "", "data": wrapper},
        "two deep": {"code": "success", "data": wrapper | {"data": bare}},
        "id outside": bare | {"task_id": task["task_id"]},
        "list of wrappers": {"code": "success", "data": [wrapper]},
    }
    return forms[form]


FORMS = [
    "list", "text code", "no code", "no envelope",
    "one deep", "two deep", "id outside", "list of wrappers",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@given(OBJECTS)
def test_every_wrapper_gives_the_same_task(form: str, task: dict[str, Any]) -> None:
    """What a gateway puts around Kling's object changes nothing in the task."""
    bare = reply({"code": 0, "message": "SUCCEED", "data": task})
    assert decoded(reply(wrapped(task, form)), task["task_id"]) == decoded(bare, task["task_id"])


@given(OBJECTS, st.sampled_from(FORMS))
def test_every_wrapper_in_a_list(task: dict[str, Any], form: str) -> None:
    """A page reads each of its tasks as a question reads one."""
    if form in ("list", "list of wrappers"):
        form = "no envelope"
    listed = page(reply({"code": 0, "data": [wrapped(task, form)]}))
    assert listed.tasks == (decoded(reply({"code": 0, "data": task})),)


KEYS = st.sampled_from([
    "code", "message", "msg", "data", "error", "request_id", "task_id", "id", "task_status",
    "task_info", "task_result", "images", "url", "index", "status", "fail_reason",
    "result_url", "created_at", "final_unit_deduction",
])  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([0, 1201, 1303, 5001, "success", "succeed", "404", "task_not_exist"])
    | st.sampled_from(['{"code":1303}', "9" * 30, "\ud800", 10**400, "https://cdn.example/a.png"])
)
ANY_JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)
BODIES = st.binary(max_size=60) | ANY_JSON.map(lambda value: json.dumps(value).encode())
STATUSES = st.integers(-1, 700) | st.sampled_from([200, 200, 200, 400, 404, 429, 500, 503])
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "x-cometapi-request-id", "date"]),
    st.text(max_size=40) | st.sampled_from(["7", "Thu, 01 Jan 2026 12:00:30 GMT"]),
)


@given(BODIES, STATUSES, HEADERS)
def test_noise(body: bytes, status: int, headers: dict[str, str]) -> None:
    """Whatever comes, a value comes out or an error of ours, short and on one line."""
    answer = Reply(status=status, headers=headers, body=body)
    for decode in (
        lambda: decode_created(answer, kind="expand", external_task_id=OURS, now=lambda: NOON),
        lambda: decode_task(answer, kind="expand", task_id="7", now=lambda: NOON),
        lambda: decode_task(answer, kind="expand", external_task_id=OURS),
        lambda: decode_page(answer, kind="expand", number=1, size=30, now=lambda: NOON),
        lambda: decode_notification(body),
    ):
        try:
            decode()
        except CometError as error:
            assert len(error.message) <= 300  # noqa: PT017 - both ways out are right
            assert error.message.isprintable()  # noqa: PT017 - the same
            str(error).encode()


DATES = st.sampled_from(["Thu, 01 Jan 0001 00:00:00 +2359", "1 Jan 99999 0", "1 Jan 26 0:0 -9999"])


@given(st.text(max_size=200) | DATES)
def test_noise_in_retry_after(value: str) -> None:
    """No header makes the reader of headers fail, or makes us wait backwards."""
    seconds = retry_after({"retry-after": value, "retry-after-ms": value}, now=NOON)
    assert seconds is None or 0 <= seconds <= 86_400


CANARY = "sk-canary-0123456789abcdefghij"
IMAGE = base64.b64encode(bytes(range(256)) * 2).decode()
LEAKS = [
    CANARY,
    f"Bearer {CANARY[3:]}",
    "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJjYW5hcnkifQ.canary",
    f"data:image/png;base64,{IMAGE}",
    "\n".join(IMAGE[start : start + 76] for start in range(0, len(IMAGE), 76)),
    base64.urlsafe_b64encode(bytes(range(256))).decode(),
    "https://cdn.example/a.png?auth=canary&x=canary",
]


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("status", [200, 400, 401, 500])
@pytest.mark.parametrize("field", ["message", "code", "request_id"])
def test_nothing_secret_in_an_error(leak: str, status: int, field: str) -> None:
    """A key, a token, an image or a signed address in an answer stays out of the error."""
    answer = {"code": 1201, "message": "no", field: f"it says {leak} here"}
    for body in (answer, {"error": answer}, {"message": json.dumps(answer)}):
        for decode in (created, decoded, page):
            with pytest.raises(CometError) as caught:
                decode(reply(body, status))
            shown = f"{caught.value} {caught.value!r} {vars(caught.value)}".lower()
            assert "canary" not in shown
            assert all(IMAGE[at : at + 40].lower() not in shown for at in range(0, 600, 20))


@pytest.mark.parametrize("leak", LEAKS)
def test_nothing_secret_in_a_reason(leak: str) -> None:
    """The reason of a failed task is cleaned as an error's text is."""
    task = decoded(reply(kling(task_status="failed", task_status_msg=f"can't read {leak}")))
    assert task.message.startswith("can't read")
    assert "canary" not in f"{task!r}"


def test_a_swamp_of_objects() -> None:
    """An error that buries its code under thousands of objects is not dug through."""
    swamp = {"message": "no", "data": {"items": [{"x": [{}] * 50}] * 50, "deep": {"code": 1201}}}
    assert type(_refusal(swamp, 400)) is RejectedError
    buried: dict[str, Any] = {"message": "no", "data": [[[{"code": 1303}]]]}
    for _ in range(9):
        buried = {"message": "no", "x": [{}] * 40, "data": buried}
    assert _refusal(buried, 400).code is None


def test_an_answer_does_not_show_its_body() -> None:
    """A reply's repr names the status only."""
    assert repr(sample("succeed.json", headers={"set-cookie": "canary"})) == "Reply(status=200)"
