"""Every error of the library, as one tree.

::

    CometError
    ├── ConfigError                 a setting is missing or wrong; nothing was sent
    │   ├── MissingExtraError       an optional dependency is not installed
    │   ├── JournalRequiredError    the call needs a session with a journal
    │   └── ForkedSessionError      the object was created in another process (fork)
    ├── SessionClosedError          the session was closed; nothing more was sent
    ├── RunStoppedError             the run was interrupted or has stopped; not sent
    │   └── BudgetExceededError     the run's own limit of jobs or money is reached
    ├── InputError                  a value is refused before anything is sent (also a ValueError)
    │   └── IdempotencyConflictError  your own id was used for another request
    ├── TransportError              no complete answer came
    │   ├── NotSentError            the request provably never left
    │   ├── ConnectionLostError     a GET got no complete answer; trying again is free
    │   └── OutcomeUnknownError     a paid request may have been accepted
    ├── ResponseError               the server answered with an error
    │   ├── AuthenticationError     the key was refused
    │   ├── AccountError            no credit, no right, or the address is not allowed
    │   ├── RouteUnavailableError   this gateway does not offer the route
    │   ├── NotFoundError           no such task
    │   ├── DuplicateTaskError      the external id is taken: it was paid earlier
    │   ├── RateLimitError          too many requests
    │   │   └── ConcurrencyLimitError   too many images in flight
    │   ├── RejectedError           the request was refused for what it says
    │   └── ServerError             the server failed
    ├── DecodeError                 the answer can't be read
    ├── TaskFailedError             the task ended as failed
    ├── ResultMissingError          the task succeeded, but shows no readable image yet
    ├── WaitTimeoutError            the wait's deadline passed (also a TimeoutError)
    ├── DownloadError               a result could not be saved
    │   ├── ResultExpiredError      the result is gone from the server
    │   └── SaveError               the disk refused, or another file has the name
    └── JournalError                the journal can't be used
        ├── JournalBusyError        another process holds the journal
        ├── JournalCorruptError     the journal is damaged
        ├── JournalLostError        the journal lacks some of what was sent
        └── StaleRecordError        the job was moved since it was read

Each of them answers two questions: *was it sent?* (``sent``) and *may the same call succeed
later?* (``retryable``). Each can be pickled, and turned into JSON by `CometError.as_dict`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from comet_async.models import Task


class CometError(Exception):
    """Root of every error that this library raises.

    Attributes:
        message: What happened, on one line.
        hint: What to do next, or None.
        sent: True when at least one byte of the request left this machine; the server may not
            have read it. False when it provably did not leave. None when that can't be known,
            or when the error is not about a request.
        retryable: True when the same call may succeed later without a change.
        task_id: The server's id of the task concerned; resumes the work.
        external_task_id: Our own id of the task concerned; finds the task again.
        status: HTTP status of the answer.
        code: The server's own error code (a Kling number or a gateway's word).
        request_id: The id to quote to the provider's support.
        retry_after: Seconds that the server asked us to wait; None unless ``retryable``.
    """

    account_wide: ClassVar[bool] = False
    """True when every other request of this account would meet the same error."""

    default_sent: ClassVar[bool | None] = None
    default_retryable: ClassVar[bool] = False

    details: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes that a class adds, as far as `as_dict` shows them."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        sent: bool | None = None,
        retryable: bool | None = None,
        task_id: str | None = None,
        external_task_id: str | None = None,
        status: int | None = None,
        code: int | str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message: str = " ".join(message.split())
        self.hint: str | None = None if hint is None else " ".join(hint.split())
        self.sent: bool | None = self.default_sent if sent is None else sent
        self.retryable: bool = self.default_retryable if retryable is None else retryable
        self.task_id = task_id
        self.external_task_id = external_task_id
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after: float | None = retry_after if self.retryable else None

    def as_dict(self) -> dict[str, Any]:
        """Return the error as a dictionary for JSON: for an API's answer, a log or a queue.

        It holds no key, no signed URL and no answer of the server's. Keys: ``type``,
        ``message``, ``hint``, ``sent``, ``retryable``, ``retry_after``, ``task_id``,
        ``external_task_id``, ``request_id``, ``status``, ``code``, and what the class adds,
        such as ``field``, ``value`` and ``limit``.
        """
        names = (
            *("message", "hint", "sent", "retryable", "retry_after", "task_id"),
            *("external_task_id", "request_id", "status", "code", *self.details),
        )
        return {"type": type(self).__name__, **{name: getattr(self, name) for name in names}}

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by calling the class with ``args``; our details are keywords.
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(cls: type[CometError], args: tuple[Any, ...], state: dict[str, Any]) -> CometError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class _AboutOneValue:
    """Adds to an error which value is wrong."""

    details: ClassVar[tuple[str, ...]] = ("field", "value", "limit")

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        value: object = None,
        limit: str = "",
        **details: Any,
    ) -> None:
        super().__init__(message, **details)  # type: ignore[call-arg]  # of `CometError`
        self.field = field
        self.value: str | None = None if value is None else _shorten(str(value))
        self.limit = limit


class ConfigError(_AboutOneValue, CometError):
    """A setting is missing or wrong. Nothing was sent.

    Attributes:
        field: Which setting; empty if there is no single one.
        value: Its value as text, shortened; None if it may be secret.
        limit: The rule that it breaks.
    """

    default_sent: ClassVar[bool | None] = False


def install_command(extra: str) -> str:
    """Return the command that installs *extra*; every hint of the package takes it from here."""
    return f"pip install 'comet-async[{extra}]'"


class MissingExtraError(ConfigError):
    """An optional dependency is not installed.

    Attributes:
        extra: The name to install, as in ``pip install 'comet-async[images]'``.
    """

    details: ClassVar[tuple[str, ...]] = (*ConfigError.details, "extra")

    def __init__(self, message: str, *, extra: str = "", **details: Any) -> None:
        if extra and "hint" not in details:
            details["hint"] = install_command(extra)
        super().__init__(message, **details)
        self.extra = extra


class JournalRequiredError(ConfigError):
    """The call needs what only a journal remembers: pass ``journal=`` to `CometSession`."""


class ForkedSessionError(ConfigError):
    """The object was created in another process: its sockets and locks can't be shared."""


