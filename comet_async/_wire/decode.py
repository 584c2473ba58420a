"""Answers become values: a `Reply` goes in, a `Task`, `TaskPage` or `Notification` comes out.

Any answer, however odd, becomes a value or a `CometError`. `envelope` finds the task in an answer,
`task` reads its fields, and `error_codes` says what an error means.

A server may echo the key in its answer, and tools show the local variables of a traceback. So an
error is raised by the public functions only, whose variables don't show the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Self, TypeAlias, TypeVar

import attrs

from comet_async._wire import error_codes as codes
from comet_async._wire.envelope import (
    JSON,
    MAX_ITEMS,
    Object,
    Reply,
    date_of,
    describe,
    error_code,
    header_id,
    id_in,
    identifier,
    names_task,
    parse,
    read_fault,
    retry_after,
    task_identifier,
    tidy,
    unwrap,
)
from comet_async._wire.task import (
    NO_STATUS,
    RESULT_KEYS,
    external_id,
    first_id,
    first_task_id,
    merge,
    read_plain,
    read_status,
    read_task,
    state,
)
from comet_async.errors import CometError, DecodeError, DuplicateTaskError, NotFoundError
from comet_async.models import Task, TaskPage, TaskStatus

__all__ = [
    "RESULT_KEYS",
    "Notification",
    "Reply",
    "date_of",
    "decode_created",
    "decode_notification",
    "decode_page",
    "decode_task",
    "retry_after",
]

T = TypeVar("T")

Now: TypeAlias = Callable[[], float]


@attrs.frozen(kw_only=True)
class Notification:
    """What a callback says. It may be forged: it is a reason to poll, never an answer.

    Attributes:
        task_id: The server's id of the task.
        external_task_id: Our own id of the task.
        status: The status that it claims; None for an unknown one.
    """

    task_id: str | None = None
    external_task_id: str | None = None
    status: TaskStatus | str | None = None

    def as_dict(self) -> dict[str, str | None]:
        """Return it as a dictionary for JSON, for a queue or another process."""
        status = None if self.status is None else str(self.status)
        ids = {"task_id": self.task_id, "external_task_id": self.external_task_id}
        return {**ids, "status": status}

    @classmethod
    def from_dict(cls, value: Mapping[str, object]) -> Self:
        """Return what `as_dict` was made of; unknown keys are ignored.

        Raises:
            DecodeError: It does not name a task.
        """
        texts = {key: text for key, text in value.items() if isinstance(text, str)}
        task_id = task_identifier(texts.get("task_id"))
        external_task_id = identifier(texts.get("external_task_id"))
        if task_id is None and external_task_id is None:
            raise DecodeError("the notification does not name a task", path="$.task_id")
        return cls(
            task_id=task_id,
            external_task_id=external_task_id,
            status=state(texts.get("status")),
        )


@attrs.frozen
class _Request:
    """What was sent, as far as it decides what the answer means."""

    task_id: str | None = None
    external_task_id: str | None = None
    now: Now | None = attrs.field(default=None, kw_only=True)
    paid: bool = attrs.field(default=False, kw_only=True)
    page: bool = attrs.field(default=False, kw_only=True)


def decode_created(
    reply: Reply, *, kind: str, external_task_id: str, now: Now | None = None
) -> Task:
    """Return the task that a paid request made.

    Args:
        reply: The answer to the POST.
        kind: The kind of task.
        external_task_id: The id that the request carried.
        now: Returns the wall clock, for a ``Retry-After`` that is a date.

    Raises:
        OutcomeUnknownError: The answer does not say whether the request was accepted.
        DuplicateTaskError: The request was accepted, and paid, earlier.
        RateLimitError: Not accepted: too fast, or (`ConcurrencyLimitError`) too many.
        ServerError: Not accepted: out of service.
        AuthenticationError: The key was refused.
        AccountError: The account can't pay, or may not do this.
        RouteUnavailableError: The gateway does not offer this.
        RejectedError: The request was refused for what it says.
    """
    return _or_raise(_created(reply, kind, external_task_id, now))


def _created(reply: Reply, kind: str, external_task_id: str, now: Now | None) -> Task | CometError:
    answer = parse(reply.body)
    chain = _single(answer)
    answer_id = partial(header_id, reply.headers)
    task = read_task(
        chain, answer_id, kind=kind, sent=external_task_id, default_status=TaskStatus.SUBMITTED
    )
    if task is not None and _ok(reply) and not _refused(chain):
        return task
    task_id = task.id if task else None
    return _error(reply, answer, _Request(task_id, external_task_id, now=now, paid=True))


def decode_task(
    reply: Reply,
    *,
    kind: str,
    task_id: str | None = None,
    external_task_id: str | None = None,
    now: Now | None = None,
) -> Task:
    """Return the task that was requested.

    Args:
        reply: The answer to the GET.
        kind: The kind of task.
        task_id: The server's id that was requested; the task keeps it, whatever id the
            gateway's own supplier gave it.
        external_task_id: Our own id that was requested. Whether the task carries it is for
            the caller to compare: some gateways ignore the request.
        now: Returns the wall clock, for a ``Retry-After`` that is a date.

    Raises:
        NotFoundError: The server does not know the task.
        AuthenticationError: The key was refused.
        AccountError: The account can't pay, or may not do this.
        RouteUnavailableError: The gateway does not offer this.
        RateLimitError: Too many requests.
        RejectedError: The request was refused for what it says.
        ServerError: The server failed.
        DecodeError: The answer can't be read.
    """
    return _or_raise(_requested(reply, kind, _Request(task_id, external_task_id, now=now)))


def _requested(reply: Reply, kind: str, request: _Request) -> Task | CometError:
    answer, task_id = parse(reply.body), request.task_id
    if _ok(reply):
        answer_id = partial(header_id, reply.headers)
        data = answer.get("data") if isinstance(answer, dict) else None
        plain = read_plain(data, answer, answer_id, kind=kind, requested=task_id)
        if plain is not None:
            return plain
        chain = _single(answer, task_id, request.external_task_id)
        task = read_task(chain, answer_id, kind=kind, requested=task_id)
        if task is not None and not (task.status == NO_STATUS and _refused(chain)):
            return task
    return _error(reply, answer, request)


def decode_page(
    reply: Reply, *, kind: str, number: int, size: int, now: Now | None = None
) -> TaskPage:
    """Return one page of the list of tasks.

    Args:
        reply: The answer to the GET.
        kind: The kind of task.
        number: The page that was requested, from 1.
        size: How many tasks were requested.
        now: Returns the wall clock, for a ``Retry-After`` that is a date.

    Raises:
        AuthenticationError: The key was refused.
        AccountError: The account can't pay, or may not do this.
        RouteUnavailableError: The gateway does not offer this.
        RateLimitError: Too many requests.
        RejectedError: The request was refused for what it says.
        ServerError: The server failed.
        DecodeError: The answer can't be read, or one of its tasks.
    """
    tasks = _or_raise(_listed(reply, kind, _Request(now=now, page=True)))
    return TaskPage(tasks=tasks, number=number, size=size)


def _listed(reply: Reply, kind: str, request: _Request) -> tuple[Task, ...] | CometError:
    answer = parse(reply.body)
    chain, items = unwrap(answer)
    if not _ok(reply) or not isinstance(items, list) or _outer_code(chain) is not None:
        return _error(reply, answer, request)
    answer_id = cache(partial(header_id, reply.headers))  # one for all of them
    tasks: list[Task] = []
    for place, item in enumerate(items[:MAX_ITEMS]):
        task = read_plain(item, None, answer_id, kind=kind)
        if task is None:
            task = read_task(unwrap(item)[0], answer_id, kind=kind)
        if task is None:
            # A page is also evidence of what is absent, so a gap in it must not pass.
            path = f"{_path(chain)}[{place}].task_id"
            return DecodeError("a task in the list has no usable id", path=path, sent=True)
        tasks.append(task)
    return tuple(tasks)


def decode_notification(body: bytes) -> Notification:
    """Return what a callback's body says, in Kling's old form or in its new one.

    Raises:
        DecodeError: It does not name a task.
    """
    chain, _ = unwrap(parse(body))
    facts = merge(chain)
    task_id = first_task_id(chain) or first_task_id(chain, "id")
    external_task_id = external_id(facts) or first_id(chain, "external_id")
    if task_id is None and external_task_id is None:
        raise DecodeError("the callback does not name a task", path="$.task_id")
    status = read_status(chain, facts) or state(facts.get("status"))
    return Notification(task_id=task_id, external_task_id=external_task_id, status=status)


# ---------------------------------------------------------------------- finding the task


def _ok(reply: Reply) -> bool:
    return 200 <= reply.status < 300  # noqa: PLR2004 - HTTP's own class of success


def _single(
    answer: JSON, task_id: str | None = None, external_task_id: str | None = None
) -> list[Object]:
    """Return the objects from the outermost down to the one task that was requested."""
    chain, rest = unwrap(answer)
    if not isinstance(rest, list):
        return chain
    found = [unwrap(item)[0] for item in rest[:MAX_ITEMS]]
    # Some gateways answer with a list of one, and some that ignore the request
    # with a list of all: only ours will do.
    for inner in found:
        if task_id and first_id(inner, "task_id") == task_id:
            return chain + inner
        if external_task_id and external_id(merge(inner)) == external_task_id:
            return chain + inner
    return chain + found[0] if len(found) == 1 and not task_id else chain


def _outer_code(chain: list[Object]) -> int | str | None:
    """Return the outermost code unless it says success: it speaks for the whole answer."""
    values = (level.get("code") for level in chain)
    return error_code(next((value for value in values if value is not None), None))


def _refused(chain: list[Object]) -> bool:
    return codes.is_known(_outer_code(chain))


# -------------------------------------------------------------------------------- errors


def _or_raise(decoded: T | CometError) -> T:
    """Return what an answer was decoded to, or raise the error that it means."""
    if isinstance(decoded, CometError):
        raise decoded
    return decoded


def _error(reply: Reply, answer: JSON, request: _Request) -> CometError:
    """Return the error that *reply* means after *request*."""
    fault = read_fault(answer)
    verdict = codes.judge(
        status=reply.status,
        code=fault.code,
        message=fault.message,
        envelope=fault.envelope,
        paid=request.paid,
    )
    verdict = _in_context(verdict, reply, answer, request)
    detail = tidy(fault.message) if fault.envelope else describe(reply, answer)
    code = "" if fault.code is None else f", code {fault.code}"
    error = verdict.error(
        f"{verdict.words}: {detail or 'no reason given'} [HTTP {reply.status}{code}]",
        hint=verdict.hint,
        retryable=verdict.retryable,
        task_id=request.task_id,
        external_task_id=request.external_task_id,
        status=reply.status,
        code=fault.code,
        request_id=fault.request_id or header_id(reply.headers) or id_in(fault.message),
        retry_after=retry_after(reply.headers, now=request.now() if request.now else None),
    )
    if isinstance(error, DecodeError):
        error.sent = True
        error.path = _path(unwrap(answer)[0], "" if request.page else ".task_id")
    return error


def _in_context(
    verdict: codes.Verdict, reply: Reply, answer: JSON, request: _Request
) -> codes.Verdict:
    if request.paid:
        # An answer that names a task must not make us pay for another one, whatever else it
        # says. A duplicate names the first task, and is looked up anyway.
        open_ = verdict.error is not DuplicateTaskError and names_task(answer)
        return codes.UNKNOWN if open_ else verdict
    if request.page:
        # A list is never absent: such a gateway has none.
        return codes.NO_ROUTE if verdict.error is NotFoundError else verdict
    chain, rest = unwrap(answer)
    clean = _ok(reply) and chain and rest == [] and _outer_code(chain) is None
    return codes.NOT_FOUND if clean and verdict.error is DecodeError else verdict


def _path(chain: list[Object], leaf: str = "") -> str:
    """Return where in the answer the list, or *leaf* of the task, should have been."""
    if not chain or "data" in chain[-1]:
        return "$" + ".data" * len(chain)
    return "$" + ".data" * (len(chain) - 1) + leaf
