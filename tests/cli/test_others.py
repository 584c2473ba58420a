"""`comet-async preview` and `sandbox`, and the small parts that they stand on."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import urllib.request
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from comet_async._tools.amounts import duration, money
from comet_async.cli.console import Screen, printable
from comet_async.secret import Secret

Command = Callable[..., Awaitable[Any]]  # the fixture `comet`


# ---------------------------------------------------------------------------- preview


async def test_preview_draws_each_image(comet: Command, photos: Path) -> None:
    """Each one's file is named on standard output; no key is needed."""
    out = photos.parent / "previews"
    ended = await comet("preview", photos, "--to", "16:9", "--out", out)
    assert ended.status == 0
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert names == ["cat-preview.png", "dog-preview.png", "trip/sea-preview.png"]
    assert len(ended.out.splitlines()) == 3


@pytest.mark.parametrize("source", ["nowhere.png", "https://example.org/a.png"])
async def test_preview_of_what_cannot_be_drawn(comet: Command, tmp_path: Path, source: str) -> None:
    """The reason is reported, and the status is 1."""
    ended = await comet("preview", source, "--to", "16:9", "--out", tmp_path)
    assert ended.status == 1
    assert ended.err.startswith("invalid ")


async def test_preview_of_a_linked_image(comet: Command, photos: Path, tmp_path: Path) -> None:
    """A link out of its folder is left out as it would be by a run."""
    (tmp_path / "secret.png").write_bytes((photos / "dog.png").read_bytes())
    (photos / "link.png").symlink_to(tmp_path / "secret.png")
    ended = await comet("preview", photos, "--to", "16:9", "--out", tmp_path / "previews")
    assert ended.status == 0
    assert len(ended.out.splitlines()) == 3
    assert "link-preview" not in ended.out


async def test_preview_of_nothing(comet: Command, tmp_path: Path) -> None:
    """A folder without images is wrong usage."""
    (tmp_path / "empty").mkdir()
    assert (await comet("preview", tmp_path / "empty", "--to", "16:9")).status == 2


async def test_preview_that_cannot_be_saved(comet: Command, photos: Path) -> None:
    """What the disk refuses is reported."""
    out = photos / "dog.png"
    ended = await comet("preview", photos / "cat.png", "--to", "16:9", "--out", out)
    assert ended.status == 1
    assert "can't be written" in ended.err


async def test_previews_on_a_full_disk(
    comet: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once, not for each image."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    ended = await comet("preview", photos, "--to", "16:9", "--out", photos.parent / "previews")
    assert ended.status == 2
    assert ended.err.count("no space is left on the disk") == 1
    assert "invalid" not in ended.err


# ---------------------------------------------------------------------------- sandbox


async def test_sandbox_serves_until_a_signal(
    comet: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    """It says what to export, answers, and ends with status 0."""
    serving = asyncio.ensure_future(comet("sandbox", "--port", 0, "--key", "k", "--speed", 9))
    out = ""
    while "COMETAPI_KEY" not in out:
        await asyncio.sleep(0.05)
        out += capfd.readouterr().out
    root = out.split("COMETAPI_API_ROOT=")[1].split("\n")[0]
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(root).read())  # noqa: S310 - loopback
    assert b"<html" in page.lower()
    assert "export COMETAPI_KEY=k\n" in out
    handlers = asyncio.get_running_loop()._signal_handlers  # type: ignore[attr-defined]  # no API
    next(iter(handlers.values()))._run()
    ended = await serving
    assert ended.status == 0
    assert "0 simulated charges; nothing was billed" in ended.err


async def test_sandbox_for_other_machines(
    comet: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    """It prints the address for this machine, which works here, and how others connect."""
    words = ("--port", 0, "--host", "0.0.0.0", "--engine", "stub", "--option", "lookups=A")  # noqa: S104 - what is tested
    serving = asyncio.ensure_future(
        comet("sandbox", *words, "--allow-host", "sandbox", "--admin-token", "t", "--limit", 0)
    )
    out = err = ""
    while "COMETAPI_KEY" not in out or "other machines" not in err:
        await asyncio.sleep(0.05)
        shown = capfd.readouterr()
        out, err = out + shown.out, err + shown.err
    root = out.split("COMETAPI_API_ROOT=")[1].split("\n")[0]
    assert root.startswith("http://127.0.0.1:")
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"{root}/admin/tasks", headers={"Host": "sandbox", "Authorization": "Bearer t"}
    )
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(request).read())  # noqa: S310 - our own server
    assert page == b'{"tasks":[]}'
    handlers = asyncio.get_running_loop()._signal_handlers  # type: ignore[attr-defined]  # no API
    next(iter(handlers.values()))._run()
    assert (await serving).status == 0
    assert "other machines reach it by this machine's address" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--option", "nonsense=1"), "'nonsense' is unknown"),
        (("--option", "task_second=1"), "task_seconds, "),
        (("--option", "list_tasks=maybe"), "list_tasks can't be 'maybe'"),
        (("--admin-token", " "), "admin_token must not be empty"),
        (("--port", "99999"), "--port 99999"),
        (("--speed", "nan"), "--speed nan"),
        (("--speed", "0"), "--speed 0"),
        (("--fault", "bogus"), "'bogus' is unknown"),
        (("--fault", "bogus"), "known are drop, reset, "),
        (("--host", "192.0.2.1"), "can't listen on 192.0.2.1"),
        (("--host", "192.0.2.1"), "choose another --host"),
        (("--limit", "-1"), "--limit -1 must be at least 0"),
    ],
)
async def test_sandbox_that_cannot_start(comet: Command, words: tuple[str, ...], said: str) -> None:
    """The reason is reported in one line, with status 2."""
    ended = await comet("sandbox", *words)
    assert ended.status == 2
    assert said in ended.err


