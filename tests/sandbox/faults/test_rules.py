"""Faults: which calls they meet, and how often."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from comet_async.errors import InputError
from comet_async.sandbox import Fault, Faults
from comet_async.sandbox._api.refusals import CODES
from comet_async.sandbox._faults.rules import ON, REDIRECTS, STATUSES, WORDS, Call


def count(faults: Faults, call: Call, *names: str, times: int = 1) -> int:
    """Return how many of some equal calls meet a fault."""
    return sum(faults.take(call, names) is not None for _ in range(times))


def test_a_fault_happens_once() -> None:
    """Unless it is told how often."""
    assert count(Faults(Fault("500")), "query", times=5) == 1
    assert count(Faults(Fault("500", times=3)), "query", times=5) == 3
    assert count(Faults(Fault("500", times=None)), "query", times=5) == 5


def test_from_the_nth_call_on() -> None:
    """The first calls can be spared."""
    faults = Faults(Fault("500", nth=3, times=2))
    assert [count(faults, "query") for _ in range(6)] == [0, 0, 1, 1, 0, 0]


def test_each_task_by_itself() -> None:
    """Counts can be kept for each task."""
    faults = Faults(Fault("500", nth=2, each=True))
    assert [count(faults, "query", name) for name in "ababab"] == [0, 0, 1, 1, 0, 0]


def test_only_some_tasks() -> None:
    """A rule can be for ids that begin in some way, of either kind."""
    faults = Faults(Fault("500", match="order-", times=None))
    assert count(faults, "query", "order-17", "8701") == 1
    assert count(faults, "query", "8701") == 0
    assert count(faults, "list") == 0
    assert count(Faults(Fault("500", match="87")), "query", "order-17", "8701") == 1


@pytest.mark.parametrize("on", ON)
def test_only_some_calls(on: str) -> None:
    """`any` is the four calls of the API; all others are by name."""
    fault = Fault("drop", on=on, times=None)
    met = {call for call in ON[1:] if Faults(fault).take(call) is not None}
    assert met == ({"create", "query", "find", "list"} if on == "any" else {on})


def test_before_or_after_charging() -> None:
    """A create call asks twice; each fault answers once."""
    faults = Faults(Fault("drop", times=None), Fault("drop_after_charge", times=None))
    assert faults.take("create").kind == "drop"
    assert faults.take("create", charged=True).kind == "drop_after_charge"


def test_rules_come_and_go() -> None:
    """The first that applies wins; rules can be taken away."""
    faults = Faults()
    first, second = faults.add(Fault("500", times=None)), faults.add(Fault("502", times=None))
    assert faults.take("query") is first
    faults.remove(first)
    assert faults.take("query") is second
    faults.clear()
    assert faults.take("query") is None
    assert [injection.fault for injection in faults.injected] == [first, second]


def test_chances_repeat_with_their_seed() -> None:
    """The same seed meets the same calls, in whatever order the tasks come."""
    names = [f"order-{number}" for number in range(200)]

    def met(seed: int, order: list[str]) -> set[str]:
        faults = Faults(Fault("500", times=None, chance=0.3), seed=seed)
        return {name for name in order if faults.take("create", (name,))}

    assert met(7, names) == met(7, names[::-1]) != met(8, names)
    assert 30 < len(met(7, names)) < 90


def test_a_random_seed_is_kept() -> None:
    """Without a seed one is drawn, so that the run can be repeated."""
    assert Faults().seed != Faults().seed
    assert "seed=7" in repr(Faults(seed=7))


def test_parses_text() -> None:
    """What the command line takes: calls, kinds and chances."""
    text = "drop_after_charge=0.05, 429=0.03,late=.02,result.404=1,hang"
    faults = Faults.parse(text, seed=3)
    shown = [(fault.on, fault.kind, fault.chance, fault.times) for fault in faults.rules]
    assert shown == [
        ("create", "drop_after_charge", 0.05, None),
        ("any", "429", 0.03, None),
        ("create", "late", 0.02, None),
        ("result", "404", 1.0, None),
        ("any", "hang", 1.0, None),
    ]
    assert Faults.parse("").rules == []


@pytest.mark.parametrize("text", [
    "nonsense", "drop=2", "drop=x", "drop=-1", "drop=", "moon.drop", "query.late",
    "result.no_status", "create.wrong_magic", "query.502_after_charge", "accept.500", "any.late",
    "299",
])  # fmt: skip
def test_refuses_nonsense(text: str) -> None:
    """What can't happen is refused with the part that is wrong."""
    with pytest.raises(InputError) as caught:
        Faults.parse(f"500,{text}")
    assert text.partition("=")[0].rpartition(".")[2] in str(caught.value)


def test_a_wrong_call_is_told_which_there_are() -> None:
    """What others call a poll is a query here."""
    with pytest.raises(InputError) as caught:
        Faults.parse("poll.500")
    assert "query" in (caught.value.hint or "")


@pytest.mark.parametrize("kind", [*WORDS, *map(str, CODES), *map(str, STATUSES), *REDIRECTS])
def test_each_kind_has_a_place(kind: str) -> None:
    """A kind without a call finds one where it makes sense."""
    assert Fault(kind).on in ON


def test_the_documentation_names_every_kind() -> None:
    """Its table has each kind that has a name, and no other."""
    page = Path(__file__).parents[3] / "docs" / "guides" / "sandbox.md"
    table = page.read_text("utf-8").partition("| kind |")[2].partition("\n\n")[0]
    named = set(re.findall(r"^\| `([a-z_]+)`", table, re.MULTILINE))
    assert named == set(WORDS)
