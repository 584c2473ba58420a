"""Write what the documentation takes from the code: ``python docs/generated.py``.

Pages hold generated parts between ``<!-- generated: NAME -->`` and ``<!-- end -->``; figures are
whole files. A test compares all of them with what this program would write.
"""

from __future__ import annotations

import ast
import inspect
import json
import logging
import math
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args
from xml.sax.saxutils import escape

from cyclopts import App
from cyclopts.argument import Argument

from comet_async import errors, events
from comet_async._journal.states import FINAL, IN_FLIGHT, MEANINGS, MOVES, OPEN, JobState, Move
from comet_async.cli import help as texts
from comet_async.cli.commands import app
from comet_async.cli.expand.dry_run import PLANS
from comet_async.schedules import LearnedSchedule

HERE = Path(__file__).parent
STATIC = HERE / "_static"

# --------------------------------------------------------------------------- command line


def commands() -> Iterator[str]:
    """Yield each command: what it does, how it is used, its options."""
    for title, group in texts.COMMANDS.items():
        yield f"## {title}\n"
        for name, _, text in group:
            yield f"### `comet-async {name}`\n"
            yield from described(name, text)
            yield from options(app[name])


def described(name: str, text: str) -> Iterator[str]:
    """Yield a command's page of help as Markdown, without the table of exit statuses."""
    text = text.replace(texts.STATUSES, "").rstrip()
    first, *rest = re.split(r"\n\n", text)
    yield f"{prose(first)}\n"
    usage = f"comet-async {name} {texts.USAGES[name]}"
    yield f"```text\n{usage}\n```\n"
    for block in rest:
        lines = block.splitlines()
        if not lines[0].startswith("  "):
            if "[bold]Example" not in lines[0]:
                yield f"{prose(block)}\n"
        elif "comet-async " in block:
            yield "```console"
            yield from ("$ " + plain(line).strip() for line in lines if "[cyan]" in line)
            yield "```\n"
        else:
            yield "```text"
            yield from (plain(line).strip() for line in lines)
            yield "```\n"


def plain(text: str) -> str:
    """Return a text of help without its marks for colours."""
    return re.sub(r"\[/?(bold|cyan)\]", "", text)


def prose(text: str) -> str:
    """Return a text of help as Markdown: options and patterns as code."""
    text = re.sub(r"'([^' ]*\*[^' ]*)'", r"`\1`", " ".join(plain(text).split()))
    return re.sub(r"(?<![\w`-])(--?[a-z][\w-]*)(?![^`]*`(?:[^`]*`[^`]*`)*[^`]*$)", r"`\1`", text)


def options(command: App) -> Iterator[str]:
    """Yield the options of a command, by group."""
    groups: dict[str, list[str]] = {}
    arguments = command.assemble_argument_collection(parse_docstring=True)
    for argument in (each for each in arguments if each.show):
        for group in argument.parameter.group:  # type: ignore[union-attr]  # resolved by now
            groups.setdefault(group.name, []).append(entry(argument))  # type: ignore[union-attr]  # resolved by now
    # The same order as in `--help`; the general ones are described once, at the end of the page.
    for name, entries in groups.items():
        if name != "General":
            yield f"**{prose(name)}**\n"
            yield from entries


def entry(argument: Argument) -> str:
    """Return an option with its meaning."""
    parameter = argument.parameter
    names = [name for name in argument.names if not name.startswith(("--no-", "--empty-"))]
    value = parameter.metavar
    if value is None and argument.token_count()[0] and argument.names[0].startswith("-"):
        value = "|".join(map(str, get_args(argument.hint))) or "VALUE"
    if not argument.names[0].startswith("-"):
        names, value = [parameter.metavar or argument.names[0]], ""
    shown = ", ".join(
        f"`{name} {value}`" if value else f"`{name}`" for name in sorted(names, key=len)
    )
    need = " Required." if argument.required and argument.names[0].startswith("-") else ""
    return f"{shown}\n: {prose(parameter.help or '')}{need}\n"


def general() -> Iterator[str]:
    """Yield the options of every command."""
    command = app["doctor"].assemble_argument_collection(parse_docstring=True)
    for argument in (each for each in command if each.show):
        if any(group.name == "General" for group in argument.parameter.group):  # type: ignore[union-attr]  # resolved by now
            yield entry(argument)


