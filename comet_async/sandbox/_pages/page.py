"""The sandbox's front page: totals, tasks, and images before and after."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from html import escape
from importlib import resources
from string import Template
from urllib.parse import urlencode

import attrs

from comet_async.sandbox.ledger import Ledger
from comet_async.sandbox.tasks import SandboxTask

PAGE_SIZE = 60
"""Tasks on one page."""

STATUSES = ("submitted", "processing", "succeed", "failed")


@attrs.frozen(kw_only=True)
class Query:
    """Which tasks are wanted.

    Attributes:
        status: Only tasks with this status; empty for all.
        words: Only tasks whose ids, prompt or message contain all of these words.
        page: Number of the page, from 1.
    """

    status: str = ""
    words: str = ""
    page: int = 1

    def matches(self, task: SandboxTask) -> bool:
        """Return True if *task* is wanted."""
        if self.status and task.status != self.status:
            return False
        text = f"{task.id} {task.external_id} {task.order.prompt} {task.message}".lower()
        return all(word in text for word in self.words.lower().split())

    def address(self, *, status: str | None = None, page: int = 1) -> str:
        """Return the address of the front page for the same words on another page."""
        pairs = {
            "status": self.status if status is None else status,
            "q": self.words,
            "page": str(page) if page > 1 else "",
        }
        return "/?" + urlencode({name: value for name, value in pairs.items() if value})


@attrs.frozen(kw_only=True)
class Facts:
    """What the page shows.

    Attributes:
        now: Seconds since 1970.
        tasks: All tasks, oldest first.
        in_flight: Images of tasks that have not ended.
        limit: How many there may be; None for any number.
        ledger: What was charged.
        faults: How many faults happened.
        callbacks: How many callbacks were sent.
        leaks: How many requests for results carried a key.
        url: Return the address of a task's image: task, index, watermarked.
    """

    now: float
    tasks: Sequence[SandboxTask]
    in_flight: int
    limit: int | None
    ledger: Ledger
    faults: int
    callbacks: int
    leaks: int
    url: Callable[[SandboxTask, int, bool], str]


def render(facts: Facts, query: Query) -> str:
    """Return the page."""
    found = [task for task in reversed(facts.tasks) if query.matches(task)]
    last = max(1, -(-len(found) // PAGE_SIZE))
    query = attrs.evolve(query, page=min(max(1, query.page), last))
    start = (query.page - 1) * PAGE_SIZE
    shown = found[start : start + PAGE_SIZE]
    status = f'<input type="hidden" name="status" value="{escape(query.status)}">'
    return _template().substitute(
        totals=_totals(facts),
        chips=_chips(facts, query),
        query=escape(query.words),
        status=status if query.status else "",
        shown=_shown(facts, len(found)),
        stage=_stage(shown),
        cards="\n".join(_card(facts, task) for task in shown),
        pages="".join(_pages(query, last)),
    )


def _stage(tasks: Sequence[SandboxTask]) -> str:
    """Return the shape of all frames: that of most images, within reason."""
    shapes = [width / height for task in tasks if task.done for width, height in [task.size]]
    return f"{min(max(statistics.median(shapes or [1.5]), 0.8), 2.2):.3f}"


@cache
def asset(name: str) -> str:
    """Return the text of a file of this folder."""
    return resources.files(__package__ or "").joinpath(name).read_text("utf-8")


@cache
def _template() -> Template:
    return Template(asset("front.html"))


def _totals(facts: Facts) -> str:
    ledger = facts.ledger
    twice = len(ledger.charged_twice())
    totals = {
        "tasks": str(len(facts.tasks)),
        "images in flight": f"{facts.in_flight} of {facts.limit or 'any'}",
        "create calls": str(len(ledger.posts)),
        "charges": str(len(ledger.charges)),
        "would have cost": f"$ {ledger.usd:.3f}",
        "faults": str(facts.faults),
        "callbacks": str(facts.callbacks),
    }
    text = "".join(_total(name, value) for name, value in totals.items())
    text += _total("charged twice", str(twice), alarm=twice > 0)
    return text + (_total("keys leaked", str(facts.leaks), alarm=True) if facts.leaks else "")


def _total(name: str, value: str, *, alarm: bool = False) -> str:
    style = ' class="bad"' if alarm else ""
    return f"<div><dt>{name}</dt><dd{style}>{value}</dd></div>"


def _chips(facts: Facts, query: Query) -> str:
    counts = Counter(task.status for task in facts.tasks)
    chips = [("", "all", len(facts.tasks)), *((word, word, counts[word]) for word in STATUSES)]
    return "".join(
        f'<a class="chip {word}" href="{escape(query.address(status=word))}"{current}>'
        f'{label} <span class="count">{count:,}</span></a>'
        for word, label, count in chips
        for current in (' aria-current="true"' if word == query.status else "",)
    )


def _shown(facts: Facts, found: int) -> str:
    if not facts.tasks:
        return "No task yet. Point a client at this address."
    return f"{found:,} of {len(facts.tasks):,} tasks" if found else "No task matches."


def _pages(query: Query, last: int) -> Iterator[str]:
    if last == 1:
        return
    for number in range(1, last + 1):
        here = ' aria-current="page"' if number == query.page else ""
        yield f'<a href="{escape(query.address(page=number))}"{here}>{number}</a>'


def _card(facts: Facts, task: SandboxTask) -> str:
    name = escape(task.external_id or task.id)
    version = f"{task.status} {task.held}"
    prompt = escape(task.order.prompt[:300])
    badge = f'<span class="badge {escape(task.status)}">{escape(task.status)}</span>'
    title = f'<h3><button type="button" data-open>{name}</button></h3>'
    parts = [
        f'<div class="line">{title}{badge}</div>',
        f'<p class="facts">{escape(_summary(facts, task))}</p>',
        f'<p class="prompt"><span class="facts">Prompt, not followed:</span> “{prompt}”</p>'
        if prompt
        else "",
        f'<p class="reason">{escape(task.message)}</p>' if task.message else "",
        _variants(task, name),
    ]
    return (
        f'<li id="task-{task.id}" data-version="{version}"><article class="card">'
        f'<div class="stage">{_compare(facts, task, name)}</div>'
        f'<div class="body">{"".join(parts)}</div>{_details(facts, task)}</article></li>'
    )


def _summary(facts: Facts, task: SandboxTask) -> str:
    words = [_duration(facts, task), f"{task.order.n} images" if task.order.n > 1 else ""]
    words += ["held by the test" if task.held else "", _margins(task)]
    return " · ".join(word for word in words if word)


def _duration(facts: Facts, task: SandboxTask) -> str:
    if task.done:
        return f"{(task.updated_ms - task.created_ms) / 1000:.1f} s"
    return f"{max(0.0, facts.now - task.created_ms / 1000):.0f} s so far"


def _margins(task: SandboxTask) -> str:
    margins = attrs.asdict(task.order.margins)
    return ", ".join(f"{side} {value:.0%}" for side, value in margins.items() if value)


def _details(facts: Facts, task: SandboxTask) -> str:
    created = datetime.fromtimestamp(task.created_ms / 1000, UTC)
    facts_of_task = {
        "Task": task.id,
        "External id": task.external_id,
        "Kind": task.kind.name,
        "Gateway": {"comet": "CometAPI", "kling": "Kling"}[task.profile],
        "Created": f"{created:%Y-%m-%d %H:%M:%S} UTC",
        "Time": _duration(facts, task),
        "Polls": str(task.polls),
        "Engine": task.engine,
    }
    rows = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts_of_task.items()
        if value
    )
    return f"<template><dl>{rows}</dl></template>"


# ---------------------------------------------------------------------- the images of a card


def _compare(facts: Facts, task: SandboxTask, name: str) -> str:
    if task.status != "succeed":
        return '<div class="waiting">no image</div>'
    plain = task.engine in {"stub", "canned"}  # they make no small copies
    before = "" if plain or not task.order.sources else _before(task, name)
    after = "".join(_after(facts, task, index, name, plain=plain) for index in range(task.order.n))
    width, height = task.size
    slider = (
        '<span class="tag tag-before" aria-hidden="true">Before</span>'
        '<span class="tag tag-after" aria-hidden="true">After</span>'
        '<input type="range" min="0" max="100" value="50" step="1" '
        f'aria-label="Compare before and after: {name}">'
        '<span class="divider" aria-hidden="true"></span>'
    )
    return (
        f'<div class="compare{"" if before else " only"}" style="--ratio: {width / height:.4f}">'
        f"{after}{before}{slider if before else ''}</div>"
    )


def _before(task: SandboxTask, name: str) -> str:
    """Return the source where it lies on the larger image."""
    margins = task.order.margins
    across, down = 1 + margins.left + margins.right, 1 + margins.up + margins.down
    place = (
        f"left: {margins.left / across:.3%}; top: {margins.up / down:.3%}; "
        f"width: {1 / across:.3%}; height: {1 / down:.3%}"
    )
    return (
        f'<div class="before"><img src="/thumbs/{task.id}/before.jpg" alt="{name}, original" '
        f'loading="lazy" decoding="async" style="{place}"></div>'
    )


def _after(facts: Facts, task: SandboxTask, index: int, name: str, *, plain: bool) -> str:
    address = f"/thumbs/{task.id}/{index}.jpg"
    if plain:
        full = facts.url(task, index, False)  # noqa: FBT003 - a callable's argument
        address = "/results/" + full.partition("/results/")[2]
    number = f", result {index}" if task.order.n > 1 else ""
    return (
        f'<img class="after" src="{escape(address)}" alt="{name}, expanded{number}" '
        f'loading="lazy" decoding="async"{" hidden" if index else ""}>'
    )


def _variants(task: SandboxTask, name: str) -> str:
    """Return buttons to choose a result: numbers as in the names of the files."""
    if task.order.n == 1 or task.status != "succeed":
        return ""
    buttons = "".join(
        f'<button type="button" aria-pressed="{"false" if index else "true"}" '
        f'data-variant="{index}"><span class="unseen">Result </span>{index}</button>'
        for index in range(task.order.n)
    )
    return f'<div class="variants" role="group" aria-label="Results of {name}">{buttons}</div>'
