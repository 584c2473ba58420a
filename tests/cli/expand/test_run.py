"""`comet-async expand`: files, JSON lines, exit statuses, and what it says to people."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from comet_async._journal.database import Connection
from comet_async.cli import runtime
from comet_async.cli.app import run
from comet_async.errors import JournalError
from comet_async.journal import SqliteJournal
from comet_async.runs import JOURNAL_NAME
from comet_async.sandbox import Fault, Sandbox
from tests.support.images import make_png

Command = Callable[..., Awaitable[Any]]  # the fixture `comet`

SHAPE = ("--to", "16:9")


async def test_expands_a_folder(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """Every image is there under its name, one JSON line each, and the status is 0."""
    out = photos.parent / "wide"
    ended = await comet("expand", photos, "--out", out, *SHAPE, "--json")
    assert ended.status == 0
    assert ended.outcomes == {"done": 3}
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.png")} == {
        "dog.png",
        "cat.png",
        "trip/sea.png",
    }
    assert len(sandbox.ledger.charges) == 3


async def test_a_json_line_is_as_promised(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """Names of its fields and forms of its values are fixed."""
    out = photos.parent / "wide"
    ended = await comet("expand", photos / "dog.png", "--out", out, *SHAPE, "--json")
    (task,) = sandbox.tasks.all()
    assert ended.lines == [
        {
            "source": str(photos / "dog.png"),
            "outcome": "done",
            "task_id": task.id,
            "external_task_id": task.external_id,
            "files": [str(out / "dog.png")],
            "error": None,
            "billed": True,
            "same_as": None,
        }
    ]


async def test_speaks_to_people_on_standard_error(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """Without --json standard output stays empty: lines, costs and files go to the other one."""
    ended = await comet("expand", photos, "--out", photos.parent / "wide", *SHAPE)
    assert ended.out == ""
    assert ended.err.count("done  ") == 3
    assert "bought 3 images, about $0.084 (an estimate, not a bill)" in ended.err
    assert f"the files are in {photos.parent / 'wide'}" in ended.err
    assert sandbox.ledger.charges


async def test_again_buys_nothing(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """The same command again ends done, and pays nothing."""
    words = ("expand", photos, "--out", photos.parent / "wide", *SHAPE)
    await comet(*words)
    ended = await comet(*words)
    assert ended.status == 0
    assert "3 images, all from earlier runs; nothing was billed" in ended.err
    assert len(sandbox.ledger.charges) == 3


@pytest.mark.parametrize("checksum", [(), ("--checksum",), ("--retry-failed",)])
async def test_again_with_equal_and_finished_images(
    comet: Command, sandbox: Sandbox, photos: Path, checksum: tuple[str, ...]
) -> None:
    """Copies are not made again either, however the images are recognised; a lost one is."""
    shutil.copy(photos / "dog.png", photos / "same.png")
    (photos / "wide.png").write_bytes(make_png(640, 320))
    out = photos.parent / "wide"
    words = ("expand", photos, "--out", out, "--to", "2:1", *checksum)
    first = await comet(*words)
    assert "5 done" in first.err
    assert "1 copied as is, 1 equal to another image" in first.err
    again = await comet(*words)
    assert "5 images, all from earlier runs; nothing was billed" in again.err
    assert "same.png" not in again.err
    for name in ("same.png", "wide.png"):
        (out / name).unlink()
    last = await comet(*words)
    assert len(sandbox.ledger.charges) == 3
    assert "5 done (3 from earlier runs, 1 copied as is" in last.err
    assert all(f"{out / name}" in last.err for name in ("same.png", "wide.png"))


async def test_an_edited_result_is_left_alone(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """It is not replaced, and the job stays done: the server may no longer hold the result."""
    out = photos.parent / "wide"
    words = ("expand", photos / "dog.png", "--out", out, *SHAPE)
    await comet(*words)
    bought = (out / "dog.png").read_bytes()
    (out / "dog.png").write_bytes(bought + b"edited")
    fault = sandbox.faults.add(Fault("404", on="result", times=None))
    again = await comet(*words)
    assert again.status == 1
    assert "dog.png exists and is another file" in again.err
    assert again.err.count("move that file away") == 2
    assert (out / "dog.png").read_bytes() == bought + b"edited"
    assert not sandbox.faults.injected
    assert "1 job done" in (await comet("jobs", out)).err
    sandbox.faults.remove(fault)
    (out / "dog.png").unlink()
    assert (await comet(*words)).status == 0
    assert (out / "dog.png").read_bytes() == bought
    assert len(sandbox.ledger.charges) == 1


async def test_fresh_buys_again(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """A name for another purchase is one, in another folder."""
    for name in ("one", "two"):
        out = photos.parent / name
        await comet("expand", photos / "dog.png", "--out", out, *SHAPE, "--fresh", name)
    assert len(sandbox.ledger.charges) == 2


async def test_a_bad_image_stops_nothing(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """It is invalid with its reason, the others are done, and the status is 1."""
    (photos / "bad.png").write_bytes(b"no image")
    ended = await comet("expand", photos, "--out", photos.parent / "w", *SHAPE, "--json")
    assert ended.status == 1
    assert ended.outcomes == {"done": 3, "invalid": 1}
    (error,) = [line["error"] for line in ended.lines if line["outcome"] == "invalid"]
    assert set(error) == {"type", "message", "code", "hint"}
    assert error["type"] == "InputError"
    assert "fix the problems above and run again" in ended.err
    assert len(sandbox.ledger.posts) == 3


async def test_a_missing_source_is_an_outcome(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """A name that leads nowhere is invalid like any bad image; the others go on."""
    out = photos.parent / "wide"
    ended = await comet("expand", "nowhere.png", photos / "dog.png", "--out", out, *SHAPE, "--json")
    assert ended.status == 1
    assert ended.outcomes == {"done": 1, "invalid": 1}
    assert len(sandbox.ledger.posts) == 1


async def test_an_empty_folder_is_wrong_usage(
    comet: Command, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Where no image is, nothing is made, and the status says so."""
    (tmp_path / "empty").mkdir()
    ended = await comet("expand", tmp_path / "empty", "--out", tmp_path / "wide", *SHAPE)
    assert ended.status == 2
    assert "no image was found" in ended.err
    assert not (tmp_path / "wide").exists()
    assert not sandbox.ledger.posts


