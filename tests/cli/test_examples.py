"""Every example of the help and of the documentation, executed in the order of its page."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comet_async.cli import help as texts
from comet_async.sandbox import Sandbox

Command = Callable[..., Awaitable[Any]]  # the fixture `comet`

REPOSITORY = Path(__file__).parent.parent.parent

# What a line of a page begins with that this test can't run, and why.
NOT_HERE = {
    "python3 -m venv": "installs; CI runs README.md's, and `nox -s build` the wheel",
    "pip install": "installs from the network",
    "nox": "runs this test",
    "comet-async expand photos/ --out /shared/wide": "needs a database server",
    "comet-async enqueue": "needs a database server; tests/postgres/test_engine_command.py",
    "comet-async worker": "needs a database server; the same",
    "comet-async fleet": "needs a database server; the same",
    "comet-async migrate": "needs a database server; tests/postgres/test_deployment.py",
    "PGUSER=comet_owner comet-async migrate": "the same",
    "comet-async jobs postgresql:": "needs a database server; the same",
    ". .venv/bin/activate": "the environment of the tests is active",
    "mkdir ": "a folder for the line below it",
    "uvicorn ": "serves until a signal; tests/test_service_example.py",
    "pytest ": "the same",
    "export ": "the test has a sandbox of its own in the environment",
    "curl ": "asks the server that the line above started; tests/sandbox/api/test_admin.py",
    "comet-async sandbox": "serves until a signal; tested by itself",
    "comet-async doctor --gateway kling": "would leave this machine",
    "comet-async report wide --open": "opens a browser",
    "comet-async completion": "writes to the home folder; tested by itself",
}


def help_pages() -> dict[str, list[str]]:
    """Return the examples of each page of help."""
    commands = {name: text for each in texts.COMMANDS.values() for name, _, text in each}
    pages = {"--help": texts.PROGRAM, **commands}
    found = {name: re.findall(r"\[cyan\]([^\[]+)\[/cyan\]", text) for name, text in pages.items()}
    return {
        name: [line for line in lines if "comet-async " in line] for name, lines in found.items()
    }


def documents() -> dict[str, list[str]]:
    """Return the commands of each page of the documentation, in order, with what they print."""
    pages: dict[str, list[str]] = {}
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))):
        if "_build" in path.parts:
            continue
        blocks = re.findall(r"```console\n(.*?)```", path.read_text("utf-8"), re.DOTALL)
        lines = [
            line for block in blocks for line in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
        ]
        lines = [re.sub(r"\\\n +", "", line) for line in lines]
        # A reader's `&& .venv/bin/comet-async …` is our `comet-async …`.
        lines = [line.split("&& .venv/bin/")[-1].removeprefix(".venv/bin/") for line in lines]
        if lines:
            pages[path.relative_to(REPOSITORY).as_posix()] = lines
    return pages


PAGES = {**help_pages(), **documents()}


@pytest.fixture
def place(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder of a reader: the photos of the repository, and a dog."""
    shutil.move(photos / "dog.png", tmp_path / "dog.png")
    shutil.rmtree(photos)
    shutil.copytree(REPOSITORY / "examples" / "photos", photos)
    shutil.copytree(photos, tmp_path / "examples" / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def known(words: list[str], sandbox: Sandbox) -> list[str]:
    """Return the words with real ids where the page has examples of them."""
    tasks = sandbox.tasks.all()
    real = tasks[0].id if tasks else "0"
    words = [real if re.fullmatch(r"[0-9]{15,}", word) else word for word in words]
    own = str(tasks[0].external_id) if tasks else "ce1-none"
    return [own if word.startswith("ce1-") else word for word in words]


@pytest.mark.slow
@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("page", PAGES, ids=PAGES)
async def test_examples(comet: Command, sandbox: Sandbox, page: str) -> None:
    """Each command of a page works where the ones before it have worked."""
    if not any(" expand " in line for line in PAGES[page]):
        await comet("expand", "photos", "--out", "wide", "--to", "16:9")
    ran = 0
    for example in PAGES[page]:
        if any(example.startswith(words) for words in NOT_HERE):
            continue
        ran += 1
        line, _, shown = example.partition("\n")
        command, comment = (line.split(" #")[0], line)
        assert "comet-async " in command
        if "|" in command:
            piped = run_in_shell(command, sandbox)
            assert piped.returncode == 0, (comment, piped.stderr)
            continue
        words = known(shlex.split(command)[1:], sandbox)
        ended = await comet(*words)
        assert ended.status == 0, (comment, ended.err)
        assert_shown(shown, ended.out + ended.err)
    assert ran or all(any(line.startswith(w) for w in NOT_HERE) for line in PAGES[page])


def assert_shown(shown: str, printed: str) -> None:
    """Check what a page shows of the output: a line of dots stands for any lines, `…` for any text.

    Columns are as wide as their contents, so blanks count as one.
    """
    if not shown.strip():
        return
    lines = [re.escape(" ".join(line.split())) for line in shown.strip().splitlines()]
    pattern = "".join("(?:.*\n)*" if line == r"\.\.\." else f"{line}\n" for line in lines)
    pattern = pattern.replace("…", ".*?")
    text = "".join(" ".join(line.split()) + "\n" for line in printed.splitlines())
    assert re.search(rf"^{pattern}", text, re.MULTILINE), f"\n{shown}\n--- printed:\n{printed}"


def run_in_shell(command: str, sandbox: Sandbox) -> subprocess.CompletedProcess[str]:
    """Run a command with a pipe in a shell, with the program of this installation."""
    program = f"{shlex.quote(sys.executable)} -m comet_async"
    line = command.replace("comet-async ", f"{program} ")
    # In a process of its own it must not wait for the server of this one.
    line += " --dry-run"
    environment = {**os.environ, "COMETAPI_API_ROOT": str(sandbox.url)}
    return subprocess.run(
        ["/bin/sh", "-c", line],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )


def test_every_page_of_help_has_examples() -> None:
    """A new command comes with some."""
    assert all(help_pages().values())


def unused() -> Iterator[str]:
    """Yield exceptions that no page needs any more."""
    lines = [line for page in PAGES.values() for line in page]
    yield from (words for words in NOT_HERE if not any(line.startswith(words) for line in lines))


def test_no_exception_is_left_over() -> None:
    """What can't be run is named only as long as it is there."""
    assert list(unused()) == []
