"""The rooms joined for a run: journal, places in flight, jobs and files, from one session."""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)
from contextlib import aclosing, asynccontextmanager
from decimal import Decimal, InvalidOperation
from itertools import islice
from pathlib import Path
from typing import Protocol, TypedDict

import attrs

from comet_async._http.api import Api
from comet_async._images.discovery import OURS, scan
from comet_async._images.load import ImageInput, SourceImage, load
from comet_async._jobs.admission import ConcurrencyLimiter, JobClaims, KeyedLock
from comet_async._jobs.batch import Batch, Item, Planned
from comet_async._jobs.runner import JobOptions, JobRunner
from comet_async._journal.memory import MemoryJournal
from comet_async._journal.records import JobRecord, Journal, Limits
from comet_async._journal.states import IN_FLIGHT
from comet_async._results.download import Downloader
from comet_async._results.save import ResultSaver
from comet_async._validation import check_concurrency, check_timeout
from comet_async.clock import Clock
from comet_async.errors import CometError, InputError
from comet_async.journal import SqliteJournal
from comet_async.outcomes import Outcome
from comet_async.requests import EXPAND, KINDS, ExpandRequest, TaskRequest
from comet_async.waiter import TaskWaiter

JOURNAL_NAME = Path(OURS) / "journal.sqlite3"
"""Where a folder's journal lies, below the folder."""


JournalLike = str | os.PathLike[str] | Journal | None


def is_of(journal: JournalLike, folder: Path) -> bool:
    """Tell whether *journal* is the own one of *folder*, and so can move with it."""
    path = journal if isinstance(journal, str | os.PathLike) else getattr(journal, "path", None)
    return path is not None and os.path.realpath(path) == os.path.realpath(folder / JOURNAL_NAME)


async def with_folder(
    items: Callable[[], AsyncIterator[Item]], folder: Path
) -> AsyncGenerator[Item, None]:
    """Yield *items* with destinations that say the folder, for a journal that serves several."""
    async for item in items():
        yield attrs.evolve(item, dest=None if item.dest is None else str(folder / item.dest))


class OpenBatch(Protocol):
    """Opens what a run works with: a batch, its journal, and whether to close that."""

    def __call__(self, *, dry: bool) -> Awaitable[tuple[Batch, Journal, bool]]:
        """Open; *dry* makes nothing that is not there yet."""
        ...


@attrs.define(eq=False)
class Run:
    """Outcomes of many images, as an async iterable: use it once.

    Example:
        >>> async for outcome in comet.expand_folder("photos", "wide", Margins.uniform(0.2)):
        ...     print(outcome.source, outcome.status)

    Leaving the loop early stops the run: what is being sent is recorded to its end, and the
    next run goes on with it.
    """

    _open: OpenBatch = attrs.field(repr=False)
    _items: Callable[[], AsyncIterator[Item]] = attrs.field(repr=False)
    _batch: Batch | None = attrs.field(default=None, init=False, repr=False)
    _stopped: CometError | None = attrs.field(default=None, init=False)
    _interrupted: bool = attrs.field(default=False, init=False)

    @property
    def stopped(self) -> CometError | None:
        """The account problem that ended the run early, or None."""
        return self._batch.stopped if self._batch is not None else self._stopped

    def interrupt(self) -> None:
        """Stop soon: nothing new is sent, and what is not ended becomes ``pending``."""
        self._interrupted = True
        if self._batch is not None:
            self._batch.interrupt()

    async def __aiter__(self) -> AsyncGenerator[Outcome, None]:
        """Yield the outcomes in the order of completion.

        Raises:
            JournalError: The journal can't be opened or written.
        """
        async with self._opened() as batch:
            if self._interrupted:
                return
            async with aclosing(batch.outcomes(self._items())) as outcomes:
                async for outcome in outcomes:
                    yield outcome

    async def plan(self) -> AsyncGenerator[tuple[Item, Planned | CometError], None]:
        """Yield what a run would do with each image; nothing is written, sent or paid."""
        async with self._opened(dry=True) as batch:
            async for item in self._items():
                try:
                    planned: Planned | CometError = await batch.plan(item)
                except CometError as error:
                    planned = error
                yield item, planned

    @asynccontextmanager
    async def _opened(self, *, dry: bool = False) -> AsyncGenerator[Batch, None]:
        batch, journal, ours = await self._open(dry=dry)
        self._batch = batch
        try:
            yield batch
        finally:
            self._stopped, self._batch = batch.stopped, None
            await batch.runner.claims.settle()
            if ours:
                await journal.aclose()


CONCURRENCY = 16
"""Most images in flight at a time, unless told otherwise; Kling's packs allow 20 and more."""

SETTLE = 60.0
"""Seconds after a request of unknown outcome during which its task may still appear."""

PRICE = "give it by price= (on the command line --price)"
"""How to name a price, as error messages say it."""

# Images that are looked for at once: a thread for each would cost more than finding it.
_PAGE = 32


