"""`--proxy`, the configuration file and the environment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from comet_async.sandbox import Sandbox
from tests.support.proxy import ForwardProxy, forward_proxy

Command = Callable[..., Awaitable[Any]]  # the fixture `comet`


@pytest.fixture
async def proxy() -> AsyncIterator[ForwardProxy]:
    """Return a running proxy."""
    async with forward_proxy() as running:
        yield running


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the program's configuration file."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "comet-async" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


async def test_a_run_goes_through_the_proxy(
    comet: Command, sandbox: Sandbox, photos: Path, proxy: ForwardProxy
) -> None:
    """Requests, polls and results."""
    out = photos.parent / "wide"
    ended = await comet("expand", photos, "-o", out, "--to", "2:1", "--proxy", proxy.url)
    assert ended.status == 0
    assert len(sandbox.ledger.charges) == sum("POST" in line for line in proxy.seen) == 3
    assert any("/results/" in line for line in proxy.seen)


@pytest.mark.usefixtures("sandbox")
async def test_single_tasks_go_through_the_proxy(
    comet: Command, photos: Path, proxy: ForwardProxy
) -> None:
    """Each command that talks to the API knows the option."""
    out = photos.parent
    ran = await comet("expand", photos / "dog.png", "-o", out / "wide", "--to", "2:1", "--json")
    task = ran.lines[0]["task_id"]
    for words in (("status", task), ("wait", task, "-o", out / "again"), ("list",)):
        before = len(proxy.seen)
        assert (await comet(*words, "--proxy", proxy.url)).status == 0
        assert len(proxy.seen) > before, words


@pytest.mark.usefixtures("sandbox")
async def test_doctor_uses_and_names_the_proxy(comet: Command, proxy: ForwardProxy) -> None:
    """What is checked is the way that a run would take."""
    ended = await comet("doctor", "--proxy", proxy.url)
    assert ended.status == 0
    assert "proxy: from --proxy" in ended.out
    assert proxy.seen


@pytest.mark.usefixtures("sandbox")
async def test_the_configuration_file_names_the_proxy(
    comet: Command, proxy: ForwardProxy, own_file: Path
) -> None:
    """For all commands."""
    own_file.write_text(f'proxy = "{proxy.url}"\n')
    ended = await comet("doctor")
    assert "proxy: from the configuration file" in ended.out
    proxy.seen.clear()
    assert (await comet("list")).status == 0
    assert proxy.seen


async def test_the_environment_is_followed(
    comet: Command, monkeypatch: pytest.MonkeyPatch, proxy: ForwardProxy
) -> None:
    """By default. The host is elsewhere, and the proxy refuses to go there."""
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("COMETAPI_KEY", "sk-something")
    monkeypatch.setenv("COMETAPI_API_ROOT", "https://far.example")
    proxy.authorization = "what nobody sends"
    ended = await comet("status", "1")
    assert ended.status == 1
    assert "the proxy refused to connect (on the way to far.example:443" in ended.err
    assert set(proxy.seen) == {"CONNECT far.example:443 HTTP/1.1"}


@pytest.mark.parametrize("command", ["expand", "doctor", "list"])
async def test_what_is_no_proxy_is_refused(
    comet: Command, sandbox: Sandbox, photos: Path, command: str
) -> None:
    """Before anything is sent."""
    words = [photos, "-o", photos.parent / "wide", "--to", "2:1"] if command == "expand" else []
    ended = await comet(command, *words, "--proxy", "nonsense")
    assert ended.status == 2
    said = ended.out if command == "doctor" else ended.err
    assert "proxy is not the address of a proxy" in said
    assert not sandbox.ledger.posts


@pytest.mark.usefixtures("sandbox")
async def test_a_password_is_not_shown(comet: Command, photos: Path) -> None:
    """Not in the command to run again either."""
    words = ("-o", photos.parent / "wide", "--to", "2:1", "--timeout", "5", "-v")
    ended = await comet("expand", photos, *words, "--proxy", "http://me:canary@127.0.0.1:9")
    assert ended.status == 1
    assert "comet-async expand" in ended.err
    assert "canary" not in ended.err
