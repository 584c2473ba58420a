"""Async-first SDK for paid image expansion (outpainting): CometAPI, and Kling's API elsewhere.

Example:
    >>> import asyncio
    >>> from comet_async import CometSession, Margins
    >>> async def main() -> None:
    ...     async with CometSession() as comet:  # the key comes from COMETAPI_KEY
    ...         task = await comet.expand("dog.png", Margins.for_aspect("16:9"))
    ...         await comet.download(task.images[0], "dog-wide.png")
    >>> asyncio.run(main())  # doctest: +SKIP

How the package is laid out: public classes live in the modules at its root, and their machinery
in private packages.

* ``session`` and ``runs`` are the entry points; ``_jobs`` takes a paid job from planned to done.
* ``waiter`` and ``callbacks`` find out when a task has ended; ``_polling`` schedules the polls.
* ``journal`` remembers jobs across crashes; ``_journal`` is how.
* ``requests``, ``geometry`` and ``_images`` are what can be asked for, and the images to send.
* ``_http`` talks to the server, ``_wire`` reads its answers, ``_results`` makes files of them.
* ``stores`` is where images and results can be, apart from folders.
* ``gateways``, ``auth`` and ``config`` say where the API is and which key opens it.
* ``sandbox``, ``testing`` and ``cli`` are built on top; nothing here imports them.

Imports go one way, downwards; ``tests/test_architecture.py`` lists the layers.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# The one list of public names. Type checkers read it as it is; at run time each name is imported
# when it is first used, so that importing the package costs almost nothing.
if TYPE_CHECKING:
    from comet_async._images.discovery import (
        SkipReport as SkipReport,
    )
    from comet_async._images.source import (
        SourceImage as SourceImage,
    )
    from comet_async._journal.records import (
        Journal as Journal,
    )
    from comet_async._wire.decode import (
        Notification as Notification,
    )
    from comet_async.auth import (
        ApiKey as ApiKey,
        KlingToken as KlingToken,
    )
    from comet_async.callbacks import (
        CallbackReceiver as CallbackReceiver,
    )
    from comet_async.config import (
        Network as Network,
        Timeouts as Timeouts,
    )
    from comet_async.errors import (
        AccountError as AccountError,
        AuthenticationError as AuthenticationError,
        BudgetExceededError as BudgetExceededError,
        CometError as CometError,
        ConcurrencyLimitError as ConcurrencyLimitError,
        ConfigError as ConfigError,
        ConnectionLostError as ConnectionLostError,
        DecodeError as DecodeError,
        DownloadError as DownloadError,
        DuplicateTaskError as DuplicateTaskError,
        ForkedSessionError as ForkedSessionError,
        IdempotencyConflictError as IdempotencyConflictError,
        InputError as InputError,
        JournalBusyError as JournalBusyError,
        JournalCorruptError as JournalCorruptError,
        JournalError as JournalError,
        JournalLostError as JournalLostError,
        JournalRequiredError as JournalRequiredError,
        MissingExtraError as MissingExtraError,
        NotFoundError as NotFoundError,
        NotSentError as NotSentError,
        OutcomeUnknownError as OutcomeUnknownError,
        RateLimitError as RateLimitError,
        RejectedError as RejectedError,
        ResponseError as ResponseError,
        ResultExpiredError as ResultExpiredError,
        ResultMissingError as ResultMissingError,
        RouteUnavailableError as RouteUnavailableError,
        RunStoppedError as RunStoppedError,
        SaveError as SaveError,
        ServerError as ServerError,
        SessionClosedError as SessionClosedError,
        StaleRecordError as StaleRecordError,
        TaskFailedError as TaskFailedError,
        TransportError as TransportError,
        WaitTimeoutError as WaitTimeoutError,
    )
    from comet_async.gateways import (
        Gateway as Gateway,
    )
    from comet_async.geometry import (
        MarginRule as MarginRule,
        Margins as Margins,
    )
    from comet_async.journal import (
        SqliteJournal as SqliteJournal,
    )
    from comet_async.models import (
        Balance as Balance,
        ResultImage as ResultImage,
        Task as Task,
        TaskKind as TaskKind,
        TaskPage as TaskPage,
        TaskStatus as TaskStatus,
    )
    from comet_async.outcomes import (
        Outcome as Outcome,
        OutcomeStatus as OutcomeStatus,
    )
    from comet_async.requests import (
        EXPAND as EXPAND,
        GENERATION as GENERATION,
        TRY_ON as TRY_ON,
        ExpandRequest as ExpandRequest,
        GenerationRequest as GenerationRequest,
        TaskRequest as TaskRequest,
        TryOnRequest as TryOnRequest,
    )
    from comet_async.runs import (
        Run as Run,
        RunOptions as RunOptions,
    )
    from comet_async.schedules import (
        FixedSchedule as FixedSchedule,
        LearnedSchedule as LearnedSchedule,
        Schedule as Schedule,
    )
    from comet_async.secret import (
        RedactingFilter as RedactingFilter,
        Secret as Secret,
    )
    from comet_async.session import (
        CometSession as CometSession,
    )
    from comet_async.stores import (
        LocalStore as LocalStore,
        ObjectStore as ObjectStore,
        Store as Store,
    )
    from comet_async.waiter import (
        TaskWaiter as TaskWaiter,
    )


@functools.cache
def _modules() -> dict[str, str]:
    """Return the module of each public name, as the block above lists them."""
    import ast  # noqa: PLC0415 - both cost more than all else here, and wait for the first name
    import inspect  # noqa: PLC0415 - the same

    tree = ast.parse(inspect.getsource(sys.modules[__name__]))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def __getattr__(name: str) -> object:
    if name == "__all__":
        return sorted(_modules())
    if name.startswith("_") or name not in _modules():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_modules()[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_modules()})