class RunOptions(TypedDict, total=False):
    """Options of a run over many images; all are optional.

    Attributes:
        concurrency: Most images in flight at a time; the session's by default.
        prepare: Mend images that the API would refuse. Needs the extra ``images``.
        settle: Seconds after a request of unknown outcome during which its task may still
            appear; the session's by default.
        timeout: Seconds that one task is waited for; no limit by default.
        max_jobs: Most jobs that this run may buy.
        max_spend: Most money in USD that this run may spend, by ``price``.
        price: USD for one image; the list price by default.
        retry_failed: Buy tasks that failed in an earlier run once more.
        verify_remote: Look for each new job on the server before sending it: for a folder
            whose journal was lost.
        salt: Another text makes another purchase of the same images.
    """

    concurrency: int
    prepare: bool
    settle: float
    timeout: float | None
    max_jobs: int | None
    max_spend: Decimal | float | str | None
    price: Decimal | float | str | None
    retry_failed: bool
    verify_remote: bool
    salt: str


@attrs.define(eq=False)
class RunFactory:
    """Makes runs for one session."""

    api: Api
    downloader: Downloader
    waiter: TaskWaiter
    clock: Clock
    defaults: RunOptions
    callback_url: Callable[[], str | None]
    heard: Callable[[str], str | None]
    given: JournalLike
    _own: Batch | None = attrs.field(default=None, init=False)
    _turns: KeyedLock = attrs.field(factory=KeyedLock, init=False)

    @property
    def has_journal(self) -> bool:
        """True when the session has a journal of its own."""
        return self.given is not None

    def loader(self, *, prepare: bool = False) -> Loader:
        """Return what loads images by this session's rules."""
        return Loader(prepare=prepare, private=self.api.gateway.loopback)

    async def own(self) -> Batch:
        """Return the batch over the session's own journal, opened at its first use."""
        async with self._turns.of("own"):  # opened once, however many ask at the same time
            if self._own is None:
                self._own = await self.batch(await self._open(self.given), None, {})
        return self._own

    def run(
        self,
        items: Callable[[], AsyncIterator[Item]],
        root: Path | None,
        options: RunOptions,
    ) -> Run:
        """Return a run over *items* that saves below *root*.

        Raises:
            InputError: An option can't be used.
        """
        limits(options)  # refused here, not at the first image
        check_timeout(options.get("timeout"))
        if root is not None and self.given is not None and not is_of(self.given, root):
            items = functools.partial(with_folder, items, root.absolute())

        async def open_batch(*, dry: bool) -> tuple[Batch, Journal, bool]:
            if self.given is not None:
                own = await self.own()
                claims = own.runner.claims
                return await self.batch(own.journal, root, options, claims), own.journal, False
            path = None if root is None else root / JOURNAL_NAME
            kept = path is not None and (not dry or path.exists())
            journal = await self._open(path if kept else None)
            return await self.batch(journal, root, options), journal, True

        return Run(open_batch, items)

    async def batch(
        self,
        journal: Journal,
        root: Path | None,
        options: RunOptions,
        claims: JobClaims | None = None,
    ) -> Batch:
        """Return a batch over *journal*; what is in flight there already is counted.

        Args:
            journal: Where the jobs are.
            root: Below which folder results are saved; None saves none.
            options: What differs from the session's own.
            claims: That of other runs over the same journal, if there are.
        """
        settings: RunOptions = {**self.defaults, **options}
        concurrency = check_concurrency(settings.get("concurrency", CONCURRENCY))
        if claims is None:
            claims = JobClaims(ConcurrencyLimiter(concurrency), journal)
            await _seed(claims.places, journal)
        # Only in the folder's own journal do all jobs belong to this folder.
        left_over = root is not None and is_of(journal, root)
        loader = self.loader(prepare=settings.get("prepare", False))
        runner = JobRunner(
            api=self.api,
            journal=journal,
            waiter=self.waiter,
            claims=claims,
            clock=self.clock,
            kinds=KINDS,
            load=loader.again,
            callback_url=self.callback_url,
            heard=self.heard,
            options=JobOptions(
                settle=settings.get("settle", SETTLE),
                timeout=settings.get("timeout"),
                limits=limits(settings),
                run=secrets.token_hex(8),
                verify_remote=settings.get("verify_remote", False),
            ),
        )
        delivery = None
        if root is not None:
            delivery = ResultSaver(
                journal=journal,
                downloader=self.downloader,
                api=self.api,
                clock=self.clock,
                root=root,
            )
        return Batch(
            runner=runner,
            journal=journal,
            delivery=delivery,
            load=loader,
            account=self.api.account,
            kinds=KINDS,
            clock=self.clock,
            # Twice: while one half is in flight, the other saves results and reads images.
            workers=2 * concurrency,
            salt=settings.get("salt", ""),
            retry_failed=settings.get("retry_failed", False),
            finish_left_over=left_over,
        )

    async def aclose(self) -> None:
        """Record what is being sent, and close the session's own journal if we opened it."""
        own, self._own = self._own, None
        if own is None:
            return
        await own.runner.claims.settle()
        if own.journal is not self.given:
            await own.journal.aclose()

    async def _open(self, given: JournalLike) -> Journal:
        if given is None:
            return MemoryJournal()
        if not isinstance(given, str | os.PathLike):
            return given
        return await SqliteJournal.open(Path(given), clock=self.clock)


