"""What every test has: a loop and a clock that cost no time, images, and no way out."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import os
import sys
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from comet_async.sandbox import DEFAULT_KEY, Sandbox
from comet_async.session import CometSession
from comet_async.testing import VirtualClock, VirtualLoop

# Before the first of them is imported: its asserts say what they compared.
pytest.register_assert_rewrite("tests.support", "tests.postgres.fleet")

from tests.support.images import make_png  # noqa: E402 - see above

pytest_plugins = ["pytester", "tests.support.s3"]

# The same examples in every run: a red test means a change of ours. `ci` tries the usual hundred;
# plain `pytest` tries a quarter of them, and `quick` (for the oldest dependencies) ten.
settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # says more about the machine than about us
)
settings.register_profile("plain", settings.get_profile("ci"), max_examples=25)
settings.register_profile("quick", settings.get_profile("ci"), max_examples=10)
settings.load_profile("plain")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from the tests themselves.

    Thousands of tests are several hundred thousand objects, all of which stay. To look through
    them again and again took half the time of collecting tests, and then a second in each test
    that calls ``gc.collect``.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()  # what is garbage by now would stay forever, such as attrs' first classes
        gc.freeze()
        gc.enable()


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run async tests on a loop where waiting costs no time; on a real one if they ask for it."""
    if item.get_closest_marker("real_loop"):
        return {"real": asyncio.SelectorEventLoop}
    return {"virtual": _eager_loop if os.environ.get("COMET_TEST_EAGER_TASKS") else VirtualLoop}


def _eager_loop() -> VirtualLoop:
    """Return a loop that starts tasks at once, as Python 3.12 and newer can."""
    loop = VirtualLoop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]  # from 3.12 on
    return loop


def _loopback_only(event: str, args: tuple[Any, ...]) -> None:
    if event != "socket.connect" or not isinstance(args[1], tuple):
        return
    host = str(args[1][0]).partition("%")[0]
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        # Not an OSError: the code under test would take it for a network failure.
        raise RuntimeError(f"a test tried to reach {host}")


sys.addaudithook(_loopback_only)


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home folder without settings in it."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _no_settings_of_yours(monkeypatch: pytest.MonkeyPatch, empty_home: Path) -> None:
    """Hide keys, addresses and configuration files of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(("COMETAPI_", "COMET_ASYNC_", "KLING_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(empty_home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(empty_home / ".config"))


@pytest.fixture
def clock() -> VirtualClock:
    """Return a clock that follows the test's loop."""
    return VirtualClock()


@pytest.fixture(scope="session")
def photo() -> bytes:
    """Return a valid image, 400 x 300 pixels, PNG."""
    return make_png(400, 300)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with three different images, one of them in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    for tint, name in enumerate(("dog.png", "cat.png", "trip/sea.png")):
        (folder / name).write_bytes(make_png(320, 300, tint))
    return folder


@pytest.fixture
def make_photo() -> Callable[..., bytes]:
    """Return the maker of images: width, height, and a tint that tells them apart."""
    return make_png


@pytest.fixture
async def sandbox(clock: VirtualClock) -> AsyncIterator[Sandbox]:
    """Return a running sandbox on the test's clock; it paints nothing: results are grey."""
    async with Sandbox(clock=clock, seed=1, engine="stub") as running:
        yield running


@pytest.fixture
async def comet(sandbox: Sandbox, clock: VirtualClock) -> AsyncIterator[CometSession]:
    """Return a session on the sandbox."""
    async with CometSession(DEFAULT_KEY, gateway=sandbox.url, clock=clock) as session:
        yield session
