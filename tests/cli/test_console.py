"""Standard streams of every kind: none of them may end a command, or hide what happened."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from comet_async.cli.app import launch
from comet_async.cli.console import SafeStream, Screen, describe_os_error
from comet_async.cli.runtime import explain
from comet_async.secret import Secret

pytestmark = pytest.mark.program

Command = Callable[..., Awaitable[Any]]  # the fixture `comet`

PROGRAM = (sys.executable, "-m", "comet_async")
NAMES = ("日本.png", "é…→.png")
BAD = ("unexpected error", "this should not happen", "report it", "Traceback", "Exception ignored")

full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


@pytest.fixture
def folder(photos: Path) -> Path:
    """Return a folder of images whose names few encodings can show."""
    image = (photos / "dog.png").read_bytes()
    folder = photos.parent / "names"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(image)
    return folder


def plan(folder: Path, *words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a dry run over *folder* in a process of its own."""
    command = [*PROGRAM, "expand", folder, "--out", folder.parent / "o", "--up", "0.1", "--dry-run"]
    settings: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.run([*command, *words], timeout=60, check=False, **settings)


@pytest.mark.parametrize(
    "encoding",
    [
        "ascii",
        "gbk",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("utf-8", "latin-1", "cp1252", "shift_jis")
        ),
    ],
)
@pytest.mark.parametrize("words", [(), ("--json",)], ids=["people", "json"])
def test_any_encoding(folder: Path, encoding: str, words: tuple[str, ...]) -> None:
    """What an encoding lacks is shown as an escape; the plan and the status are the same."""
    ended = plan(folder, *words, env={**os.environ, "PYTHONIOENCODING": encoding})
    text = (ended.stdout + ended.stderr).decode(encoding)
    assert ended.returncode == 0
    assert not [bad for bad in BAD if bad in text]
    if encoding in {"latin-1", "ascii"} and not words:
        assert "\\u65e5\\u672c.png" in text


@full
@pytest.mark.parametrize("words", [(), ("--json",)], ids=["people", "json"])
def test_standard_output_on_a_full_disk(folder: Path, words: tuple[str, ...]) -> None:
    """It is called a full disk, and the status says that not all was written."""
    with Path("/dev/full").open("wb") as disk:
        ended = plan(folder, *words, stdout=disk)
    text = ended.stderr.decode()
    assert ended.returncode == 1
    assert "can't write to standard output: no space is left on the disk" in text
    assert not [bad for bad in BAD if bad in text]


@full
def test_standard_error_on_a_full_disk(folder: Path) -> None:
    """Messages are lost; the work and its status are not."""
    with Path("/dev/full").open("wb") as disk:
        ended = plan(folder, "--json", stderr=disk)
    assert ended.returncode == 0
    assert ended.stdout.count(b"\n") == 2


@pytest.mark.parametrize(("closed", "status"), [("1", 1), ("2", 0), ("0", 0)])
def test_a_stream_that_was_never_there(folder: Path, closed: str, status: int) -> None:
    """A service manager may start the program without some of the streams."""
    command = f'exec "$@" {closed}>&-' if closed != "0" else 'exec "$@" <&-'
    words = [*PROGRAM, "expand", str(folder), "--out", str(folder.parent / "o"), "--up", "0.1"]
    ended = subprocess.run(
        ["/bin/sh", "-c", command, "sh", *words, "--dry-run", "--json"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == status
    assert not [bad for bad in BAD if bad.encode() in ended.stderr]


def test_help_into_a_reader_that_went_away() -> None:
    """`--help | head -1` is not an error worth a traceback."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        ended = subprocess.run(
            [*PROGRAM, "expand", "--help"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert not [bad for bad in BAD if bad.encode() in ended.stderr]


class Broken(io.StringIO):
    """A stream that can't be written to."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def write(self, _text: str, /) -> int:
        """Refuse."""
        raise self._error


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (BrokenPipeError(), "its reader has gone"),
        (OSError(28, "x"), "no space is left on the disk"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (ValueError("I/O operation on closed file"), "it is closed"),
    ],
    ids=["pipe", "full", "other", "closed"],
)
def test_a_stream_that_breaks_is_given_up(error: Exception, failure: str) -> None:
    """Its reason is kept, and further writes do nothing."""
    stream = SafeStream(Broken(error))
    stream.write("hello")
    stream.write("again")
    stream.flush()
    assert stream.failure == failure
    assert not stream.isatty()


def test_a_stream_that_is_missing() -> None:
    """Python has None in its place."""
    stream = SafeStream(None)
    stream.write("hello")
    assert stream.failure == "it is closed"
    with pytest.raises(OSError, match="closed"):
        stream.fileno()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left on device", "/x/y"), "no space is left on the disk (/x/y)"),
        (OSError(24, "Too many open files"), "too many files are open"),
        (PermissionError(13, "Permission denied", "/x"), "Permission denied (/x)"),
        (MemoryError(), "no memory left"),
        (RuntimeError("can't start new thread"), "refuses to start another thread"),
    ],
    ids=["disk", "files", "permission", "memory", "thread"],
)
def test_what_the_machine_refuses_is_called_so(
    capfd: pytest.CaptureFixture[str], error: Exception, text: str
) -> None:
    """A full disk is not a defect of the program; nobody is asked to report it."""
    explain(error, Screen(), debug=False)
    err = capfd.readouterr().err
    assert text in err
    assert "run the same command again to resume" in err
    assert "report" not in err


