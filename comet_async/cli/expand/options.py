"""What ``expand`` is asked to do: its options in groups, and the plan that they make."""

# ruff: noqa: PLC0415 - aiohttp and all that needs it is imported when the command runs: `--help`
# must be there at once

from __future__ import annotations

import contextlib
import os
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
    Geometry,
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
    """What is asked for, besides the shape."""

    prompt: Annotated[
        str | None, Parameter(help="What to draw in the new area; at most 2500 characters.")
    ] = None
    n: Annotated[
        int,
        Parameter(
            name="-n",
            converter=whole,
            help="How many variants of each image, 1 to 9, each paid; 1 by default.",
        ),
    ] = 1
    prepare: Annotated[
        bool,
        Parameter(
            help="Mend images that would be refused: rotation, WebP, HEIC, TIFF or CMYK, too "
            "large a file, too small an image."
        ),
    ] = False


@Parameter(name="*", group=SERVICE)
@attrs.frozen(kw_only=True)
class TimingOptions:
    """How fast, and how patiently."""

    concurrency: Annotated[
        int,
        Parameter(converter=whole, help="Most images in flight at a time; 16 by default."),
    ] = 16
    timeout: Annotated[
        float | None,
        Parameter(
            help="Seconds to wait for one image, which goes on without us; no limit by default."
        ),
    ] = None
    settle: Annotated[
        float,
        Parameter(
            help="Seconds after a request whose answer was lost during which its task may still "
            "appear; 60 by default."
        ),
    ] = 60.0


@Parameter(name="*", group=MONEY)
@attrs.frozen(kw_only=True)
class SpendingOptions:
    """What may be spent."""

    max_jobs: Annotated[
        int | None, Parameter(converter=whole, help="Most requests that this run may pay.")
    ] = None
    max_spend: Annotated[
        str | None, Parameter(help="Most USD that this run may spend, as --price estimates it.")
    ] = None
    price: Annotated[
        str | None, Parameter(help="USD for one image, for estimates; the list price by default.")
    ] = None


@Parameter(name="*", group=AGAIN)
@attrs.frozen(kw_only=True)
class RerunOptions:
    """What a further run does differently."""

    retry_failed: Annotated[
        bool, Parameter(help="Buy images whose task failed in an earlier run once more.")
    ] = False
    verify_remote: Annotated[
        bool,
        Parameter(
            help="Look for each new image on the server before buying it: for a folder whose "
            "journal was lost."
        ),
    ] = False
    fresh: Annotated[
        str,
        Parameter(help="A name for another purchase of the same images; each name is one."),
    ] = ""


@Parameter(name="*", group=OUTPUT)
@attrs.frozen(kw_only=True)
class OutputOptions:
    """What is written besides the images."""

    dry_run: Annotated[
        bool, Parameter(help="Show what a run would do and cost; send and write nothing.")
    ] = False
    json: Annotated[
        bool, Parameter(help="One JSON object a line on standard output for each source.")
    ] = False
    report: Annotated[
        bool, Parameter(help="Write a page of all images before and after: DIR/report.html.")
    ] = False


@attrs.frozen(kw_only=True)
class ExpandPlan:
    """A checked command: nothing in it can be refused before images are looked at."""

    sources: tuple[str, ...]
    out: Path
    rule: MarginRule
    request: RequestOptions
    options: RunOptions
    price: Decimal

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
    from comet_async._validation import check_concurrency
    from comet_async.requests import EXPAND, ExpandRequest
    from comet_async.runs import limits

    for source in sources:
        if source.startswith("-") and source != "-":
            msg, hint = f"unknown option: {source}", f"a file of that name is ./{source}"
            raise InputError(msg, field="sources", value=source, hint=hint)
    rule = geometry.rule()
    # Refuses what can't be requested.
    ExpandRequest(image=b"", margins=rule, prompt=request.prompt, n=request.n)
    options: RunOptions = {
        "concurrency": check_concurrency(timing.concurrency),
        "prepare": request.prepare,
        "settle": check_seconds("settle", timing.settle, zero=True) or 0.0,
        "timeout": check_seconds("timeout", timing.timeout),
        "max_jobs": spending.max_jobs,
        "max_spend": spending.max_spend,
        "price": spending.price,
        "retry_failed": rerun.retry_failed,
        "verify_remote": rerun.verify_remote,
        "fresh": rerun.fresh,
    }
    limits(options)
    if out.exists() and not out.is_dir():
        msg = f"--out {out} is a file, not a folder"
        raise InputError(msg, field="out", value=str(out), hint="name a folder")
    if any(os.path.realpath(source) == os.path.realpath(out) for source in sources):
        msg = f"--out {out} is a source itself"
        raise InputError(msg, field="out", value=str(out), hint="choose another --out")
    price = _price(spending.price, EXPAND.price or Decimal(0))
    return ExpandPlan(
        sources=sources, out=out, rule=rule, request=request, options=options, price=price
    )


def _price(text: str | None, default: Decimal) -> Decimal:
    with contextlib.suppress(InvalidOperation):
        price = default if text is None else Decimal(text)
        if price.is_finite() and price >= 0:
            return price
    msg = f"--price {text} is no price"
    raise InputError(msg, field="price", value=text, limit="0 or more", hint="write it like 0.028")
