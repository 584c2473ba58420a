"""``comet-async enqueue``, ``worker``, ``fleet`` and ``migrate``: many machines, one queue."""

# ruff: noqa: PLC0415 - what a command does is imported when it runs: `--help` must be there soon

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import attrs
from cyclopts import Group, Parameter

from comet_async._tools.amounts import duration, money
from comet_async.cli import journal_files
from comet_async.cli.console import DONE, NOT_DONE, Screen, counted
from comet_async.cli.expand.options import (
    RequestOptions,
    SourceOptions,
    SpendingOptions,
    check_price,
    database,
)
from comet_async.cli.options import (
    AGAIN,
    MONEY,
    NO_GEOMETRY,
    OUTPUT,
    SERVICE,
    USUAL,
    USUAL_SHARED,
    General,
    Geometry,
    Named,
    SharedConnection,
    address,
    check_seconds,
    folder,
    whole,
)
from comet_async.errors import InputError

if TYPE_CHECKING:
    from comet_async.cli.endpoint import Endpoint
    from comet_async.fleet import Enqueued, FleetStatus
    from comet_async.postgres import PostgresJournal
    from comet_async.session import CometSession

_FLEET = Group("Fleet", sort_key=1)

_JOURNAL = Parameter(
    metavar="URL",
    group=_FLEET,
    help="The database with the journal and the queue: postgresql://host/database. A password "
    "belongs in ~/.pgpass or PGPASSWORD.",
)


@Parameter(name="*", group=OUTPUT)
@attrs.frozen(kw_only=True)
class WhereTo:
    """Where workers save results."""

    out: Annotated[
        Path | None,
        Parameter(
            name=("--out", "-o"),
            metavar="DIR",
            converter=folder,
            help="The folder for the results, the same for all workers: on a disk that they share.",
        ),
    ] = None
    store: Annotated[
        str | None,
        Parameter(metavar="URL", help="Save them in a store instead: s3://bucket/wide."),
    ] = None

    def place(self) -> str:
        """Return the folder or the address.

        Raises:
            InputError: There is none, or there are two.
        """
        if (self.out is None) is (self.store is None):
            raise InputError(
                "where should the results go?",
                field="out",
                limit="one place",
                hint="add --out DIR, or --store s3://bucket/prefix, not both",
            )
        if self.out is not None and (typed := address(self.out)) is not None:
            raise InputError(
                f"--out {typed} is an address in a store",
                field="out",
                limit="a folder",
                hint="use --store for an address",
            )
        if self.store is not None and "://" not in self.store:
            raise InputError(
                f"--store {self.store} is not an address in a store",
                field="store",
                value=self.store,
                limit="s3://bucket/prefix",
                hint="use --out for a folder",
            )
        return str(self.out) if self.store is None else self.store


@Parameter(name="*", group=_FLEET)
@attrs.frozen(kw_only=True)
class EnqueueOptions:
    """Options of enqueueing."""

    priority: Annotated[
        int,
        Parameter(
            metavar="NUMBER",
            converter=whole,
            help="Jobs with a higher number are taken first; 0 by default.",
        ),
    ] = 0
    retry_failed: Annotated[
        bool,
        Parameter(group=AGAIN, help="Buy images again whose task failed earlier."),
    ] = False
    checksum: Annotated[
        bool,
        Parameter(
            group=AGAIN,
            help="Read every source; by default files whose size, times and inode are as the "
            "journal knows them are not read again.",
        ),
    ] = False
    json: Annotated[
        bool,
        Parameter(group=OUTPUT, help="Print one JSON object per line, one for each source."),
    ] = False


# Frozen, so that all calls can share them.
_NOWHERE, _ENQUEUE, _SOURCES = WhereTo(), EnqueueOptions(), SourceOptions()
_REQUEST, _SPENDING = RequestOptions(), SpendingOptions()


# ---------------------------------------------------------------------------- enqueue


async def enqueue(  # noqa: PLR0913 - the groups of options, as --help shows them
    sources: Annotated[
        tuple[Named, ...],
        Parameter(
            name="SOURCE", help="Files, folders, URLs, and addresses such as s3://bucket/photos."
        ),
    ],
    /,
    *,
    journal: Annotated[str, _JOURNAL],
    where: WhereTo = _NOWHERE,
    options: EnqueueOptions = _ENQUEUE,
    choice: SourceOptions = _SOURCES,
    geometry: Geometry = NO_GEOMETRY,
    request: RequestOptions = _REQUEST,
    connection: SharedConnection = USUAL_SHARED,
    general: General = USUAL,  # noqa: ARG001 - read by the program before the command runs
) -> int:
    """Queue images for the workers of a fleet."""
    from comet_async.cli.endpoint import open_endpoint
    from comet_async.cli.expand.options import check_sources
    from comet_async.cli.runtime import CURRENT
    from comet_async.fleet import enqueue_folder

    screen = CURRENT.get().screen
    screen.json = options.json
    url, place, rule = database(journal), where.place(), geometry.rule()
    named = tuple(map(str, sources))
    check_sources(named)
    _refuse_own_sandbox(connection)
    totals: Counter[str] = Counter()
    async with (
        open_endpoint(connection, screen) as endpoint,
        _opened(url) as opened,
        _session(endpoint, opened, prepare=request.prepare) as comet,
    ):
        found = enqueue_folder(
            comet,
            named,
            place,
            rule,
            prompt=request.prompt,
            n=request.n,
            priority=options.priority,
            prepare=request.prepare,
            retry_failed=options.retry_failed,
            checksum=options.checksum,
            include=choice.include,
            exclude=choice.exclude,
            follow_links=choice.follow_links,
        )
        async with aclosing(found):
            async for each in found:
                word = _word(each)
                totals[word] += 1
                _show(each, word, screen)
    return _summary(totals, screen)


