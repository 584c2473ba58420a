"""`CometSession`: the main entry point. Wires the components together and owns their lifetime."""

from __future__ import annotations

import asyncio
import functools
import os
import warnings
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Mapping,
)
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn, Self, Unpack, get_args

import attrs

from comet_async._addresses import url_scheme
from comet_async._backoff import Backoff, Gate, WaitStrategy, with_retries
from comet_async._cancellation import finished
from comet_async._http.api import MAX_PAGE, Api
from comet_async._http.balance import balance
from comet_async._images.naming import exact
from comet_async._images.rules import show
from comet_async._images.source import ImageInput, SourceImage
from comet_async._jobs.health import ServerHealth
from comet_async._jobs.options import Busy, JobOptions
from comet_async._jobs.reconcile import TaskLookup
from comet_async._jobs.services import Services
from comet_async._jobs.tasks import SessionTasks
from comet_async._journal.records import Journal
from comet_async._results.download import Downloader
from comet_async._results.files import Exists
from comet_async._runs.factory import RunFactory
from comet_async._runs.items import Item
from comet_async._runs.journals import root_of
from comet_async._runs.options import CONCURRENCY, SETTLE, check_options, limits, selected
from comet_async._runs.sources import FolderItems, RequestItems, Root, name_of
from comet_async._validation import (
    check_call,
    check_callbacks,
    check_choice,
    check_clock,
    check_event_loop,
    check_flag,
    check_id,
    check_instance,
    check_number,
    check_path,
    check_several,
    check_text,
    check_timeout,
    check_writable_path,
    wrong,
)
from comet_async.auth import Credentials
from comet_async.clock import SYSTEM_CLOCK, Clock
from comet_async.config import (
    Config,
    Network,
    Timeouts,
    choose_account,
    choose_credentials,
    choose_gateway,
    config_path,
)
from comet_async.errors import (
    DownloadError,
    InputError,
    JournalError,
    JournalRequiredError,
    NotFoundError,
    TaskFailedError,
    TransportError,
)
from comet_async.events import Event, EventSink
from comet_async.gateways import Gateway
from comet_async.geometry import MarginRule
from comet_async.models import Balance, ResultImage, Task
from comet_async.outcomes import Outcome
from comet_async.requests import EXPAND, ExpandRequest, TaskRequest, kind_named
from comet_async.runs import Budget, Run, RunOptions, make_run
from comet_async.schedules import ScheduleLike, as_schedule
from comet_async.secret import Secret, redact
from comet_async.stores import OpenStore, Stores
from comet_async.waiter import NotificationSource, TaskStream, TaskWaiter, check_task

WAIT = 900.0
"""Seconds that `CometSession.expand` takes at most by default; ComfyUI's users found ten minutes
too short (https://github.com/Comfy-Org/ComfyUI/pull/8860)."""

CLOSING = 25.0
"""Seconds that closing takes at most by default: Kubernetes kills after 30."""


