"""What is refused before anything is sent: status 2, one or two lines, no traceback."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from comet_async import errors
from comet_async.cli import main
from comet_async.cli.app import launch
from comet_async.cli.commands import app
from comet_async.cli.console import status_of
from comet_async.cli.help import COMMANDS, answer, page
from comet_async.errors import CometError
from comet_async.sandbox import Sandbox

Command = Callable[..., Awaitable[Any]]  # the fixture `comet`

TO = ("--to", "16:9")
WRONG = {
    "no shape": ((), "how far should the images grow?"),
    "two shapes": ((*TO, "--up", "1"), "can't be used together"),
    "three shapes": ((*TO, "--size", "900x900"), "can't be used together"),
    "anchor without shape": (("--up", "1", "--anchor", "top"), "--anchor needs --to or --size"),
    "unknown anchor": ((*TO, "--anchor", "middle"), "middle"),
    "ratio too large": (("--up", "2.1"), "--up 2.1 is outside 0 to 2"),
    "ratio negative": (("--up", "-0.1"), "--up -0.1 is outside 0 to 2\n  give a share: "),
    "ratio not a number": (("--left", "nan"), "--left nan is outside 0 to 2"),
    "ratio infinite": (("--left", "inf"), "--left inf is outside 0 to 2"),
    "ratio a word": (("--left", "far"), 'Invalid value for --left: "far" is not a number.'),
    "ratio a percentage": (("--up", "50%"), '"50%" is not a number. Did you mean 0.5?'),
    "area too large": (("--up", "1", "--left", "1"), "4 times the area; at most 3"),
    "nothing to add": (("--up", "0"), "nothing would be added"),
    "aspect unreadable": (("--to", "wide"), "of width to height\n  write it like 16:9\n"),
    "size too small": (("--size", "0x900"), "width=0"),
    "size unreadable": (("--size", "900"), "--size '900' is not a width and a height"),
    "n too small": ((*TO, "-n", "0"), "-n 0 must be"),
    "n too large": ((*TO, "-n", "10"), "-n 10 must be"),
    "n not whole": ((*TO, "-n", "1.5"), "1.5"),
    "prompt too long": ((*TO, "--prompt", "x" * 2501), "at most 2500\n  shorten it\n"),
    "no concurrency": ((*TO, "--concurrency", "0"), "--concurrency 0"),
    "timeout infinite": ((*TO, "--timeout", "inf"), "--timeout inf"),
    "timeout zero": ((*TO, "--timeout", "0"), "--timeout 0"),
    "settle negative": ((*TO, "--settle", "-1"), "--settle -1"),
    "settle not a number": ((*TO, "--settle", "nan"), "--settle nan"),
    "spend unreadable": ((*TO, "--max-spend", "much"), "write it like --max-spend 5"),
    "no proxy": ((*TO, "--proxy", "x"), "write it like http://proxy.example:3128"),
    "neither yes nor no": ((*TO, "--report=maybe"), '"maybe" is not true or false.'),
    "price unreadable": ((*TO, "--price", "dear"), "'dear' is not a valid price"),
    "price negative": ((*TO, "--price", "-1"), "--price -1"),
    "jobs negative": ((*TO, "--max-jobs", "-1"), "--max-jobs -1"),
    "unknown gateway": ((*TO, "--gateway", "moon"), "'moon' is unknown"),
    "gateway unencrypted": ((*TO, "--gateway", "http://example.org"), "unencrypted"),
    "two gateways": ((*TO, "--sandbox", "--gateway", "kling"), "can't be used together"),
    "unknown option": ((*TO, "--bogus"), "--bogus"),
    "a name like an option": ((*TO, "-x.png"), "Unknown option: -x.png"),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
async def test_wrong_usage(
    comet: Command, sandbox: Sandbox, photos: Path, words: tuple[str, ...], said: str
) -> None:
    """It is said in a line what is wrong; nothing is sent and nothing written."""
    out = photos.parent / "wide"
    ended = await comet("expand", photos, "--out", out, *words)
    assert ended.status == 2
    assert said in ended.err
    assert ended.err.count("\n") <= 2
    assert ended.out == ""
    assert not sandbox.ledger.posts
    assert not out.exists()


async def test_the_output_folder_is_no_source(comet: Command, photos: Path) -> None:
    """Nothing is written among the originals."""
    ended = await comet("expand", photos, "--out", photos / "trip" / "..", *TO, "--sandbox")
    assert ended.status == 2
    assert "is also a source" in ended.err
    assert not (photos / ".comet-async").exists()


async def test_a_limit_in_money_needs_a_price(comet: Command, photos: Path) -> None:
    """The remedy is an option of the command."""
    words = (*TO, "--max-spend", "1", "--price", "0")
    ended = await comet("expand", photos, "--out", photos.parent / "wide", *words)
    assert ended.status == 2
    assert "--price" in ended.err


@pytest.mark.parametrize("words", [("bogus",), ("expand",), ("expand", "x"), ("jobs",)])
async def test_incomplete_commands(comet: Command, words: tuple[str, ...]) -> None:
    """What is missing is named, and where help is to be found."""
    ended = await comet(*words)
    assert ended.status == 2
    assert ended.err.startswith("comet-async: ")
    assert "--help' for usage." in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("wait",), "ID is missing"),
        (("expand",), "SOURCE is missing"),
        (("jobs",), "DIR|FILE|URL is missing"),
        (("report",), "DIR is missing"),
        (("expand", "photos", *TO), "--out is missing"),
        (("expand", "photos", *TO, "-o"), "-o needs a value"),
        (("expand", "photos", *TO, "--otu", "x"), "missing. Did you mean --out instead of --otu?"),
        (("expand", "photos", "--otu=x", *TO), "missing. Did you mean --out instead of --otu?"),
        (("wait", "1", "2"), "comet-async: unexpected argument: 2"),
    ],
)
async def test_what_is_missing_is_told_from_what_has_no_value(
    comet: Command, words: tuple[str, ...], said: str
) -> None:
    """An option that was not given does not "require an argument"."""
    assert f"{said}\n" in (await comet(*words)).err


async def test_a_name_like_an_option_among_the_sources(comet: Command, photos: Path) -> None:
    """It is a slip, and the way to name such a file is shown."""
    ended = await comet("expand", photos, "-x.png", "--out", photos.parent / "wide", *TO)
    assert ended.status == 2
    assert "unknown option: -x.png\n  a file of that name is ./-x.png" in ended.err


async def test_after_two_dashes_every_word_is_a_file(
    comet: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with any program: `-- *` is how scripts guard against odd names."""
    monkeypatch.chdir(photos)
    next(photos.glob("*.png")).rename("--sandbox.png")
    ended = await comet("expand", *TO, "--out", "../wide", "--dry-run", "--", "--sandbox.png")
    assert ended.status == 0
    assert "\t./--sandbox.png\t../wide/--sandbox.png\t" in ended.out