# ---------------------------------------------------------------------------- the small parts


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0", "$0.00"), ("0.028", "$0.028"), ("0.1", "$0.10"), ("1234.5", "$1,234.50")],
)
def test_money(amount: str, text: str) -> None:
    """Small prices keep their tenth of a cent."""
    assert money(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7260, "2 h 01 min")],
)
def test_duration(seconds: float, text: str) -> None:
    """Two units are enough."""
    assert duration(seconds) == text


def test_printable() -> None:
    """Nothing that steers a terminal gets through; letters of all languages do."""
    assert printable("Grüße\t漢字") == "Grüße\t漢字"
    assert printable("a\x1b[2Jb\nc\u202ed") == "a\\x1b[2Jb\\nc\\u202ed"


def test_the_screen_hides_secrets(capfd: pytest.CaptureFixture[str]) -> None:
    """The key itself and what looks like one are hidden on both streams."""
    screen = Screen()
    screen.hide([Secret("canary-key"), Secret("x")])
    screen.say("canary-key sk-abcdef https://x/y?token=abc")
    screen.tell("canary-key")
    assert capfd.readouterr() == ("…\n", "… sk-… https://x/y?token=…\n")


async def test_log_lines_become_lines(comet: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning of any library is one redacted line, whatever traceback it carries."""

    async def noisy() -> int:
        error = ValueError("sk-canary")
        logging.getLogger("somebody").error("it broke\nwith sk-canary", exc_info=error)
        return 0

    monkeypatch.setattr("comet_async.cli.app._parse", lambda *_: (noisy, None))
    ended = await comet("list")
    assert ended.err == "error: it broke with sk-…\n"


def test_a_table_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Empty columns are left out, and what is to be copied is not broken."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "70")
    key = "ce1-" + 26 * "x"
    rows = [("done", "a name that is long enough to be broken", key, "-")]
    Screen().table(("state", "source", "key", "task"), rows, long=("source",))
    out = capfd.readouterr().out
    assert key in out
    assert "task" not in out
    assert len(out.splitlines()) > 2


def test_a_row_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where a long text would be a column of single words, it is a paragraph."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "50")
    row = ("done", "dog.png", "ce1-" + 26 * "x", "the request was sent and its answer was lost")
    Screen().table(("state", "source", "key", "known"), [row], long=("source", "known"))
    lines = [line.rstrip() for line in capfd.readouterr().out.splitlines()]
    assert lines == [
        "done dog.png",
        f"    key: {row[2]}",
        "    known: the request was sent and its answer was",
        "    lost",
    ]