def test_no_thread_to_be_had(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    """It is said in a line, wherever the thread was wanted, and the status is 1."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    words = ["expand", str(folder), "--out", str(folder.parent / "o"), "--up", "0.1", "--dry-run"]
    assert launch(words) == 1
    err = capfd.readouterr().err
    assert "refuses to start another thread" in err
    assert not [bad for bad in BAD if bad in err]


@pytest.mark.usefixtures("sandbox")
async def test_a_log_file(comet: Command, photos: Path) -> None:
    """It gets what is on the screen and when, is appended to, and holds no key."""
    log = photos.parent / "run.log"
    words = ("expand", photos, "--out", photos.parent / "wide", "--to", "2:1", "--log", log)
    await comet(*words, "--quiet")
    first = log.read_text("utf-8")
    assert "bought 3 images" in first
    await comet(*words)
    assert log.read_text("utf-8").startswith(first)
    assert "all from earlier runs" in log.read_text("utf-8")[len(first) :]
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ "
    assert all(re.match(stamp, line) for line in log.read_text("utf-8").splitlines())


async def test_a_log_file_that_cannot_be_opened(comet: Command, photos: Path) -> None:
    """It is wrong usage, and nothing was sent."""
    words = ("expand", photos, "--out", photos.parent / "w", "--to", "2:1", "--dry-run")
    ended = await comet(*words, "--log", photos / "nowhere" / "run.log")
    assert ended.status == 2
    assert "can't be written: No such file or directory" in ended.err


@pytest.mark.usefixtures("sandbox")
async def test_quiet_is_silent_when_all_is_well(comet: Command, photos: Path) -> None:
    """Cron sends no mail then."""
    words = ("expand", photos, "--out", photos.parent / "wide", "--to", "2:1")
    ended = await comet("-q", *words)
    assert (ended.status, ended.out, ended.err) == (0, "", "")
    (photos / "bad.png").write_bytes(b"no image")
    ended = await comet(*words, "-q")
    assert ended.status == 1
    assert "bad.png" in ended.err


def test_secrets_are_hidden_in_events(capfd: pytest.CaptureFixture[str]) -> None:
    """What programs read is as clean as what people read."""
    screen = Screen(events=True)
    screen.hide([Secret("canary-key")])
    screen.say("canary-key")
    assert "canary" not in capfd.readouterr().err


def test_an_error_without_words() -> None:
    """A system error may come without any text."""
    assert describe_os_error(OSError()) == "OSError"


def test_long_lines_are_indented_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is broken stands below its own beginning; a command to copy stays whole."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    screen = Screen()
    screen.say("a reason that does not fit into a line of forty", word="invalid  ")
    screen.say("      and advice that does not fit either, of course")
    screen.say("  comet-async expand photos --out wide --to 16:9 --prepare")
    assert capsys.readouterr().err.splitlines() == [
        "invalid   a reason that does not fit",
        "          into a line of forty",
        "      and advice that does not fit",
        "      either, of course",
        "  comet-async expand photos --out wide --to 16:9 --prepare",
    ]