async def test_sources_from_standard_input(
    comet: Command, sandbox: Sandbox, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dash stands for the lines of the input."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{photos / 'dog.png'}\n\n{photos / 'cat.png'}"))
    ended = await comet("expand", "-", "--out", photos.parent / "wide", *SHAPE, "--json")
    assert ended.status == 0
    assert ended.outcomes == {"done": 2}
    assert len(sandbox.ledger.charges) == 2


@pytest.mark.parametrize("line", ["a\0b.png", "https://xn--/a.png", "s3://", "s3:///dog.png"])
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
@pytest.mark.usefixtures("sandbox")
async def test_an_impossible_line_stops_no_other(
    comet: Command,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    more: tuple[str, ...],
) -> None:
    """Neither a path nor an address, it is refused by itself."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{line}\n{photos / 'dog.png'}\n"))
    ended = await comet("expand", "-", "--out", photos.parent / "wide", *SHAPE, "--json", *more)
    assert ended.status == 1
    assert ended.outcomes == {"invalid": 1, "pending" if more else "done": 1}


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
async def test_an_empty_input_is_wrong_usage(
    comet: Command,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: tuple[str, ...],
) -> None:
    """No line, no image: nothing is sent."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    ended = await comet("expand", "-", "--out", tmp_path / "wide", *SHAPE, *more)
    assert ended.status == 2
    assert "no image was found in standard input" in ended.err
    assert ended.out == ""
    assert not sandbox.ledger.posts


