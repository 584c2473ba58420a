"""What was charged, and every create call that arrived: the reference to check a client against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs

UNITS = 8
"""Units charged for an image (Kling's price list, outpainting)."""

USD = 0.028
"""List price of an image."""


@attrs.frozen(kw_only=True)
class Charge:
    """One create call that was accepted, and so is billed.

    Attributes:
        at: When, in seconds since 1970 on the sandbox's clock.
        external_task_id: The client's own id; empty if it sent none.
        task_id: The task that it made.
        n: How many images.
        kind: What kind of task.
    """

    at: float
    external_task_id: str
    task_id: str
    n: int
    kind: str


@attrs.frozen(kw_only=True)
class Post:
    """One create call that arrived, whatever became of it.

    Attributes:
        at: When its body was read, in seconds since 1970 on the sandbox's clock.
        external_task_id: The client's own id; empty if it sent none.
        path: Where it was sent.
        body: The fields of its body; texts beyond 200 characters are cut.
    """

    at: float
    external_task_id: str
    path: str
    body: Mapping[str, Any] = attrs.field(repr=False)


@attrs.define(eq=False)
class Ledger:
    """Charges and create calls, in order.

    Attributes:
        charges: What was charged.
        posts: The create calls that arrived, whether charged or not.
        refunds: Tasks that failed: what they cost is given back.
    """

    charges: list[Charge] = attrs.field(factory=list)
    posts: list[Post] = attrs.field(factory=list)
    refunds: list[str] = attrs.field(factory=list)

    def count(self, external_task_id: str) -> int:
        """Return how often the external id was charged."""
        return sum(charge.external_task_id == external_task_id for charge in self.charges)

    def posted(self, external_task_id: str) -> int:
        """Return how many create calls carried the external id."""
        return sum(post.external_task_id == external_task_id for post in self.posts)

    def charged_twice(self) -> list[str]:
        """Return the external ids that were charged more than once."""
        counts = Counter(charge.external_task_id for charge in self.charges)
        return sorted(name for name, times in counts.items() if name and times > 1)

    @property
    def images(self) -> int:
        """How many images were charged and not given back."""
        refunded = set(self.refunds)
        return sum(charge.n for charge in self.charges if charge.task_id not in refunded)

    @property
    def units(self) -> int:
        """What they cost, in Kling's units."""
        return UNITS * self.images

    @property
    def usd(self) -> float:
        """What they cost at list price, in US dollars."""
        return round(USD * self.images, 6)

    def clear(self) -> None:
        """Forget everything."""
        self.charges.clear()
        self.posts.clear()
        self.refunds.clear()

    def as_dict(self) -> dict[str, Any]:
        """Return the whole ledger as plain data."""
        return {
            "charges": [attrs.asdict(charge) for charge in self.charges],
            "posts": [attrs.asdict(post) for post in self.posts],
            "refunds": list(self.refunds),
            "charged_twice": self.charged_twice(),
        }


def shorten(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return *body* with long texts (images) cut, for the record."""
    return {key: _cut(value) for key, value in body.items()}


def _cut(value: object) -> object:
    long = 200
    if isinstance(value, str) and len(value) > long:
        return f"{value[:20]}… ({len(value)} characters)"
    return value