@attrs.frozen(kw_only=True)
class Loader:
    """Loads images.

    Attributes:
        prepare: Mend what can be mended.
        private: Take URLs of this machine and of private networks.
        hashed: Find out each image's hash, which keys are made of.
    """

    prepare: bool
    private: bool
    hashed: bool = True

    async def __call__(self, image: ImageInput, field: str) -> SourceImage:
        """Load *image*; see `comet_async._images.load.load`."""
        return await load(
            image,
            field=field,
            prepare=self.prepare,
            allow_private=self.private,
            hashed=self.hashed,
        )

    async def again(self, record: JobRecord) -> Mapping[str, SourceImage]:
        """Load the image of a job from where its record says it is.

        Raises:
            InputError: It is not there any more, or it is another image.
        """
        if not record.image_sha:
            return {}
        if ":" in record.image_sha:
            msg = "a request with several images can't be rebuilt from the journal"
            raise InputError(
                msg,
                field="image",
                value=record.source,
                limit="one image",
                hint="run the same request again: what was paid is not paid again",
                external_task_id=record.key,
            )
        image = await self(record.source, "image")
        if image.sha256 != record.image_sha:
            msg = f"{record.source} is not the image that was planned"
            raise InputError(
                msg,
                field="image",
                value=record.source,
                limit="the same bytes",
                hint="nothing was paid; submit it as a new image",
                external_task_id=record.key,
            )
        return {"image": image}


async def _seed(quota: ConcurrencyLimiter, journal: Journal) -> None:
    after = ""
    while page := await journal.find(IN_FLIGHT, after=after):
        for record in page:
            quota.hold(record.key, record.n)
        after = page[-1].key


def limits(options: RunOptions) -> Limits:
    """Return what a run may buy.

    Raises:
        InputError: A limit is no positive number.
    """
    jobs, spend = options.get("max_jobs"), options.get("max_spend")
    if jobs is not None and jobs < 0:
        msg = f"max_jobs={jobs} must not be negative"
        raise InputError(msg, field="max_jobs", value=jobs, limit="at least 0")
    images = None
    if spend is not None:
        price = _money("price", options.get("price") or EXPAND.price or 0)
        if price <= 0:
            msg = "max_spend needs a price above 0"
            raise InputError(msg, field="price", value=price, limit="above 0", hint=PRICE)
        images = int(_money("max_spend", spend) / price)
    return Limits(jobs=jobs, images=images)


def _money(field: str, value: Decimal | float | str) -> Decimal:
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0:
        msg = f"{field}={value!r} is no amount of money"
        raise InputError(msg, field=field, value=value, limit="a number, at least 0")
    return amount


def name_of(request: TaskRequest) -> str:
    """Return what to call a request: its first image's name.

    Raises:
        InputError: It is no request.
    """
    if not callable(getattr(request, "images", None)):
        msg = f"{request!r} is no request"
        hint = "wrap it, as in ExpandRequest(image=..., margins=...)"
        raise InputError(msg, field="request", value=request, hint=hint)
    for image in request.images().values():
        if isinstance(image, SourceImage):
            return image.source
        if isinstance(image, bytes | bytearray | memoryview):
            return "<bytes>"
        text = os.fspath(image) if isinstance(image, os.PathLike) else str(image)
        return "<data>" if text.startswith("data:") else text
    return request.kind.name


async def items_of(
    requests: Iterable[TaskRequest] | AsyncIterable[TaskRequest], *, named: bool
) -> AsyncIterator[Item]:
    """Yield the items of *requests*; *named* ones are saved under their number and stem."""
    number = 0
    async for request in _each(requests):
        number += 1
        source = name_of(request)
        stem = Path(source).stem if not source.startswith("<") else request.kind.name
        safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in stem).strip(".")[:100]
        dest = f"{number:05d}-{safe}" if named else None
        yield Item(source=source, request=request, dest=dest)


async def _each(
    requests: Iterable[TaskRequest] | AsyncIterable[TaskRequest],
) -> AsyncIterator[TaskRequest]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
        return
    for request in requests:
        yield request
        await asyncio.sleep(0)  # a long plain iterable must not hold the loop


async def found_items(
    sources: Iterable[str | os.PathLike[str]], out: Path, template: ExpandRequest
) -> AsyncIterator[Item]:
    """Yield an item for each image that *sources* lead to."""
    loop = asyncio.get_running_loop()
    scanned = scan([os.fspath(source) for source in sources], out=out)
    try:
        while page := await loop.run_in_executor(None, list, islice(scanned, _PAGE)):
            for found in page:
                request = attrs.evolve(template, image=found.image)
                dest = str(found.stem)
                yield Item(source=found.source, request=request, dest=dest, error=found.error)
    finally:
        scanned.close()  # a thread may be waiting for the standard input
