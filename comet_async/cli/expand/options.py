"""What ``expand`` is asked to do: its options in groups, and the plan that they make."""

# ruff: noqa: PLC0415 - aiohttp and all that needs it is imported when the command runs: `--help`
# must be there at once

from __future__ import annotations

import os
import secrets
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import attrs
from cyclopts import Parameter

from comet_async.cli.options import (
    AGAIN,
    MONEY,
    OUTPUT,
    REQUEST,
    SERVICE,
    SOURCES,
    Geometry,
    address,
    check_seconds,
    whole,
)
from comet_async.errors import InputError

if TYPE_CHECKING:
    from comet_async.geometry import MarginRule
    from comet_async.runs import Run, RunOptions
    from comet_async.session import CometSession


@Parameter(name="*", group=REQUEST)
@attrs.frozen(kw_only=True)
class RequestOptions:
    """What is requested, besides the shape."""

    prompt: Annotated[
        str | None,
        Parameter(metavar="TEXT", help="What to draw in the new area; at most 2,500 characters."),
    ] = None
    n: Annotated[
        int,
        Parameter(
            name="-n",
            metavar="NUMBER",
            converter=whole,
            help="Variants of each image, 1 to 9, each billed; 1 by default.",
        ),
    ] = 1
    prepare: Annotated[
        bool,
        Parameter(
            help="Convert images that the API refuses (WebP, HEIC, TIFF, too large a file, too "
            "small an image) or may not show as you see them (turned by EXIF, CMYK). Your files "
            "stay as they are."
        ),
    ] = False


@Parameter(name="*", group=SOURCES)
@attrs.frozen(kw_only=True)
class SourceOptions:
    """Which files of folders are taken."""

    include: Annotated[
        tuple[str, ...],
        Parameter(
            metavar="PATTERN",
            help="From folders, take only files that match, such as '*.png' or '2024/*'. Can be "
            "repeated.",
        ),
    ] = ()
    exclude: Annotated[
        tuple[str, ...],
        Parameter(
            metavar="PATTERN",
            help="From folders, leave out files and subfolders that match. Can be repeated.",
        ),
    ] = ()
    follow_links: Annotated[
        bool,
        Parameter(help="Follow links to other folders, and to files outside the folder."),
    ] = False


@Parameter(name="*", group=SERVICE)
@attrs.frozen(kw_only=True)
class TimingOptions:
    """How fast, and how long to wait."""

    concurrency: Annotated[
        int,
        Parameter(
            metavar="NUMBER", converter=whole, help="Maximum images in flight; 16 by default."
        ),
    ] = 16
    timeout: Annotated[
        float | None,
        Parameter(
            metavar="SECONDS",
            help="Stop waiting for an image after this many seconds (its task continues); no "
            "limit by default.",
        ),
    ] = None
    settle: Annotated[
        float,
        Parameter(
            metavar="SECONDS",
            help="How long after a request whose answer was lost its task may still appear; 60 "
            "by default.",
        ),
    ] = 60.0


@Parameter(name="*", group=MONEY)
@attrs.frozen(kw_only=True)
class SpendingOptions:
    """What may be spent."""

    max_jobs: Annotated[
        int | None,
        Parameter(metavar="NUMBER", converter=whole, help="Maximum billed requests in this run."),
    ] = None
    max_spend: Annotated[
        str | None,
        Parameter(metavar="USD", help="Maximum to spend in this run, by the estimate of --price."),
    ] = None
    price: Annotated[
        str | None,
        Parameter(
            metavar="USD", help="Price of one image, for estimates; the list price by default."
        ),
    ] = None


@Parameter(name="*", group=AGAIN)
@attrs.frozen(kw_only=True)
class RerunOptions:
    """What a further run does differently."""

    journal: Annotated[
        str | None,
        Parameter(
            metavar="PATH|URL",
            help="Keep the journal there and not in --out: a file for several folders, or a "
            "database (postgresql://…) that runs on several machines share; --concurrency counts "
            "the images of all of them then.",
        ),
    ] = None
    retry_failed: Annotated[
        bool, Parameter(help="Buy images again whose task failed in an earlier run.")
    ] = False
    verify_remote: Annotated[
        bool,
        Parameter(
            help="Look for each new image on the server before buying it: for a folder whose "
            "journal was lost."
        ),
    ] = False
    checksum: Annotated[
        bool,
        Parameter(
            help="Read every source; by default files whose size, times and inode are as the "
            "journal knows them are not read again."
        ),
    ] = False
    fresh: Annotated[
        str,
        Parameter(
            metavar="NAME",
            help="Buy the same images once more, under this name: the results, with a journal of "
            "their own, go to the folder NAME in --out.",
        ),
    ] = ""


