"""`comet-async doctor`: free questions, and what to do about the answers."""

from __future__ import annotations

import importlib.util
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from comet_async._tools.doctor import Check, examine, examine_machine
from comet_async.auth import ApiKey
from comet_async.gateways import Gateway
from comet_async.sandbox import DEFAULT_KEY, Fault, Options, Sandbox
from comet_async.secret import Secret
from comet_async.testing import VirtualClock

Command = Callable[..., Awaitable[Any]]  # the fixture `comet`


async def checks(sandbox: Sandbox, key: str = DEFAULT_KEY, **more: Any) -> dict[str, Check]:
    """Return the checks of *sandbox*, by name."""
    gateway, credentials = Gateway.comet(sandbox.url), ApiKey(Secret(key))
    return {check.name: check async for check in examine(gateway, credentials, **more)}


async def test_all_is_well(comet: Command, sandbox: Sandbox, photos: Path) -> None:
    """After a first task even the lookups are proven; nothing was paid for the questions."""
    await comet("expand", photos / "dog.png", "--out", photos.parent / "wide", "--to", "16:9")
    ended = await comet("doctor")
    assert ended.status == 0
    assert "tasks are found by our own id (path, query, flag)" in ended.out
    assert "ready; nothing was billed" in ended.out
    assert len(sandbox.ledger.posts) == 1


async def test_a_new_account(comet: Command, sandbox: Sandbox) -> None:
    """Without any task the lookups can't be proven yet, which is no problem."""
    ended = await comet("doctor", "--json")
    verdicts = {line["check"]: line["verdict"] for line in ended.lines if line["check"][0] != "["}
    assert verdicts == {
        "versions": "ok",
        "configuration": "ok",
        "proxy": "ok",
        "disk": "ok",
        "terminal": "ok",
        "address": "ok",
        "key": "ok",
        "clock": "ok",
        "route": "ok",
        "list": "ok",
        "lookups": "note",
        "balance": "ok",
    }
    assert not sandbox.ledger.posts