def _word(each: Enqueued) -> str:
    """Return the state of an image, in one word."""
    if each.outcome is not None:
        return str(each.outcome.status)
    return "queued" if each.queued else "waiting"


def _show(each: Enqueued, word: str, screen: Screen) -> None:
    from comet_async.cli.console import error_record

    error = None if each.outcome is None else each.outcome.error
    if screen.json:
        source = screen.clean(each.source) if "://" in each.source else each.source
        screen.emit(
            {
                "source": source,
                "state": word,
                "key": each.key,
                "error": error_record(error, screen),
            }
        )
    elif error is not None:
        screen.complain(error)


def _summary(totals: Counter[str], screen: Screen) -> int:
    meanings = {
        "queued": "queued",
        "waiting": "queued before",
        "done": "finished already",
    }
    for word, many in sorted(totals.items()):
        screen.say(f"{counted(many, 'image')} {meanings.get(word, word)}")
    if not totals:
        raise InputError("no image was found", field="sources", hint="name others one by one")
    return DONE if totals.keys() <= meanings.keys() else NOT_DONE


# ---------------------------------------------------------------------------- worker


async def worker(  # noqa: PLR0913 - the options, as --help shows them
    *,
    journal: Annotated[str, _JOURNAL],
    concurrency: Annotated[
        int,
        Parameter(
            metavar="NUMBER",
            group=SERVICE,
            converter=whole,
            help="Maximum images in flight, over all workers: give each the same number. "
            "16 by default.",
        ),
    ] = 16,
    at_once: Annotated[
        int,
        Parameter(
            metavar="NUMBER",
            group=_FLEET,
            converter=whole,
            help="Maximum jobs that this worker works on at a time; 32 by default.",
        ),
    ] = 32,
    grace: Annotated[
        float,
        Parameter(
            metavar="SECONDS",
            group=_FLEET,
            help="How long jobs may continue after SIGTERM or Ctrl-C; then they go back to the "
            "queue. 30 by default.",
        ),
    ] = 30.0,
    prepare: Annotated[
        bool,
        Parameter(group=_FLEET, help="For images that were enqueued with --prepare."),
    ] = False,
    settle: Annotated[
        float,
        Parameter(
            metavar="SECONDS",
            group=SERVICE,
            help="How long after a request whose answer was lost its task may still appear; 60 "
            "by default.",
        ),
    ] = 60.0,
    budget: Annotated[
        str,
        Parameter(
            metavar="NAME",
            group=MONEY,
            help="A name under which --max-jobs and --max-spend count for all workers together.",
        ),
    ] = "",
    spending: SpendingOptions = _SPENDING,
    connection: SharedConnection = USUAL_SHARED,
    general: General = USUAL,  # noqa: ARG001 - read by the program before the command runs
) -> int:
    """Work on the jobs of a queue until it is stopped by a signal."""
    from comet_async.cli.endpoint import open_endpoint
    from comet_async.cli.runtime import CURRENT
    from comet_async.fleet import FleetWorker

    invocation = CURRENT.get()
    screen, url = invocation.screen, database(journal)
    check_seconds("settle", settle, zero=True)
    check_seconds("grace", grace, zero=True)
    _refuse_own_sandbox(connection)
    async with (
        open_endpoint(connection, screen) as endpoint,
        _opened(url) as opened,
        _session(
            endpoint, opened, prepare=prepare, settle=settle, concurrency=concurrency
        ) as comet,
    ):
        one = FleetWorker(
            comet,
            at_once=at_once,
            grace=grace,
            budget=budget,
            max_jobs=spending.max_jobs,
            max_spend=spending.max_spend,
            price=spending.price,
        )

        def stop() -> None:
            one.stop()
            screen.say(
                f"stopping: jobs have {duration(grace)} to end (press Ctrl-C again to quit now)",
                word="comet-async:",
                style="bold",
                problem=True,
            )

        invocation.on_signal = stop
        screen.say("working; Ctrl-C stops")
        with _quiet_queue(debug=invocation.debug):
            await one.run()
        screen.say(f"{counted(one.done, 'job')} done, {one.failed:,} failed")
    return DONE


