"""The program's own page of help, and its version: there at once.

Rule of this file: it imports the standard library only. To load cyclopts and rich, which lay out
the pages of the commands, takes several times as long as all that is done here.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from importlib.util import find_spec

from comet_async import __version__

PROGRAM = """Make photos wider or taller with a paid image expansion API (CometAPI, Kling).

It never pays twice for the same image and never loses a paid result, whatever
breaks: running the same command again goes on where the last one ended.

[bold]Examples[/bold]

  [cyan]comet-async expand photos --out wide --to 16:9 --sandbox[/cyan]  try it, no key
  [cyan]comet-async expand photos --out wide --to 16:9 --dry-run[/cyan]  what it would cost
  [cyan]comet-async expand photos --out wide --to 16:9[/cyan]            do it
  [cyan]comet-async jobs wide[/cyan]                                     what became of it

The key is read from COMETAPI_KEY, for Kling itself from KLING_API_KEY.

[bold]Exit status[/bold]
  0 all done · 1 some not done · 2 wrong usage or settings, nothing sent
  3 stopped by the account (key, credit, rights) · 130 interrupted
"""

EXPAND = """Expand images, and save the results under the names of their sources.

Running the same command again goes on where the last run ended, whatever ended it.

[bold]Examples[/bold]

  [cyan]comet-async expand photos --out wide --to 16:9[/cyan]
  [cyan]comet-async expand dog.png --out wide --left 0.6 --right 0.6 --prompt "snow"[/cyan]
  [cyan]comet-async expand photos --out wide --size 1920x1080 --dry-run[/cyan]
  [cyan]find . -name '*.jpg' | comet-async expand - --out wide --to 3:2 --json[/cyan]
"""

PREVIEW = """Draw each image on its canvas, with the new area hatched. Free: nothing is sent.

[bold]Examples[/bold]

  [cyan]comet-async preview dog.png --to 16:9[/cyan]
  [cyan]comet-async preview photos --up 0.3 --anchor top --out previews[/cyan]
"""

JOBS = """Show what the journal of an output folder knows, or decide about a job by hand.

A job is [bold]uncertain[/bold] when its request was sent, the answer was lost, and the gateway \
has no way to look it up. Each run looks again, free of charge. Nothing is bought twice on a \
guess, so what looking can't settle is yours to decide:

  [bold]attach[/bold] KEY TASK_ID   you found the task, say in the provider's console: go on with it
  [bold]resubmit[/bold] KEY         send it again, at the risk of paying twice
  [bold]abandon[/bold] KEY          give it up

[bold]Examples[/bold]

  [cyan]comet-async jobs wide[/cyan]
  [cyan]comet-async jobs wide --uncertain[/cyan]
  [cyan]comet-async jobs wide attach ce1-q5c… 878106242831892487[/cyan]
  [cyan]comet-async jobs wide resubmit ce1-q5c… --i-accept-double-charge[/cyan]
"""

REPORT = """Write DIR/report.html: every image of a folder before and after, on one page.

The page is one file that can be sent and moved: small copies of the images are part of it.

[bold]Examples[/bold]

  [cyan]comet-async report wide --open[/cyan]
  [cyan]comet-async report wide --link[/cyan]
"""

STATUS = """Show how a task stands.

[bold]Example[/bold]

  [cyan]comet-async status 878106242831892487[/cyan]
"""

WAIT = """Wait for a task, show each change, and save its images if a folder is named.

Giving up the wait does not end the task: it goes on there, and can be waited for again.

[bold]Example[/bold]

  [cyan]comet-async wait 878106242831892487 --timeout 600 --out wide[/cyan]
"""

LIST = """List the account's tasks, newest first. CometAPI documents no list; Kling has one.

[bold]Example[/bold]

  [cyan]comet-async list --pages 3[/cyan]
"""

SANDBOX = """Serve a local stand-in for CometAPI and Kling until Ctrl-C. Nothing leaves the machine.

It speaks both APIs, keeps an account, really paints the new edges, and goes wrong on demand. \
Its front page shows tasks, charges and images.

[bold]Examples[/bold]

  [cyan]comet-async sandbox --port 8765 --speed 20[/cyan]
  [cyan]comet-async sandbox --fault drop_after_charge=0.05,429=0.03 --seed 7[/cyan]
"""

DOCTOR = """Check key, address, route, lookups, list, clock and balance, and say what to do.

Nothing is paid, unless [cyan]--paid[/cyan] asks to buy one small image: that proves what no
free question can. The price is shown first, and you are asked.

[bold]Examples[/bold]

  [cyan]comet-async doctor[/cyan]
  [cyan]comet-async doctor --gateway kling[/cyan]
  [cyan]comet-async doctor --paid[/cyan]
"""

OPTIONS = """\
[bold]Options[/bold]
  [cyan]-h, --help[/cyan]  Show this page; behind a command, what that one takes.
  [cyan]--version[/cyan]   Show the version.
  [cyan]--debug[/cyan]     Show tracebacks and all log lines; of every command.
"""

# By group: name, place below this package, and what it is for.
COMMANDS = {
    "Folders": (
        ("expand", "expand.command:expand", EXPAND),
        ("preview", "preview:preview", PREVIEW),
        ("jobs", "jobs:jobs", JOBS),
        ("report", "report:report", REPORT),
    ),
    "Single tasks": (
        ("status", "tasks:status", STATUS),
        ("wait", "tasks:wait", WAIT),
        ("list", "tasks:list_tasks", LIST),
    ),
    "Trying and checking": (
        ("sandbox", "sandbox:sandbox", SANDBOX),
        ("doctor", "doctor:doctor", DOCTOR),
    ),
}

_WIDTH = 80
_INDENT = 11  # where the words about a command begin
_STYLES = {"[bold]": "1", "[cyan]": "36", "[/bold]": "0", "[/cyan]": "0"}


def answer(words: Sequence[str]) -> str | None:
    """Return what to print for these words, or None if they are a matter for cyclopts.

    Raises:
        ModuleNotFoundError: Nothing but this page would work: the extra is not installed.
    """
    for name in ("cyclopts", "rich"):
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    if list(words) == ["--version"]:
        return f"{__version__}\n"
    return page(styled=_colours()) if list(words) in ([], ["--help"], ["-h"]) else None


def page(*, styled: bool) -> str:
    """Return the page, 80 columns wide.

    Args:
        styled: Whether it may be bold and coloured.
    """
    groups = [
        "\n".join([f"[bold]{title}[/bold]", *(_entry(name, words) for name, _, words in commands)])
        for title, commands in COMMANDS.items()
    ]
    usage = "[bold]Usage:[/bold] comet-async COMMAND"
    text = "\n\n".join([usage, PROGRAM.rstrip(), *groups, OPTIONS])
    for mark, code in _STYLES.items():
        text = text.replace(mark, f"\x1b[{code}m" if styled else "")
    return text


def _entry(name: str, words: str) -> str:
    lines = textwrap.wrap(words.partition("\n")[0], _WIDTH - _INDENT)
    return f"  [cyan]{name:{_INDENT - 2}}[/cyan]" + f"\n{'':{_INDENT}}".join(lines)


def _colours() -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain
