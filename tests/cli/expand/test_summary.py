"""The end of a run: what it says to people, and the one next step."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from comet_async.cli.expand.summary import Ending
from comet_async.cli.expand.totals import RunTotals, Unfinished
from comet_async.errors import AuthenticationError, BudgetExceededError, CometError, NotSentError

COMMAND = "comet-async expand photos --out wide --to 2:1"


def ending(
    *,
    ended: dict[str, int] | None = None,
    unfinished: dict[tuple[str, str, str | None], int] | None = None,
    **more: Any,
) -> Ending:
    """Return the end of a run with these outcomes and reasons."""
    totals = RunTotals(price=Decimal("0.028"), run="this", since=0, clock=lambda: 0.0)
    totals.ended = Counter(ended or {})
    for (status, reason, hint), many in (unfinished or {}).items():
        for number in range(many):
            totals.note(Unfinished(status=status, reason=reason, hint=hint), f"{number}.png")
    return Ending(totals=totals, out=Path("wide"), command=COMMAND, **more)


def test_a_second_run_says_that_nothing_was_billed() -> None:
    """An image of an earlier run is not the same as one that is done now."""
    end = ending(ended={"done": 6})
    end.totals.earlier = 6
    assert end.facts() == [
        "6 images, all from earlier runs; nothing was billed",
        "the files are in wide",
    ]
    assert end.next_step() == []


def test_details_of_what_is_done() -> None:
    """What was there, copied or equal is counted beside what was bought."""
    end = ending(ended={"done": 6, "invalid": 2})
    end.totals.earlier, end.totals.copied, end.totals.equal = 3, 1, 1
    assert end.facts()[0] == (
        "6 done (3 from earlier runs, 1 copied as is, 1 equal to another image), 2 invalid in 0 s"
    )


def test_doubtful_money_is_said_apart() -> None:
    """What may have been billed is not mixed with what was."""
    end = ending(ended={"done": 2, "uncertain": 1})
    end.totals._bought.update(a=1, b=1)
    end.totals.doubtful = 1
    assert end.facts()[1] == (
        "bought 2 images, about $0.056; 1 image may have been billed, about $0.028 "
        "(an estimate, not a bill)"
    )


def test_who_leaves_at_once_hears_what_is_in_doubt() -> None:
    """Requests whose answer nobody waits for may be billed, also if all else is from earlier."""
    end = ending(ended={"done": 3}, interrupted=True, leaving=True)
    end.totals.earlier, end.totals.uploading = 3, 2
    assert end.facts()[1] == "2 images may have been billed, about $0.056 (an estimate, not a bill)"


def test_what_was_bought_earlier_is_said() -> None:
    """Somebody who wants new variants must learn that these are the old ones."""
    end = ending(ended={"done": 24})
    end.totals.attached = 24
    assert end.facts()[1] == (
        "nothing was billed; 24 images were bought earlier: the server had the same request"
    )


def test_a_hundred_equal_reasons_are_one_line() -> None:
    """What is not done is grouped by its reason, the largest group first."""
    end = ending(
        unfinished={
            ("failed", "risk control", "change it"): 1,
            ("invalid", "is GIF", "--prepare converts it"): 100,
            ("uncertain", "its answer was lost", "look it up later"): 2,
            ("invalid", "is TIFF", "--prepare converts it"): 1,
        }
    )
    assert end.not_done() == [
        "not done:",
        "  100 invalid: is GIF: 0.png, 1.png, 2.png and 97 more",
        "  1 invalid: is TIFF: 0.png",
        "      --prepare converts it",
        "  2 uncertain: its answer was lost: 0.png, 1.png",
        "  1 failed: risk control: 0.png",
        "      change it",
    ]


def test_the_next_step_is_not_said_twice() -> None:
    """Advice that helps with all of them comes at the end only."""
    end = ending(ended={"invalid": 2}, unfinished={("invalid", "is GIF", "--prepare fixes it"): 2})
    assert end.not_done() == ["not done:", "  2 invalid: is GIF: 0.png, 1.png"]
    end = ending(ended={"failed": 1}, unfinished={("failed", "no", "change it"): 1})
    assert end.not_done() == ["not done:", "  1 failed: no: 0.png"]


@pytest.mark.parametrize(
    ("end", "step"),
    [
        (
            ending(
                ended={"invalid": 2}, unfinished={("invalid", "is GIF", "--prepare converts it"): 2}
            ),
            "next: --prepare converts it, and run again",
        ),
        (
            ending(
                ended={"invalid": 1},
                unfinished={("invalid", "needs it", "pip install 'comet-async[heif]'"): 1},
            ),
            "next: pip install 'comet-async[heif]', and run again",
        ),
        (
            ending(ended={"failed": 1}, unfinished={("failed", "risk control", None): 1}),
            "next: change the images, or add --retry-failed to buy them again",
        ),
        (
            ending(ended={"invalid": 1}, unfinished={("invalid", "is text", "look at it"): 1}),
            "next: fix the problems above and run again; finished images are left alone",
        ),
        (ending(ended={"uncertain": 1}), "comet-async jobs wide --uncertain"),
        (ending(ended={"pending": 1}), COMMAND),
        (ending(interrupted=True), COMMAND),
        (ending(interrupted=True, from_input=True), "run the same command again with the same inp"),
    ],
    ids=["option", "extra", "failed", "fix", "uncertain", "pending", "interrupted", "input"],
)
def test_the_one_next_step(end: Ending, step: str) -> None:
    """Running again is only advised where it helps."""
    text = "\n".join(end.next_step())
    assert step in text
    assert ("run the same command again" in text) == (COMMAND in text)


@pytest.mark.parametrize(("total", "resumed"), [(3, False), (4, True), (None, True)])
def test_a_signal_at_the_end_leaves_nothing_to_resume(total: int | None, resumed: bool) -> None:
    """Running again is advised only while some source is, or may be, left."""
    end = ending(ended={"done": 3}, interrupted=True)
    end.totals.total = total
    assert (COMMAND in "\n".join(end.next_step())) == resumed


@pytest.mark.parametrize(
    ("stopped", "first"),
    [
        (
            AuthenticationError("the key was refused", hint="check the key"),
            "stopped by the account; the remaining images were not sent: the key was refused",
        ),
        (
            NotSentError("can't connect"),
            "stopped; the remaining images were not sent: can't connect",
        ),
        (
            BudgetExceededError("the limit of this run is reached (max_jobs)"),
            "the limit of this run is reached (--max-jobs)",
        ),
    ],
    ids=["account", "network", "limit"],
)
def test_what_stopped_the_run_is_said_once(stopped: CometError, first: str) -> None:
    """Then the command that resumes."""
    lines = ending(stopped=stopped).next_step()
    assert lines[0] == first
    assert lines[-1] == f"  {COMMAND}"


def test_a_limit_that_allows_no_image_is_no_reason_to_run_again() -> None:
    """The same command would reach it again; after a purchase, it goes on."""
    reached = ("pending", "the limit of this run is reached (--max-spend)", None)
    end = ending(ended={"pending": 2}, unfinished={reached: 2})
    assert end.next_step() == [
        "next: run it again with a higher limit; this one allows no further image"
    ]
    end.totals._bought.update(a=1)
    assert end.next_step()[1] == f"  {COMMAND}"


def test_a_limit_that_was_kept_for_what_turned_out_free_is_a_reason_to_run_again() -> None:
    """What the server knew already is not counted: the same limit allows more next time."""
    reached = ("pending", "the limit of this run is reached (--max-jobs)", None)
    end = ending(ended={"done": 2, "pending": 2}, unfinished={reached: 2})
    end.totals.attached = 2
    assert end.next_step()[1] == f"  {COMMAND}"


def test_what_keeps_an_image_pending_is_said_with_the_remedy() -> None:
    """The same command again does not help while another file has the result's name."""
    taken = ("pending", "wide/a.png exists and is another file", "move that file away")
    end = ending(ended={"pending": 1}, unfinished={taken: 1})
    assert "      move that file away" in end.not_done()
