"""The sandbox's front page: tasks, charges, and images before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from html import escape
from importlib import resources
from string import Template

import attrs

from comet_async.sandbox.ledger import Ledger
from comet_async.sandbox.tasks import SandboxTask

_HEIGHT = 170  # of an image, in the browser's pixels
_SHOWN = 60  # tasks; the page stays quick however many there are


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


def render(facts: Facts) -> str:
    """Return the page."""
    shown = facts.tasks[: -_SHOWN - 1 : -1]
    tasks = "\n".join(_task(facts, task) for task in shown)
    hidden = len(facts.tasks) - len(shown)
    if hidden:
        tasks += f'<p class="dim">and {hidden} older tasks</p>'
    if not facts.tasks:
        tasks = '<p class="dim">No task yet. Point a client at this address.</p>'
    return _template().substitute(sums=_sums(facts), tasks=tasks)


@cache
def _template() -> Template:
    text = resources.files(__package__ or "").joinpath("front.html").read_text("utf-8")
    return Template(text)


def _sums(facts: Facts) -> str:
    ledger = facts.ledger
    twice = len(ledger.charged_twice())
    sums = {
        "tasks": str(len(facts.tasks)),
        "images in flight": f"{facts.in_flight} of {facts.limit or 'any'}",
        "create calls": str(len(ledger.posts)),
        "charges": str(len(ledger.charges)),
        "would have cost": f"$ {ledger.usd:.3f}",
        "faults": str(facts.faults),
        "callbacks": str(facts.callbacks),
    }
    told = "".join(_sum(name, value) for name, value in sums.items())
    told += _sum("charged twice", str(twice), alarm=twice > 0)
    return told + (_sum("keys leaked", str(facts.leaks), alarm=True) if facts.leaks else "")


def _sum(name: str, value: str, *, alarm: bool = False) -> str:
    style = ' class="bad"' if alarm else ""
    return f"<div><dt>{name}</dt><dd{style}>{value}</dd></div>"


def _task(facts: Facts, task: SandboxTask) -> str:
    born = datetime.fromtimestamp(task.created_ms / 1000, UTC)
    parts = [
        f'<b class="{escape(task.status)}">{escape(task.status)}</b>',
        f"<code>{escape(task.id)}</code>",
        f'<span class="dim">{escape(task.kind.name)} by {task.profile}</span>',
        f"<span>{_duration(facts, task)}</span>",
        f'<span class="dim">{born:%H:%M:%S} UTC</span>',
    ]
    if task.external_id:
        parts.append(f'<span class="dim">your id <code>{escape(task.external_id)}</code></span>')
    if task.engine:
        parts.append(f'<span class="dim">painted by {escape(task.engine)}</span>')
    head = "".join(parts)
    body = f"<header>{head}</header>{_text(task)}{_images(facts, task)}"
    return f'<article id="task-{escape(task.id)}">{body}</article>'


def _duration(facts: Facts, task: SandboxTask) -> str:
    if task.done:
        return f"{(task.updated_ms - task.created_ms) / 1000:.1f} s"
    return f"{max(0.0, facts.now - task.created_ms / 1000):.0f} s so far"


def _text(task: SandboxTask) -> str:
    told = ""
    if task.message:
        told += f'<p class="prompt bad">{escape(task.message)}</p>'
    if task.order.prompt:
        prompt = escape(task.order.prompt[:300])
        told += f'<p class="prompt"><span class="dim">prompt, not followed:</span> {prompt}</p>'
    return told


def _images(facts: Facts, task: SandboxTask) -> str:
    if task.status != "succeed":
        return ""
    after = "".join(_after(facts, task, index) for index in range(task.order.n))
    if not task.order.sources:
        return f'<div class="images">{after}</div>'
    # The photo in the scale in which it sits in the larger image.
    scale = 1 + task.order.margins.up + task.order.margins.down
    before = (
        f'<figure><img src="/thumbs/{task.id}/before.jpg" alt="before" '
        f'height="{_HEIGHT / scale:.0f}">before</figure>'
    )
    return f'<div class="images">{before}<span class="arrow">→</span>{after}</div>'


def _after(facts: Facts, task: SandboxTask, index: int) -> str:
    image = (
        f'<img src="/thumbs/{task.id}/{index}.jpg" alt="after, image {index}" height="{_HEIGHT}">'
    )
    address = escape(facts.url(task, index, False))  # noqa: FBT003 - a callable's argument
    return f'<figure><a href="{address}">{image}</a>after {index}</figure>'
