"""Proxies: given, from the environment, and what is reached directly all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from comet_async import (
    CometError,
    CometSession,
    ConfigError,
    Gateway,
    InputError,
    Margins,
    Network,
    NotSentError,
)
from comet_async.config import Proxies
from comet_async.sandbox import DEFAULT_KEY, Options, Sandbox
from comet_async.testing import VirtualClock
from tests.support.proxy import ForwardProxy, forward_proxy

WIDE = Margins(left=0.5)
FAR = Gateway(name="far", root="http://far.example", prefix="/kling/v1", allow_http=True)


@pytest.fixture(autouse=True)
def _settings_of_the_test_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the proxies of whoever runs the tests; a netrc file lies in wait."""
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password canary\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))


@asynccontextmanager
async def far_away(
    clock: VirtualClock, *, authorization: str | None = None
) -> AsyncIterator[ForwardProxy]:
    """Run a sandbox at http://far.example, where only the proxy can reach it."""
    options = Options(results_root="http://far.example")
    async with (
        Sandbox(clock=clock, engine="stub", seed=1, options=options) as sandbox,
        forward_proxy(
            {"far.example": URL(sandbox.url).port or 0}, authorization=authorization
        ) as proxy,
    ):
        yield proxy


async def buy(network: Network, clock: VirtualClock, photo: bytes, folder: Path) -> Path:
    """Buy an image at http://far.example, and save it."""
    async with CometSession(DEFAULT_KEY, gateway=FAR, clock=clock, network=network) as comet:
        task = await comet.expand(photo, WIDE, timeout=600)
        return await comet.download(task.images[0], folder / "wide.png")


async def test_everything_goes_through_the_proxy(
    clock: VirtualClock, photo: bytes, tmp_path: Path
) -> None:
    """With a proxy set, requests, polls and results take it; it resolves the names."""
    async with far_away(clock) as proxy:
        await buy(Network(proxy=proxy.url), clock, photo, tmp_path)
    assert proxy.seen[0].startswith("POST http://far.example/kling/v1/images/")
    assert any("/results/" in line for line in proxy.seen)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
async def test_the_environment_is_followed_where_wanted(
    clock: VirtualClock, photo: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """With trust_env the variables hold, for requests and results; a netrc file never does."""
    async with far_away(clock) as proxy:
        monkeypatch.setenv(name, proxy.url)
        await buy(Network(trust_env=True), clock, photo, tmp_path)
    assert any("/results/" in line for line in proxy.seen)


@pytest.mark.parametrize(("trust_env", "exception"), [(False, ""), (True, "far.example")])
async def test_the_environment_is_left_alone_otherwise(
    clock: VirtualClock,
    photo: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    trust_env: bool,
    exception: str,
) -> None:
    """By default, and where NO_PROXY says so, hosts are reached directly: here not at all."""
    async with far_away(clock) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", exception)
        monkeypatch.setattr("socket.getaddrinfo", _no_such_host)
        with pytest.raises(NotSentError):
            await buy(Network(trust_env=trust_env), clock, photo, tmp_path)
    assert proxy.seen == []


def _no_such_host(*_words: object, **_more: object) -> None:
    raise OSError("no such host")


async def test_a_proxy_with_a_password(clock: VirtualClock, photo: bytes, tmp_path: Path) -> None:
    """It stands in the address."""
    async with far_away(clock, authorization="Basic bWU6c2VjcmV0") as proxy:
        network = Network(proxy=f"http://me:secret@127.0.0.1:{proxy.port}")
        assert "secret" not in repr(network)
        await buy(network, clock, photo, tmp_path)


async def test_a_proxy_that_wants_another_password(
    clock: VirtualClock, photo: bytes, tmp_path: Path
) -> None:
    """Nothing reaches the server, and the error does not show the password."""
    async with far_away(clock, authorization="Basic other") as proxy:
        network = Network(proxy=f"http://me:canary@127.0.0.1:{proxy.port}")
        with pytest.raises(CometError) as caught:
            await buy(network, clock, photo, tmp_path)
    assert "canary" not in str(caught.value)


def test_this_machine_is_reached_directly() -> None:
    """A sandbox is not behind the company's proxy."""
    proxies = Proxies.from_environment({"ALL_PROXY": "http://proxy.example:3128"})
    assert proxies.for_url(URL("http://127.0.0.1:1/x")) is None
    assert proxies.for_url(URL("http://localhost:1/x")) is None


@pytest.mark.parametrize(
    ("url", "exceptions", "direct"),
    [
        ("https://a.example/x", "", False),
        ("https://a.example/x", "*", True),
        ("https://a.example/x", "example", True),
        ("https://a.example/x", ".example", True),
        ("https://a.example/x", "*.example", True),
        ("https://a.example/x", "b.example, A.Example", True),
        ("https://a.example/x", "ample", False),
        ("https://a.example/x", "a.example:443", True),
        ("https://a.example/x", "a.example:8443", False),
        ("https://10.1.2.3/x", "10.0.0.0/8", True),
        ("https://11.1.2.3/x", "10.0.0.0/8", False),
        ("https://[2001:db8::1]/x", "[2001:db8::1]", True),
    ],
)
def test_exceptions(url: str, exceptions: str, *, direct: bool) -> None:
    """NO_PROXY lists hosts and all below them, networks, or everything."""
    proxies = Proxies.from_environment({"HTTPS_PROXY": "proxy:3128", "NO_PROXY": exceptions})
    assert (proxies.for_url(URL(url)) is None) is direct


def test_a_cgi_program_does_not_believe_its_callers() -> None:
    """HTTP_PROXY is then the header "Proxy:" of whoever sent the request (httpoxy)."""
    env = {"REQUEST_METHOD": "GET", "HTTP_PROXY": "http://evil.example:1"}
    assert Proxies.from_environment(env).for_url(URL("http://a.example/")) is None


@pytest.mark.parametrize("given", ["x", "ftp://proxy:1", "http://", 5, "http://a:b:c", ""])
def test_what_is_no_proxy(given: object) -> None:
    """It is refused when it is given, and not shown: it may hold a password."""
    with pytest.raises((ConfigError, InputError), match="is not the address of a proxy"):
        Network(proxy=given)  # type: ignore[arg-type]  # on purpose


def test_socks_names_what_it_needs() -> None:
    """A SOCKS proxy needs another library."""
    with pytest.raises(ConfigError) as caught:
        Network(proxy="socks5://proxy.example:1080")
    assert "aiohttp-socks" in (caught.value.hint or "")


@pytest.mark.parametrize("which", ["session", "download_session"])
async def test_sessions_of_ones_own(
    sandbox: Sandbox, clock: VirtualClock, photo: bytes, tmp_path: Path, which: str
) -> None:
    """Each carries its own part, and stays open."""
    paths: list[str] = []
    trace = aiohttp.TraceConfig()

    async def note(_session: object, _context: object, params: object) -> None:
        assert isinstance(params, aiohttp.TraceRequestEndParams)
        paths.append(params.url.path)

    trace.on_request_end.append(note)
    async with aiohttp.ClientSession(trace_configs=[trace]) as theirs:
        network = Network(**{which: theirs})
        async with CometSession(
            DEFAULT_KEY, gateway=sandbox.url, clock=clock, network=network
        ) as comet:
            task = await comet.expand(photo, WIDE)
            await comet.download(task.images[0], tmp_path / "wide.png")
        assert not theirs.closed
    fetched = {path.startswith("/results/") for path in paths}
    assert fetched == {which == "download_session"}
