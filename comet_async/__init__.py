"""Async-first SDK for paid image expansion (outpainting): CometAPI, and Kling's API elsewhere.

Example:
    >>> import asyncio
    >>> from comet_async import CometSession, Margins
    >>> async def main() -> None:
    ...     async with CometSession() as comet:  # the key comes from COMETAPI_KEY
    ...         task = await comet.expand("dog.png", Margins.for_aspect("16:9"))
    ...         await comet.download(task.images[0], "dog-wide.png")
    >>> asyncio.run(main())  # doctest: +SKIP

Names are loaded when they are first used: importing the package costs almost nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comet_async._http.balance import Balance
    from comet_async._images.load import SourceImage
    from comet_async._journal.records import Journal
    from comet_async.auth import ApiKey, KlingToken
    from comet_async.callbacks import CallbackReceiver
    from comet_async.config import Network, Timeouts
    from comet_async.errors import (
        AccountError,
        AuthenticationError,
        CometError,
        ConcurrencyLimitError,
        ConfigError,
        ConnectionLostError,
        DecodeError,
        DownloadError,
        DuplicateTaskError,
        ForkedSessionError,
        IdempotencyConflictError,
        InputError,
        JournalBusyError,
        JournalCorruptError,
        JournalError,
        LimitReachedError,
        MissingExtraError,
        NotFoundError,
        NotSentError,
        OutcomeUnknownError,
        RateLimitError,
        RejectedError,
        ResponseError,
        ResultExpiredError,
        RouteUnavailableError,
        ServerError,
        StaleRecordError,
        TaskFailedError,
        TransportError,
        WaitTimeoutError,
    )
    from comet_async.gateways import Gateway
    from comet_async.geometry import MarginRule, Margins
    from comet_async.journal import SqliteJournal
    from comet_async.models import ResultImage, Task, TaskPage, TaskStatus
    from comet_async.outcomes import Outcome, OutcomeStatus
    from comet_async.requests import (
        EXPAND,
        GENERATION,
        TRY_ON,
        ExpandRequest,
        GenerationRequest,
        TaskKind,
        TaskRequest,
        TryOnRequest,
    )
    from comet_async.runs import Run, RunOptions
    from comet_async.schedules import FixedSchedule, LearnedSchedule, Schedule
    from comet_async.secret import RedactingFilter, Secret
    from comet_async.session import CometSession
    from comet_async.waiter import TaskWaiter

_MODULES = {
    "_http.balance": ("Balance",),
    "_images.load": ("SourceImage",),
    "_journal.records": ("Journal",),
    "auth": (
        "ApiKey",
        "KlingToken",
    ),
    "callbacks": ("CallbackReceiver",),
    "config": (
        "Network",
        "Timeouts",
    ),
    "errors": (
        "AccountError",
        "AuthenticationError",
        "CometError",
        "ConcurrencyLimitError",
        "ConfigError",
        "ConnectionLostError",
        "DecodeError",
        "DownloadError",
        "DuplicateTaskError",
        "ForkedSessionError",
        "InputError",
        "JournalBusyError",
        "JournalCorruptError",
        "JournalError",
        "IdempotencyConflictError",
        "LimitReachedError",
        "MissingExtraError",
        "NotFoundError",
        "NotSentError",
        "OutcomeUnknownError",
        "RateLimitError",
        "RejectedError",
        "ResponseError",
        "ResultExpiredError",
        "RouteUnavailableError",
        "ServerError",
        "StaleRecordError",
        "TaskFailedError",
        "TransportError",
        "WaitTimeoutError",
    ),
    "gateways": ("Gateway",),
    "geometry": (
        "MarginRule",
        "Margins",
    ),
    "journal": ("SqliteJournal",),
    "models": (
        "ResultImage",
        "Task",
        "TaskPage",
        "TaskStatus",
    ),
    "outcomes": (
        "Outcome",
        "OutcomeStatus",
    ),
    "requests": (
        "EXPAND",
        "ExpandRequest",
        "GENERATION",
        "GenerationRequest",
        "TRY_ON",
        "TaskKind",
        "TaskRequest",
        "TryOnRequest",
    ),
    "runs": (
        "Run",
        "RunOptions",
    ),
    "schedules": (
        "FixedSchedule",
        "LearnedSchedule",
        "Schedule",
    ),
    "secret": (
        "RedactingFilter",
        "Secret",
    ),
    "session": ("CometSession",),
    "waiter": ("TaskWaiter",),
}
_HOME = {name: room for room, names in _MODULES.items() for name in names}

__version__ = "0.1.0"

__all__ = [
    "EXPAND",
    "GENERATION",
    "TRY_ON",
    "AccountError",
    "ApiKey",
    "AuthenticationError",
    "Balance",
    "CallbackReceiver",
    "CometError",
    "CometSession",
    "ConcurrencyLimitError",
    "ConfigError",
    "ConnectionLostError",
    "DecodeError",
    "DownloadError",
    "DuplicateTaskError",
    "ExpandRequest",
    "FixedSchedule",
    "ForkedSessionError",
    "Gateway",
    "GenerationRequest",
    "IdempotencyConflictError",
    "InputError",
    "Journal",
    "JournalBusyError",
    "JournalCorruptError",
    "JournalError",
    "KlingToken",
    "LearnedSchedule",
    "LimitReachedError",
    "MarginRule",
    "Margins",
    "MissingExtraError",
    "Network",
    "NotFoundError",
    "NotSentError",
    "Outcome",
    "OutcomeStatus",
    "OutcomeUnknownError",
    "RateLimitError",
    "RedactingFilter",
    "RejectedError",
    "ResponseError",
    "ResultExpiredError",
    "ResultImage",
    "RouteUnavailableError",
    "Run",
    "RunOptions",
    "Schedule",
    "Secret",
    "ServerError",
    "SourceImage",
    "SqliteJournal",
    "StaleRecordError",
    "Task",
    "TaskFailedError",
    "TaskKind",
    "TaskPage",
    "TaskRequest",
    "TaskStatus",
    "TaskWaiter",
    "Timeouts",
    "TransportError",
    "TryOnRequest",
    "WaitTimeoutError",
]


def __getattr__(name: str) -> object:
    room = _HOME.get(name)
    if room is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(f"{__name__}.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
