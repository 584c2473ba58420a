"""The benchmark's own pieces run; what they measure is not tested."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

# Behind all else: the benchmarks are no part of the package, which is tested as installed.
sys.path.append(str(Path(__file__).parents[1]))

from benchmarks.clients import OURS
from benchmarks.core import images, report
from benchmarks.core.bench import in_rounds, ratio
from benchmarks.core.child import Spec, measure
from benchmarks.core.server import Server, running
from benchmarks.parts import decode, waiting_tasks
from benchmarks.parts.faults import Case, run_all
from comet_async._images.formats import Inspector

CLIENTS = ["floor", "raw aiohttp", "plain aiohttp", *OURS]


@pytest.mark.parametrize("size", [2_000, 20_000])
def test_an_image_has_its_size_and_is_whole(size: int) -> None:
    """A generated image has exactly the size asked for, and our own checks take it."""
    inspector = Inspector()
    inspector.feed(images.png(size, 1))
    assert (inspector.size, inspector.complete) == (size, True)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Return a folder with a folder of two images, one of three, and a result."""
    images.make(tmp_path / "sources", 2, 2_000)
    images.make(tmp_path / "warm", 3, 2_001)
    (tmp_path / "result.png").write_bytes(images.png(3_000))
    return tmp_path


def spec(client: str, server: Server, folder: Path) -> Spec:
    """Return two jobs of *client*, two at a time."""
    return Spec(
        client=client,
        root=server.root,
        sources=str(folder / "sources"),
        count=2,
        warm=str(folder / "warm"),
        concurrency=2,
        scratch=str(folder),
    )


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
def test_each_client_of_ours_does_the_same_exchanges(client: str, sources: Path) -> None:
    """Two jobs and three of the warm-up are five uploads and five downloads, for every client."""
    with running(sources / "result.png") as server:
        sample = measure(spec(client, server, sources))
        counts = server.counts()
    assert (counts["POST"], counts["files"], counts["GET"] >= 15) == (5, 5, True)
    assert sample.cpu > 0


@pytest.mark.slow
@pytest.mark.parametrize("client", waiting_tasks._CLIENTS)
@pytest.mark.parametrize("ends", [False, True])
def test_each_client_asks_about_all_that_wait(client: str, *, ends: bool, tmp_path: Path) -> None:
    """Fifty tasks are polled once, those that end and those that go on."""
    (tmp_path / "result.png").write_bytes(images.png(3_000))
    with running(tmp_path / "result.png", polls=1) as server:
        polled = asyncio.run(waiting_tasks._polled(client, server.root, 50, ends=ends))
        counts = server.counts()
    # The last question of those that go on may be cut off: nobody waits any more.
    assert 49 <= counts["GET"] <= 50
    assert polled.cpu > 0


@pytest.mark.slow
@pytest.mark.parametrize("way", ["heap entry and handle", "comet_async, as_completed()"])
def test_each_way_holds_its_tasks(way: str) -> None:
    """A thousand tasks come to wait in each way, and are left in the end."""
    held = asyncio.run(waiting_tasks._held(way, 1000, traced=False))
    assert (held.setup > 0, held.traced) == (True, 0.0)


def test_a_ratio_is_taken_within_each_round() -> None:
    """A round in which everything took twice as long does not change the ratio."""
    times = {"base": iter([1.0, 2.0, 1.0]), "mine": iter([3.0, 6.0, 3.0])}
    found = in_rounds(["base", "mine"], lambda name: next(times[name]), rounds=3)
    assert ratio(found, "mine", lambda value: value, "base") == 3.0


def test_we_read_every_odd_answer() -> None:
    """The decoder that was chosen reads each of the odd answers."""
    for body in decode.oddities().values():
        assert json.loads(body)
        assert decode._read(decode._ours, body)


@pytest.mark.slow
def test_a_dropped_answer_is_paid_once() -> None:
    """The fault server counts one POST and one task when our answer is dropped, and it is got."""
    case = Case(client="comet_async", fault="drop", where="once")
    (found,) = run_all([case]).values()
    assert (found.posts, found.paid, found.saved) == (1, 1, True)


def test_a_part_that_was_not_run_keeps_its_section(tmp_path: Path) -> None:
    """Writing one section leaves the others as they were, in their order."""
    page = tmp_path / "page.md"
    a, b = (report.Section(name=name, title=name.upper(), words="Old.") for name in "ab")
    report.write(page, [b, a], ["a", "b"], "bench")
    report.write(page, [report.Section(name="a", title="A", words="New.")], ["a", "b"], "bench")
    text = page.read_text()
    assert text.index("New.") < text.index("Old.")
    assert text.count("Old.") == 1
