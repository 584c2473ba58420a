"""The submit protocol against anything that may happen to it, in any order (a state machine).

The real engine runs on a provider and a journal in memory. Hypothesis chooses what becomes of each
request, which questions the gateway answers, when the process is killed and how much time passes.
That the machine would find a mistake is proven by planting some (`tests.reliability.mutants`).
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from comet_async import CometSession, ExpandRequest, Margins
from tests.reliability.history import problems
from tests.reliability.mutants import MUTANTS, Plant
from tests.reliability.simulation import FATES, Provider, SimLoop, Simulation

FORMS = frozenset({"path", "query", "flag"})
MARGINS = Margins(left=0.25)


class Protocol(RuleBasedStateMachine):
    """A folder of up to six images, run again and again."""

    plant: Plant | None = None

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.fates: list[str] = []
        self.provider = Provider(fate=self.next_fate)
        self.simulation = Simulation(patch=self.patch, provider=self.provider)
        if self.plant is not None:
            type(self).plant(self.patch)  # type: ignore[misc]  # a plain function of the class
        self.wanted = 0

    def next_fate(self, _key: str) -> str:
        """Take what is planned for the next request."""
        return self.fates.pop(0) if self.fates else "ok"

    # What may happen --------------------------------------------------------------------

    @initialize(
        forms=st.sets(st.sampled_from(sorted(FORMS))),
        list_works=st.booleans(),
        echo=st.booleans(),
        hidden=st.sampled_from([0.0, 5.0]),
    )
    def open_gateway(self, forms: set[str], *, list_works: bool, echo: bool, hidden: float) -> None:
        """Begin with some gateway."""
        self.provider.hidden = hidden
        self.change_gateway(forms=forms, list_works=list_works, echo=echo)

    @rule(
        forms=st.sets(st.sampled_from(sorted(FORMS))),
        list_works=st.booleans(),
        echo=st.booleans(),
    )
    def change_gateway(self, forms: set[str], *, list_works: bool, echo: bool) -> None:
        """Let the gateway understand other questions from now on."""
        self.provider.forms = frozenset(forms)
        self.provider.list_works, self.provider.echo = list_works, echo

    @rule(times=st.integers(1, 9))
    def break_lookups(self, times: int) -> None:
        """Let questions by our own id fail for a while."""
        self.provider.broken = times

    @rule(seconds=st.sampled_from([1.0, 20.0, 40.0, 100.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass while nobody is there."""
        self.provider.pass_time(seconds)

    @rule(
        more=st.integers(0, 2),
        kill_at=st.none() | st.integers(1, 60),
        fates=st.lists(st.sampled_from(FATES), max_size=4),
    )
    def run(self, more: int, kill_at: int | None, fates: list[str]) -> None:
        """Run the folder, with *more* images than before; perhaps it is killed.

        *fates* is what becomes of the next requests.
        """
        self.fates += fates
        self.wanted = min(6, self.wanted + more)
        self.simulation.boot(life(range(self.wanted)), kill_at=kill_at)

    # What must hold ---------------------------------------------------------------------

    @invariant()
    def nothing_is_charged_twice(self) -> None:
        """I1, at every moment."""
        assert self.provider.charged_twice() == []

    def teardown(self) -> None:
        """When the gateway understands everything and another image is bought, all ends well."""
        try:
            self.provider.pass_time(3600)
            self.provider.broken, self.provider.echo, self.fates = 0, True, []
            self.provider.forms, self.provider.list_works = FORMS, True
            if self.wanted:
                self.simulation.boot(life([*range(self.wanted), 99]))
            self.provider.pass_time(3600)
            journal = self.simulation.journal
            charges, posts = self.provider.charges, self.provider.posts
            assert problems(charges, posts, journal.records, journal._events) == []
            assert {str(record.state) for record in journal.records} <= {"succeeded"}
        finally:
            self.patch.undo()


def life(numbers: Sequence[int]):  # noqa: ANN201 - a coroutine function
    """Return a program's life: one folder."""

    async def expand(comet: CometSession) -> None:
        requests = [
            ExpandRequest(image=f"https://example.com/{number}.png", margins=MARGINS)
            for number in numbers
        ]
        async for _ in comet.expand_many(requests):
            pass

    return expand


Protocol.TestCase.settings = settings(stateful_step_count=10)
TestProtocol = pytest.mark.slow(Protocol.TestCase)


RARE = {"skips_the_settle_time", "skips_the_control"}  # bugs that show after many tries
PLANTED = [
    pytest.param(plant, id=plant.__name__, marks=[pytest.mark.slow] * (plant.__name__ in RARE))
    for plant in MUTANTS
]


@pytest.mark.parametrize("mutant", PLANTED)
def test_the_machine_finds_what_was_planted(mutant: Plant) -> None:
    """A check that no mistake can turn red proves nothing."""

    class Mutant(Protocol):
        plant = mutant

    with pytest.raises(AssertionError, match=r"\['ce1-|I1: ce1-"):
        run_state_machine_as_test(
            Mutant,
            settings=settings(
                max_examples=400,
                stateful_step_count=12,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_simulated_loop_tells_a_deadlock() -> None:
    """A simulation in which nothing can happen any more ends with an error, not with a hang."""
    loop = SimLoop()
    with pytest.raises(AssertionError, match="everybody waits"):
        loop.run_until_complete(loop.create_future())
    loop.close()
