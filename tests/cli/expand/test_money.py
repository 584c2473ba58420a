"""What the command says that it bought is what the server's ledger says."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import struct
import time
import zlib
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from comet_async._journal.records import JobRecord, is_billed
from comet_async._journal.states import JobState
from comet_async._tools.report.entries import read_entries
from comet_async.journal import SqliteJournal
from comet_async.runs import JOURNAL_NAME
from comet_async.sandbox import Fault, Sandbox

Command = Callable[..., Awaitable[Any]]  # the fixture `comet`

SHAPE = ("--to", "16:9")


def bought(text: str) -> int:
    """Return how many images a summary says were bought."""
    found = re.search(r"bought (\d+) image", text)
    return int(found[1]) if found else 0


async def test_a_second_folder_buys_nothing(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """The server knows the requests: they cost nothing, and the summary says why."""
    first = await comet("expand", photos, "--out", photos.parent / "one", *SHAPE)
    assert bought(first.err) == len(sandbox.ledger.charges) == 3
    ended = await comet("expand", photos, "--out", photos.parent / "two", *SHAPE)
    assert ended.status == 0
    assert len(sandbox.ledger.charges) == 3
    assert "nothing was billed; 3 images were bought earlier" in ended.err
    assert len(list((photos.parent / "two").rglob("*.png"))) == 3


async def test_limits_count_what_is_newly_bought(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """Two images that the server knows leave both places of --max-jobs to others."""
    for name in ("dog.png", "cat.png"):
        await comet("expand", photos / name, "--out", photos.parent / "one", *SHAPE)
    for number in range(3):
        image = bytearray((photos / "dog.png").read_bytes())
        (photos / f"new{number}.png").write_bytes(recoloured(bytes(image), number))
    words = ("expand", photos, "--out", photos.parent / "two", *SHAPE, "--json")
    ended = await comet(*words, "--max-jobs", 2, "--concurrency", 1)
    assert len(sandbox.ledger.charges) == 4
    assert [line["billed"] for line in ended.lines].count(True) == 2
    assert bought(ended.err) == 2


def recoloured(png: bytes, number: int) -> bytes:
    """Return another image that differs in a text chunk only: other bytes, another request."""
    body = b"tEXtnote\0" + str(number).encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:33] + chunk + png[33:]


async def test_a_lost_answer_is_counted_once(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """A request that was charged although its answer was lost was bought by this run."""
    sandbox.faults.add(Fault("drop_after_charge", times=2))
    ended = await comet("expand", photos, "--out", photos.parent / "wide", *SHAPE, "--json")
    assert [line["billed"] for line in ended.lines] == [True] * 3
    assert bought(ended.err) == len(sandbox.ledger.charges) == 3


async def test_a_clock_that_is_set_back_hides_no_bill(
    comet: Command, sandbox: Sandbox, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent before the run began, as the clock has it now, was bought by it."""
    ahead = SimpleNamespace(time=lambda: time.time() + 3600)
    monkeypatch.setattr("comet_async.cli.expand.run.SYSTEM_CLOCK", ahead)  # as the run begins
    ended = await comet("expand", photos, "--out", photos.parent / "wide", *SHAPE, "--json")
    assert [line["billed"] for line in ended.lines] == [True] * 3
    assert bought(ended.err) == len(sandbox.ledger.charges) == 3


