"""`comet-async status`, `wait` and `list`: single tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from comet_async import CometSession, ExpandRequest, Margins, Task
from comet_async.sandbox import Fault, Sandbox

Command = Callable[..., Awaitable[Any]]  # the fixture `comet`


async def submit(photo: bytes, prompt: str | None = None) -> Task:
    """Submit an image as another program would."""
    async with CometSession() as session:
        return await session.submit(
            ExpandRequest(image=photo, margins=Margins(up=0.2), prompt=prompt)
        )


async def test_wait_saves_the_images(
    comet: Command, sandbox: Sandbox, photo: bytes, tmp_path: Path
) -> None:
    """It shows each change, ends with the task, and saves what it made."""
    task = await submit(photo)
    ended = await comet("wait", task.id, "--out", tmp_path)
    assert ended.status == 0
    assert f"{task.id}: processing\n" in ended.err
    assert "status     succeed\n" in ended.out
    assert "succeed" not in ended.err
    assert (tmp_path / f"{task.id}.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path / f"{task.id}.png") in ended.out
    assert len(sandbox.ledger.charges) == 1


async def test_status_by_either_id(comet: Command, sandbox: Sandbox, photo: bytes) -> None:
    """The provider's id and ours lead to the same task."""
    task = await submit(photo)
    for name in (task.id, sandbox.tasks.all()[0].external_id):
        ended = await comet("status", name)
        assert ended.status == 0
        assert f"task       {task.id}\nstatus     submitted\n" in ended.out
        assert ended.err == ""
    await comet("wait", task.id)
    ended = await comet("status", task.id)  # the address is shown without its signature
    assert f"comet-async wait {task.id} --out DIR" in ended.err


async def test_status_as_json(comet: Command, sandbox: Sandbox, photo: bytes) -> None:
    """One object with all that is known; addresses without their signature."""
    task = await submit(photo)
    await comet("wait", task.id)
    (line,) = (await comet("status", task.id, "--json")).lines
    assert (line["task_id"], line["status"], line["units"]) == (task.id, "succeed", "8")
    assert line["images"][0]["url"].startswith(f"{sandbox.url}/results/")
    assert "token=…" in line["images"][0]["url"]


async def test_a_failed_task(comet: Command, sandbox: Sandbox, photo: bytes) -> None:
    """Its status is 1, and its reason is shown."""
    task = await submit(photo, prompt="sandbox-risky")
    ended = await comet("wait", task.id)
    assert ended.status == 1
    assert "risk control" in ended.out
    assert (await comet("status", task.id)).status == 1
    assert len(sandbox.ledger.charges) == 1


async def test_an_unknown_task(comet: Command, sandbox: Sandbox) -> None:
    """The server's answer is reported in one line."""
    ended = await comet("status", "878")
    assert ended.status == 1
    assert ended.err.startswith("comet-async: ")
    assert not sandbox.ledger.charges


async def test_a_wait_that_is_too_short(comet: Command, sandbox: Sandbox, photo: bytes) -> None:
    """The task continues, and the command that waits again is shown."""
    task = await submit(photo)
    ended = await comet("wait", task.id, "--timeout", 1)
    assert ended.status == 1
    assert f"to continue waiting: comet-async wait {task.id} --timeout 1" in ended.err
    assert len(sandbox.ledger.charges) == 1


async def test_a_result_that_is_gone(
    comet: Command, sandbox: Sandbox, photo: bytes, tmp_path: Path
) -> None:
    """That it can't be saved is said, with the id that is worth money."""
    task = await submit(photo)
    sandbox.faults.add(Fault("404", on="result", times=None))
    ended = await comet("wait", task.id, "--out", tmp_path)
    assert ended.status == 1
    assert "not valid" in ended.err or "no longer valid" in ended.err


async def test_list(comet: Command, sandbox: Sandbox, photo: bytes) -> None:
    """The account's tasks, newest first, as a table or as JSON."""
    first, second = await submit(photo), await submit(photo, prompt="two")
    ended = await comet("list")
    ids = [line.split("\t")[1] for line in ended.out.splitlines()]
    assert ids == ["task", second.id, first.id]
    ended = await comet("list", "--json")
    assert [line["task_id"] for line in ended.lines] == [second.id, first.id]
    assert len(sandbox.ledger.charges) == 2


async def test_list_of_an_empty_account(comet: Command, sandbox: Sandbox) -> None:
    """Nothing is said to be there."""
    ended = await comet("list")
    assert ended.status == 0
    assert "no expansion task" in ended.err
    assert not sandbox.tasks.all()


async def test_list_ends_with_its_pages(
    comet: Command, sandbox: Sandbox, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long list is read only as far as asked."""
    monkeypatch.setattr("comet_async.cli.tasks._PAGE", 1)
    for prompt in ("one", "two"):
        await submit(photo, prompt=prompt)
    assert len((await comet("list", "--json")).lines) == 1
    assert len(sandbox.tasks.all()) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("list", "--pages", "0"), "--pages 0"),
        (("wait", "878", "--timeout", "nan"), "--timeout nan"),
        (
            ("status", "878", "--gateway", "sandbox"),
            "--gateway sandbox only works with expand and doctor",
        ),
    ],
)
async def test_wrong_usage(
    comet: Command, sandbox: Sandbox, words: tuple[str, ...], said: str
) -> None:
    """It is refused before anything is asked."""
    ended = await comet(*words)
    assert ended.status == 2
    assert said in ended.err
    assert not sandbox.ledger.posts