class SessionClosedError(CometError):
    """The session was closed; nothing was sent, or nothing more.

    When ``task_id`` is set, the task was accepted before that and is billed: wait for it in a
    new session.
    """

    default_sent: ClassVar[bool | None] = False


class RunStoppedError(CometError):
    """The run was interrupted or has stopped, so this job was not sent or not finished.

    When ``task_id`` is set, the task was accepted before that and is billed: run again to
    resume it.
    """

    default_sent: ClassVar[bool | None] = False
    default_retryable: ClassVar[bool] = True


class BudgetExceededError(RunStoppedError):
    """The run's own limit (``max_jobs`` or ``max_spend``) is reached; the rest stays planned."""

    default_retryable: ClassVar[bool] = False


class InputError(_AboutOneValue, CometError, ValueError):
    """A value is refused before anything is sent or paid.

    Attributes:
        field: Which argument or field.
        value: The value as text, shortened.
        limit: The rule that it breaks.
    """

    default_sent: ClassVar[bool | None] = False


class IdempotencyConflictError(InputError):
    """An ``external_task_id`` of your own was used before, for another request."""


class TransportError(CometError):
    """No complete answer came from the server."""


class NotSentError(TransportError):
    """The request provably never left this machine: trying again is safe."""

    default_sent: ClassVar[bool | None] = False
    default_retryable: ClassVar[bool] = True


class ConnectionLostError(TransportError):
    """A request that costs nothing (GET) got no complete answer; trying again is safe."""

    default_retryable: ClassVar[bool] = True