async def test_failed_tasks_are_not_billed(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """The ledger, the summary, the JSON line, the journal and the report say the same."""
    out = photos.parent / "wide"
    how = ("--out", out, *SHAPE, "--json", "--json-progress")
    for name, prompt, images, usd in (
        ("dog.png", "sandbox-risky", 0, "0.000"),
        ("cat.png", "snow", 1, "0.028"),
    ):
        ended = await comet("expand", photos / name, *how, "--prompt", prompt)
        (line,) = ended.lines
        assert line["outcome"] == ("done" if images else "failed")
        assert line["billed"] is bool(images)
        assert bought(ended.err) == images
        assert ("1 image failed: failed tasks are not billed" in ended.err) is not bool(images)
        *_, last = (event for event in map(json.loads, ended.err.splitlines()) if "ended" in event)
        assert (last["billed_images"], last["estimate_usd"]) == (images, usd)
    assert len(sandbox.ledger.charges) == 2
    assert sandbox.ledger.images == 1
    async with await SqliteJournal.open(out / JOURNAL_NAME) as journal:
        outcomes = await journal.outcomes()
        entries = await read_entries(journal)
    assert sum(outcome.billed for outcome in outcomes) == 1
    assert sum(entry.billed for entry in entries) == 1
    assert sum(entry.cost for entry in entries) == Decimal("0.028")


@pytest.mark.parametrize(("units", "billed"), [(None, False), ("0", False), ("8", True)])
def test_the_server_has_the_last_word(units: str | None, *, billed: bool) -> None:
    """A failed task for which the server says that it charged units is billed."""
    job = JobRecord(
        key="ce1-dog",
        kind="expand",
        account="account",
        state=JobState.FAILED,
        params={},
        n=1,
        source="dog.png",
        image_sha="dog",
        created_at=1,
        updated_at=2,
        units=units,
    )
    assert is_billed(job) is billed


async def test_equal_images_are_bought_once(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """Both names get their file, and one of them is said to be the same image."""
    shutil.copy(photos / "dog.png", photos / "dog copy.png")
    words = ("expand", photos, "--out", photos.parent / "wide", *SHAPE, "--json")
    ended = await comet(*words)
    assert bought(ended.err) == len(sandbox.ledger.charges) == 3
    (same,) = [line for line in ended.lines if line["same_as"] is not None]
    assert {Path(same["source"]).name, Path(same["same_as"]).name} == {"dog.png", "dog copy.png"}
    assert same["billed"] is False


@pytest.mark.parametrize("fault", [None, "drop_after_charge"])
async def test_fresh_in_the_same_folder(
    comet: Command, sandbox: Sandbox, photos: Path, fault: str | None
) -> None:
    """The new results lie beside the old ones, in a folder of that name; each name is one."""
    out = photos.parent / "wide"
    words = ("expand", photos, "--out", out, *SHAPE)
    await comet(*words)
    if fault:
        sandbox.faults.add(Fault(fault, times=1))
    plan = await comet(*words, "--fresh", "again", "--dry-run", "--json")
    assert [line["plan"] for line in plan.lines] == ["new"] * 3
    for _ in range(2):
        ended = await comet(*words, "--fresh", "again")
        assert ended.status == 0
        assert len(sandbox.ledger.charges) == 6
    assert (out / "again" / "trip" / "sea.png").is_file()
    assert (out / "trip" / "sea.png").is_file()


@pytest.mark.parametrize("name", ["../x", ".x", "a/b", "a\nb", "-x"])
async def test_a_name_that_cannot_be_a_folder(comet: Command, photos: Path, name: str) -> None:
    """It is refused before anything is sent."""
    ended = await comet("expand", photos, "-o", photos.parent / "w", *SHAPE, f"--fresh={name}")
    assert ended.status == 2
    assert "can't be the name of a folder" in ended.err


def everything(photos: Path, sandbox_folder: Path) -> None:
    """Fill *photos* with one of everything that a run treats differently."""
    dog = (photos / "dog.png").read_bytes()
    (photos / "copy.png").write_bytes(dog)
    (photos / "text.png").write_bytes(b"no image")
    (photos / "empty.png").write_bytes(b"")
    (photos / "cut.png").write_bytes(dog[: len(dog) // 2])
    (photos / "gif.gif").write_bytes(b"GIF89a" + bytes(40))
    (photos / "taken.png").write_bytes(recoloured(dog, 7))
    (photos / "done.png").write_bytes(recoloured(dog, 8))
    (photos / "foreign.png").write_bytes(recoloured(dog, 9))
    (photos / "link.png").symlink_to(sandbox_folder / "elsewhere.png")
    (sandbox_folder / "elsewhere.png").write_bytes(recoloured(dog, 10))


async def test_the_plan_is_the_run(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """For one of everything the plan says, up to the server's answers, what becomes of it."""
    out = photos.parent / "wide"
    everything(photos, photos.parent)
    words = ("expand", "--out", out, "--json")
    await comet(*words, photos / "taken.png", "--to", "1:1")
    await comet(*words, photos / "done.png", *SHAPE)
    (out / "foreign.png").write_bytes(b"something else")
    before = len(sandbox.ledger.charges)

    plan = await comet(*words, photos, *SHAPE, "--dry-run")
    run = await comet(*words, photos, *SHAPE)
    planned = {Path(line["source"]).name: line for line in plan.lines}
    became = {Path(line["source"]).name: line for line in run.lines}

    assert planned.keys() == became.keys()
    for name, line in became.items():
        expected = planned[name]
        assert (line["outcome"] == "done") == (expected["plan"] in {"new", "same", "done", "copy"})
        assert line["error"] == expected["error"], name
        if expected["plan"] == "done":
            assert line["files"] == expected["files"]
    assert {planned[name]["plan"] for name in ("taken.png", "foreign.png", "gif.gif")} == {
        "invalid"
    }
    same = {name for name, line in planned.items() if line["plan"] == "same"}
    assert same <= {"dog.png", "copy.png"}
    assert len(same) == 1
    new = [line for line in planned.values() if line["plan"] == "new"]
    assert len(sandbox.ledger.charges) - before == len(new)
    assert plan.status == run.status == 1


@pytest.mark.parametrize("more", [(), ("--max-jobs", "1")], ids=["all", "limited"])
async def test_the_status_of_a_plan_is_that_of_the_run(
    comet: Command, sandbox: Sandbox, photos: Path, more: tuple[str, ...]
) -> None:
    """As if all that is sent succeeded."""
    words = ("expand", photos, "--out", photos.parent / "wide", *SHAPE, *more)
    plan = await comet(*words, "--dry-run")
    assert plan.status == (await comet(*words)).status
    assert sandbox.ledger.charges


async def test_the_status_of_a_plan_knows_of_failures(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """An image that failed earlier is skipped, and so not done."""
    words = ("expand", photos / "dog.png", "--out", photos.parent / "wide", *SHAPE)
    risky = (*words, "--prompt", "sandbox-risky")
    await comet(*risky)
    plan = await comet(*risky, "--dry-run")
    assert plan.status == (await comet(*risky)).status == 1
    assert "failed in an earlier run; skipped (--retry-failed buys it again)" in plan.out
    assert len(sandbox.ledger.charges) == 1


async def test_a_copy_does_not_replace_a_foreign_file(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """An image that needs no expansion is refused as well where its name is taken."""
    out = photos.parent / "wide"
    out.mkdir()
    (out / "dog.png").write_bytes(b"mine")
    words = ("expand", photos / "dog.png", "--out", out, "--to", "320:300", "--json")
    for more in (("--dry-run",), ()):
        ended = await comet(*words, *more)
        assert ended.status == 1
        assert "is another file" in ended.lines[0]["error"]["message"]
    assert (out / "dog.png").read_bytes() == b"mine"
    assert not sandbox.ledger.posts


async def test_failed_sources_can_be_fed_back(
    comet: Command, sandbox: Sandbox, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--failed writes what is not done, in the form that - reads."""
    listed = photos.parent / "failed.txt"
    sandbox.faults.add(Fault("1201", on="create", times=1))
    words = ("--out", photos.parent / "wide", *SHAPE)
    ended = await comet("expand", photos, *words, "--failed", listed, "--concurrency", 1)
    assert ended.status == 1
    assert len(listed.read_text("utf-8").splitlines()) == 1
    with listed.open(encoding="utf-8") as lines:
        monkeypatch.setattr("sys.stdin", lines)
        ended = await comet("expand", "-", *words, "--json", "--failed", listed)
    assert ended.outcomes == {"done": 1}
    assert listed.read_bytes() == b""
    assert len(sandbox.ledger.charges) == 3


async def test_a_list_that_cannot_be_written(comet: Command, photos: Path) -> None:
    """It is refused before anything is paid."""
    words = ("expand", photos, "--out", photos.parent / "wide", *SHAPE)
    ended = await comet(*words, "--failed", photos / "nowhere" / "failed.txt")
    assert ended.status == 2
    assert "its folder does not exist" in ended.err


async def test_a_report_that_cannot_be_made(
    comet: Command, sandbox: Sandbox, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing library is found before the first image is paid."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "jinja2" else find(name)
    )
    ended = await comet("expand", photos, "--out", photos.parent / "w", *SHAPE, "--report")
    assert ended.status == 2
    assert "pip install 'comet-async[report]'" in ended.err
    assert not sandbox.ledger.posts


async def test_a_single_missing_source_is_wrong_usage(comet: Command, tmp_path: Path) -> None:
    """A slip of the pen is not an image that could not be expanded."""
    ended = await comet("expand", tmp_path / "nofolder", "--out", tmp_path / "w", *SHAPE)
    assert ended.status == 2
    assert "does not exist" in ended.err


async def test_names_that_are_taken_are_one_reason(
    comet: Command, sandbox: Sandbox, photos: Path
) -> None:
    """The first image says which file is in the way; the end has one line for all of them."""
    out = photos.parent / "wide"
    await comet("expand", photos, "-o", out, *SHAPE)
    ended = await comet("expand", photos, "-o", out, "--to", "2:1")
    assert ended.status == 1
    lines = [line for line in ended.err.splitlines() if "exists already" in line]
    assert len(lines) == 2
    assert lines[0].startswith("invalid ")
    assert f"{out}/" in lines[0]
    assert "  3 invalid: its file exists already, and is the result of another" in lines[1]
    assert len(sandbox.ledger.charges) == 3
