"""A gateway that tells nothing about a lost answer: what a person can do then, from end to end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from comet_async.sandbox import DEFAULT_KEY, Fault, Options, Sandbox

Command = Callable[..., Awaitable[Any]]  # the fixture `comet`


@pytest.fixture
async def silent(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    """Return a sandbox without lookups and list, whose first answer is lost after charging."""
    options = Options(lookups="", list_tasks=False, unique_external_ids=False)
    async with Sandbox(engine="stub", seed=1, options=options) as running:
        running.faults.add(Fault("drop_after_charge"))
        monkeypatch.setenv("COMETAPI_API_ROOT", running.url)
        monkeypatch.setenv("COMETAPI_KEY", DEFAULT_KEY)
        yield running


@pytest.fixture
def words(photos: Path) -> tuple[object, ...]:
    """Return a command for one image."""
    return ("expand", photos / "dog.png", "--out", photos.parent / "wide", "--left", 0.5)


async def test_it_is_said_and_not_guessed(
    comet: Command, silent: Sandbox, words: tuple[object, ...], photos: Path
) -> None:
    """The outcome is uncertain, the money doubtful, and nothing is sent again by any run."""
    ended = await comet(*words)
    assert ended.status == 1
    assert "1 image may have been billed, about $0.028 (an estimate" in ended.err
    assert f"comet-async jobs {photos.parent / 'wide'} --uncertain" in ended.err
    assert (await comet(*words, "--json")).outcomes == {"uncertain": 1}
    assert len(silent.ledger.posts) == 1
    plan = await comet(*words, "--dry-run", "--json")
    assert plan.outcomes == {"uncertain": 1}
    assert plan.lines[0]["estimate_usd"] == "0.000"


async def test_a_journal_of_its_own_is_named(
    comet: Command, silent: Sandbox, words: tuple[object, ...], tmp_path: Path
) -> None:
    """The command in the summary works, and so do the ones that it prints."""
    file = tmp_path / "own.sqlite3"
    ended = await comet(*words, "--journal", file)
    assert f"comet-async jobs {file} --uncertain" in ended.err
    listed = await comet("jobs", file, "--uncertain")
    assert f"comet-async jobs {file} attach" in listed.out + listed.err
    (job,) = (await comet("jobs", file, "--uncertain", "--json")).lines
    (task,) = silent.tasks.all()
    assert (await comet("jobs", file, "attach", job["key"], task.id)).status == 0
    assert (await comet(*words, "--journal", file, "--json")).outcomes == {"done": 1}
    assert len(silent.ledger.charges) == 1


async def test_attach_what_was_paid(
    comet: Command, silent: Sandbox, words: tuple[object, ...], photos: Path
) -> None:
    """With the task's id from the provider's console the image is fetched, paid once."""
    await comet(*words)
    (job,) = (await comet("jobs", photos.parent / "wide", "--uncertain", "--json")).lines
    (task,) = silent.tasks.all()
    await comet("jobs", photos.parent / "wide", "attach", job["key"], task.id)
    assert (await comet(*words, "--json")).outcomes == {"done": 1}
    assert len(silent.ledger.charges) == 1


async def test_resubmit_at_your_own_risk(
    comet: Command, silent: Sandbox, words: tuple[object, ...], photos: Path
) -> None:
    """It is sent again because you said so; here that pays twice."""
    await comet(*words)
    (job,) = (await comet("jobs", photos.parent / "wide", "--uncertain", "--json")).lines
    decision = ("jobs", photos.parent / "wide", "resubmit", job["key"])
    await comet(*decision, "--i-accept-double-charge")
    assert (await comet(*words, "--json")).outcomes == {"done": 1}
    assert len(silent.ledger.charges) == 2


async def test_abandon(
    comet: Command, silent: Sandbox, words: tuple[object, ...], photos: Path
) -> None:
    """What is given up is not looked for and not sent any more."""
    await comet(*words)
    (job,) = (await comet("jobs", photos.parent / "wide", "--uncertain", "--json")).lines
    await comet("jobs", photos.parent / "wide", "abandon", job["key"])
    ended = await comet(*words, "--json")
    assert ended.outcomes == {"failed": 1}
    assert "abandoned by hand" in ended.lines[0]["error"]["message"]
    assert len(silent.ledger.posts) == 1