@pytest.mark.parametrize("command", ["fleet", "migrate"])
async def test_advice_names_no_option_that_the_command_lacks(comet: Command, command: str) -> None:
    """These take the database as a word, not as --journal."""
    assert (await comet(command, "x")).err.endswith("like postgresql://host/database\n")


async def test_no_key(comet: Command, photos: Path) -> None:
    """Without a key it says which variable holds it, and how to try without one."""
    ended = await comet("expand", photos, "--out", photos.parent / "wide", *TO)
    assert ended.status == 2
    assert "no API key" in ended.err
    assert "comet-async expand DIR --out OUT --to 16:9 --sandbox\n" in ended.err
    assert not (photos.parent / "wide").exists()


async def test_a_key_with_a_line_break(
    comet: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused, and not shown."""
    monkeypatch.setenv("COMETAPI_KEY", "canary\nX-Evil: 1")
    ended = await comet("expand", photos, "--out", photos.parent / "wide", *TO)
    assert ended.status == 2
    assert "canary" not in ended.err


@pytest.mark.parametrize("out", ["", " "])
async def test_out_is_empty(comet: Command, sandbox: Sandbox, photos: Path, out: str) -> None:
    """It is a variable that is not set, not the current folder."""
    ended = await comet("expand", photos, "--out", out, "--to", "2:1")
    assert ended.status == 2
    assert "it is empty" in ended.err
    assert sandbox.ledger.posts == []


@pytest.mark.parametrize("command", ["expand", "preview"])
async def test_out_is_called_like_an_image(
    comet: Command, sandbox: Sandbox, photos: Path, command: str
) -> None:
    """It names a folder, and `dog-wide.png` is hardly meant as one; unless there is one."""
    out = photos.parent / "wide.PNG"
    words = (command, next(photos.glob("*.png")), "--out", out, *TO)
    ended = await comet(*words)
    assert ended.status == 2
    assert "wide.PNG is a name for an image, and --out names the folder for it" in ended.err
    assert not out.exists()
    assert sandbox.ledger.posts == []
    out.mkdir()
    assert (await comet(*words)).status == 0


async def test_out_is_an_address(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """It is refused, not taken for a folder called ``s3:``."""
    ended = await comet("expand", photos, "--out", "s3://shop/wide", *TO)
    assert ended.status == 2
    assert "--out s3://shop/wide is an address" in ended.err
    assert "comet-async enqueue --store" in ended.err
    assert not Path("s3:").exists()
    assert sandbox.ledger.posts == []


async def test_a_name_that_no_file_system_accepts(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """It is refused before anything is sent."""
    long = photos.parent / ("x" * 300)
    for words in (("--out", long), ("--out", photos.parent / "wide", "--journal", long)):
        ended = await comet("expand", photos, *words, *TO)
        assert ended.status == 2
        assert "names of at most 255" in ended.err
    assert not sandbox.ledger.posts


async def test_out_is_a_file(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """An output folder that is a file is refused."""
    ended = await comet("expand", photos, "--out", photos / "dog.png", *TO)
    assert ended.status == 2
    assert "is a file, not a folder" in ended.err
    assert not sandbox.ledger.posts


async def test_practice_and_purchase_do_not_mix(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """A folder of bought images takes none of the sandbox's: both would have one name."""
    words = ("expand", photos, "--out", photos.parent / "wide", *TO)
    await comet(*words)
    ended = await comet(*words, "--sandbox")
    assert ended.status == 2
    assert "the output folder holds real images, and this run would make the sandbox's" in ended.err
    assert len(sandbox.ledger.charges) == 3


async def test_a_surprise_is_one_line(
    comet: Command, sandbox: Sandbox, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of ours shows no traceback, unless asked for."""

    def broken(**_: object) -> None:
        raise KeyError("sk-secret-canary")

    monkeypatch.setattr("comet_async.cli.expand.command.make_plan", broken)
    words = ("expand", photos, "--out", photos.parent / "wide", *TO)
    ended = await comet(*words)
    assert ended.status == 1
    assert "unexpected error: KeyError" in ended.err
    assert "Traceback" not in ended.err
    assert "canary" not in ended.err
    ended = await comet(*words, "--debug")
    assert "Traceback" in ended.err
    assert "canary" not in ended.err
    assert not sandbox.ledger.posts


async def test_an_error_shows_its_traceback_when_asked(comet: Command, tmp_path: Path) -> None:
    """--debug shows where an ordinary error came from."""
    ended = await comet("jobs", tmp_path, "--debug")
    assert ended.status == 2
    assert "Traceback" in ended.err


@pytest.mark.parametrize("words", [["--help"], ["expand", "--help"], ["--version"], []])
def test_help(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """Help and version go to standard output, with status 0."""
    assert launch(words) == 0
    out, err = capfd.readouterr()
    assert out
    assert err == ""


@pytest.mark.parametrize("before", [["--debug"], ["-q", "-v"], ["--log", "l.txt"], ["--log=l.txt"]])
def test_options_of_every_command_may_precede_the_command(
    before: list[str],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first page names them without a command, so they are expected there as well."""
    monkeypatch.chdir(tmp_path)  # for the log
    assert launch([*before, "--help"]) == 0
    assert "Options of every command" in capfd.readouterr().out
    assert launch([*before, "completion", "bash"]) == 0
    assert "comet_async" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["worker", "enqueue"])
def test_help_offers_no_sandbox_that_is_refused(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A queue's processes need one sandbox for all, by its address."""
    assert launch([name, "--help"]) == 0
    shown = capfd.readouterr().out
    assert "--gateway" in shown
    assert "sandbox" not in shown


@pytest.mark.parametrize("name", ["expand", "enqueue", "completion"])
def test_commands_on_a_page_of_help_can_be_copied(name: str) -> None:
    """However narrow the terminal is: the second half of a broken command would be another one."""
    written = StringIO()
    app.help_print([name], console=Console(file=written, width=40))
    text = {name: text for group in COMMANDS.values() for name, _, text in group}[name]
    commands = [line for line in text.splitlines() if line.startswith("  [cyan]")]
    assert commands
    lines = written.getvalue().splitlines()
    assert [re.sub(r"\[/?cyan\]", "", line) for line in commands] == [
        line for line in lines if line.startswith("  ") and "comet-async " in line
    ]
    assert all(len(line) <= 40 for line in lines if not line.startswith(" "))


@pytest.mark.parametrize("width", [30, 50, 80, 100, 300])
def test_the_first_page(width: int) -> None:
    """It names every command, and fits the terminal; only commands to copy are longer."""
    text = page(styled=False, width=width)
    for name, *_ in (command for group in COMMANDS.values() for command in group):
        assert f"\n  {name} " in text
    for status in ("0 ", "1 ", "2 ", "3 ", "130"):
        assert f"\n  {status}" in text
    long = [line for line in text.splitlines() if len(line) > min(max(width, 54), 100)]
    assert all(line.startswith("  comet-async ") for line in long)
    assert "[/" not in text
    assert "\x1b" not in text


def test_the_first_page_as_it_is_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It goes by the width that the terminal says; 80 columns where there is none."""
    monkeypatch.delenv("COLUMNS", raising=False)
    launch(["--help"])
    assert capfd.readouterr().out == page(styled=False)
    monkeypatch.setenv("COLUMNS", "50")
    launch(["-h"])
    assert capfd.readouterr().out == page(styled=False, width=50)


@pytest.mark.parametrize(
    ("variables", "styled"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=["terminal", "NO_COLOR", "dumb"],
)
def test_the_first_page_on_a_terminal(
    variables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    styled: bool,
) -> None:
    """It is coloured, unless the terminal or its user wants none; the words are the same."""
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    said = answer(["--help"])
    assert said is not None
    assert ("\x1b[1mExamples\x1b[0m" in said) == styled
    assert re.sub("\x1b\\[[0-9]+m", "", said) == page(styled=False)


@pytest.mark.parametrize("words", [["list"], ["--help", "expand"], ["--bogus"], ["expand", "-h"]])
def test_the_first_page_is_for_nothing_else(words: list[str]) -> None:
    """Where there is a command, cyclopts reads the line."""
    assert answer(words) is None


def test_an_unknown_command(capfd: pytest.CaptureFixture[str]) -> None:
    """It is named, and the list of commands is where all of them are."""
    assert launch(["nonsense"]) == 2
    error = capfd.readouterr().err
    assert "Unknown command" in error
    assert "..." not in error
    assert "comet-async --help" in error


def test_unknown_words_before_a_command(capfd: pytest.CaptureFixture[str]) -> None:
    """An option that no command has is refused without a loop."""
    assert launch(["--bogus"]) == 2
    assert "--bogus" in capfd.readouterr().err


def test_a_command_through_launch(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`launch` runs a command on a loop of its own."""
    assert launch(["jobs", str(tmp_path)]) == 2
    assert "has no journal" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [(KeyboardInterrupt, 130, "comet-async: interrupted\n"), (BrokenPipeError, 1, "")],
)
def test_ends_that_come_too_early(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: type[BaseException],
    status: int,
    said: str,
) -> None:
    """Ctrl-C while the program starts, or a reader of help that went away, is no traceback."""

    def broken(_words: object) -> None:
        raise raised

    monkeypatch.setattr("comet_async.cli.app.launch", broken)
    monkeypatch.setattr("comet_async.cli.os.dup2", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == status
    assert capsys.readouterr().err == said


def test_every_error_has_a_status() -> None:
    """Usage, account and the rest are told apart by the error's class alone."""
    statuses = {
        name: status_of(kind("x"))
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, CometError)
    }
    assert {name for name, status in statuses.items() if status == 3} == {
        "AuthenticationError",
        "AccountError",
        "RouteUnavailableError",
    }
    assert statuses["InputError"] == statuses["MissingExtraError"] == 2
    assert statuses["JournalBusyError"] == 2
    assert statuses["TaskFailedError"] == statuses["NotSentError"] == 1