@Parameter(name="*", group=OUTPUT)
@attrs.frozen(kw_only=True)
class OutputOptions:
    """What is written besides the images."""

    dry_run: Annotated[
        bool, Parameter(help="Show what a run would do and cost; send and write nothing.")
    ] = False
    json: Annotated[
        bool,
        Parameter(help="Print one JSON object per line on standard output, one for each source."),
    ] = False
    json_progress: Annotated[
        bool,
        Parameter(
            help="Write progress and messages as JSON objects, one per line, to standard error."
        ),
    ] = False
    failed: Annotated[
        Path | None,
        Parameter(
            metavar="FILE",
            help="Write the sources that are not done to this file, one per line; `comet-async "
            "expand - < FILE` takes them up again.",
        ),
    ] = None
    report: Annotated[
        bool, Parameter(help="Write a page of all images before and after: DIR/report.html.")
    ] = False

    def check(self) -> None:
        """Refuse what can't be written, before anything is paid.

        Raises:
            InputError: The list of failed sources has no folder.
        """
        if self.failed is not None and not self.failed.absolute().parent.is_dir():
            raise InputError(
                f"--failed {self.failed} can't be written: its folder does not exist",
                field="failed",
                value=str(self.failed),
                limit="a file in a folder that exists",
                hint="make the folder, or name another file",
            )


@attrs.frozen(kw_only=True)
class ExpandPlan:
    """A checked command: nothing in it can be refused before images are looked at."""

    sources: tuple[str, ...]
    out: Path
    rule: MarginRule
    request: RequestOptions
    options: RunOptions
    price: Decimal
    own_journal: Path | str | None = attrs.field(default=None, repr=False)

    @property
    def journal(self) -> Path | str:
        """Where the journal is: a file, or the address of a database."""
        from comet_async._runs.journals import JOURNAL_NAME

        return self.own_journal or self.out / JOURNAL_NAME

    def on(self, comet: CometSession) -> Run:
        """Return the run of this plan in the session *comet*."""
        request = self.request
        return comet.expand_folder(
            self.sources, self.out, self.rule, prompt=request.prompt, n=request.n, **self.options
        )


def make_plan(  # noqa: PLR0913 - the groups of options, by name
    *,
    sources: tuple[str, ...],
    out: Path,
    choice: SourceOptions,
    geometry: Geometry,
    request: RequestOptions,
    timing: TimingOptions,
    spending: SpendingOptions,
    rerun: RerunOptions,
) -> ExpandPlan:
    """Return the plan that the command's arguments make.

    Raises:
        InputError: An argument can't be used.
    """
    from comet_async._runs.options import limits, selected
    from comet_async._validation import check_concurrency
    from comet_async.requests import EXPAND, ExpandRequest

    check_sources(sources)
    rule = geometry.rule()
    # Refuses what can't be requested.
    ExpandRequest(image=b"", margins=rule, prompt=request.prompt, n=request.n)
    price = check_price(spending.price, EXPAND.price or Decimal(0))
    options: RunOptions = {
        "concurrency": check_concurrency(timing.concurrency),
        "prepare": request.prepare,
        "settle": check_seconds("settle", timing.settle, zero=True) or 0.0,
        "timeout": check_seconds("timeout", timing.timeout),
        "max_jobs": spending.max_jobs,
        "max_spend": spending.max_spend,
        "price": spending.price,
        "budget": secrets.token_hex(8),  # names this run in the journal
        "retry_failed": rerun.retry_failed,
        "verify_remote": rerun.verify_remote,
        "checksum": rerun.checksum,
        "fresh": rerun.fresh,
        "include": choice.include,
        "exclude": choice.exclude,
        "follow_links": choice.follow_links,
    }
    limits(options)
    selected(options)
    out = _check_out(out, sources) / check_fresh(rerun.fresh)
    return ExpandPlan(
        sources=sources,
        out=out,
        rule=rule,
        request=request,
        options=options,
        price=price,
        own_journal=None if rerun.journal is None else check_journal(rerun.journal),
    )


