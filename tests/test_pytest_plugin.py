"""The pytest plugin, in test suites of their own: with pytest-asyncio, with anyio, and unused."""

from __future__ import annotations

from importlib import metadata

import pytest

from tests.support.images import make_png

pytestmark = pytest.mark.program

# Where the package is installed, pytest finds the plugin by itself, and a second time is an error.
INSTALLED = any(
    point.value == "comet_async.pytest_plugin" for point in metadata.entry_points(group="pytest11")
)
LOADED = () if INSTALLED else ("-p", "comet_async.pytest_plugin")

SUITE = """
import asyncio
import time

import pytest
from comet_async import CometSession, Margins
from comet_async.sandbox import Fault, Sandbox
from comet_async.testing import VirtualLoop

PHOTO = {photo}


@pytest.mark.virtual_time
async def test_virtual(comet_session, comet_sandbox):
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    before = loop.time()
    task = await comet_session.expand(PHOTO, Margins(left=0.5))
    assert loop.time() - before > 5
    assert task.succeeded
    comet_sandbox.assert_charged(1)
    comet_sandbox.assert_nothing_charged_twice()
    comet_sandbox.assert_no_unexpected_requests()


async def test_real(comet_sandbox):
    assert not isinstance(asyncio.get_running_loop(), VirtualLoop)
    comet_sandbox.assert_charged(0)


@pytest.mark.virtual_time
@pytest.mark.comet_sandbox(key="mine", limit=3)
async def test_options(comet_sandbox, comet_session):
    assert (comet_sandbox.key, comet_sandbox.tasks.limit) == ("mine", 3)
    assert (await comet_session.balance()) is not None


@pytest.mark.virtual_time
@pytest.mark.parametrize("n", [1, 2])
async def test_parameters(n):
    await asyncio.sleep(1000 * n)


@pytest.mark.virtual_time
class TestClass:
    async def test_method(self, comet_sandbox):
        comet_sandbox.faults.add(Fault("drop_after_charge"))
        async with CometSession(comet_sandbox.key, gateway=comet_sandbox.url) as comet:
            await comet.expand(PHOTO, Margins(left=0.5))
        assert len(comet_sandbox.ledger.posts) == 1


def test_without_a_loop():
    pass
""".replace("{photo}", repr(make_png(300, 300)))


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    """Run the suite in a process of its own; a warning in it is an error."""
    ini = "[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n"
    if "no:asyncio" not in args:
        ini += "asyncio_default_fixture_loop_scope = function\n"
    pytester.makeini(ini)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *LOADED, *args)


@pytest.mark.parametrize("mode", ["auto", pytest.param("strict", marks=pytest.mark.slow)])
def test_with_pytest_asyncio(pytester: pytest.Pytester, mode: str) -> None:
    """Fixtures work in both modes, and only marked tests are on the virtual loop."""
    suite = SUITE.replace("PHOTO =", "pytestmark = pytest.mark.asyncio\nPHOTO =")
    if mode == "auto":
        suite = SUITE
    pytester.makepyfile(suite.replace("def test_without_a_loop", "async def test_without_a_loop"))
    run(pytester, f"--asyncio-mode={mode}", "-p", "no:anyio").assert_outcomes(passed=7)


def test_with_anyio(pytester: pytest.Pytester) -> None:
    """The same under anyio's own plugin, without pytest-asyncio."""
    backend = '@pytest.fixture\ndef anyio_backend():\n    return "asyncio"\n\n\n'
    suite = SUITE.replace("PHOTO =", f"pytestmark = pytest.mark.anyio\n{backend}PHOTO =")
    pytester.makepyfile(suite)
    run(pytester, "-p", "no:asyncio").assert_outcomes(passed=7)


@pytest.mark.slow
def test_with_both(pytester: pytest.Pytester) -> None:
    """Each test's fixtures run on the loop of the plugin that runs the test."""
    pytester.makepyfile(
        """
        import asyncio
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        async def same_loop(sandbox):
            assert sandbox._server.get_loop() is asyncio.get_running_loop()

        @pytest.mark.anyio
        async def test_anyio(comet_sandbox, comet_session):
            await same_loop(comet_sandbox)

        @pytest.mark.asyncio
        async def test_asyncio(comet_sandbox, comet_session):
            await same_loop(comet_sandbox)

        @pytest.mark.anyio
        @pytest.mark.virtual_time
        async def test_anyio_virtual(comet_sandbox):
            await same_loop(comet_sandbox)
            await asyncio.sleep(1e6)

        @pytest.mark.asyncio
        @pytest.mark.virtual_time
        async def test_asyncio_virtual(comet_sandbox):
            await same_loop(comet_sandbox)
            await asyncio.sleep(1e6)
        """
    )
    run(pytester, "--asyncio-mode=strict").assert_outcomes(passed=4)


def test_fixtures_run_on_the_loop_of_their_test(pytester: pytest.Pytester) -> None:
    """Otherwise no server answers a test whose loop is its module's, and it hangs."""
    pytester.makepyfile(
        """
        import asyncio
        import pytest

        loops = set()

        async def same_loop(sandbox):
            assert sandbox._server.get_loop() is asyncio.get_running_loop()
            loops.add(asyncio.get_running_loop())

        async def test_default(comet_sandbox, comet_session):
            await same_loop(comet_sandbox)
            assert await comet_session.balance() is not None

        async def test_default_again(comet_sandbox):
            await same_loop(comet_sandbox)
            assert len(loops) == 1

        @pytest.mark.asyncio(loop_scope="function")
        async def test_its_own(comet_sandbox, comet_session):
            await same_loop(comet_sandbox)
            assert await comet_session.balance() is not None
            assert len(loops) == 2

        @pytest.mark.virtual_time
        async def test_virtual(comet_sandbox):
            await same_loop(comet_sandbox)
            await asyncio.sleep(1e6)
        """
    )
    session = ("-o", "asyncio_default_test_loop_scope=session")
    run(pytester, "--asyncio-mode=auto", *session).assert_outcomes(passed=4)


def test_without_either(pytester: pytest.Pytester) -> None:
    """The error says what is missing."""
    pytester.makepyfile("def test_it(comet_sandbox): pass")
    result = run(pytester, "-p", "no:asyncio", "-p", "no:anyio")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*comet_sandbox needs pytest-asyncio, or a test that anyio*"])


def test_unused_it_loads_nothing(pytester: pytest.Pytester) -> None:
    """In a suite that does not use it, neither aiohttp nor the library's modules are imported."""
    pytester.makepyfile(
        """
        import sys

        def test_it():
            assert "comet_async.pytest_plugin" in sys.modules
            ours = {name for name in sys.modules if name.startswith("comet_async")}
            assert ours == {"comet_async", "comet_async.pytest_plugin"}
            assert "aiohttp" not in sys.modules
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_project_hooks_still_count(pytester: pytest.Pytester) -> None:
    """A project's own loop factories serve its unmarked tests."""
    pytester.makeconftest(
        """
        import asyncio

        class Mine(asyncio.SelectorEventLoop):
            pass

        def pytest_asyncio_loop_factories():
            return {"mine": Mine}
        """
    )
    pytester.makepyfile(
        """
        import asyncio
        import pytest

        @pytest.mark.virtual_time
        async def test_virtual():
            assert type(asyncio.get_running_loop()).__name__ == "VirtualLoop"

        async def test_mine():
            assert type(asyncio.get_running_loop()).__name__ == "Mine"
        """
    )
    run(pytester, "--asyncio-mode=auto").assert_outcomes(passed=2)
