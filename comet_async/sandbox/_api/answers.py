"""The bodies of answers, in the forms of both services.

Written from the services' documents and from captured answers, without the library's help.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import attrs

from comet_async.sandbox._api.refusals import (
    CODES,
    AccountRefusalError,
    BodyTooLargeError,
    MalformedBodyError,
    RefusalError,
)
from comet_async.sandbox.ledger import UNITS, USD
from comet_async.sandbox.options import Options, Profile, Shape
from comet_async.sandbox.tasks import SandboxTask

NOT_FOUND_PAGE = (
    "<!DOCTYPE html><html><head><title>404 Not Found</title></head>"
    "<body><center><h1>404 Not Found</h1></center></body></html>"
)

# What a new-api gateway says for "the group's upstream is saturated, try again later"
# (https://github.com/QuantumNous/new-api, relay/relay_task.go).
_SATURATED = "当前分组上游负载已饱和\uff0c请稍后再试"

_WRAPPER_WORDS = {
    "submitted": "SUBMITTED",
    "processing": "IN_PROGRESS",
    "succeed": "SUCCESS",
    "failed": "FAILURE",
}
_PROGRESS = {"submitted": "0%", "processing": "30%", "succeed": "100%", "failed": "100%"}


@attrs.frozen(kw_only=True)
class Answer:
    """One HTTP answer.

    Attributes:
        status: HTTP status.
        body: Its bytes.
        content_type: Header ``Content-Type``.
        headers: Other headers.
    """

    status: int = 200
    body: bytes = attrs.field(default=b"", repr=False)
    content_type: str = "application/json; charset=utf-8"
    headers: Mapping[str, str] = attrs.field(factory=dict)

    def with_headers(self, headers: Mapping[str, str]) -> Answer:
        """Return the answer with more headers."""
        return attrs.evolve(self, headers={**self.headers, **headers})


def json_answer(value: object, status: int = 200) -> Answer:
    """Return *value* as a JSON answer."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # A path may hold bytes that are not UTF-8; they must not turn an answer into a failure.
    return Answer(status=status, body=text.encode(errors="replace"))


def html_answer(text: str, status: int) -> Answer:
    """Return a page."""
    body = text.encode(errors="replace")
    return Answer(status=status, body=body, content_type="text/html; charset=utf-8")


