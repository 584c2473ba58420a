"""`comet-async expand --dry-run`: the plan, its price, and that nothing happens."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from comet_async.cli.expand.dry_run import LISTED
from comet_async.journal import SqliteJournal
from comet_async.runs import JOURNAL_NAME
from comet_async.sandbox import Sandbox
from tests.support.images import make_png

Command = Callable[..., Awaitable[Any]]  # the fixture `comet`

SHAPE = ("--to", "16:9")


async def test_sends_and_writes_nothing(comet: Command, photos: Path) -> None:
    """Not even a key is needed to learn the price."""
    out = photos.parent / "wide"
    ended = await comet("expand", photos, "--out", out, *SHAPE, "--dry-run")
    assert ended.status == 0
    assert "plan: 3 new; nothing was sent and nothing was written" in ended.err
    assert "would buy 3 images: about $0.084 ($0.028 each, an estimate, not a bill)" in ended.err
    assert ended.out.splitlines()[0] == "plan\tsource\tfile\treason"
    assert not out.exists()


async def test_json(comet: Command, photos: Path) -> None:
    """One line each, in the form of a run, with the plan and the estimate."""
    out = photos.parent / "wide"
    ended = await comet(
        "expand", photos / "dog.png", "--out", out, *SHAPE, "-n", 2, "--dry-run", "--json"
    )
    (line,) = ended.lines
    assert line.pop("external_task_id").startswith("ce1-")
    assert line == {
        "source": str(photos / "dog.png"),
        "outcome": "pending",
        "task_id": None,
        "files": [str(out / "dog-0.png"), str(out / "dog-1.png")],
        "error": None,
        "billed": False,
        "same_as": None,
        "plan": "new",
        "estimate_usd": "0.056",
    }


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("journal", [(), ("--journal", "jobs.sqlite3")])
async def test_the_files_are_those_that_the_run_saves(
    comet: Command, photos: Path, journal: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each source has the names that the run gives its results then, in the same form."""
    monkeypatch.chdir(photos.parent)
    (photos / "dog.jpg").write_bytes(b"no image")  # takes no name away, but changes one
    (photos / "square.png").write_bytes(make_png(320, 320))  # copied
    words = ("expand", photos.name, "--out", "wide", "--to", "1:1", *journal, "--json")
    planned = await comet(*words, "--dry-run")
    done = await comet(*words)
    again = await comet(*words, "--dry-run")
    files = [
        {line["source"]: line["files"] for line in run.lines} for run in (planned, done, again)
    ]
    assert files[0] == files[1] == files[2]
    assert [len(names) for names in files[0].values()].count(1) == 4


async def test_several_files_of_a_source(comet: Command, photos: Path) -> None:
    """The table names the first and the last."""
    words = ("expand", photos / "dog.png", "--out", photos.parent / "wide", *SHAPE, "-n", 4)
    ended = await comet(*words, "--dry-run")
    assert f"{photos.parent / 'wide'}/dog-0.png … dog-3.png\twill be sent" in ended.out


