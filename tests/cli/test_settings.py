"""Options from files: the program's own one, and that of a project."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Awaitable[Any]]  # the fixture `comet`


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the program's own configuration file is looked for."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "comet-async" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the pyproject.toml of the current folder."""
    (tmp_path / "project" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "below")
    return tmp_path / "project" / "pyproject.toml"


def shape(line: dict[str, object]) -> bool:
    """Return True if a plan line is as it should be."""
    return line["plan"] == "new"


async def test_a_project_sets_the_shape(comet: Command, photos: Path, project: Path) -> None:
    """Also from a folder below it."""
    project.write_text('[tool.comet-async]\nto = "2:1"\njson = true\n')
    ended = await comet("expand", photos, "-o", photos.parent / "w", "--dry-run")
    assert ended.status == 0
    assert [shape(line) for line in ended.lines] == [True] * 3


async def test_the_command_line_comes_first(comet: Command, photos: Path, project: Path) -> None:
    """Margins that are typed replace the file's shape; they do not contradict it."""
    project.write_text('[tool.comet-async]\nto = "9:1"\n')
    ended = await comet("expand", photos, "-o", photos.parent / "w", "--up", "0.2", "--dry-run")
    assert ended.status == 0


@pytest.mark.parametrize(
    "line",
    [
        'gateway = "http://evil.example"',
        "sandbox = true",
        'proxy = "http://evil.example"',
        'journal = "/tmp/j"',
        "yes = true",
        "i-accept-double-charge = true",
        "retry_failed = true",
        "n = 9",
        'max-spend = "1000"',
        'out = "/tmp"',
        'api_key = "x"',
        "settle = 0",
        'log = "/tmp/x"',
    ],
)
async def test_a_project_must_not_redirect_or_spend(
    comet: Command, photos: Path, project: Path, line: str
) -> None:
    """A repository that somebody cloned says how images look, and no more."""
    project.write_text(f"[tool.comet-async]\n{line}\n")
    ended = await comet("expand", photos, "-o", photos.parent / "w", "--to", "2:1", "--dry-run")
    assert ended.status == 2
    assert f"can't set {line.partition(' ')[0]}" in ended.err


async def test_a_slip_is_suggested(comet: Command, photos: Path, project: Path) -> None:
    """A wrong name is an error with the right one."""
    project.write_text("[tool.comet-async]\nconcurency = 4\n")
    ended = await comet("expand", photos, "-o", photos.parent / "w", "--to", "2:1", "--dry-run")
    assert ended.status == 2
    assert "did you mean concurrency?" in ended.err


async def test_the_own_file_sets_any_option(
    comet: Command, photos: Path, own: Path, project: Path
) -> None:
    """In a table called like the command; a project's table is stronger."""
    own.write_text(f'[expand]\nout = "{photos.parent / "w"}"\nmax-jobs = 1\nto = "9:1"\n')
    project.write_text('[tool.comet-async]\nto = "2:1"\n')
    ended = await comet("expand", photos, "--dry-run")
    assert ended.status == 1
    assert "--max-jobs lets it send 1 of 3" in ended.err
    assert "3 new" in ended.err


async def test_options_that_have_the_names_of_commands(
    comet: Command, photos: Path, own: Path, project: Path
) -> None:
    """They are options all the same: who sets `sandbox` must not buy."""
    own.write_text("[expand]\nsandbox = true\n")
    project.write_text('[tool.comet-async]\nto = "2:1"\nreport = true\n')
    out = photos.parent / "w"
    ended = await comet("expand", next(photos.iterdir()), "-o", out)
    assert ended.status == 0
    assert "sandbox: the new edges are painted on this machine" in ended.err
    assert (out / "report.html").is_file()


async def test_an_unknown_option_of_the_own_file(comet: Command, photos: Path, own: Path) -> None:
    """It is named, with the file."""
    own.write_text("[expand]\nmaxjobs = 1\n")
    ended = await comet("expand", photos, "-o", photos.parent / "w", "--to", "2:1", "--dry-run")
    assert ended.status == 2
    assert "maxjobs" in ended.err


async def test_a_table_of_no_command(comet: Command, photos: Path, own: Path) -> None:
    """It is an error: a limit in it would not hold, and nobody would notice."""
    own.write_text('[expnd]\nmax-spend = "1"\n')
    ended = await comet("expand", photos, "-o", photos.parent / "w", "--to", "2:1", "--dry-run")
    assert ended.status == 2
    assert f"{own} has a table [expnd], which is not a command" in ended.err
    assert "did you mean expand?" in ended.err


@pytest.mark.parametrize("line", ["concurrency = 2.5", 'max-jobs = "few"', 'report = "maybe"'])
async def test_a_wrong_value_is_found_by_its_file(
    comet: Command, photos: Path, own: Path, line: str
) -> None:
    """Nothing of the command line is wrong, so the file is named."""
    own.write_text(f"[expand]\n{line}\n")
    ended = await comet("expand", photos, "-o", photos.parent / "w", "--to", "2:1", "--dry-run")
    assert ended.status == 2
    assert str(own) in ended.err
    assert line.partition(" ")[0] in ended.err


async def test_a_file_that_is_not_toml(comet: Command, photos: Path, project: Path) -> None:
    """It is said which file, and help is there all the same."""
    project.write_text("[tool.comet-async\n")
    ended = await comet("expand", photos, "-o", photos.parent / "w", "--to", "2:1", "--dry-run")
    assert ended.status == 2
    assert str(project) in ended.err
    assert (await comet("expand", "--help")).status == 0


async def test_a_flag_of_a_file_can_be_turned_off(
    comet: Command, photos: Path, project: Path
) -> None:
    """By --json=false, and so for each of them."""
    project.write_text("[tool.comet-async]\njson = true\n")
    words = ("expand", photos, "-o", photos.parent / "w", "--to", "2:1", "--dry-run")
    assert (await comet(*words)).lines
    assert (await comet(*words, "--json=false")).out.startswith("plan\t")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion(comet: Command, shell: str) -> None:
    """A script for each shell knows the commands and their options."""
    ended = await comet("completion", shell)
    assert ended.status == 0
    assert "max-spend" in ended.out
    assert "doctor" in ended.out


async def test_shells_complete_the_names_of_files(comet: Command) -> None:
    """Of sources and of the folder of jobs, too; with blanks in them, bash does it right itself."""
    script = (await comet("completion", "bash")).out
    assert "complete -o default -F _comet_async comet-async" in script
    assert "compgen -f" not in script
    script = (await comet("completion", "zsh")).out
    for help_ in ("one per line.", "Files or folders.", "a file or a database."):
        assert f"{help_}:_files' " in script


@pytest.mark.parametrize("words", [("help",), ("help", "expand"), ("-h",), ("-V",), ("--version",)])
async def test_usual_ways_to_ask(comet: Command, words: tuple[str, ...]) -> None:
    """What other programs understand is understood."""
    ended = await comet(*words)
    assert ended.status == 0
    assert ended.out