@pytest.mark.parametrize(
    ("fault", "status", "outcome"),
    [("401", 3, "rejected"), ("1101", 3, "rejected"), ("1201", 1, "rejected")],
)
async def test_refusals(
    comet: Command, sandbox: Sandbox, photos: Path, fault: str, status: int, outcome: str
) -> None:
    """An account problem stops everything with status 3, a refused image only itself."""
    sandbox.faults.add(Fault(fault, on="create", times=None))
    out = photos.parent / "wide"
    words = ("expand", photos, "--out", out, *SHAPE, "--json", "--concurrency", 1)
    ended = await comet(*words)
    assert ended.status == status
    assert set(ended.outcomes) >= {outcome}
    assert not sandbox.ledger.charges
    assert ("stopped by the account" in ended.err) is (status == 3)


async def test_what_was_not_begun_has_no_line(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """A run that the account stops tells of the images in hand, and of how many there are."""
    for number in range(17):
        (photos / f"{number}.png").write_bytes((photos / "dog.png").read_bytes())
    sandbox.faults.add(Fault("1101", on="create", times=None))
    out = photos.parent / "wide"
    ended = await comet("expand", photos, "--out", out, *SHAPE, "--json", "--concurrency", 1)
    sandbox_says = "stopped by the account; the remaining images were not sent"
    assert ended.status == 3
    assert 0 < len(ended.lines) < 20
    assert f"{sum(ended.outcomes.values())} not sent of 20 in " in ended.err
    assert ended.err.count(sandbox_says) == 1  # the reason stands at the end, once


async def test_a_failed_task_is_bought_again_only_when_asked(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """It is left alone by a further run, and bought once more with --retry-failed."""
    words = ("expand", photos / "dog.png", "--out", photos.parent / "wide", *SHAPE)
    risky = (*words, "--prompt", "sandbox-risky")
    ended = await comet(*risky)
    assert (ended.status, len(sandbox.ledger.charges)) == (1, 1)
    assert "add --retry-failed to buy them again" in ended.err
    assert (await comet(*risky)).status == 1
    assert len(sandbox.ledger.charges) == 1
    await comet(*risky, "--retry-failed")
    assert len(sandbox.ledger.charges) == 2


@pytest.mark.parametrize("limit", [("--max-jobs", "2"), ("--max-spend", "0.06")])
async def test_limits_hold(
    comet: Command, sandbox: Sandbox, photos: Path, limit: tuple[str, str]
) -> None:
    """What is over the limit is pending, and a further run can go on with it."""
    words = ("expand", photos, "--out", photos.parent / "wide", *SHAPE, "--json")
    ended = await comet(*words, *limit)
    assert ended.status == 1
    assert ended.outcomes == {"done": 2, "pending": 1}
    assert "accepted and billed" not in ended.err
    assert len(sandbox.ledger.charges) == 2
    assert (await comet(*words)).status == 0


async def test_a_lost_answer_is_found_again(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """An image whose answer was lost after it was charged is paid once."""
    sandbox.faults.add(Fault("drop_after_charge", times=3))
    ended = await comet("expand", photos, "--out", photos.parent / "wide", *SHAPE, "--json")
    assert ended.outcomes == {"done": 3}
    assert len(sandbox.ledger.charges) == 3


async def test_a_first_signal_stops_gently(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """What was sent is recorded, the status is 130, and a further run finishes what is paid."""
    words = ("expand", photos, "--out", photos.parent / "wide", *SHAPE, "--json")
    running = asyncio.ensure_future(comet(*words))
    while len(sandbox.ledger.charges) < 3:  # noqa: ASYNC110 - the ledger has no event
        await asyncio.sleep(0.05)
    signal_now()
    ended = await running
    assert ended.status == 130
    assert ended.outcomes == {"pending": 3}
    assert "accepted and billed: 3 of 3 pending" in ended.err
    assert "to resume, run the same command again:\n  comet-async expand" in ended.err
    assert (await comet(*words)).outcomes == {"done": 3}
    assert len(sandbox.ledger.charges) == 3


async def test_a_signal_while_a_request_is_being_sent(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """Its image is pending like the others; no warning about a caller that is gone is added."""
    sandbox.faults.add(Fault("slow", on="create", seconds=2, times=None))
    words = ("expand", photos, "--out", photos.parent / "wide", *SHAPE, "--json")
    running = asyncio.ensure_future(comet(*words))
    while not sandbox.ledger.charges:  # noqa: ASYNC110 - the ledger has no event
        await asyncio.sleep(0.05)
    signal_now()
    ended = await running
    assert ended.status == 130
    assert "accepted and billed: 1 of 3 pending" in ended.err
    assert "caller" not in ended.err


async def test_a_signal_before_the_run(
    comet: Command, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While the input is still being read there is nothing to record: it just ends."""
    monkeypatch.setattr("comet_async.cli.expand.run.SourceCounter.any", lambda _: asyncio.sleep(60))
    running = asyncio.ensure_future(comet("expand", tmp_path, "--out", tmp_path / "w", *SHAPE))
    await asyncio.sleep(1)
    signal_now()
    signal_now()  # at the same moment: the same signal, heard twice
    ended = await running
    assert (ended.status, ended.err) == (130, "comet-async: interrupted\n")
    assert not sandbox.ledger.posts


async def test_nobody_answers(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """A server that can't be reached stops the run; nothing is lost and nothing is paid."""
    await sandbox.aclose()
    words = ("expand", photos, "--out", photos.parent / "wide", *SHAPE, "--json")
    ended = await comet(*words)
    assert ended.status == 1
    assert set(ended.outcomes) == {"pending"}
    assert "stopped; the remaining images were not sent" in ended.err
    assert "can't connect" in ended.err


async def test_in_a_sandbox_of_its_own(comet: Command, photos: Path) -> None:
    """Without a key images are painted here, and a further run finds them done."""
    words = ("expand", photos / "dog.png", "--out", photos.parent / "wide", *SHAPE, "--sandbox")
    ended = await comet(*words)
    assert ended.status == 0
    assert "prompts are checked but not followed" in ended.err
    assert "painted here by" in ended.err
    ended = await comet(*words)
    assert ended.status == 0
    assert "painted here by" not in ended.err


async def test_a_broken_sandbox_run_goes_on(comet: Command, photos: Path) -> None:
    """What a sandbox was painting is lost with it, and painted anew by the next run."""
    words = ("expand", photos / "dog.png", "--out", photos.parent / "wide", *SHAPE, "--sandbox")
    running = asyncio.ensure_future(comet(*words))
    journal = photos.parent / "wide" / JOURNAL_NAME
    while not journal.exists() or b"submitted" not in wal(journal):  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.01)
    signal_now()
    assert (await running).status == 130
    assert (await comet(*words)).status == 0


def wal(journal: Path) -> bytes:
    """Return what was written to the journal last."""
    log = journal.with_name(f"{journal.name}-wal")
    return log.read_bytes() if log.exists() else b""


async def test_a_journal_that_breaks(
    comet: Command, sandbox: Sandbox, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it can't be read while the run goes on, that is said, and the status is 1."""

    async def broken(*_: object, **__: object) -> None:
        raise JournalError("the journal can't be read")

    for reads in ("in_flight", "get", "plan"):
        monkeypatch.setattr(SqliteJournal, reads, broken)
    ended = await comet("expand", photos, "--out", photos.parent / "wide", *SHAPE)
    assert ended.status == 1
    assert "the journal can't be read" in ended.err
    assert not sandbox.ledger.posts


async def test_a_journal_that_is_lost(
    comet: Command, sandbox: Sandbox, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent, and the next step is --verify-remote: it resumes, and pays once."""
    out = photos.parent / "wide"
    check = Connection.check_complete

    def remove_and_check(db: Connection) -> None:
        if sandbox.ledger.posts:
            shutil.rmtree((out / JOURNAL_NAME).parent)
            monkeypatch.setattr(Connection, "check_complete", check)
            db.watch.look()  # type: ignore[union-attr]  # as before the next commit
        check(db)

    monkeypatch.setattr(Connection, "check_complete", remove_and_check)
    first = await comet("expand", photos, "--out", out, *SHAPE, "--concurrency", "1")
    again = await comet("expand", photos, "--out", out, *SHAPE)
    assert (first.status, again.status) == (1, 2)
    assert 0 < len(sandbox.ledger.posts) < 3
    for ended in (first, again):
        assert "--verify-remote" in ended.err
        assert "run the same command again" not in ended.err
    resumed = await comet("expand", photos, "--out", out, *SHAPE, "--verify-remote")
    assert resumed.status == 0
    assert len(sandbox.ledger.charges) == 3


def signal_now() -> None:
    """Do what the running loop does when a signal comes."""
    handlers = asyncio.get_running_loop()._signal_handlers  # type: ignore[attr-defined]  # no API
    next(iter(handlers.values()))._run()


async def test_a_closed_reader_stops_the_run(
    sandbox: Sandbox, photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """When nobody reads the JSON lines any more, nothing more is bought."""

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(text)

        def fileno(self) -> int:
            return spare.fileno()

    with (tmp_path / "spare").open("w") as spare:
        monkeypatch.setattr(sys, "stdout", Closed())
        words = ["expand", str(photos), "--out", str(tmp_path / "wide"), *SHAPE, "--json"]
        status = await run([*words, "--concurrency", "1"])
    assert status == 1
    assert len(sandbox.ledger.charges) < 3


async def test_writes_a_report(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """The page of all images stands beside them."""
    out = photos.parent / "wide"
    ended = await comet("expand", photos, "--out", out, *SHAPE, "--report")
    assert ended.status == 0
    page = (out / "report.html").read_text()
    assert page.count("<article ") == len(sandbox.ledger.charges) == 3


async def test_no_text_holds_the_key(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """Neither with --debug nor in the journal."""
    sandbox.faults.add(Fault("500", on="query", times=2))
    out = photos.parent / "wide"
    ended = await comet("expand", photos, "--out", out, *SHAPE, "--debug", "--json")
    assert ended.status == 0
    assert "sandbox-key" not in ended.out + ended.err
    assert "token=" not in ended.err.replace("token=…", "")
    assert b"sandbox-key" not in b"".join(
        path.read_bytes() for path in out.rglob("*") if path.is_file()
    )


async def test_a_busy_journal_is_said(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """A second run into the same folder is refused before anything is sent."""
    out = photos.parent / "wide"
    async with await SqliteJournal.open(out / JOURNAL_NAME):
        ended = await comet("expand", photos, "--out", out, *SHAPE)
    assert ended.status == 2
    assert "is open in this process already" in ended.err
    assert not sandbox.ledger.posts


async def test_json_survives_odd_names(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """A name with a line break or an escape code breaks neither a line nor a terminal."""
    odd = photos / "a\nb\x1b[31m.png"
    (photos / "dog.png").rename(odd)
    ended = await comet("expand", odd, "--out", photos.parent / "w", *SHAPE, "--json")
    assert ended.lines[0]["source"] == str(odd)
    ended = await comet("expand", odd, "--out", photos.parent / "w", *SHAPE)
    assert "\x1b" not in ended.err
    assert json.dumps(str(odd))[-20:-1] not in ended.err
    assert len(sandbox.ledger.charges) == 1


def test_the_second_signal_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It flushes what was written and ends the process with 130, whatever runs."""
    left: list[int] = []
    monkeypatch.setattr("comet_async.cli.runtime.os._exit", left.append)
    monkeypatch.setattr(runtime, "_ECHO", -1.0)

    async def command() -> None:
        call = runtime.Invocation(("expand",))
        call.on_signal = lambda: None
        with call.handling_signals():
            assert runtime.CURRENT.get() is call
            signal_now()
            signal_now()

    asyncio.run(command())
    assert left == [130]


async def test_long_names_stay_readable(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """A long path is shortened in its middle, and not taken for an image's data."""
    deep = photos.parent.joinpath("deep", *["folder" * 15] * 3)
    deep.mkdir(parents=True)
    (photos / "dog.png").rename(deep / "rex.png")
    out = photos.parent / ("wide" * 50)
    for result in (f"{deep.name[-20:]}/rex.png → ", f"{out.name[-20:]}/rex.png exists already"):
        ended = await comet("expand", deep / "rex.png", "--out", out, *SHAPE)
        assert result in ended.err
        shutil.rmtree((out / JOURNAL_NAME).parent)
    assert len(sandbox.ledger.posts) == 1