@contextmanager
def _quiet_queue(*, debug: bool) -> Generator[None, None, None]:
    """Leave out what PGQueuer says of each job inside: the worker says it, with the reason."""
    queue = logging.getLogger("pgqueuer")
    level = queue.level
    if not debug:
        queue.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        queue.setLevel(level)


# ---------------------------------------------------------------------------- fleet


async def fleet(
    url: Annotated[str, Parameter(help="The database: postgresql://host/database.")],
    /,
    *,
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print one JSON object.")] = False,
    price: Annotated[
        str | None,
        Parameter(
            metavar="USD",
            group=MONEY,
            help="Price of one image, for estimates; the list price by default.",
        ),
    ] = None,
    general: General = USUAL,  # noqa: ARG001 - read by the program before the command runs
) -> int:
    """Show what a fleet is doing."""
    from comet_async.cli.runtime import CURRENT
    from comet_async.fleet import fleet_status
    from comet_async.postgres import PostgresJournal
    from comet_async.requests import EXPAND

    screen = CURRENT.get().screen
    screen.json = json
    each = check_price(price, EXPAND.price or Decimal(0))
    async with await PostgresJournal.open(database(url), read_only=True) as opened:
        status = await fleet_status(opened, price=each)
    if json:
        screen.emit(_as_record(status))
        return DONE
    if status.workers:
        rows = [
            (each.name, f"{each.started_at:%Y-%m-%d %H:%M:%SZ}", f"{each.jobs:,}")
            for each in status.workers
        ]
        screen.table(("worker", "since", "jobs"), rows, long=("worker",))
    for line in _lines(status):
        screen.answer(line)
    return DONE


def _lines(status: FleetStatus) -> list[str]:
    left = f", about {duration(status.seconds_left)} left" if status.seconds_left else ""
    return [
        f"{counted(len(status.workers), 'worker')}",
        f"queue: {status.queued:,} waiting, {status.running:,} taken, {status.held:,} failed",
        f"{counted(status.in_flight, 'image')} in flight, {status.images_left:,} unfinished",
        f"{status.per_hour:,.0f} images per hour in the last ten minutes{left}",
        f"{counted(status.billed, 'image')} billed, {money(status.cost)} by the price",
    ]


def _as_record(status: FleetStatus) -> dict[str, object]:
    return {
        "workers": [
            {
                "name": each.name,
                "since": f"{each.started_at:%Y-%m-%d %H:%M:%SZ}",
                "jobs": each.jobs,
            }
            for each in status.workers
        ],
        "queued": status.queued,
        "running": status.running,
        "held": status.held,
        "jobs": dict(status.jobs),
        "in_flight": status.in_flight,
        "finished": status.finished,
        "images_left": status.images_left,
        "billed": status.billed,
        "cost": str(status.cost),
        "per_hour": status.per_hour,
        "seconds_left": status.seconds_left,
    }


# ---------------------------------------------------------------------------- migrate


async def migrate(
    url: Annotated[str, Parameter(help="The database: postgresql://host/database.")],
    /,
    *,
    general: General = USUAL,  # noqa: ARG001 - read by the program before the command runs
) -> int:
    """Make the tables of a fleet, or bring them up to date."""
    from comet_async._fleet.queue import Queue
    from comet_async.cli.runtime import CURRENT
    from comet_async.postgres import PostgresJournal

    # Nothing is sent from here, so a database that was restored can be migrated, too.
    async with await PostgresJournal.open(database(url), verify_remote=True) as journal:
        await (await Queue.open(journal)).upgrade()
    CURRENT.get().screen.say("the tables of the journal and of the queue are up to date")
    return DONE


# ---------------------------------------------------------------------------- opening


def _refuse_own_sandbox(connection: SharedConnection) -> None:
    if connection.is_sandbox:
        raise InputError(
            "--sandbox starts a server for this command alone, and the queue is shared",
            field="gateway",
            hint="start one with 'comet-async sandbox', and pass its address as --gateway",
        )


@asynccontextmanager
async def _opened(url: str) -> AsyncGenerator[PostgresJournal, None]:
    """Open the journal, and mark it as one for real images."""
    from comet_async.postgres import PostgresJournal

    async with await PostgresJournal.open(url) as journal:
        await journal_files.check_purpose(journal, sandbox=False)
        yield journal


def _session(
    endpoint: Endpoint,
    journal: PostgresJournal,
    *,
    prepare: bool,
    concurrency: int = 16,
    settle: float = 60.0,
) -> CometSession:
    from comet_async.session import CometSession

    return CometSession(
        endpoint.credentials,
        gateway=endpoint.gateway,
        network=endpoint.network,
        journal=journal,
        prepare=prepare,
        concurrency=concurrency,
        settle=settle,
    )