@attrs.frozen(kw_only=True)
class Dialect:
    """How one service speaks, for one exchange.

    Attributes:
        profile: Which service.
        options: The sandbox's switches.
        request_id: Kling's id of this exchange.
        comet_id: CometAPI's id of this exchange.
        image_urls: Return the address of a task's image: task, index, watermarked.
    """

    profile: Profile
    options: Options
    request_id: str
    comet_id: str
    image_urls: Callable[[SandboxTask, int, bool], str]

    # ------------------------------------------------------------------ good answers

    def created(self, task: SandboxTask) -> Answer:
        """Answer a create call that was accepted."""
        shown = {
            "task_id": task.id,
            "task_status": self._word(task, "submitted"),
            "task_info": self._info(task),
            "created_at": task.created_ms,
            "updated_at": task.created_ms,
        }
        envelope = self._envelope(shown, request_id=self.options.request_id_on_create(self.profile))
        return self._shaped(task, envelope, self.options.created_shape)

    def task(self, task: SandboxTask) -> Answer:
        """Answer a query of one task; asking counts, for the switches that rotate."""
        shown = self._shown(task, watermark=self.options.watermark_in_query)
        envelope = self._envelope(shown, request_id=self.options.request_id)
        shape = self.options.shape[task.polls % len(self.options.shape)]
        task.polls += 1
        return self._shaped(task, envelope, shape)

    def page(self, tasks: Sequence[SandboxTask]) -> Answer:
        """Answer the list call."""
        shown = [self._shown(task, watermark=True) for task in tasks]
        return json_answer(self._envelope(shown, request_id=self.options.request_id))

    def notification(self, task: SandboxTask) -> dict[str, Any]:
        """Return the body of a callback, legacy form: the bare task."""
        # Kling API: Callbacks, https://klingai.com/document-api/api/get-started/callbacks
        return self._shown(task, watermark=True)

    def _envelope(self, shown: object, *, request_id: bool) -> dict[str, Any]:
        head: dict[str, Any] = {"code": 0, "message": self.options.message}
        if request_id:
            head["request_id"] = self.request_id
        return head | {"data": shown}

    def _word(self, task: SandboxTask, status: str) -> str:
        words = self.options.words.get(status) or (status,)
        return words[task.polls % len(words)]

    def _info(self, task: SandboxTask) -> dict[str, str]:
        shown = task.external_id and self.options.echo_external_id
        return {"external_task_id": task.external_id} if shown else {}

    def _shown(self, task: SandboxTask, *, watermark: bool) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "task_id": task.id,
            "task_status": self._word(task, task.status),
            "task_info": self._info(task),
            "watermark_info": {"enabled": task.order.watermark},
            "created_at": task.created_ms,
            "updated_at": task.updated_ms,
            "task_result": self._result(task, watermark=watermark),
        }
        return shown | self._status_message(task) | self._deduction(task)

    def _status_message(self, task: SandboxTask) -> dict[str, str | None]:
        if task.message:
            return {"task_status_msg": task.message}
        silent: dict[str, dict[str, str | None]] = {
            "empty": {"task_status_msg": ""},
            "null": {"task_status_msg": None},
            "absent": {},
        }
        return silent[self.options.status_msg]

    def _deduction(self, task: SandboxTask) -> dict[str, Any]:
        if not task.done or not self.options.unit_deduction:
            return {}
        paid = task.order.n if task.status == "succeed" else 0
        money = f"{USD * paid:.3f}"
        return {
            "final_unit_deduction": str(UNITS * paid),
            "final_balance_deduction": {"quota": money, "list_price": money},
        }

    def _result(self, task: SandboxTask, *, watermark: bool) -> dict[str, Any]:
        if task.status != "succeed":
            return {}
        marked = watermark and task.order.watermark
        return {"images": [self._image(task, i, marked=marked) for i in range(task.order.n)]}

    def _image(self, task: SandboxTask, index: int, *, marked: bool) -> dict[str, Any]:
        shown: dict[str, Any] = {"index": index} if self.options.image_index else {}
        shown["url"] = self.image_urls(task, index, False)  # noqa: FBT003 - a callable's argument
        if marked:
            shown["watermark_url"] = self.image_urls(task, index, True)  # noqa: FBT003 - the same
        return shown

    def _shaped(self, task: SandboxTask, envelope: dict[str, Any], shape: Shape) -> Answer:
        shown = envelope["data"]
        if shape == "list":
            return json_answer(envelope | {"data": [shown]})
        if shape == "object":
            return json_answer(envelope)
        data = self._wrapper(task) | {"data": shown if shape == "wrapper" else envelope}
        return json_answer({"code": "success", "message": "", "data": data})

    def _wrapper(self, task: SandboxTask) -> dict[str, Any]:
        """Return the outer object of a new-api gateway, whose times are seconds."""
        started = task.status != "submitted"
        return {
            "task_id": task.id,
            "platform": "kling",
            "action": f"/kling/v1/{task.kind.path}_POST",
            "status": _WRAPPER_WORDS[task.status],
            "fail_reason": task.message,
            "progress": _PROGRESS[task.status],
            "submit_time": task.created_ms // 1000,
            "start_time": task.started_ms // 1000 if started else 0,
            "finish_time": task.updated_ms // 1000 if task.done else 0,
        }

    # ------------------------------------------------------------------ refusals

    def refusal(self, refusal: RefusalError) -> Answer:
        """Answer a call that is refused."""
        if isinstance(refusal, BodyTooLargeError):
            return self._too_large()
        answer = self._comet_refusal(refusal) if self.profile == "comet" else None
        answer = answer or self.coded(refusal.code, refusal.message)
        if refusal.code == 1303 and self.options.retry_after is not None:  # noqa: PLR2004 - Kling's
            answer = answer.with_headers({"Retry-After": self.options.retry_after})
        return attrs.evolve(answer, status=200) if self.options.errors_as_200 else answer

    def coded(self, code: int, message: str = "") -> Answer:
        """Answer with one of Kling's error codes, in the form that the switch asks for."""
        status, usual = CODES[code]
        message = message or usual
        native = {"code": code, "message": message, "request_id": self.request_id}
        shape = self.options.errors_of(self.profile)
        if shape == "wrapped":
            inner = {"data": native, "message": message}
            return json_answer({"message": message, "data": inner}, status)
        if shape == "openai":
            return self.openai(status, message, code="")
        if shape == "task_error":
            return self.task_error(status, "fail_to_fetch_task", json.dumps(native))
        return json_answer(native, status)

    def _comet_refusal(self, refusal: RefusalError) -> Answer | None:
        if isinstance(refusal, AccountRefusalError):
            return self.openai(403, "user quota is not enough", code="insufficient_user_quota")
        if isinstance(refusal, MalformedBodyError):
            status = self.options.malformed_status
            return self.openai(status, "invalid request body", code="invalid_request")
        if refusal.code in range(1000, 1005):
            return self.openai(401, "Invalid token", code="")
        return None

    def openai(self, status: int, message: str, *, code: str) -> Answer:
        """Answer in the form of OpenAI's errors, which CometAPI uses for itself."""
        error = {
            "message": f"{message} (request id: {self.comet_id})",
            "type": "comet_api_error",
            "param": "",
            "code": code,
        }
        return json_answer({"error": error}, status)

    def task_error(self, status: int, word: str, message: str) -> Answer:
        """Answer in the form of a new-api gateway's task errors."""
        return json_answer({"code": word, "message": message, "data": None}, status)

    def saturated(self) -> Answer:
        """Answer what a new-api gateway makes of any 429 from above."""
        return self.task_error(429, "fail_to_fetch_task", _SATURATED)

    def not_found(self) -> Answer:
        """Answer a query for a task that does not exist."""
        if self.profile == "comet":
            return self.task_error(400, "task_not_exist", "task_not_exist")
        return self.coded(1203)

    def _too_large(self) -> Answer:
        if self.profile == "comet":
            return self.task_error(413, "read_request_body_failed", "request body too large")
        return Answer(status=413, body=b"Request Entity Too Large", content_type="text/plain")

    def wrong_method(self, method: str, path: str) -> Answer:
        """Answer a method that a path does not have."""
        return self.invalid_url(method, path) if self.profile == "comet" else self.coded(1202)

    def invalid_url(self, method: str, path: str) -> Answer:
        """Answer as new-api does to a path that it does not have."""
        error = {
            "message": f"Invalid URL ({method} {path})",
            "type": "invalid_request_error",
            "param": "",
            "code": "",
        }
        return json_answer({"error": error}, 404)

    def unknown_path(self, path: str) -> Answer:
        """Answer a path that does not exist."""
        if self.profile == "comet" and self.options.unknown_path == "redirect":
            query = quote(path, errors="replace")  # a line break must not become a header
            return Answer(status=301, headers={"Location": f"/login?from={query}"})
        return html_answer(NOT_FOUND_PAGE, 404)

    def missing_route(self, method: str, path: str) -> Answer | None:
        """Answer a route that CometAPI lists but does not have; None if it has it."""
        form = self.options.route_missing if self.profile == "comet" else None
        if form is None:
            return None
        null = {"code": None, "message": "404"}
        return {
            "null": json_answer(null, 404),
            "null_200": json_answer(null, 200),
            "html": html_answer(NOT_FOUND_PAGE, 404),
            "redirect": Answer(status=301, headers={"Location": "/"}),
            "invalid_url": self.invalid_url(method, path),
        }[form]