async def test_a_refused_key_is_an_account_problem(
    comet: Command, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its status is 3, and further questions are left out."""
    monkeypatch.setenv("COMETAPI_KEY", "wrong-key")
    ended = await comet("doctor")
    assert ended.status == 3
    assert "rejected by the server" in ended.out
    assert "1 problem found" in ended.out
    assert "route" not in ended.err
    assert not sandbox.ledger.posts


async def test_nobody_answers(comet: Command, sandbox: Sandbox) -> None:
    """An address where nobody listens is a problem of the connection."""
    await sandbox.aclose()
    ended = await comet("doctor")
    assert ended.status == 1
    assert "can't reach the server" in ended.out
    assert ended.out.endswith("\nnext: check the address and the network\n")


async def test_in_a_sandbox_of_its_own(comet: Command) -> None:
    """It shows what a healthy service looks like, without a key."""
    ended = await comet("doctor", "--sandbox")
    assert ended.status == 0


@pytest.fixture
async def odd(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """Return a sandbox with the options of the test's parameter."""
    async with Sandbox(options=request.param, engine="pillow") as running:
        yield running


@pytest.mark.parametrize(
    "odd", [Options(route_missing="null"), Options(route_missing="html")], indirect=True
)
async def test_a_missing_route(odd: Sandbox) -> None:
    """It names the route, says that it is the account's problem, and what else there is."""
    route = (await checks(odd))["route"]
    assert route.verdict == "problem"
    assert route.account_wide
    assert "images/editing/expand is not offered here" in route.text
    assert route.hint


@pytest.mark.parametrize("odd", [Options(list_tasks=False)], indirect=True)
async def test_no_list(odd: Sandbox) -> None:
    """It is worth a note, and not needed."""
    seen = await checks(odd)
    assert seen["list"].verdict == "note"
    assert seen["lookups"].verdict == "note"


@pytest.mark.parametrize("odd", [Options(lookups="")], indirect=True)
async def test_lookups_that_find_nothing(
    odd: Sandbox, comet: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that does not look tasks up is a warning: the list stands in."""
    monkeypatch.setenv("COMETAPI_API_ROOT", odd.url)
    monkeypatch.setenv("COMETAPI_KEY", DEFAULT_KEY)
    await comet("expand", photos / "dog.png", "--out", photos.parent / "wide", "--to", "16:9")
    lookups = (await checks(odd))["lookups"]
    assert lookups.verdict == "warning"
    assert "only in the list" in lookups.text


@pytest.mark.parametrize(("skew", "way"), [(500, "ahead of"), (-500, "behind")])
async def test_a_wrong_clock(sandbox: Sandbox, skew: float, way: str) -> None:
    """It says by how much, and in which direction."""
    clock = VirtualClock(start=time.time() + skew)
    clock.time()
    seen = (await checks(sandbox, clock=clock))["clock"]
    assert seen.verdict == "warning"
    assert way in seen.text


@pytest.mark.parametrize(("fault", "verdict"), [("html", "warning"), ("other_task", "warning")])
async def test_odd_answers(
    comet: Command, sandbox: Sandbox, photos: Path, fault: str, verdict: str
) -> None:
    """An answer that is none, or about another task, is reported as such."""
    await comet("expand", photos / "dog.png", "--out", photos.parent / "wide", "--to", "16:9")
    sandbox.faults.add(Fault(fault, on="find", times=None))
    assert (await checks(sandbox))["route"].verdict == verdict


def test_a_missing_library_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an extra would bring is said, and how to install it."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "jinja2" else find(name)
    )
    check = machine(tmp_path)["[report]"]
    assert check.verdict == "note"
    assert "pip install 'comet-async[report]'" in (check.hint or "")


def machine(folder: Path) -> dict[str, Check]:
    """Return the checks of this machine, by name."""
    return {check.name: check for check in examine_machine(folder, folder / "config.toml")}


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    """It is found before anything is bought for it."""
    check = machine(tmp_path / "nowhere")["disk"]
    assert check.verdict == "warning"
    assert "can't be written to" in check.text


def test_nothing_private_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output can be pasted into an issue: no user's name, no password of a proxy."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
    texts = [check.text for check in machine(tmp_path / "wide").values()]
    assert "from HTTPS_PROXY" in texts
    assert not [text for text in texts if "secret" in text or str(tmp_path) in text]
    assert "~/wide can't be written to: No such file or directory" in texts


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["people", "json"])
async def test_everything_is_checked_without_a_key(comet: Command, words: tuple[str, ...]) -> None:
    """The missing key is one problem in the list, and its remedy is the next step."""
    ended = await comet("doctor", *words)
    assert ended.status == 2
    end = ended.err if words else ended.out
    assert end.splitlines()[-1].startswith("next: set COMETAPI_KEY")
    if words:
        verdicts = {line["check"]: line["verdict"] for line in ended.lines}
        assert verdicts["key"] == "problem"
        assert verdicts["versions"] == "ok"
    else:
        assert "problem key: no API key" in ended.out
        assert "versions: comet-async" in ended.out
        assert ended.err == ""


async def test_a_server_without_a_clock(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Date header, no comparison."""
    monkeypatch.setattr("comet_async._tools.doctor.parsedate_to_datetime", _unreadable)
    assert (await checks(sandbox))["clock"].verdict == "note"


def _unreadable(text: str) -> None:
    raise ValueError(text)


async def test_the_paid_check_is_agreed_to_beforehand(comet: Command, sandbox: Sandbox) -> None:
    """With --paid and --yes one image is bought, and what it proves is reported."""
    ended = await comet("doctor", "--paid", "--yes")
    assert ended.status == 0
    assert "lookup (path): finds the task" in ended.out
    assert "one image was billed" in ended.out
    assert len(sandbox.ledger.charges) == 1


async def test_nothing_is_bought_where_nobody_can_be_asked(
    comet: Command, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal, and without --yes, the answer is no."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    ended = await comet("doctor", "--paid")
    assert ended.status == 0
    assert "not bought" in ended.err
    assert sandbox.ledger.posts == []


@pytest.mark.parametrize(("answer", "charges"), [("y\n", 1), ("\n", 0), ("no\n", 0)])
async def test_the_person_at_the_terminal_is_asked(
    comet: Command, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, answer: str, charges: int
) -> None:
    """The price is shown, and only a yes buys."""
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    ended = await comet("doctor", "--paid")
    assert "about $0.028" in ended.err
    assert len(sandbox.ledger.charges) == charges


async def test_agreeing_to_nothing_is_wrong_usage(comet: Command) -> None:
    """--yes alone is a mistake."""
    assert (await comet("doctor", "--yes")).status == 2
