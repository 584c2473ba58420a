"""The texts of ``--help``, the program's own page of help, and its version: there at once.

It imports the standard library only. To load cyclopts and rich, which lay out the pages of the
commands, takes several times as long as all that is done here.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from importlib.util import find_spec

from comet_async import __version__

PROGRAM = """Make photos wider or taller with a paid image expansion API (CometAPI, Kling).

It never pays twice for the same image and never loses a paid result: after an interruption or a \
crash, run the same command again to resume where the last run stopped.

[bold]Examples[/bold]

  [cyan]comet-async expand photos --out trial --to 16:9 --sandbox[/cyan]
      Try it on this machine: free, no key.
  [cyan]comet-async expand photos --out wide --to 16:9 --dry-run[/cyan]
      Show what it would do and cost.
  [cyan]comet-async expand photos --out wide --to 16:9[/cyan]
      Do it.
  [cyan]comet-async jobs wide[/cyan]
      List the jobs and their status.

The key is read from COMETAPI_KEY (for Kling itself from KLING_API_KEY), settings from \
~/.config/comet-async/config.toml.
"""

_STATUSES = (
    ("0", "all done"),
    ("1", "some images are not done"),
    ("2", "wrong usage or settings; nothing was sent"),
    ("3", "stopped by the account (key, credit, rights)"),
    ("130", "interrupted"),
)

STATUSES = "\n".join(
    ["[bold]Exit status[/bold]", *(f"  {code:<5}{meaning}" for code, meaning in _STATUSES), ""]
)

EXPAND = f"""Expand images, and save the results under the names of their sources.

Run the same command again to resume where the last run stopped, whatever stopped it.

[bold]Examples[/bold]

  [cyan]comet-async expand photos --out wide --to 16:9[/cyan]
  [cyan]comet-async expand dog.png --out snow --left 0.6 --right 0.6 --prompt "snow"[/cyan]
  [cyan]comet-async expand photos --out tall --to 3:4 --prepare --dry-run[/cyan]
  [cyan]find photos -name '*.jpg' | comet-async expand - --out listed --to 3:2 --json[/cyan]

{STATUSES}"""

PREVIEW = """Draw each image on its canvas, with the new area hatched. Free: nothing is sent.

[bold]Examples[/bold]

  [cyan]comet-async preview dog.png --to 16:9[/cyan]
  [cyan]comet-async preview photos --to 2:1 --anchor top --out previews[/cyan]
"""

JOBS = """List the jobs of an output folder and their status, or decide about a job by hand.

A job is [bold]uncertain[/bold] when its request was sent, the answer was lost, and the gateway \
has no way to look it up. Each run looks again, free of charge. Nothing is bought twice on a \
guess, so what no lookup can settle is yours to decide:

  [bold]attach[/bold] KEY TASK_ID   you found the task, say in the provider's console: use it
  [bold]resubmit[/bold] KEY         send it again, at the risk of paying twice
  [bold]abandon[/bold] KEY          give it up

[bold]Examples[/bold]

  [cyan]comet-async jobs wide[/cyan]
  [cyan]comet-async jobs wide --uncertain[/cyan]
  [cyan]comet-async jobs wide --all --json[/cyan]
  [cyan]comet-async jobs postgresql://db.example/images[/cyan]
"""

ENQUEUE = """Queue images in PostgreSQL, for workers on any number of machines.

Nothing is sent here. Enqueueing an image again changes nothing, unless its job failed: then it is \
tried again. Workers read the sources and save the results where they are named here, so both \
must be on a disk that all machines share, or in a store.

[bold]Example[/bold]

  [cyan]comet-async enqueue s3://bucket/photos --journal postgresql://db.example/images \
--store s3://bucket/wide --to 16:9[/cyan]
"""

WORKER = """Work on the jobs of a queue in PostgreSQL, until SIGTERM or Ctrl-C.

Start as many as you like, on any number of machines, with the same key and --concurrency. After \
SIGTERM, a worker takes no more jobs; those that do not end soon go back to the queue. Nothing is \
lost or bought twice if it is killed.

[bold]Example[/bold]

  [cyan]comet-async worker --journal postgresql://db.example/images --concurrency 20[/cyan]
"""

FLEET = """Show the workers of a fleet, its queue, its rate, its cost and the time left.

[bold]Examples[/bold]

  [cyan]comet-async fleet postgresql://db.example/images[/cyan]
  [cyan]comet-async fleet postgresql://db.example/images --json[/cyan]
"""

MIGRATE = """Make the tables of a fleet, or bring them up to date; nothing else.

For a role that may change the schema, before workers of a role that may not are started or \
upgraded. Workers of the release before this one can work on while it runs and after it.

[bold]Example[/bold]

  [cyan]comet-async migrate postgresql://db.example/images[/cyan]
"""

REPORT = """Write DIR/report.html: every image of a folder before and after, on one page.

The page is one file that can be sent and moved: small copies of the images are part of it.

[bold]Examples[/bold]

  [cyan]comet-async report wide --open[/cyan]
  [cyan]comet-async report wide --link[/cyan]
"""

STATUS = """Show the status of a task.

[bold]Example[/bold]

  [cyan]comet-async status 878106242831892487[/cyan]
"""

WAIT = """Wait for a task, show each change, and save its images if a folder is named.

If you stop waiting, the task continues on the server; wait for it again at any time.

[bold]Example[/bold]

  [cyan]comet-async wait 878106242831892487 --timeout 600 --out wide[/cyan]
"""

LIST = """List the account's tasks, newest first. CometAPI documents no list; Kling has one.

[bold]Example[/bold]

  [cyan]comet-async list --pages 3[/cyan]
"""

SANDBOX = """Serve a local stand-in for CometAPI and Kling until Ctrl-C. Free; works offline.

It speaks both APIs, keeps a ledger, actually paints the new edges, and can simulate faults. Its \
front page shows tasks, charges and images.

[bold]Examples[/bold]

  [cyan]comet-async sandbox --port 8765 --speed 20[/cyan]
  [cyan]comet-async sandbox --fault drop_after_charge=0.05,429=0.03 --seed 7[/cyan]
"""

DOCTOR = """Check everything that a run needs, and say what to do next. Free.

Only [cyan]--paid[/cyan] buys one small image, which proves what no free check can. The price is \
shown first, and you are asked.

[bold]Examples[/bold]

  [cyan]comet-async doctor[/cyan]
  [cyan]comet-async doctor --gateway kling[/cyan]
  [cyan]comet-async doctor --json[/cyan]
"""

COMPLETION = """Print a script that completes commands and options in your shell.

[bold]Examples[/bold]

  [cyan]comet-async completion bash > ~/.local/share/bash-completion/completions/comet-async[/cyan]
  [cyan]comet-async completion zsh > ~/.zfunc/_comet-async[/cyan]
  [cyan]comet-async completion fish > ~/.config/fish/completions/comet-async.fish[/cyan]