def check_sources(sources: tuple[str, ...]) -> None:
    """Refuse sources that are likely typing errors.

    Raises:
        InputError: One looks like an option, or the only one does not exist.
    """
    for source in sources:
        if source.startswith("-") and source != "-":
            raise InputError(
                f"unknown option: {source}",
                field="sources",
                value=source,
                hint=f"a file of that name is ./{source}",
            )
    if len(sources) == 1 and _leads_nowhere(sources[0]):
        raise InputError(
            f"{sources[0]} does not exist",
            field="sources",
            value=sources[0],
            limit="a file, a folder, a URL, or -",
            hint="check its spelling",
        )


def _leads_nowhere(source: str) -> bool:
    return bool(source) and source != "-" and ":" not in source and not os.path.lexists(source)


def _check_out(out: Path, sources: tuple[str, ...]) -> Path:
    from comet_async._validation import check_writable_path

    check_writable_path("out", out)
    if (typed := address(out)) is not None:
        raise InputError(
            f"--out {typed} is an address; this command saves results in folders",
            field="out",
            value=typed,
            limit="a folder",
            hint="save results in a store with 'comet-async enqueue --store' and a worker, or from "
            "Python, by expand_folder in a session with a journal",
        )
    if out.exists() and not out.is_dir():
        raise InputError(
            f"--out {out} is a file, not a folder",
            field="out",
            value=str(out),
            hint="name a folder",
        )
    if any(os.path.realpath(source) == os.path.realpath(out) for source in sources):
        raise InputError(
            f"--out {out} is also a source",
            field="out",
            value=str(out),
            hint="choose another folder with --out",
        )
    return out


def check_journal(text: str) -> Path | str:
    """Return where the journal is that *text* names.

    Raises:
        InputError: It can't be used.
    """
    from comet_async._runs.journals import POSTGRES
    from comet_async._validation import check_writable_path

    if not text.startswith(POSTGRES):
        if "://" in text or not text:
            raise InputError(
                f"--journal {text!r} is neither a file nor a PostgreSQL database",
                field="journal",
                value=text,
                limit="a path, or postgresql://…",
                hint="write it like --journal postgresql://host/database",
            )
        check_writable_path("journal", text)
        return Path(text)
    return _without_password(text)


def database(text: str) -> str:
    """Return *text*, which names a database.

    Raises:
        InputError: It is not the address of one, or holds a password.
    """
    from comet_async._runs.journals import POSTGRES

    if not text.startswith(POSTGRES):
        raise InputError(
            f"{text!r} is not a PostgreSQL database",
            field="database",
            value=text,
            limit="postgresql://…",
            hint="write it like postgresql://host/database",
        )
    return _without_password(text)


def _without_password(text: str) -> str:
    """Return *text* if it holds no password.

    Raises:
        InputError: It holds one.
    """
    from yarl import URL

    try:
        password = URL(text).password
    except ValueError:
        password = None
    if password or "password=" in text:
        raise InputError(
            "the database's address holds a password, which other users of this machine could see",
            field="database",
            hint="put it into ~/.pgpass, or into the environment variable PGPASSWORD",
        )
    return text


def check_fresh(name: str) -> str:
    """Return *name* if it can be the name of a folder, or is empty.

    Raises:
        InputError: It can't.
    """
    if name and (not name.isprintable() or name[0] in ".-" or set(name) & set('/\\:*?"<>|')):
        raise InputError(
            f"--fresh {name!r} can't be the name of a folder",
            field="fresh",
            value=name,
            limit="no slash, no dot at the start",
            hint="write it like --fresh again",
        )
    return name


def check_price(text: str | None, default: Decimal) -> Decimal:
    """Return the price that was given, in USD, or *default*.

    Raises:
        InputError: It is not one.
    """
    try:
        price = default if text is None else Decimal(text)
    except InvalidOperation:
        price = Decimal("NaN")
    if price.is_finite() and price >= 0:
        return price
    raise InputError(
        f"--price {text}: {text!r} is not a valid price",
        field="price",
        value=text,
        limit="0 or more",
        hint="write it like --price 0.028",
    )