# --------------------------------------------------------------------------- errors

NEXT = {
    "ConfigError": "Fix the setting that `field` names.",
    "MissingExtraError": "Install what the hint says.",
    "JournalRequiredError": "Pass `journal=` to the session.",
    "ForkedSessionError": "Create the session after the fork, one in each process.",
    "SessionClosedError": "Open a new session.",
    "RunStoppedError": "Run the same again: what was sent continues.",
    "BudgetExceededError": "Run again with a higher limit, or with a new one.",
    "InputError": "Fix the value; `field`, `value` and `limit` say which.",
    "IdempotencyConflictError": "Use another id, or repeat the earlier request exactly.",
    "NotSentError": "Try later; nothing was billed.",
    "ConnectionLostError": "Try again; it was a free request.",
    "OutcomeUnknownError": "Don't send it again: look it up by `external_task_id`.",
    "AuthenticationError": "Check that the key belongs to this gateway.",
    "AccountError": "Top up, or ask the provider for the right.",
    "RouteUnavailableError": "Use another gateway.",
    "NotFoundError": "Check the id, and that it is this account's.",
    "DuplicateTaskError": "Nothing: the earlier task is yours. The session returns it if it can.",
    "RateLimitError": "Wait; the library already did, for as long as it was allowed to.",
    "ConcurrencyLimitError": "Wait until some images end, or lower `concurrency=`.",
    "RejectedError": "Change the image or the prompt; nothing was billed.",
    "ServerError": "Try later.",
    "DecodeError": "Try later; if it stays, report it with `path`.",
    "TaskFailedError": "Change the input: the message has the server's reason.",
    "ResultMissingError": "Wait for the task again with `task_id`; it is billed.",
    "WaitTimeoutError": "Resume the wait with `task_id`. Don't submit again.",
    "DownloadError": "Download again; the result is paid for and safe on the server.",
    "ResultExpiredError": "Nothing brings it back.",
    "SaveError": "Free the disk, or choose another name.",
    "JournalError": "Check the file and its folder.",
    "JournalBusyError": "Give each process a journal of its own.",
    "JournalCorruptError": "[Recover it](../guides/journal.md#when-it-is-damaged).",
    "JournalLostError": "Continue with `verify_remote=True`.",
    "StaleRecordError": "Read the job again.",
}
"""What to do after an error; abstract classes have nothing."""

SENT = {True: "sent", False: "not sent", None: ""}


def error_tree() -> Iterator[str]:
    """Yield the tree of errors as nested lists."""

    def branch(cls: type[errors.CometError], depth: int) -> Iterator[str]:
        meaning = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
        meaning = re.sub(r"``([^`]+)``", r"`\1`", meaning)
        facts = [SENT[cls.default_sent], "retryable" if cls.default_retryable else ""]
        badge = ", ".join(filter(None, facts))
        line = f"{'  ' * depth}* {{py:exc}}`~comet_async.{cls.__name__}`"
        line += f" ({badge})" if badge else ""
        line += f": {meaning}" if depth else ": the root. Catch it to catch them all."
        if cls.__name__ in NEXT:
            line += f"\n{'  ' * depth}  → *{NEXT[cls.__name__]}*"
        yield line
        for child in cls.__subclasses__():
            if child.__module__ == errors.__name__:
                yield from branch(child, depth + 1)

    yield from branch(errors.CometError, 0)


# --------------------------------------------------------------------------- events


def event_table() -> Iterator[str]:
    """Yield what events there are, and at which level they are logged."""
    yield "| event | when | log level |"
    yield "|---|---|---|"
    kinds = [*events.JobEvent.__subclasses__(), *get_args(events.PollEvent)]
    for kind in kinds:
        when = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ").rstrip(".")
        level = events._LEVELS.get(kind, logging.DEBUG)  # noqa: SLF001 - the table of the log
        name = f"{{py:class}}`~comet_async.events.{kind.__name__}`"
        yield f"| {name} | {when} | {logging.getLevelName(level)} |"


# --------------------------------------------------------------------------- JSON


def schema_table() -> Iterator[str]:
    """Yield the table of the fields of a line of ``expand --json``."""
    schema = json.loads((STATIC / "expand-output.schema.json").read_text("utf-8"))
    yield "| field | type | meaning |"
    yield "|---|---|---|"
    yield from fields(schema["properties"], schema["required"])


def fields(properties: dict[str, Any], required: list[str], prefix: str = "") -> Iterator[str]:
    """Yield the row of each field of an object, followed by those of the objects in it."""
    for name, rule in properties.items():
        kinds = rule.get("type", "string")
        kinds = [kinds] if isinstance(kinds, str) else kinds
        words = "array of strings" if kinds == ["array"] else " or ".join(kinds)
        text = prose(rule["description"])
        if "enum" in rule:
            text = f"{text} One of {', '.join(f'`{word}`' for word in rule['enum'])}."
        always = "" if prefix or name in required else " Not always there."
        yield f"| `{prefix}{name}` | {words} | {text}{always} |"
        yield from fields(rule.get("properties", {}), rule.get("required", []), f"{prefix}{name}.")


def plan_table() -> Iterator[str]:
    """Yield the table of what a run would do with an image."""
    yield "| `plan` | meaning |"
    yield "|---|---|"
    for word, meaning in PLANS.items():
        yield f"| `{word}` | {prose(meaning.format(first='another source'))} |"


# --------------------------------------------------------------------------- states


def state_table() -> Iterator[str]:
    """Yield the table of states."""
    yield "| state | meaning | the next run |"
    yield "|---|---|---|"
    for state, meaning in MEANINGS.items():
        yield f"| `{state}` | {meaning} | {'continues it' if state in OPEN else 'leaves it'} |"


def move_table() -> Iterator[str]:
    """Yield the table of moves."""
    yield "| move | from | to | when |"
    yield "|---|---|---|---|"
    for move in MOVES.values():
        old = f"`{move.old}`" if move.old else "–"
        yield f"| {move.tag} | {old} | `{move.new}` | {move.why} |"


# --------------------------------------------------------------------------- drawings

STYLE = """
svg { color-scheme: light dark; }
text { font: 14px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1b1f24; }
.small { font-size: 12px; fill: #57606a; }
.tag { font-size: 11px; fill: #57606a; paint-order: stroke; stroke: #fff; stroke-width: 4px; }
.card { fill: #fff; stroke: #d0d7de; }
.box { fill: #eef2f6; stroke: #8b98a5; }
.flight { fill: #ddeefe; stroke: #2f6fae; }
.final { fill: #f3f0ea; stroke: #8a8072; stroke-dasharray: 4 3; }
.edge { fill: none; stroke: #6e7781; stroke-width: 1.3; }
.pays { stroke: #b3261e; stroke-width: 2.6; }
.unpaid { stroke: #1a7f37; }
.head { fill: #6e7781; } .head.pays { fill: #b3261e; stroke: none; }
.head.unpaid { fill: #1a7f37; stroke: none; }
.curve { fill: none; stroke: #2f6fae; stroke-width: 2; }
.area { fill: #2f6fae; opacity: .15; }
.mark { stroke: #b3261e; stroke-width: 2; }
.axis { stroke: #8b98a5; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .small { fill: #9da7b3; }
  .tag { fill: #b6c0ca; stroke: #161b22; }
  .card { fill: #161b22; stroke: #30363d; }
  .box { fill: #242b33; stroke: #6e7781; }
  .flight { fill: #12304f; stroke: #58a6ff; }
  .final { fill: #2b2822; stroke: #9a8f7d; }
  .edge { stroke: #8b949e; } .head { fill: #8b949e; }
  .pays { stroke: #ff7b72; } .head.pays { fill: #ff7b72; }
  .unpaid { stroke: #56d364; } .head.unpaid { fill: #56d364; }
  .curve { stroke: #58a6ff; } .area { fill: #58a6ff; opacity: .18; }
  .mark { stroke: #ff7b72; }
}
"""


def drawing(width: float, height: float, title: str, parts: list[str]) -> str:
    """Return an SVG that follows the reader's light or dark mode, and has a card of its own."""
    card = (
        f'<rect class="card" x=".5" y=".5" width="{width - 1:g}" height="{height - 1:g}" rx="8"/>'
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"',
        f'    width="{width:g}" height="{height:g}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        card,
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def label(x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> str:
    """Return one line of text around or beside a point."""
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


PLACES = {
    JobState.PLANNED: (1, 0),
    JobState.SENDING: (1, 1),
    JobState.SUBMITTED: (1, 2),
    JobState.SUCCEEDED: (1, 3),
    JobState.SAVING: (1, 4),
    JobState.DONE: (1, 5),
    JobState.UNKNOWN: (0, 1),
    JobState.UNCERTAIN: (0, 2),
    JobState.ABANDONED: (0, 3),
    JobState.REJECTED: (2, 1),
    JobState.STRANDED: (2, 2),
    JobState.FAILED: (2, 3),
    JobState.EXPIRED: (2, 4),
}
"""Column and row of each state in the diagram."""

# Moves that would run through another state: how far they swing out to which side, and at which
# share of the way their number stands.
DETOURS = {
    (JobState.UNCERTAIN, JobState.PLANNED): (-52, 0.35),
    (JobState.DONE, JobState.SUCCEEDED): (-70, 0.5),
    (JobState.PLANNED, JobState.SUBMITTED): (42, 0.75),
}
BOX = (104.0, 36.0)


def centre(state: JobState) -> tuple[float, float]:
    """Return the middle of a state's box."""
    column, row = PLACES[state]
    return 104 + column * 174, 74 + row * 96


def state_diagram() -> str:
    """Return the diagram of a job's states and moves."""
    parts = []
    x, y = centre(JobState.PLANNED)
    parts.append(arrow((x, y - 56), (x, y - BOX[1] / 2), "edge", "T1", where=0.3))
    parts += [line for move in MOVES.values() if move.old for line in edge(move)]
    for state in JobState:
        x, y = centre(state)
        kind = "flight" if state in IN_FLIGHT else "final" if state in FINAL else "box"
        parts.append(
            f'<rect class="{kind}" x="{x - BOX[0] / 2:g}" y="{y - BOX[1] / 2:g}" '
            f'width="{BOX[0]:g}" height="{BOX[1]:g}" rx="6"/>'
        )
        parts.append(label(x, y + 5, state.value))
    y = 618
    legend = [
        ("flight", "in flight: takes a slot of the account"),
        ("final", "final: a run leaves it as it is"),
    ]
    for number, (kind, text) in enumerate(legend):
        top = y + 24 * number
        parts.append(f'<rect class="{kind}" x="30" y="{top}" width="26" height="14" rx="3"/>')
        parts.append(label(66, top + 12, text, "small", "start"))
    for number, (kind, text) in enumerate(
        [("pays", "the only move that can cost money"), ("unpaid", "proof that nothing was paid")]
    ):
        top = y + 24 * (number + len(legend))
        parts.append(f'<path class="edge {kind}" d="M30 {top + 7}H56"/>')
        parts.append(label(66, top + 12, text, "small", "start"))
    return drawing(526, y + 112, "The states of a job, and the moves between them", parts)


def edge(move: Move) -> Iterator[str]:
    """Yield the arrow of a move, with its number."""
    if move.old is None:
        return
    kind = "pays" if move.new is JobState.SENDING else "unpaid" if move.unpaid else ""
    (x1, y1), (x2, y2) = centre(move.old), centre(move.new)
    style = f"edge {kind}".strip()
    if (move.old, move.new) in DETOURS:
        swing, where = DETOURS[move.old, move.new]
        side = math.copysign(BOX[0] / 2, swing)
        yield bow((x1 + side, y1), (x2 + side, y2), swing, style, move.tag, where)
        return
    # Two opposite moves lie side by side.
    length = math.hypot(x2 - x1, y2 - y1)
    beside = 14.0 if (move.new, move.old) in MOVES else 0.0
    dx, dy = -(y2 - y1) / length * beside, (x2 - x1) / length * beside
    start = border((x1 + dx, y1 + dy), (x2 + dx, y2 + dy), (x1, y1))
    end = border((x2 + dx, y2 + dy), (x1 + dx, y1 + dy), (x2, y2))
    yield arrow(start, end, style, move.tag)


def border(
    start: tuple[float, float], end: tuple[float, float], middle: tuple[float, float]
) -> tuple[float, float]:
    """Return where the line from *start* to *end* leaves the box around *middle*."""
    for step in range(1, 400):
        share = step / 400
        x = start[0] + (end[0] - start[0]) * share
        y = start[1] + (end[1] - start[1]) * share
        if abs(x - middle[0]) > BOX[0] / 2 or abs(y - middle[1]) > BOX[1] / 2:
            return x, y
    return end


def head(end: tuple[float, float], angle: float, style: str) -> str:
    """Return an arrow's head."""
    points = []
    for turn, size in ((0.0, 0.0), (2.75, 9.0), (-2.75, 9.0)):
        x = end[0] + size * math.cos(angle + turn)
        y = end[1] + size * math.sin(angle + turn)
        points.append(f"{x:.1f},{y:.1f}")
    return f'<polygon class="{style.replace("edge", "head")}" points="{" ".join(points)}"/>'


def arrow(
    start: tuple[float, float],
    end: tuple[float, float],
    style: str,
    tag: str,
    where: float = 0.45,
) -> str:
    """Return a straight arrow with a word on it."""
    (x1, y1), (x2, y2) = start, end
    angle = math.atan2(y2 - y1, x2 - x1)
    stop = (x2 - 6 * math.cos(angle), y2 - 6 * math.sin(angle))
    x, y = x1 + (x2 - x1) * where, y1 + (y2 - y1) * where
    return (
        f'<path class="{style}" d="M{x1:.1f} {y1:.1f}L{stop[0]:.1f} {stop[1]:.1f}"/>'
        f"{head(end, angle, style)}{label(x, y + 4, tag, 'tag')}"
    )


def bow(
    start: tuple[float, float],
    end: tuple[float, float],
    swing: float,
    style: str,
    tag: str,
    where: float,
) -> str:
    """Return an arrow that goes around something, with a word on it."""
    (x1, y1), (x2, y2) = start, end
    outer = (min(x1, x2) if swing < 0 else max(x1, x2)) + swing
    angle = math.atan2(0, x2 - outer)
    rest = 1 - where  # a Bézier curve, at the share `where`
    x = rest**3 * x1 + 3 * rest**2 * where * outer + 3 * rest * where**2 * outer + where**3 * x2
    y = (rest**3 + 3 * rest**2 * where) * y1 + (3 * rest * where**2 + where**3) * y2
    curve = f"M{x1:.1f} {y1:.1f}C{outer:.1f} {y1:.1f} {outer:.1f} {y2:.1f} "
    return (
        f'<path class="{style}" d="{curve}{x2 - math.copysign(6, x2 - outer):.1f} {y2:.1f}"/>'
        f"{head(end, angle, style)}{label(x, y + 4, tag, 'tag')}"
    )


RULES = {
    10: "programs and tools; nothing imports them",
    9: "from images to outcomes; wiring, and the public verbs",
    8: "the money protocol",
    7: "files appear whole or not at all",
    6: "waiting; free requests only",
    5: "the only databases; durable before a call returns",
    4: "the only HTTP client; a paid POST leaves once",
    3: "the user's files, and what a request may say",
    2: "values and parsing; no I/O, no clock",
    1: "know nothing of the rest",
}


def layers() -> dict[int, list[str]]:
    """Return the modules and packages of each layer, from the test that enforces the order."""
    test = (HERE.parent / "tests" / "test_architecture.py").read_text("utf-8")
    for node in ast.parse(test).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS":
            lines = ast.literal_eval(node.value)
            return {number: line.split() for number, line in enumerate(lines, 1)}
    raise LookupError("tests/test_architecture.py has no LAYERS")


def layer_table() -> Iterator[str]:
    """Yield the table of layers, from the top down."""
    yield "| layer | modules | rule |"
    yield "|---|---|---|"
    for number, names in sorted(layers().items(), reverse=True):
        yield f"| {number} | {' '.join(f'`{name}`' for name in names)} | {RULES[number]} |"


def package_drawing() -> str:
    """Return a drawing of the packages: one band for each layer."""
    width, top, parts = 514.0, 40.0, [label(22, 26, "imports go down only", "small", "start")]
    for number, names in sorted(layers().items(), reverse=True):
        x, y, chips = 30.0, top + 30, list[str]()
        for name in names:
            wide = 18 + 7.3 * len(name)
            if x + wide > width - 30:
                x, y = 30.0, y + 30
            kind = "final" if name.startswith("_") else "flight"
            chips.append(
                f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{wide:g}" height="24" rx="4"/>'
            )
            chips.append(label(x + wide / 2, y + 17, name))
            x += wide + 8
        height = y - top + 36
        band = f'x="16" y="{top:g}" width="{width - 32:g}" height="{height:g}"'
        parts.append(f'<rect class="box" {band} rx="6"/>')
        parts.append(label(28, top + 19, f"{number}  {RULES[number]}", "small", "start"))
        parts += chips
        top += height + 10
    parts.append('<rect class="flight" x="30" y="%g" width="26" height="14" rx="3"/>' % (top + 6))
    parts.append(label(64, top + 18, "public module", "small", "start"))
    parts.append('<rect class="final" x="180" y="%g" width="26" height="14" rx="3"/>' % (top + 6))
    parts.append(label(214, top + 18, "private package or helper", "small", "start"))
    return drawing(width, top + 34, "The packages, by layer", parts)


def polls_drawing() -> str:
    """Return how a learned schedule places its polls over the durations that it has seen."""
    rng = random.Random(7)  # noqa: S311 - a drawing
    schedule = LearnedSchedule(rng=random.Random(7))  # noqa: S311 - the same
    durations = [rng.lognormvariate(math.log(20), 0.5) for _ in range(400)]
    for duration in durations:
        schedule.learn(duration, 1)
    width, height, left, right, base, longest = 514.0, 220.0, 34.0, 18.0, 160.0, 60.0

    def across(seconds: float) -> float:
        return left + (width - left - right) * seconds / longest

    def density(seconds: float) -> float:
        spread = 0.5
        inner = (math.log(seconds) - math.log(20)) / spread
        return math.exp(-inner * inner / 2) / (seconds * spread)

    peak = max(density(step / 4) for step in range(1, 240))
    points = [
        f"{across(step / 4):.1f},{base - 110 * density(step / 4) / peak:.1f}"
        for step in range(1, 240)
    ]
    shape = f"{across(0.25):.1f},{base} {' '.join(points)} {across(59.75):.1f},{base}"
    parts = [
        f'<polygon class="area" points="{shape}"/>',
        f'<polyline class="curve" points="{" ".join(points)}"/>',
        f'<path class="axis" d="M{left} {base}H{width - right}"/>',
    ]
    polls, age, attempt = list[float](), schedule.first(1), 1
    while age < longest:
        polls.append(age)
        age += schedule.next(age, attempt, 1)
        attempt += 1
    parts += [f'<path class="mark" d="M{across(at):.1f} {base - 9}V{base + 9}"/>' for at in polls]
    parts += [label(across(at), base + 28, f"{at} s", "small") for at in range(0, 61, 10)]
    parts.append(label(width - right, 32, "curve: when tasks end", "small", "end"))
    parts.append(label(width - right, 50, "marks: when one task is polled", "small", "end"))
    return drawing(width, height - 10, "Polls are densest where tasks are likely to end", parts)


# --------------------------------------------------------------------------- all of it

PARTS: dict[str, dict[str, Callable[[], Iterator[str]]]] = {
    "reference/commands.md": {"commands": commands, "general": general},
    "reference/errors.md": {"errors": error_tree},
    "reference/events.md": {"events": event_table},
    "reference/json.md": {"schema": schema_table, "plans": plan_table},
    "guides/journal.md": {"states": state_table, "moves": move_table},
    "explanation/architecture.md": {"layers": layer_table},
}
FIGURES: dict[str, Callable[[], str]] = {
    "figures/states.svg": state_diagram,
    "figures/packages.svg": package_drawing,
    "figures/polls.svg": polls_drawing,
}


def with_parts(page: str, parts: dict[str, Callable[[], Iterator[str]]]) -> str:
    """Return a page with its generated parts renewed.

    Raises:
        LookupError: The page has no place for one of them.
    """
    for name, make in parts.items():
        start = f"<!-- generated: {name} -->\n"
        pattern = re.compile(re.escape(start) + r".*?(?=<!-- end -->)", re.DOTALL)
        text = start + "\n" + "\n".join(make()).rstrip() + "\n\n"
        page, count = pattern.subn(lambda _, text=text: text, page)  # type: ignore[misc]  # mypy loses the lambda's type
        if count != 1:
            raise LookupError(f"{count} places for {name}")
    return page


def contents() -> Iterator[tuple[Path, str]]:
    """Yield every file with generated parts, as it should be."""
    for name, parts in PARTS.items():
        path = HERE / name
        yield path, with_parts(path.read_text("utf-8"), parts)
    for name, draw in FIGURES.items():
        yield STATIC / name, draw()


def main() -> None:
    """Write them."""
    for path, text in contents():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