"""

_OPTIONS = {
    "Options": (
        ("-h, --help", "Show this help; after a command, show that command's options."),
        ("-V, --version", "Show the version."),
    ),
    "Options of every command": (
        ("-q, --quiet", "Show problems only."),
        ("-v, --verbose", "Show details: what is sent and retried."),
        ("--log FILE", "Append all messages to a file."),
        ("--debug", "Show tracebacks and all log messages."),
    ),
}

# By group: name, place below this package, and what it is for.
COMMANDS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "Folders": (
        ("expand", "expand.command:expand", EXPAND),
        ("preview", "preview:preview", PREVIEW),
        ("jobs", "jobs:jobs", JOBS),
        ("report", "report:report", REPORT),
    ),
    "Several machines": (
        ("enqueue", "fleet:enqueue", ENQUEUE),
        ("worker", "fleet:worker", WORKER),
        ("fleet", "fleet:fleet", FLEET),
        ("migrate", "fleet:migrate", MIGRATE),
    ),
    "Single tasks": (
        ("status", "tasks:status", STATUS),
        ("wait", "tasks:wait", WAIT),
        ("list", "tasks:list_tasks", LIST),
    ),
    "Trying and checking": (
        ("sandbox", "sandbox:sandbox", SANDBOX),
        ("doctor", "doctor:doctor", DOCTOR),
        ("completion", "completion:completion", COMPLETION),
    ),
}

USAGES = {
    "expand": "SOURCE... --out DIR (--to SHAPE | --size WxH | --up SHARE ...) [OPTIONS]",
    "preview": "SOURCE... (--to SHAPE | --size WxH | --up SHARE ...) [OPTIONS]",
    "jobs": "DIR|FILE|URL [attach KEY TASK_ID | resubmit KEY | abandon KEY] [OPTIONS]",
    "report": "DIR [OPTIONS]",
    "enqueue": "SOURCE... --journal URL (--out DIR | --store URL) --to SHAPE [OPTIONS]",
    "worker": "--journal URL [OPTIONS]",
    "fleet": "URL [OPTIONS]",
    "migrate": "URL [OPTIONS]",
    "status": "ID [OPTIONS]",
    "wait": "ID [OPTIONS]",
    "list": "[OPTIONS]",
    "sandbox": "[OPTIONS]",
    "doctor": "[OPTIONS]",
    "completion": "bash | zsh | fish",
}
"""What follows the command's name."""

_WIDEST = 100
_NARROWEST = 40
_INDENT = 14  # where the words about a command begin
_STYLES = {"[bold]": "1", "[cyan]": "36", "[/bold]": "0", "[/cyan]": "0"}


def answer(words: Sequence[str]) -> str | None:
    """Return what to print for these words, or None if cyclopts has to read them.

    Raises:
        ModuleNotFoundError: Nothing but this page would work: the extra is not installed.
    """
    for name in ("cyclopts", "rich"):
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    if list(words) in (["--version"], ["-V"]):
        return f"{__version__}\n"
    if list(words) in ([], ["--help"], ["-h"]):
        return page(styled=_styled(), width=_width())
    return None


def page(*, styled: bool, width: int = 80) -> str:
    """Return the program's page of help.

    Args:
        styled: Whether it may be bold and coloured.
        width: Columns of the terminal.
    """
    width = max(_NARROWEST, min(width, _WIDEST))
    usage = "[bold]Usage:[/bold] comet-async COMMAND [OPTIONS]"
    parts = [usage, _wrap(PROGRAM.rstrip(), width)]
    for title, commands in COMMANDS.items():
        named = [(name, text.partition("\n")[0]) for name, _, text in commands]
        parts.append(_entries(title, named, width, _INDENT))
    parts += [_entries(title, options, width, 18) for title, options in _OPTIONS.items()]
    parts.append(_entries("Exit status", _STATUSES, width, 7) + "\n")
    text = "\n\n".join(parts)
    for mark, code in _STYLES.items():
        text = text.replace(mark, f"\x1b[{code}m" if styled else "")
    return text


def _wrap(text: str, width: int) -> str:
    """Wrap the paragraphs of *text*; lines that begin with a space are kept."""
    lines: list[str] = []
    for line in text.splitlines():
        lines += [line] if line[:1] in {"", " ", "["} else textwrap.wrap(line, width)
    return "\n".join(lines)


def _entries(title: str, entries: Sequence[tuple[str, str]], width: int, indent: int) -> str:
    """Return a list of names with what each is for, under a title."""
    lines = [f"[bold]{title}[/bold]"]
    for name, text in entries:
        wrapped = f"\n{'':{indent}}".join(textwrap.wrap(text, width - indent))
        lines.append(f"  [cyan]{name:{indent - 2}}[/cyan]{wrapped}")
    return "\n".join(lines)


def _width() -> int:
    if (columns := os.environ.get("COLUMNS", "")).isdecimal():
        return int(columns)
    try:
        return os.get_terminal_size(1).columns
    except OSError:  # not a terminal
        return 80


def _styled() -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain
