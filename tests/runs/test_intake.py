"""What a run over folders hands out first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import attrs
import pytest

from comet_async._runs import intake as module
from comet_async._runs.intake import Intake
from comet_async._runs.parallel import in_parallel

Page = tuple[list[str], list[str]]


@attrs.define
class Sources:
    """Pages of new and known images, and what became of them, in order."""

    pages: list[Page]
    unfinished: Sequence[str] = ()
    log: list[str] = attrs.field(factory=list)

    def intake(self) -> Intake[str, str]:
        """Return the intake of all pages."""
        return Intake(self._pages(), self._look_up)

    async def _pages(self) -> AsyncGenerator[Page, None]:
        for page in self.pages:
            await asyncio.sleep(0)
            self.log.append("page")
            yield page

    async def _look_up(self, sources: list[str]) -> tuple[list[str], list[str]]:
        self.log.append("looked up")
        await asyncio.sleep(0)
        late = [source for source in sources if source in self.unfinished]
        return [source for source in sources if source not in late], late

    async def run(self, workers: int = 2, seconds: float = 0.0) -> list[str]:
        """Work on everything; return the names in the order of their ends."""
        intake = self.intake()

        async def work(item: str) -> str:
            self.log.append(item)
            await asyncio.sleep(seconds)
            return f"worked on {item}"

        ends = in_parallel(intake.to_do(), work, workers, intake.finished())
        async with aclosing(ends):
            return [end async for end in ends]


def known(*numbers: int) -> list[str]:
    """Return names of known images."""
    return [f"known {number}" for number in range(*numbers)]


async def test_a_new_image_waits_for_no_known_one() -> None:
    """It is worked on before a second page of known ones is looked up, however many there are."""
    sources = Sources([([], known(50 * n, 50 * n + 50)) for n in range(20)] + [(["new"], [])])
    ends = await sources.run()
    assert sources.log[:21] == ["page"] * 21
    assert "new" in sources.log[21:23]
    assert sorted(ends) == sorted([*known(1000), "worked on new"])


async def test_known_images_are_looked_up_while_the_workers_are_busy() -> None:
    """A run with much to do reports what is finished all the same."""
    pages: list[Page] = [([f"new {n}", f"newer {n}"], known(n, n + 1)) for n in range(20)]
    ends = await Sources(pages).run(workers=1, seconds=0.001)
    assert len(ends) == 60
    assert ends.index("known 0") < 10


async def test_unfinished_ones_go_before_further_new_ones() -> None:
    """What is paid already is continued as soon as it is found."""
    pages: list[Page] = [([f"new {n}"], known(n, n + 1)) for n in range(20)]
    sources = Sources(pages, unfinished=["known 3"])
    ends = await sources.run(workers=1, seconds=0.001)
    assert "known 3" not in ends
    assert ends.index("worked on known 3") < ends.index("worked on new 10")


@pytest.mark.parametrize("unfinished", [0, 7, 500], ids=["none", "some", "all"])
async def test_the_scan_does_not_run_away(monkeypatch: pytest.MonkeyPatch, unfinished: int) -> None:
    """Few are put aside at a time, and all are handed out."""
    monkeypatch.setattr(module, "_ASIDE", 100)
    pages: list[Page] = [([], known(50 * n, 50 * n + 50)) for n in range(10)]
    sources = Sources(pages, unfinished=known(unfinished))
    ends = await sources.run()
    assert len(ends) == len(set(ends)) == 500
    assert sources.log.index("looked up") <= 2


async def test_nothing_to_do() -> None:
    """No sources at all, and only new ones."""
    assert await Sources([]).run() == []
    assert await Sources([(["new"], [])]).run() == ["worked on new"]


async def test_a_run_that_ends_early_closes_both_streams() -> None:
    """Nothing waits for a stream that is not read any more."""
    intake = Sources([(["new"], known(99))]).intake()
    items = intake.to_do()
    async with aclosing(items):
        assert await anext(items) == "new"
    assert [page async for page in intake.finished()] == []


async def test_a_run_that_is_halted_ends_with_much_left_to_do() -> None:
    """The lookups do not wait for anybody to take what they found."""
    names = known(500)
    intake = Sources([([], names), (["new", "newer"], [])], unfinished=names).intake()
    halted = asyncio.Event()

    async def until_halted() -> AsyncGenerator[str, None]:
        async with aclosing(intake.to_do()) as items:
            async for item in items:
                if halted.is_set():
                    return
                yield item

    async def work(item: str) -> str:
        await asyncio.sleep(60)  # meanwhile the known ones are looked up
        halted.set()
        return item

    async with asyncio.timeout(600):
        ends = in_parallel(until_halted(), work, 1, intake.finished())
        assert [end async for end in ends] == ["new"]


async def test_what_goes_wrong_ends_the_run() -> None:
    """A journal that can't be read stops both."""
    sources = Sources([([], known(3))])
    sources.unfinished = None  # type: ignore[assignment]  # looking into it fails
    with pytest.raises(TypeError):
        await sources.run()
