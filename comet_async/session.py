"""`CometSession`: the one object that a program holds. It joins the rooms and owns closing."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self, Unpack

from comet_async._backoff import with_retries
from comet_async._http.api import MAX_PAGE, MAX_PAGE_SIZE, Api
from comet_async._http.balance import Balance, balance
from comet_async._http.transport import Transport
from comet_async._idempotency import random_key
from comet_async._images.load import ImageInput
from comet_async._jobs.admission import ConcurrencyLimiter
from comet_async._jobs.batch import Item
from comet_async._jobs.reconcile import TaskLookup
from comet_async._jobs.submit import Submitter
from comet_async._journal.records import Journal
from comet_async._results.download import Downloader
from comet_async._results.files import Exists
from comet_async._validation import check_concurrency, check_timeout
from comet_async.auth import Credentials
from comet_async.clock import SYSTEM_CLOCK, Clock
from comet_async.config import (
    Config,
    Network,
    Timeouts,
    choose_credentials,
    choose_gateway,
    config_path,
)
from comet_async.errors import ConfigError, JournalError, NotFoundError, OutcomeUnknownError
from comet_async.gateways import Gateway
from comet_async.geometry import MarginRule
from comet_async.models import ResultImage, Task, TaskPage
from comet_async.outcomes import Outcome, as_task
from comet_async.requests import EXPAND, ExpandRequest, TaskRequest, kind_named
from comet_async.runs import (
    CONCURRENCY,
    SETTLE,
    Loader,
    Run,
    RunFactory,
    RunOptions,
    found_items,
    items_of,
    name_of,
)
from comet_async.schedules import ScheduleLike
from comet_async.secret import Secret
from comet_async.waiter import NotificationSource, TaskWaiter


class TaskReader:
    """Asks for tasks; the half of a session that costs nothing."""

    _api: Api

    @property
    def clock(self) -> Clock:
        """The clock that the session goes by."""
        return self._api.clock

    async def get(self, task_id: str, *, kind: str = EXPAND.name) -> Task:
        """Ask for a task by the server's id; what may pass is asked again a few times.

        Args:
            task_id: The server's id.
            kind: Which kind of task.

        Raises:
            NotFoundError: The server knows no such task.
            CometError: The server can't be asked.
        """
        question = functools.partial(self._api.get, task_id, kind=kind_named(kind))
        return await with_retries(question, clock=self.clock)

    async def find(self, external_task_id: str, *, kind: str = EXPAND.name) -> Task:
        """Ask for a task by one's own id, in each way that gateways understand.

        Args:
            external_task_id: The id that was sent with the request.
            kind: Which kind of task.

        Raises:
            NotFoundError: No answer was about this id. On a gateway that does not pass ids
                on, that does not mean that there is no task.
            AuthenticationError: The key was refused.
            AccountError: The account may not ask.
        """
        lookup = TaskLookup(self._api)
        finding = await lookup.look(kind_named(kind), external_task_id, known=None)
        if finding.task is None:
            msg = f"no task was found under the external id {external_task_id!r}"
            hint = "the gateway may not look tasks up by external id: comet-async doctor tells"
            raise NotFoundError(msg, external_task_id=external_task_id, hint=hint)
        return finding.task

    async def list_tasks(
        self, *, kind: str = EXPAND.name, page_size: int = 30
    ) -> AsyncIterator[Task]:
        """Yield the account's tasks, page by page, in the server's order.

        Args:
            kind: Which kind of tasks.
            page_size: 1 to 500; 30 by default.

        Raises:
            CometError: A page can't be read. CometAPI documents no list.
        """
        for number in range(1, MAX_PAGE + 1):
            question = functools.partial(self._api.page, number, page_size, kind=kind_named(kind))
            page = await with_retries(question, clock=self.clock)
            for task in page.tasks:
                yield task
            if page.last:
                return

    async def poll(self, task_id: str, *, kind: str, timeout: float | None) -> Task:
        """Ask once for a task, without trying again; for `TaskWaiter`.

        Raises:
            CometError: There was no good answer.
        """
        return await self._api.get(task_id, kind=kind_named(kind), timeout=timeout)

    async def poll_page(self, number: int, size: int, *, kind: str) -> TaskPage:
        """Ask once for a page of the list, without trying again; for `TaskWaiter`.

        Raises:
            CometError: There was no good answer.
        """
        return await self._api.page(number, min(size, MAX_PAGE_SIZE), kind=kind_named(kind))


WAIT = 900.0
"""Seconds that `CometSession.expand` waits by default; ComfyUI's users met ten minutes as too
short (https://github.com/Comfy-Org/ComfyUI/pull/8860)."""


class CometSession(TaskReader):
    """A connection to the API for one account.

    Use it as an async context manager. One session serves any number of tasks, and several
    event loops, one after the other or at once.

    Args:
        api_key: The key. By default from ``COMETAPI_KEY`` (for Kling itself from
            ``KLING_API_KEY``, or ``KLING_ACCESS_KEY`` with ``KLING_SECRET_KEY``), else from
            the config file.
        gateway: A `Gateway`, ``"comet"``, ``"kling"``, or an address. By default CometAPI at
            ``COMETAPI_API_ROOT``, else ``COMETAPI_BASE_URL`` without its ``/v1``, else its
            own address.
        journal: A path, or a `Journal`. With one, nothing that was paid is lost or paid
            again, whatever crashes. None by default; `expand_folder` keeps its own.
        concurrency: Most images in flight at a time. 16 by default.
        request_timeout: Seconds for one exchange, or `Timeouts`. 20 for questions by default.
        settle: Seconds after a request of unknown outcome during which its task may still
            appear. 60 by default.
        schedule: When to ask for a task again: seconds, a tenacity wait strategy, or a
            schedule of ours. A schedule that learns by default.
        callbacks: A `CallbackReceiver` whose address goes into what is submitted.
        network: Proxy, certificates, or an ``aiohttp.ClientSession`` of your own.
        prepare: Mend images that the API would refuse. False by default.
        clock: For tests.

    Raises:
        ConfigError: There is no key, or a setting can't be used.
    """

    def __init__(  # noqa: PLR0913 - the settings of a program, all but one by keyword
        self,
        api_key: str | Secret | Credentials | None = None,
        *,
        gateway: Gateway | str | None = None,
        journal: str | os.PathLike[str] | Journal | None = None,
        concurrency: int = CONCURRENCY,
        request_timeout: float | Timeouts | None = None,
        settle: float = SETTLE,
        schedule: ScheduleLike = None,
        callbacks: NotificationSource | None = None,
        network: Network | None = None,
        prepare: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._closed = True  # until all settings are known to be good
        config = Config.read(config_path(os.environ))
        chosen = choose_gateway(gateway, os.environ, config)
        credentials = choose_credentials(api_key, chosen, os.environ, config)
        network = network or Network(connections=max(concurrency, 32) + 1)
        timeouts = Timeouts.of(request_timeout)
        trusted = frozenset({chosen.root.host or "", *(("localhost",) if chosen.loopback else ())})
        transport = Transport(network=network, timeouts=timeouts, clock=clock, trusted=trusted)
        self.schedule = schedule
        self._api = Api(gateway=chosen, credentials=credentials, transport=transport, clock=clock)
        self._downloader = Downloader(transport=transport, clock=clock, loopback=chosen.loopback)
        self._purchase = Submitter(
            api=self._api,
            clock=clock,
            settle=settle,
            load=Loader(prepare=prepare, private=chosen.loopback, hashed=False),
            callback_url=self._callback_url,
            heard=self._heard,
        )
        self._in_flight = ConcurrencyLimiter(check_concurrency(concurrency))
        self._callbacks = callbacks
        self._waiter = TaskWaiter(self, callbacks=callbacks)
        self._engine = RunFactory(
            api=self._api,
            downloader=self._downloader,
            waiter=self._waiter,
            clock=clock,
            defaults={"concurrency": concurrency, "settle": settle, "prepare": prepare},
            callback_url=self._callback_url,
            heard=self._heard,
            given=journal,
        )
        self._closed = False

    async def __aenter__(self) -> Self:
        """Return the session itself."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; see `aclose`."""
        await self.aclose()

    async def aclose(self) -> None:
        """Finish what is being sent, then close connections and the journal.

        It may be called again. Waits are not finished: a task's id goes on in another session.
        """
        self._closed = True
        await self._purchase.settle_in_flight()
        await self._engine.aclose()
        await self._waiter.aclose()
        await self._api.transport.aclose()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._api.transport.unclosed:
            message = f"unclosed {self!r}: use 'async with' or await aclose()"
            warnings.warn(message, ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f"<CometSession {self._api.gateway.name} at {self._api.gateway.root}>"

    def __reduce__(self) -> NoReturn:
        msg = "a CometSession can't be pickled: pass task ids, and make a session there"
        raise TypeError(msg)

    @property
    def gateway(self) -> Gateway:
        """Where the API is."""
        return self._api.gateway

    # Buying -----------------------------------------------------------------------------

    async def submit(self, request: TaskRequest) -> Task:
        """Send one request and return its task as the server took it.

        It is sent once. If the answer is lost, the task is looked for by its external id.

        Args:
            request: What to ask for, such as `ExpandRequest`.

        Raises:
            InputError: A rule of the API is broken; nothing was sent.
            OutcomeUnknownError: It may have been accepted and paid, and can't be found now.
            CometError: It was not accepted; nothing was paid.
        """
        if not self._engine.has_journal:
            return await self._purchase.submit(request, random_key())
        batch = await self._engine.own()
        record = await batch.submit(Item(source=name_of(request), request=request))
        task = as_task(record)
        if task is None:
            msg = f"the request is {record.state}: {record.message}"
            raise OutcomeUnknownError(
                msg, external_task_id=record.key, hint="run_job() looks again, free of charge"
            )
        return task

    async def run(self, request: TaskRequest, *, timeout: float | None = WAIT) -> Task:
        """Send one request of any kind, wait, and return the finished task.

        Args:
            request: What to ask for, such as `ExpandRequest`.
            timeout: Seconds to wait; None for no limit. 900 by default.

        Raises:
            CometError: As `expand` says.
        """
        check_timeout(timeout)  # before anything is paid
        if not self._engine.has_journal:
            key = request.external_task_id or random_key()
            await self._in_flight.acquire(key, request.n)
            try:
                task = await self._purchase.submit(request, key)
                return await self._waiter.wait(task, timeout=timeout)
            finally:
                self._in_flight.release(key)
        batch = await self._engine.own()
        item = Item(source=name_of(request), request=request)
        outcome = await batch.one(item, timeout=timeout)
        if outcome.error is not None:
            raise outcome.error
        return _require(outcome.task)

    async def expand(  # noqa: PLR0913 - the fields of the request, all but two by keyword
        self,
        image: ImageInput,
        margins: MarginRule,
        *,
        prompt: str | None = None,
        n: int = 1,
        watermark: bool = False,
        external_task_id: str | None = None,
        timeout: float | None = WAIT,
    ) -> Task:
        """Expand one image: submit, wait, and return the finished task.

        Args:
            image: A path, bytes, or a public URL.
            margins: `Margins`, or a rule such as ``Margins.for_aspect("16:9")``.
            prompt: What to draw in the new area; at most 2500 characters.
            n: How many variants, 1 to 9; each is paid.
            watermark: Get a watermarked version of each variant as well.
            external_task_id: Your own id for it.
            timeout: Seconds to wait; None for no limit. 900 by default.

        Raises:
            InputError: A rule of the API is broken; nothing was sent.
            TaskFailedError: The task failed.
            WaitTimeoutError: It is still going on; the error carries the id that resumes it.
            OutcomeUnknownError: It may have been accepted and paid, and can't be found now.
            CometError: It was not accepted, or the server can't be asked.
        """
        request = ExpandRequest(
            image=image,
            margins=margins,
            prompt=prompt,
            n=n,
            watermark=watermark,
            external_task_id=external_task_id,
        )
        return await self.run(request, timeout=timeout)

    def expand_many(
        self,
        requests: Iterable[TaskRequest] | AsyncIterable[TaskRequest],
        *,
        out: str | os.PathLike[str] | None = None,
        **options: Unpack[RunOptions],
    ) -> Run:
        """Run many requests; iterate over the result for their outcomes as they end.

        Args:
            requests: Any iterable, also an endless or async one; taken one by one.
            out: Where to save the images; by default they are not saved.
            **options: See `RunOptions`.

        Raises:
            InputError: An option can't be used.
        """
        folder = None if out is None else Path(out)
        items = functools.partial(items_of, requests, named=folder is not None)
        return self._engine.run(items, folder, options)

    def expand_folder(
        self,
        source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        out: str | os.PathLike[str],
        margins: MarginRule,
        *,
        prompt: str | None = None,
        n: int = 1,
        **options: Unpack[RunOptions],
    ) -> Run:
        """Expand all images of a folder; iterate over the result for their outcomes.

        Calling it again goes on where the last call ended, whatever ended it. Its journal is
        ``OUT/.comet-async/journal.sqlite3`` unless the session has one.

        Args:
            source: A folder, a file, a URL, or several of them.
            out: Where to save the images, under the names of their sources.
            margins: `Margins`, or a rule such as ``Margins.for_aspect("16:9")``.
            prompt: What to draw in the new area; at most 2500 characters.
            n: How many variants of each, 1 to 9.
            **options: See `RunOptions`.

        Raises:
            InputError: An argument can't be used.
        """
        sources = [source] if isinstance(source, str | os.PathLike) else list(source)
        template = ExpandRequest(image=b"", margins=margins, prompt=prompt, n=n)
        folder = Path(out)
        items = functools.partial(found_items, sources, folder, template)
        return self._engine.run(items, folder, options)

    async def run_job(self, key: str) -> Outcome:
        """Go on with one job of the session's journal, from wherever it stands.

        Safe to call at any time, by any process that holds the journal, and twice at once.

        Args:
            key: The job's key: the ``external_task_id`` of outcomes and errors.

        Raises:
            ConfigError: The session has no journal.
            NotFoundError: The journal has no such job.
            CometError: It can't go on now; the journal says how far it came.
        """
        if not self._engine.has_journal:
            msg = "the session has no journal"
            raise ConfigError(msg, hint="pass journal= to CometSession")
        batch = await self._engine.own()
        record = await batch.journal.get(key)
        if record is None:
            msg = f"the journal has no job {key!r}"
            raise NotFoundError(msg, external_task_id=key, sent=False)
        return await batch.resume(record)

    async def balance(self) -> Balance | None:
        """Return what is left in the account, or None when the gateway does not tell."""
        return await balance(self._api)

    # Saving -----------------------------------------------------------------------------

    async def download(
        self,
        image: ResultImage,
        path: str | os.PathLike[str],
        *,
        exists: Exists = "fail",
        watermarked: bool = False,
    ) -> Path:
        """Save one image; the file is there whole, or, also after a power cut, not at all.

        Args:
            image: One of a finished task's ``images``.
            path: The file's name.
            exists: What to do when another file has the name: ``fail`` or ``replace``.
            watermarked: Save the watermarked version.

        Returns:
            The path.

        Raises:
            ResultExpiredError: The server no longer holds the image.
            DownloadError: It can't be fetched or saved, or another file has the name.
        """
        target = Path(path)
        save = self._downloader.save
        await save(image, target, self.get, exists=exists, watermarked=watermarked)
        return target

    def _callback_url(self) -> str | None:
        return None if self._callbacks is None else self._callbacks.url

    def _heard(self, key: str) -> str | None:
        """Return the task that a callback names for our own id, if one came."""
        notification = None if self._callbacks is None else self._callbacks.early(None, key)
        return None if notification is None else notification.task_id


def _require(task: Task | None) -> Task:
    if task is None:
        msg = "the journal holds no task for a job that is done"
        raise JournalError(msg)
    return task
