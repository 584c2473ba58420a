"""The program itself, in processes of its own: what only shows there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from comet_async.sandbox import Fault, Sandbox

pytestmark = pytest.mark.program

PROGRAM = (sys.executable, "-m", "comet_async")

# Python runs a module of this name when it starts. This one makes a package look as if it were
# not installed.
HIDE = """
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name}}", name=name)

sys.meta_path.insert(0, Finder())
"""


def call(*words: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return subprocess.run(
        [*PROGRAM, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **more},
    )


@pytest.fixture
def server() -> Iterator[dict[str, str]]:
    """Start a slow sandbox in another process; return the environment that leads to it."""
    process = subprocess.Popen(
        [*PROGRAM, "sandbox", "--port", "0", "--speed", "10"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    yield dict(line.removeprefix("export ").strip().split("=", 1) for line in lines)
    process.terminate()
    assert process.wait(10) == 0
    process.stdout.close()


@pytest.mark.slow
def test_a_folder_in_the_sandbox(photos: Path) -> None:
    """The first command of a new user: no key, no settings, and the images are there."""
    out = photos.parent / "wide"
    ended = call("expand", photos, "--out", out, "--to", "16:9", "--sandbox", "--json")
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["outcome"] for line in lines] == ["done"] * 3
    assert all(Path(name).is_file() for line in lines for name in line["files"])
    assert "painted on this machine" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_and_a_second_run(
    photos: Path, server: dict[str, str], sent: signal.Signals
) -> None:
    """The first run ends with 130 and says how to resume; the second pays nothing twice."""
    words = ("expand", photos, "--out", photos.parent / "wide", "--to", "16:9")
    first = subprocess.Popen(
        [*PROGRAM, *map(str, words), "--debug"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **server},
    )
    assert first.stderr is not None
    for line in first.stderr:
        if re.search(r"is (submitted|processing)", line):
            break
    first.send_signal(sent)
    rest = first.stderr.read()
    first.stderr.close()
    assert first.wait(30) == 130
    assert "to resume, run the same command again:" in rest
    second = call(*words, **server)
    assert second.returncode == 0, second.stderr
    tasks = call("list", "--json", **server).stdout.splitlines()
    keys = {json.loads(line)["external_task_id"] for line in tasks}
    assert len(tasks) == len(keys) == 3


@pytest.mark.slow
def test_a_reader_that_stops_reading(photos: Path, server: dict[str, str]) -> None:
    """A closed pipe is no traceback."""
    words = ("expand", str(photos), "--out", str(photos.parent / "wide"), "--to", "16:9", "--json")
    process = subprocess.Popen(
        [*PROGRAM, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **server},
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == 1
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


@pytest.mark.parametrize("package", ["cyclopts", "rich"])
@pytest.mark.parametrize("word", ["--help", "list"])
def test_a_missing_extra(tmp_path: Path, package: str, word: str) -> None:
    """One line says what to install, with status 2."""
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(package=package))
    ended = call(word, PYTHONPATH=str(tmp_path))
    assert ended.returncode == 2
    assert ended.stderr == (
        f"comet-async: the command line needs {package}: pip install 'comet-async[cli]'\n"
    )


def test_another_missing_package_is_not_hidden(tmp_path: Path) -> None:
    """Only the extra's own packages are explained; a broken installation is shown as it is."""
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(package="attrs"))
    ended = call("list", PYTHONPATH=str(tmp_path))
    assert ended.returncode == 1
    assert "ModuleNotFoundError: No module named attrs" in ended.stderr


def loaded(*words: str) -> set[str]:
    """Return the packages that a command line loads, of those that take time."""
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"  # whoever measures coverage is there first
        "from comet_async.cli.app import launch\n"
        f"launch({list(words)})\n"
        "print('', *(set(sys.modules) - before))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    heavy = {"aiohttp", "tenacity", "yarl", "sqlite3", "PIL", "numpy", "jinja2", "asyncio"}
    heavy |= {"attrs", "cyclopts", "rich", "comet_async.cli.expand.run"}
    return heavy & set(ended.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_the_first_page_loads_nothing(word: str) -> None:
    """It is there at once."""
    assert loaded(word) == set()


@pytest.mark.parametrize(
    "word", ["expand", "preview", "jobs", "report", "status", "wait", "list", "sandbox", "doctor"]
)
def test_help_loads_nothing_heavy(word: str) -> None:
    """What a command needs is imported when it runs."""
    assert loaded(word, "--help") <= {"asyncio", "attrs", "cyclopts", "rich"}


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_question_can_be_interrupted() -> None:
    """Ctrl-C ends the program while it waits for an answer; no other key is needed."""
    terminal, its_end = os.openpty()
    with subprocess.Popen(
        [*PROGRAM, "doctor", "--paid", "--sandbox"],
        stdin=its_end,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert any("[y/N]" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 130
        finally:
            process.kill()
    os.close(terminal)
    os.close(its_end)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.real_loop
async def test_leaving_at_once_leaves_no_bar(photos: Path, sandbox: Sandbox) -> None:
    """The second Ctrl-C takes the last frame of the bar away, and shows the cursor again."""
    sandbox.faults.add(Fault("hang", on="create", times=100))
    terminal, its_end = os.openpty()
    words = ("expand", str(photos), "--out", str(photos.parent / "wide"), "--to", "16:9")
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, *words, stderr=its_end, env={**os.environ, "TERM": "xterm"}
    )
    os.close(its_end)
    while not sandbox.ledger.posts:  # noqa: ASYNC110 - another process sends them
        await asyncio.sleep(0.05)
    process.send_signal(signal.SIGINT)
    await asyncio.sleep(1)  # sooner, it would be the same signal, delivered twice
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 130
    said = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert "\r\x1b[2K\x1b[?25hcomet-async: stopped now" in said


@pytest.mark.real_loop
async def test_leaving_at_once_does_not_call_a_request_free(photos: Path, sandbox: Sandbox) -> None:
    """A second Ctrl-C ends the program while an answer is awaited: it may have been billed."""
    sandbox.faults.add(Fault("hang", on="create", times=100))
    words = ("expand", str(next(photos.glob("*.png"))), "--out", str(photos.parent / "wide"))
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, *words, "--to", "16:9", stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    while not sandbox.ledger.posts:  # noqa: ASYNC110 - another process sends them
        await asyncio.sleep(0.05)
    process.send_signal(signal.SIGINT)
    while b"stopping" not in await process.stderr.readline():
        pass
    await asyncio.sleep(0.5)  # sooner, it would be the same signal, delivered twice
    process.send_signal(signal.SIGINT)
    said = (await process.stderr.read()).decode()
    assert await process.wait() == 130
    assert "stopped now" in said
    assert "1 image may have been billed, about $0.028" in said
    assert "nothing was billed" not in said