async def test_knows_what_is_done(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """What the journal knows is not bought again; the journal stays as it is, byte by byte."""
    out = photos.parent / "wide"
    await comet("expand", photos / "dog.png", "--out", out, *SHAPE)
    journal = (out / JOURNAL_NAME).read_bytes()
    ended = await comet("expand", photos, "--out", out, *SHAPE, "--dry-run")
    assert "plan: 2 new, 1 done" in ended.err
    assert (out / JOURNAL_NAME).read_bytes() == journal
    assert len(sandbox.ledger.charges) == 1


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("journal", [(), ("--journal", "jobs.sqlite3")])
async def test_files_that_were_touched_since(
    comet: Command, photos: Path, journal: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan has the outcome, error and status of the run for an edited result and a lost one."""
    monkeypatch.chdir(photos.parent)
    words = ("expand", photos.name, "--out", "wide", *SHAPE, *journal)
    await comet(*words)
    shutil.copy(photos / "dog.png", photos / "same.png")
    (photos.parent / "wide" / "same.png").write_bytes(b"not the library's")
    edited, lost = photos.parent / "wide" / "cat.png", photos.parent / "wide" / "trip" / "sea.png"
    edited.write_bytes(edited.read_bytes() + b"edited")
    lost.unlink()
    planned = await comet(*words, "--dry-run", "--json")
    table = await comet(*words, "--dry-run")
    done = await comet(*words, "--json")
    plans = {Path(line["source"]).name: line["plan"] for line in planned.lines}
    assert plans[lost.name] == "resume"
    assert plans[edited.name] == plans["same.png"] == "blocked"
    facts = ("task_id", "external_task_id", "error")
    ends = [
        {line["source"]: [line[fact] for fact in facts] for line in run.lines}
        for run in (planned, done)
    ]
    assert ends[0] == ends[1]
    assert done.outcomes == {"done": 2, "pending": 2}
    assert table.status == planned.status == done.status == 1
    assert "blocked" in table.out
    assert f"{edited.name} exists and is another file" in table.out


@pytest.mark.usefixtures("sandbox")
async def test_a_lost_result_that_has_a_copy(comet: Command, photos: Path) -> None:
    """It is copied again: nothing is fetched, and the plan says that it is done."""
    shutil.copy(photos / "dog.png", photos / "same.png")
    out = photos.parent / "wide"
    words = ("expand", photos, "--out", out, *SHAPE)
    await comet(*words)
    (out / "same.png").unlink()
    assert "plan: 4 done" in (await comet(*words, "--dry-run")).err


async def test_plans_beside_a_run(comet: Command, photos: Path) -> None:
    """A journal that is in use can be planned with: the plan works on a copy."""
    out = photos.parent / "wide"
    async with await SqliteJournal.open(out / JOURNAL_NAME):
        ended = await comet("expand", photos, "--out", out, *SHAPE, "--dry-run")
    assert ended.status == 0


async def test_bad_images_are_in_the_plan(comet: Command, photos: Path) -> None:
    """They are invalid, with the reason, and the status is 1; a long name is not repeated."""
    bad = photos / f"{'bad' * 25}.png"
    bad.write_bytes(b"no image")
    out = photos.parent / "wide"
    ended = await comet("expand", photos, "--out", out, *SHAPE, "--dry-run", "--json")
    assert ended.status == 1
    assert ended.outcomes == {"pending": 3, "invalid": 1}
    ended = await comet("expand", photos, "--out", out, *SHAPE, "--dry-run")
    (line,) = [line for line in ended.out.splitlines() if line.startswith("invalid")]
    assert "bad.png\t-\tis text, not a PNG or JPEG; the type is detected from the content" in line


async def test_equal_images_cost_once(comet: Command, photos: Path) -> None:
    """Two names of one image are one purchase."""
    (photos / "copy.png").write_bytes((photos / "dog.png").read_bytes())
    out = photos.parent / "wide"
    ended = await comet("expand", photos, "--out", out, *SHAPE, "--dry-run")
    assert "plan: 3 new, 1 same" in ended.err
    assert "same image as" in ended.out
    assert "would buy 3 images" in ended.err


async def test_images_of_the_wanted_shape_cost_nothing(comet: Command, photos: Path) -> None:
    """An image that has the shape already is copied."""
    out = photos.parent / "wide"
    ended = await comet("expand", photos, "--out", out, "--to", "320:300", "--dry-run")
    assert "plan: 3 copy" in ended.err
    assert "would buy nothing" in ended.err


async def test_limits_are_in_the_plan(comet: Command, photos: Path) -> None:
    """It says how far the limits of the run reach."""
    words = ("expand", photos, "--out", photos.parent / "wide", *SHAPE, "--dry-run")
    ended = await comet(*words, "--max-jobs", 1, "--max-spend", 0.06)
    assert "--max-jobs lets it send 1 of 3" in ended.err
    assert "--max-spend lets it buy 2 of 3" in ended.err


async def test_long_tables_are_cut(comet: Command, photos: Path) -> None:
    """A hundred rows are enough for a person; programs read --json."""
    image = (photos / "dog.png").read_bytes()
    for number in range(LISTED):
        (photos / f"{number}.png").write_bytes(image)
    ended = await comet("expand", photos, "--out", photos.parent / "w", *SHAPE, "--dry-run")
    assert len(ended.out.splitlines()) == LISTED + 1
    assert "… and 3 more" in ended.err


async def test_the_sandbox_is_free(comet: Command, photos: Path) -> None:
    """Its plan has no price, and what an earlier sandbox left unfinished is painted anew."""
    out = photos.parent / "wide"
    ended = await comet("expand", photos, "--out", out, *SHAPE, "--dry-run", "--sandbox")
    assert "the sandbox is free of charge" in ended.err
    assert "will be painted" in ended.out
