"""The pytest plugin: a sandbox, a session on it, and a marker for tests in which waiting is free.

pytest finds it through its entry point. Nothing of the library is imported until a test uses it.
"""

# ruff: noqa: PLC0415 - imported when a test needs it: pytest loads this file in every project

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import pytest

if TYPE_CHECKING:
    from comet_async.sandbox import Sandbox
    from comet_async.session import CometSession

_LoopScope = Literal["function", "class", "module", "package", "session"]

_SPEED = 200  # on a real loop: tasks of 8 to 40 s then take less than a quarter of a second


def pytest_configure(config: pytest.Config) -> None:
    """Describe the markers; with pytest-asyncio, add the fixtures that it runs."""
    config.addinivalue_line(
        "markers",
        "virtual_time: run this async test on a loop where waiting takes no time "
        "(comet_async.testing.VirtualLoop)",
    )
    config.addinivalue_line(
        "markers",
        "comet_sandbox(**options): start the fixture comet_sandbox with these arguments of Sandbox",
    )
    if config.pluginmanager.has_plugin("asyncio"):
        for scope in get_args(_LoopScope):
            config.pluginmanager.register(
                _fixtures_of_pytest_asyncio(scope), f"comet_async fixtures, {scope}"
            )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None, Any, Any]:
    """Choose the loop of a test that is marked with ``virtual_time``."""
    if metafunc.definition.get_closest_marker("virtual_time") is None:
        return (yield)
    if "anyio_backend" in metafunc.fixturenames:
        from comet_async.testing import VirtualLoop

        backend = ("asyncio", {"loop_factory": VirtualLoop})
        metafunc.definition.add_marker(
            pytest.mark.parametrize("anyio_backend", [backend], ids=["virtual_time"])
        )
        return (yield)
    manager = metafunc.config.pluginmanager
    if manager.has_plugin("asyncio") and not hasattr(manager.hook, "pytest_asyncio_loop_factories"):
        raise pytest.UsageError("the marker virtual_time needs pytest-asyncio 1.5 or newer")
    # Registered for this one test: an implementation that stayed would choose the loop of every
    # test, and with it override the project's own event loop policy.
    factory = _VirtualLoopFactory()
    manager.register(factory)
    try:
        return (yield)
    finally:
        manager.unregister(factory)


class _VirtualLoopFactory:
    """A hook of pytest-asyncio."""

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_asyncio_loop_factories(self) -> Mapping[str, Any]:
        from comet_async.testing import VirtualLoop

        return {"virtual_time": VirtualLoop}


# ------------------------------------------------------------------ fixtures


@pytest.fixture
def comet_sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """Return a running sandbox on a free port, with the engine ``stub``.

    Its key is ``comet_async.sandbox.DEFAULT_KEY``. The marker ``comet_sandbox`` changes its
    arguments.
    """
    sandbox: Sandbox = request.getfixturevalue(_variant(request, "comet_sandbox"))
    return sandbox


@pytest.fixture
def comet_session(request: pytest.FixtureRequest) -> CometSession:
    """Return an open session on ``comet_sandbox``."""
    session: CometSession = request.getfixturevalue(_variant(request, "comet_session"))
    return session


def _variant(request: pytest.FixtureRequest, name: str) -> str:
    """Return the name of the fixture for the plugin that runs this test's loop.

    A fixture with a loop belongs to either pytest-asyncio or anyio, so each has its own.
    """
    if "anyio_backend" in request.fixturenames:
        return f"_{name}_of_anyio"
    if request.config.pluginmanager.has_plugin("asyncio"):
        return f"_{name}_of_asyncio_{_loop_scope(request)}"
    raise pytest.UsageError(f"{name} needs pytest-asyncio, or a test that anyio's plugin runs")


def _loop_scope(request: pytest.FixtureRequest) -> str:
    """Return whose loop pytest-asyncio runs this test in: in another one, no server answers it."""
    marker = request.node.get_closest_marker("asyncio")
    chosen: str | None = marker.kwargs.get("loop_scope") if marker else None
    return chosen or str(request.config.getini("asyncio_default_test_loop_scope"))


@pytest.fixture
async def _comet_sandbox_of_anyio(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    async with _new_sandbox(request) as sandbox:
        yield sandbox


@pytest.fixture
async def _comet_session_of_anyio(comet_sandbox: Sandbox) -> AsyncIterator[CometSession]:
    async with _new_session(comet_sandbox) as session:
        yield session


def _fixtures_of_pytest_asyncio(scope: _LoopScope) -> object:
    import pytest_asyncio

    class Fixtures:
        @pytest_asyncio.fixture(name=f"_comet_sandbox_of_asyncio_{scope}", loop_scope=scope)
        async def sandbox(self, request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
            async with _new_sandbox(request) as sandbox:
                yield sandbox

        @pytest_asyncio.fixture(name=f"_comet_session_of_asyncio_{scope}", loop_scope=scope)
        async def session(self, comet_sandbox: Sandbox) -> AsyncIterator[CometSession]:
            async with _new_session(comet_sandbox) as session:
                yield session

    return Fixtures()


def _new_sandbox(request: pytest.FixtureRequest) -> Sandbox:
    import asyncio

    from comet_async.sandbox import Sandbox
    from comet_async.testing import VirtualLoop

    virtual = isinstance(asyncio.get_running_loop(), VirtualLoop)
    options: dict[str, Any] = {"engine": "stub", "seed": 1, "speed": 1 if virtual else _SPEED}
    marker = request.node.get_closest_marker("comet_sandbox")
    return Sandbox(**options | (marker.kwargs if marker else {}))


def _new_session(sandbox: Sandbox) -> CometSession:
    from comet_async.sandbox import DEFAULT_KEY
    from comet_async.session import CometSession

    return CometSession(sandbox.key or DEFAULT_KEY, gateway=sandbox.url)