class CometSession:
    """A connection to the API for one account.

    Use it as an async context manager: entering it opens the journal, and raises a `JournalError`
    if that can't be used. One session serves any number of tasks, and several event loops, one
    after the other or at once.

    Args:
        api_key: The key. By default from ``COMETAPI_KEY`` (for Kling itself from
            ``KLING_API_KEY``, or ``KLING_ACCESS_KEY`` with ``KLING_SECRET_KEY``), else from
            the config file.
        gateway: A `Gateway`, or a name or an address that `Gateway.parse` reads, such as
            ``"comet"`` or ``"kling"``. By default CometAPI at ``COMETAPI_API_ROOT``, else at
            ``COMETAPI_BASE_URL`` without its ``/v1``; else the config file's gateway; else Kling
            if only its keys are in the environment; else CometAPI at its own address.
        journal: The path of a file, which one process at a time can open; the address of a
            database that several can share (``postgresql://…``, with the extra ``postgres``);
            or a `Journal`, which sessions of one process can share. With one, nothing that was
            paid is lost or paid again, whatever crashes. None by default; `expand_folder` then
            keeps its own.
        account: A name for the account, by which the journal recognises its jobs after the key
            has been replaced. By default ``COMETAPI_ACCOUNT``, else the config file's, else
            it is derived from the key.
        concurrency: Maximum number of images in flight, from sending to the end of their task;
            `submit` waits for a slot, too. 16 by default.
        request_timeout: Seconds for one exchange, or `Timeouts`, which has the defaults. Seconds
            never shorten the wait for the answer to a paid request.
        settle: Seconds after a request whose answer was lost during which its task may still
            appear. 60 by default.
        verify_remote: Look for each new job on the server before it is sent: for ids that
            another process, or a journal that was lost, may have sent. False by default.
        schedule: When to poll a task: seconds, a tenacity wait strategy, or a
            `Schedule`. A `LearnedSchedule` by default.
        backoff: How long to wait after failures, at least: a tenacity wait strategy such as
            ``wait_random_exponential(max=30)``. What the server asks for counts as well.
            Exponential with jitter by default, from half a second for what costs nothing and
            from one second for paid requests, up to 30 s.
        callbacks: A `CallbackReceiver`. Its address goes into what is submitted, and its
            notifications go to the session's own waiter.
        on_event: Called in the event loop with each event of `comet_async.events`: what happens
            to jobs, and the polls of the session's own waiter. The same events are logged.
        network: Proxy, certificates, or an ``aiohttp.ClientSession`` of your own.
        prepare: Convert images that the API refuses (WebP, HEIC, TIFF and the like, too large a
            file, too small an image), and those that it accepts but may read in another way than
            viewers show them (rotated by EXIF, CMYK, 16 bits). False by default.
        stores: Stores besides S3, by the scheme of their addresses: functions that return the
            `Store` of what is between ``://`` and the first slash. One called ``"s3"`` takes
            the place of `open_s3`, which finds its credentials in the environment.
        clock: For tests.

    Raises:
        ConfigError: There is no key, or a setting can't be used.
        InputError: Another argument can't be used.
    """

    def __init__(  # noqa: PLR0913 - the settings of a program, all but one by keyword
        self,
        api_key: str | Secret | Credentials | None = None,
        *,
        gateway: Gateway | str | None = None,
        journal: str | os.PathLike[str] | Journal | None = None,
        account: str | None = None,
        concurrency: int = CONCURRENCY,
        request_timeout: float | Timeouts | None = None,
        settle: float = SETTLE,
        verify_remote: bool = False,
        schedule: ScheduleLike = None,
        backoff: WaitStrategy | None = None,
        callbacks: NotificationSource | None = None,
        on_event: Callable[[Event], object] | None = None,
        network: Network | None = None,
        prepare: bool = False,
        stores: Mapping[str, OpenStore] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        check_callbacks(callbacks)
        check_clock(clock)
        check_instance("network", network, (Network, type(None)), "a Network")
        defaults: RunOptions = {
            "concurrency": concurrency,
            "settle": settle,
            "prepare": prepare,
            "verify_remote": verify_remote,
        }
        check_options(defaults)  # the number of connections depends on one
        config = Config.read(config_path(os.environ))
        chosen = choose_gateway(gateway, os.environ, config)
        credentials = choose_credentials(api_key, chosen, os.environ, config)
        identity = choose_account(account, os.environ, config) or credentials.account
        network = network or Network(connections=max(concurrency, 32) + 1)
        timeouts = Timeouts.of(request_timeout)
        self._backoff = Backoff.of(backoff)
        self._api = Api.connect(
            chosen, credentials, network=network, timeouts=timeouts, clock=clock
        )
        self._tasks = SessionTasks(self._api, as_schedule(schedule), self._backoff)
        events = EventSink(on_event)
        hook = None if on_event is None else events.call  # one that raises ends for both
        self._waiter = TaskWaiter(self._tasks, callbacks=callbacks, on_event=hook)
        self._services = Services(
            api=self._api,
            waiter=self._waiter,
            downloader=Downloader(
                transport=self._api.transport,
                clock=clock,
                loopback=chosen.loopback,
                own_host=chosen.root.host if chosen.allow_http else None,
                backoff=self._backoff,
            ),
            health=ServerHealth(clock, Gate(clock, self._backoff, trusted=False)),
            account=f"{chosen.fingerprint}-{identity}",
            callbacks=callbacks,
            events=events,
        )
        self._runs = RunFactory(
            services=self._services,
            tasks=self._tasks,
            defaults=defaults,
            given=journal,
            stores=Stores(stores or {}),
        )

    async def __aenter__(self) -> Self:
        """Open the journal, if there is one, and return the session.

        Raises:
            JournalBusyError: Another process has the journal open.
            JournalError: It can't be used.
            SessionClosedError: The session was closed before.
            ConfigError: No asyncio event loop is running.
        """
        check_event_loop()
        self._tasks.check_open()
        if self._runs.given is not None:
            await self._runs.own()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close; see `aclose`."""
        await self.aclose()

    async def aclose(self, timeout: float = CLOSING) -> None:
        """Close for good: end all calls, record what is being sent, and close all connections.

        Nothing is sent after this. Calls in progress end with `SessionClosedError`, which names
        every id that is known; a task itself continues, and another session can wait for it. This
        also waits for runs that were left early, so that their folders can be opened again. It may
        be called again. A caller that is cancelled waits for all of it, too. To use one session in
        two ``asyncio.run`` calls, don't close it in between.

        Args:
            timeout: Seconds to wait for the answers to requests that have been sent. 25 by
                default. What is not answered by then is recorded as unknown, and looked up by
                the next run.

        Raises:
            JournalError: The journal could not be closed; the connections are.
        """
        check_number("timeout", timeout, least=0)
        # Left halfway, it would keep the journal's lock for as long as this process runs.
        await finished(asyncio.ensure_future(self._close(timeout, asyncio.current_task())))

    async def _close(self, timeout: float, caller: asyncio.Task[object] | None) -> None:
        problem = None
        try:
            await self._runs.aclose(timeout, caller)
        except Exception as error:  # noqa: BLE001 - a journal fails; connections are closed all the same
            problem = error
        await self._waiter.aclose()
        await self._api.transport.aclose()
        if problem is not None:
            raise problem

    def __del__(self) -> None:
        tasks: SessionTasks | None = getattr(self, "_tasks", None)  # None: a setting was refused
        if tasks is not None and not tasks.closed and self._api.transport.unclosed:
            message = f"unclosed {self!r}: use 'async with' or await aclose()"
            warnings.warn(message, ResourceWarning, source=self, stacklevel=2)
            self._api.transport.abandon(message)  # Python hides the warning by default

    def __repr__(self) -> str:
        return f"<CometSession {self._api.gateway.name} at {self._api.gateway.root}>"

    def __reduce__(self) -> NoReturn:
        msg = "a CometSession can't be pickled: pass task ids, and make a session there"
        raise TypeError(msg)

    @property
    def gateway(self) -> Gateway:
        """Where the API is."""
        return self._api.gateway

    @property
    def waiter(self) -> TaskWaiter:
        """The session's own waiter, with its counters."""
        return self._waiter

    # Images -----------------------------------------------------------------------------

    async def measure(self, image: ImageInput) -> SourceImage:
        """Check an image as `expand` does, and return it with its width and height.

        This is for an image at a URL. The provider fetches it, so its size is not known here; its
        beginning is read to find out. Pass the result to `expand`, and a rule such as ``"16:9"``
        can be used.

        Args:
            image: Whatever `expand` takes.

        Raises:
            InputError: A rule of the API is broken, or the image can't be read.
            MissingExtraError: A store or ``prepare`` needs a library that is not installed.
            SessionClosedError: The session was closed.
        """
        self._tasks.check_open()
        loaded = await self._runs.loader(self._runs.defaults).load(image, "image")
        if loaded.url is None or loaded.width is not None:
            return loaded
        try:
            header = await self._services.downloader.header(loaded.url)
            reason = "it is not a PNG or JPEG image"
        except (DownloadError, TransportError) as error:
            header, reason = None, error.message.replace("the result's URL", "it")
        if header is None:
            raise InputError(
                f"the size of the image at {show(loaded.url)} can't be read: {reason}",
                field="image",
                value=show(loaded.url),
                limit="a public https URL of a PNG or JPEG image",
            )
        return attrs.evolve(loaded, width=header.width, height=header.height)

    # Buying -----------------------------------------------------------------------------

    async def submit(
        self,
        request: TaskRequest,
        *,
        timeout: float | None = None,
        busy: Busy = "wait",
        verify_remote: bool | None = None,
    ) -> Task:
        """Send one request and return its task as the server accepted it.

        It is sent once. If the answer is lost, the task is looked up by its external id. The
        task holds its slot until its end is seen: by any waiter of this session, or by `get`.

        Args:
            request: What to ask for, such as `ExpandRequest`.
            timeout: Seconds for all of it, a free slot included; None, the default, for no
                limit. What was sent continues and is recorded. With 0, nothing is sent.
            busy: ``"raise"`` to get `ConcurrencyLimitError` at once when there is no free slot
                or the server is busy; ``"wait"`` by default.
            verify_remote: Look for the task on the server first. The session's by default.

        Raises:
            InputError: A rule of the API is broken; nothing was sent.
            OutcomeUnknownError: It may have been accepted and billed, and can't be found now.
            WaitTimeoutError: The time limit passed; the error says whether anything was sent.
            SessionClosedError: The session was closed.
            CometError: It was not accepted; nothing was paid.
        """
        options = self._options(timeout, busy, verify_remote=verify_remote, until_submitted=True)
        item = Item(source=name_of(request), request=request)
        with await self._runs.single(options) as batch:
            outcome = await batch.one(item)
        if outcome.task is None and outcome.error is not None:
            raise outcome.error
        return _require_task(outcome.task)

    async def run(
        self,
        request: TaskRequest,
        *,
        out: str | os.PathLike[str] | None = None,
        timeout: float | None = WAIT,
        busy: Busy = "wait",
        on_submitted: Callable[[Task], object] | None = None,
        verify_remote: bool | None = None,
    ) -> Task:
        """Send one request of any kind, wait, and return the finished task.

        Args:
            request: What to ask for, such as `ExpandRequest`.
            out: As for `expand`.
            timeout: As for `expand`.
            busy: As for `submit`.
            on_submitted: As for `expand`.
            verify_remote: As for `submit`.

        Raises:
            CometError: As `expand` says.
        """
        options = self._options(
            timeout, busy, verify_remote=verify_remote, on_submitted=on_submitted
        )
        item = Item(source=name_of(request), request=request)
        root: Root | None = None
        if out is not None:
            target = self._target(out, request.n)
            root = target.rpartition("/")[0] if isinstance(target, str) else target.parent
            item = attrs.evolve(item, dest=exact(target))
        with await self._runs.single(options, root=root) as batch:
            outcome = await batch.one(item)
        if outcome.error is not None:
            raise outcome.error
        return _require_task(outcome.task)

    async def expand(  # noqa: PLR0913 - the fields of the request, all but two by keyword
        self,
        image: ImageInput,
        margins: MarginRule | str,
        *,
        prompt: str | None = None,
        n: int = 1,
        watermark: bool = False,
        external_task_id: str | None = None,
        out: str | os.PathLike[str] | None = None,
        timeout: float | None = WAIT,
        busy: Busy = "wait",
        on_submitted: Callable[[Task], object] | None = None,
        verify_remote: bool | None = None,
    ) -> Task:
        """Expand one image: submit, wait, and return the finished task.

        Args:
            image: A path, bytes, a public URL, or an address such as ``s3://bucket/dog.png``.
            margins: `Margins`, a rule such as ``Margins.for_aspect("16:9")``, or text such as
                ``"16:9"``.
            prompt: What to draw in the new area; at most 2500 characters.
            n: How many variants, 1 to 9; each is paid.
            watermark: Get a watermarked version of each variant as well.
            external_task_id: Your own id for it.
            out: The file, or the address in a store, to save the image as. If it is there, and
                the journal knows it as the result of this very request, nothing is paid; any
                other file of that name is refused before anything is sent. The bytes stay as
                they come, usually PNG, whatever the name ends with.
            timeout: Seconds for a free slot, sending, and waiting for the end of the task; None
                for no limit. 900 by default. What was sent continues and is recorded. With 0,
                nothing is sent. A result that is there in time is saved, however long that takes;
                a download that stands still ends after ``request_timeout``, and is tried again.
            busy: ``"raise"`` to get `ConcurrencyLimitError` at once when there is no free slot
                or the server is busy; ``"wait"`` by default.
            on_submitted: Called, not awaited, with the task once it is accepted, before it is
                waited for. If it raises, the call ends with that; the task continues and is billed.
            verify_remote: Look for the task on the server before sending. The session's by
                default.

        Raises:
            InputError: A rule of the API is broken, or the file can't be used; nothing was sent.
            TaskFailedError: The task failed.
            WaitTimeoutError: The time limit passed; the error has every id that is known, and says
                whether anything was sent.
            OutcomeUnknownError: It may have been accepted and billed, and can't be found now.
            DownloadError: The result can't be saved; the task is paid, and the error has its id.
            SessionClosedError: The session was closed.
            CometError: It was not accepted, or its result can't be obtained.
        """
        request = ExpandRequest(
            image=image,
            margins=margins,
            prompt=prompt,
            n=n,
            watermark=watermark,
            external_task_id=external_task_id,
        )
        return await self.run(
            request,
            out=out,
            timeout=timeout,
            busy=busy,
            on_submitted=on_submitted,
            verify_remote=verify_remote,
        )

    def expand_many(
        self,
        requests: Iterable[TaskRequest] | AsyncIterable[TaskRequest],
        *,
        out: str | os.PathLike[str] | None = None,
        **options: Unpack[RunOptions],
    ) -> Run:
        """Run many requests; iterate over the result for their outcomes as they end.

        Args:
            requests: Any iterable, even an endless or async one; taken one by one.
            out: Where to save the images, as for `expand_folder`; by default they are not saved.
            **options: See `RunOptions`.

        Raises:
            InputError: An option can't be used.
            JournalRequiredError: Results in a store need a session with a journal.
            SessionClosedError: The session was closed.
        """
        check_several("requests", requests, "an iterable of requests")
        if out is not None:
            check_writable_path("out", out)
        folder = None if out is None else self._root(out)
        items = RequestItems(requests=requests, named=folder is not None)
        return make_run(self._runs, items, folder, options)

    def expand_folder(
        self,
        source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        out: str | os.PathLike[str],
        margins: MarginRule | str,
        *,
        prompt: str | None = None,
        n: int = 1,
        watermark: bool = False,
        **options: Unpack[RunOptions],
    ) -> Run:
        """Expand all images of a folder; iterate over the result for their outcomes.

        Calling it again continues where the last call ended, whatever ended it. Its journal is
        ``OUT/.comet-async/journal.sqlite3`` unless the session has one.

        Args:
            source: A folder, a file, a URL, or several of them; or addresses in a store such as
                ``s3://bucket/photos``.
            out: Where to save the images, under the names of their sources: a folder, or an
                address in a store, which needs a session with a journal.
            margins: `Margins`, a rule such as ``Margins.for_aspect("16:9")``, or text such as
                ``"16:9"``.
            prompt: What to draw in the new area; at most 2500 characters.
            n: How many variants of each, 1 to 9.
            watermark: Get a watermarked version of each variant as well.
            **options: See `RunOptions`.

        Raises:
            InputError: An argument can't be used.
            JournalRequiredError: Results in a store need a session with a journal.
            MissingExtraError: A store needs a library that is not installed.
            SessionClosedError: The session was closed.
        """
        check_writable_path("out", out)
        if isinstance(source, str | os.PathLike):
            source = (source,)
        check_several("source", source, "a folder, a file, a URL, or several of them")
        sources = list(source)
        for each in sources:
            check_path("source", each)
        check_options(options)
        template = ExpandRequest(
            image=b"", margins=margins, prompt=prompt, n=n, watermark=watermark
        )
        folder, stores = self._root(out), self._runs.stores
        names = [os.fspath(each) for each in sources]
        for name in filter(stores.knows, names):
            stores.at(name)  # a library that is missing is named here
        items = FolderItems(
            sources=names,
            out=folder,
            template=template,
            selection=selected(options),
            stores=stores,
        )
        return make_run(self._runs, items, folder, options)

    async def run_job(
        self, key: str, *, timeout: float | None = WAIT, **budget: Unpack[Budget]
    ) -> Outcome:
        """Continue with one job of the session's journal, from wherever it stands.

        Safe to call at any time, by any process that holds the journal, and twice at once. The
        journal keeps no images: a job that was not sent yet needs its file where it was. For one
        that was made from bytes, make the same request again with the same bytes.

        Args:
            key: The job's key: the ``external_task_id`` of outcomes and errors.
            timeout: As for `expand`.
            **budget: What may be bought under the name ``budget``, over all calls and all processes
                that use the journal; without a name, by all single calls of this session
                together, `expand` and the like included. See `RunOptions`.

        Raises:
            JournalRequiredError: The session has no journal.
            NotFoundError: The journal has no such job.
            BudgetExceededError: The budget does not allow it; nothing was sent.
            InputError: It was not sent yet, and its image can't be loaded.
            WaitTimeoutError: The time limit passed; the error says whether anything was sent.
            CometError: It can't continue now; the journal says how far it came.
        """
        self._require_journal("run_job()")
        check_text("key", key)
        check_timeout(timeout)
        check_options(budget)
        active = await self._runs.own()
        record = await active.journal.get(key)
        if record is None:
            msg = f"the journal has no job {key!r}"
            raise NotFoundError(msg, external_task_id=key, sent=False)
        options = self._options(timeout)
        run = budget.get("budget") or options.run
        options = attrs.evolve(options, limits=limits({**budget}), run=run)
        with await self._runs.single(options, root=root_of(active.journal)) as batch:
            return await batch.resume(record)

    def resume(self, **options: Unpack[RunOptions]) -> Run:
        """Continue with every unfinished job of the session's journal.

        Iterate over the result for their outcomes as they end. Jobs that were planned and not
        sent are sent, so this can cost money. Results are saved where the earlier run was to save
        them.

        Args:
            **options: See `RunOptions`.

        Raises:
            JournalRequiredError: The session has no journal.
            InputError: An option can't be used.
            SessionClosedError: The session was closed.
        """
        self._require_journal("resume()")
        return make_run(self._runs, None, None, options)

    async def balance(self) -> Balance | None:
        """Return what is left in the account, or None when the gateway does not say.

        Raises:
            SessionClosedError: The session was closed.
        """
        self._tasks.check_open()
        return await balance(self._api)

    # Waiting ----------------------------------------------------------------------------

    async def wait(
        self,
        task: Task | str,
        *,
        timeout: float | None = WAIT,
        kind: str | None = None,
        n: int = 1,
    ) -> Task:
        """Wait until a task has ended, and return it; see `TaskWaiter.wait`.

        Args:
            task: A snapshot, or the server's id, even one from another process.
            timeout: Seconds from now; None for no limit. 900 by default. With 0, the task is
                polled once.
            kind: The task's kind, when only its id is given; ``"expand"`` by default.
            n: How many images it makes, if they take longer than one.

        Raises:
            TaskFailedError: The task failed; the error holds it.
            WaitTimeoutError: It has not ended; the error has the id to wait for again.
            SessionClosedError: The session was closed.
            CometError: As `TaskWaiter.wait` says.
        """
        self._tasks.check_open()
        check_task(task)
        check_timeout(timeout)
        try:
            ended = await self._waiter.wait(task, timeout=timeout, kind=kind, n=n)
        except TaskFailedError as error:
            await self._tasks.observe(error.task)
            raise
        await self._tasks.observe(ended)
        return ended

    def transitions(
        self,
        task: Task | str,
        *,
        timeout: float | None = None,
        kind: str | None = None,
        n: int = 1,
    ) -> TaskStream:
        """Iterate over a task's states, each once; see `TaskWaiter.transitions`.

        *timeout* is in seconds; None, the default, means no limit.

        Raises:
            SessionClosedError: The session was closed.
        """
        self._tasks.check_open()
        return self._waiter.transitions(task, timeout=timeout, kind=kind, n=n)

    def as_completed(
        self,
        tasks: Iterable[Task | str] | AsyncIterable[Task | str],
        *,
        timeout: float | None = None,
        kind: str | None = None,
        n: int = 1,
    ) -> TaskStream:
        """Iterate over tasks in the order in which they end; see `TaskWaiter.as_completed`.

        *timeout* is in seconds for each task; None, the default, means no limit.

        Raises:
            SessionClosedError: The session was closed.
        """
        self._tasks.check_open()
        return self._waiter.as_completed(tasks, timeout=timeout, kind=kind, n=n)

    # Looking up -------------------------------------------------------------------------

    async def get(self, task_id: str, *, kind: str = EXPAND.name) -> Task:
        """Return a task by the server's id; transient errors are retried up to three times.

        Args:
            task_id: The server's id.
            kind: Which kind of task.

        Raises:
            InputError: *task_id* can't be an id, or *kind* is unknown.
            NotFoundError: The server knows no such task.
            SessionClosedError: The session was closed.
            CometError: There was no good answer.
        """
        self._tasks.check_open()
        check_id("task_id", task_id)
        read = functools.partial(self._tasks.poll, task_id, kind=kind)
        return await with_retries(read, clock=self._api.clock, backoff=self._backoff)

    async def find(self, external_task_id: str, *, kind: str = EXPAND.name) -> Task:
        """Look a task up by your external id, trying each form the gateway may support.

        Args:
            external_task_id: The id that was sent with the request.
            kind: Which kind of task.

        Raises:
            InputError: *external_task_id* can't be an id, or *kind* is unknown.
            NotFoundError: No answer was about this id. On a gateway that does not pass ids
                on, that does not mean that there is no task.
            AuthenticationError: The key was refused.
            AccountError: The account may not use the API.
            SessionClosedError: The session was closed.
        """
        self._tasks.check_open()
        check_id("external_task_id", external_task_id)
        finding = await TaskLookup(self._api).look(kind_named(kind), external_task_id, known=None)
        if finding.task is None:
            raise NotFoundError(
                f"no task was found under the external id {external_task_id!r}",
                external_task_id=external_task_id,
                hint="the gateway may not look tasks up by external id",
            )
        await self._tasks.observe(finding.task)
        return finding.task

    async def list_tasks(
        self, *, kind: str = EXPAND.name, page_size: int = 30
    ) -> AsyncGenerator[Task, None]:
        """Yield the account's tasks, page by page, in the server's order.

        Args:
            kind: Which kind of tasks.
            page_size: 1 to 500; 30 by default.

        Raises:
            InputError: *page_size* is out of range, or *kind* is unknown.
            SessionClosedError: The session was closed.
            CometError: A page can't be read. CometAPI documents no list.
        """
        for number in range(1, MAX_PAGE + 1):
            read = functools.partial(self._tasks.poll_page, number, page_size, kind=kind)
            page = await with_retries(read, clock=self._api.clock, backoff=self._backoff)
            for task in page.tasks:
                yield task
            if page.last:
                return

    # Saving -----------------------------------------------------------------------------

    async def download(
        self,
        image: ResultImage,
        path: str | os.PathLike[str],
        *,
        exists: Exists = "fail",
        watermarked: bool = False,
    ) -> Path:
        """Save one image. Even after a power cut, the file is complete or not there at all.

        Args:
            image: One of a finished task's ``images``.
            path: Where to save it; no extension is added.
            exists: What to do when another file has the name: ``fail``, the default, or
                ``replace``.
            watermarked: Save the watermarked version.

        Returns:
            The path.

        Raises:
            ResultExpiredError: The server no longer holds the image.
            DownloadError: It can't be fetched or saved, or another file has the name.
            ConnectionLostError: Each attempt broke off, or gave no complete image.
            InputError: An argument can't be used, or there is no watermarked version.
            SessionClosedError: The session was closed.
        """
        self._tasks.check_open()
        _check_image(image, watermarked=watermarked)
        check_writable_path("path", path)
        check_choice("exists", exists, _EXISTS)
        target = _local("path", os.fspath(path), "a path")
        save = self._services.downloader.save
        await save(image, target, self.get, exists=exists, watermarked=watermarked)
        return target

    async def read(self, image: ResultImage, *, watermarked: bool = False) -> bytes:
        """Return the bytes of one image, complete and checked.

        Args:
            image: One of a finished task's ``images``.
            watermarked: Read the watermarked version.

        Raises:
            ResultExpiredError: The server no longer holds the image.
            DownloadError: It can't be fetched.
            ConnectionLostError: Each attempt broke off, or gave no complete image.
            InputError: *image* is not one, or there is no watermarked version.
            SessionClosedError: The session was closed.
        """
        self._tasks.check_open()
        _check_image(image, watermarked=watermarked)
        read = self._services.downloader.read
        return await read(image, self.get, watermarked=watermarked)

    @asynccontextmanager
    async def stream(
        self, image: ResultImage, *, watermarked: bool = False
    ) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """Open one image as a stream: ``async with comet.stream(image) as chunks:``.

        The image is checked while it is read: an incomplete one raises an error at its end, so
        what was written from its chunks must be discarded then.

        Args:
            image: One of a finished task's ``images``.
            watermarked: Read the watermarked version.

        Raises:
            ResultExpiredError: The server no longer holds the image.
            DownloadError: It can't be fetched.
            ConnectionLostError: It broke off, or what came is not a complete image.
            InputError: *image* is not one, or there is no watermarked version.
            SessionClosedError: The session was closed.
        """
        self._tasks.check_open()
        _check_image(image, watermarked=watermarked)
        open_stream = self._services.downloader.stream
        async with open_stream(image, self.get, watermarked=watermarked) as chunks:
            yield chunks

    def _root(self, out: str | os.PathLike[str]) -> Root:
        """Return where results go: a folder, or an address without a final slash."""
        text = os.fspath(out)
        return text.rstrip("/") if self._runs.stores.knows(text) else _local("out", text, _PLACE)

    def _target(self, out: str | os.PathLike[str], n: int) -> Root:
        """Return the file, or the address, that ``out=`` names.

        Raises:
            InputError: It can't be the name of one image.
        """
        check_writable_path("out", out)
        text = os.fspath(out)
        if text.endswith(("/", os.sep)) or Path(text).is_dir():
            raise InputError("out must name a file", field="out", value=text, limit="a file's name")
        if n != 1:
            raise InputError(
                f"out names one file, and n={n} images are wanted",
                field="out",
                value=text,
                limit="n=1",
                hint="use expand_many(..., out=folder), or download() each image",
            )
        if not self._runs.stores.knows(text):
            return _local("out", text, _PLACE).absolute()
        if not self._runs.stores.at(text)[1]:
            raise InputError("out must name a file", field="out", value=text, limit="a file's name")
        return text

    def _require_journal(self, what: str) -> None:
        self._tasks.check_open()
        if self._runs.given is None:
            raise JournalRequiredError(
                f"{what} needs a session with a journal", hint="pass journal= to CometSession"
            )

    def _options(
        self,
        timeout: float | None,
        busy: Busy = "wait",
        *,
        verify_remote: bool | None = None,
        until_submitted: bool = False,
        on_submitted: Callable[[Task], object] | None = None,
    ) -> JobOptions:
        """Return the options of one call.

        Raises:
            InputError: One of them can't be used.
        """
        check_timeout(timeout)  # before anything is paid
        check_choice("busy", busy, _BUSY)
        check_call("on_submitted", on_submitted)
        if verify_remote is not None:
            check_flag("verify_remote", verify_remote)
        defaults = self._runs.defaults
        if verify_remote is None:
            verify_remote = defaults.get("verify_remote", False)
        return JobOptions(
            settle=defaults.get("settle", SETTLE),
            timeout=timeout,
            run=self._runs.own_run,
            verify_remote=verify_remote,
            single=True,
            until_submitted=until_submitted,
            busy=busy,
            on_submitted=on_submitted,
        )


_EXISTS: tuple[str, ...] = get_args(Exists)
_BUSY: tuple[str, ...] = get_args(Busy)
_PLACE = "a path, or an address in a store that the session knows"


def _local(field: str, text: str, limit: str) -> Path:
    """Return *text* as a path; an address would become folders named like its parts.

    Raises:
        InputError: It is an address.
    """
    if "://" in text and len(url_scheme(text)) > 1:  # not a drive of Windows
        raise wrong(field, redact(text), limit)
    return Path(text)


def _check_image(image: object, *, watermarked: object) -> None:
    """Refuse what is not a task's image.

    Raises:
        InputError: It is not.
    """
    hint = "pass one of a finished task's images, such as task.images[0]"
    check_instance("image", image, ResultImage, "a ResultImage", hint=hint)
    check_flag("watermarked", watermarked)


def _require_task(task: Task | None) -> Task:
    if task is None:
        msg = "the journal holds no task for a job that is done"
        raise JournalError(msg)
    return task
