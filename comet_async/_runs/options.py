"""The options of a run: what they are, and which values can be used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import TypedDict, cast

from comet_async._images.discovery import Selection
from comet_async._journal.records import Limits
from comet_async._validation import (
    check_concurrency,
    check_flag,
    check_number,
    check_text,
    check_timeout,
)
from comet_async.errors import InputError
from comet_async.requests import EXPAND

CONCURRENCY = 16
"""Default for the most images in flight at a time; Kling's packs allow 20 and more."""

SETTLE = 60.0
"""Seconds after a request whose answer was lost during which its task may still appear."""


class Budget(TypedDict, total=False):
    """What may be bought; see `RunOptions`."""

    max_jobs: int | None
    max_spend: Decimal | float | str | None
    price: Decimal | float | str | None
    budget: str


class RunOptions(Budget, total=False):
    """Options of a run over many images; all are optional.

    Attributes:
        concurrency: Maximum number of images in flight; the session's by default.
        prepare: Convert images that the API refuses, and those that it may read in another way
            than viewers show them (see `CometSession`). Needs the extra ``images``.
        settle: Seconds after a request whose answer was lost during which its task may still
            appear; the session's by default.
        timeout: Seconds from when an image gets its slot until its task must have ended; no
            limit by default. What was sent continues and is recorded. Saving is not cut off.
        max_jobs: Maximum number of jobs that this run may buy.
        max_spend: Maximum amount in USD that this run may spend, by ``price``.
        budget: A name under which ``max_jobs`` and ``max_spend`` count together with all runs that
            have the same one, over all processes that use the journal. By default each run counts
            for itself.
        price: USD for one image; the list price by default.
        retry_failed: Buy again what failed in an earlier run.
        verify_remote: Look for each new job on the server before sending it: for a folder
            whose journal was lost. The session's by default.
        checksum: Read every source file; by default those whose size, times and inode are as the
            journal knows them are not read again.
        fresh: Buy the same images once more, under this label; another run with the same label
            does not buy them again.
        include: From folders, take only the files that match one of these shell patterns, such as
            ``*.png`` or ``2024/*``; all images by default.
        exclude: From folders, leave out files and subfolders that match one of these.
        follow_links: Follow links to other folders, and to files outside the folder.
    """

    concurrency: int
    prepare: bool
    settle: float
    timeout: float | None
    retry_failed: bool
    verify_remote: bool
    checksum: bool
    fresh: str
    include: Sequence[str]
    exclude: Sequence[str]
    follow_links: bool


_FLAGS = ("prepare", "retry_failed", "verify_remote", "checksum", "follow_links")


def check_options(given: Budget) -> None:
    """Refuse options that can't be used, before anything is done.

    Raises:
        InputError: One can't be used, or is not an option.
    """
    options = cast("RunOptions", given)  # which has these and more
    known = RunOptions.__optional_keys__
    for name, value in options.items():
        if name not in known:
            raise InputError(
                f"{name} is not an option of a run",
                field=name,
                limit=", ".join(sorted(known)),
                hint="see RunOptions",
            )
        if name in _FLAGS:
            check_flag(name, value)
    if "concurrency" in options:
        check_concurrency(options.get("concurrency", CONCURRENCY))
    if "settle" in options:
        check_number("settle", options.get("settle"), least=0)
    if "fresh" in options:
        check_text("fresh", options.get("fresh"), empty=True)
    if "budget" in options:
        check_text("budget", options.get("budget"), empty=True)
    price = options.get("price")
    if price is not None:
        _money("price", price)
    check_timeout(options.get("timeout"))
    selected(options)
    limits(options)


def limits(options: Budget) -> Limits:
    """Return what a run may buy.

    Raises:
        InputError: A limit is not a positive number.
    """
    jobs, spend = options.get("max_jobs"), options.get("max_spend")
    if jobs is not None:
        check_number("max_jobs", jobs, least=0, whole=True)
    images = None
    if spend is not None:
        given = options.get("price")
        price = _money("price", EXPAND.price or 0 if given is None else given)
        if price <= 0:
            msg = "max_spend needs a price above 0"
            hint = "set it with price="
            raise InputError(msg, field="price", value=price, limit="above 0", hint=hint)
        images = int(_money("max_spend", spend) / price)
    return Limits(jobs=jobs, images=images)


def selected(options: RunOptions) -> Selection:
    """Return which files of folders a run takes.

    Raises:
        InputError: A pattern is not text.
    """
    patterns: dict[str, tuple[str, ...]] = {}
    for name, given in (("include", options.get("include")), ("exclude", options.get("exclude"))):
        each = _several(given)
        if not all(map(_is_pattern, each)):
            raise InputError(
                f"{name} must be shell patterns such as '*.png'",
                field=name,
                value=given,
                limit="text that is not empty",
            )
        patterns[name] = tuple(map(str, each))
    return Selection(
        include=patterns["include"],
        exclude=patterns["exclude"],
        follow_links=options.get("follow_links", False),
    )


def _several(given: object) -> tuple[object, ...]:
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        return tuple(given)
    return () if given is None else (given,)


def _is_pattern(pattern: object) -> bool:
    return isinstance(pattern, str) and bool(pattern)


_MOST_DIGITS = 15  # of an amount: others are mistakes, and can't be divided by each other


def _money(field: str, value: Decimal | float | str) -> Decimal:
    try:
        amount = Decimal(-1 if isinstance(value, bool) else str(value))
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0 or (amount and abs(amount.adjusted()) > _MOST_DIGITS):
        raise InputError(
            f"{field}={value!r} is not an amount of money",
            field=field,
            value=value,
            limit="a number, at least 0",
            hint=f"write it like {field}=5",
        )
    return amount