class OutcomeUnknownError(TransportError):
    """A paid request was sent and its answer was lost: it may have been accepted.

    Never submit the same image again because of it. ``external_task_id`` finds the task
    (``await session.find(error.external_task_id)``) once the server shows it.
    """


class ResponseError(CometError):
    """The server answered with an error."""

    default_sent: ClassVar[bool | None] = True


class AuthenticationError(ResponseError):
    """The key was refused (HTTP 401, Kling codes 1000-1004)."""

    account_wide = True


class AccountError(ResponseError):
    """The account can't pay or may not use the API (no credit, arrears, rights, address)."""

    account_wide = True


class RouteUnavailableError(ResponseError):
    """The gateway does not offer this route; another gateway may."""

    account_wide = True


class NotFoundError(ResponseError):
    """The server knows no task of this id."""


class DuplicateTaskError(ResponseError):
    """The ``external_task_id`` is taken: the request was accepted, and paid, earlier."""


class RateLimitError(ResponseError):
    """Too many requests; nothing was accepted and nothing was paid."""

    default_retryable: ClassVar[bool] = True


class ConcurrencyLimitError(RateLimitError):
    """The account has as many images in flight as it may have (Kling code 1303)."""


class RejectedError(ResponseError):
    """The request was refused for what it says; nothing was paid."""


class ServerError(ResponseError):
    """The server failed (5xx)."""

    default_retryable: ClassVar[bool] = True


class DecodeError(CometError):
    """The server's answer can't be read.

    Attributes:
        path: Where in the answer, such as ``$.data.task_id``.
    """

    default_retryable: ClassVar[bool] = True
    details: ClassVar[tuple[str, ...]] = ("path",)

    def __init__(self, message: str, *, path: str = "$", **details: Any) -> None:
        super().__init__(message, **details)
        self.path = path


class TaskFailedError(CometError):
    """The task ended as failed.

    Attributes:
        task: The finished task, as the server described it.
    """

    default_sent: ClassVar[bool | None] = True

    def __init__(self, message: str, *, task: Any = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.task: Task = task


class ResultMissingError(CometError):
    """The server says that the task succeeded, but shows no image that can be read.

    The task is billed; its result may still appear. ``task_id`` resumes the wait.

    Attributes:
        task: The newest snapshot of the task, or None.
    """

    default_sent: ClassVar[bool | None] = True
    default_retryable: ClassVar[bool] = True

    def __init__(self, message: str, *, task: Any = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.task: Task | None = task


class WaitTimeoutError(CometError, TimeoutError):
    """The wait's deadline passed while the task was running. The task itself keeps running.

    Attributes:
        task: The newest snapshot of the task, or None when none was seen.
    """

    default_sent: ClassVar[bool | None] = True
    default_retryable: ClassVar[bool] = True

    def __init__(self, message: str, *, task: Any = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.task: Task | None = task


class DownloadError(CometError):
    """A result could not be fetched or saved; the task itself is paid and safe."""


class ResultExpiredError(DownloadError):
    """The server no longer holds the result (it clears results after 30 days)."""


class SaveError(DownloadError):
    """A result could not be written: the disk refused, or another file has its name."""


class JournalError(CometError):
    """The journal can't be read or written."""


class JournalBusyError(JournalError):
    """Another process holds the journal.

    Attributes:
        pid: The holder's process id, when known.
    """

    details: ClassVar[tuple[str, ...]] = ("pid",)

    def __init__(self, message: str, *, pid: int | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.pid = pid


class JournalCorruptError(JournalError):
    """The journal's file is damaged, or is not a journal. Nothing was changed."""


class JournalLostError(JournalError):
    """The journal's file is gone, or older than what was sent by it. Nothing more is sent.

    Attributes:
        field: The option that continues: each job is looked up before it is sent.
    """

    default_sent: ClassVar[bool | None] = False
    field = "verify_remote"


class StaleRecordError(JournalError):
    """The job was moved since this record of it was read; stop working on it."""


_LONGEST_VALUE = 80


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
