"""What a `FaultProxy` does to a stream of bytes; names and meaning are toxiproxy's.

https://github.com/Shopify/toxiproxy#toxics. Units are ours: seconds and bytes.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

import attrs

from comet_async.clock import Clock

Stream: TypeAlias = Literal["upstream", "downstream"]
"""``upstream``: from the client to the server. ``downstream``: the other way."""


class CloseError(Exception):
    """The connection ends here.

    Attributes:
        reset: Whether with RST.
    """

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


@attrs.frozen(kw_only=True)
class Piece:
    """Bytes on their way.

    Attributes:
        data: The bytes.
        arrived: When they came, on the clock's monotonic scale.
    """

    data: bytes
    arrived: float


Forward: TypeAlias = Callable[[Piece], Awaitable[None]]
"""Passes a piece on to the next toxic, and in the end to the other side."""


@attrs.frozen(kw_only=True, eq=False)
class Toxic(ABC):
    """One way in which a stream suffers.

    Attributes:
        stream: Which direction.
        toxicity: Chance that a connection suffers at all, 0 to 1.
    """

    stream: Stream = "downstream"
    toxicity: float = 1.0

    @abstractmethod
    async def apply(self, piece: Piece, forward: Forward, link: Link) -> None:
        """Pass on what is left of *piece*.

        Raises:
            CloseError: The connection ends here.
        """

    async def closing(self, link: Link) -> None:  # noqa: B027 - most toxics do nothing here
        """Act before the end of the stream is passed on; does nothing by default."""


@attrs.define(eq=False, kw_only=True)
class Link:
    """One direction of one connection, as toxics see it.

    Attributes:
        stream: Which direction.
        clock: Where time comes from.
        passed: Bytes that each toxic let through.
    """

    stream: Stream
    clock: Clock
    passed: dict[Toxic, int] = attrs.field(factory=dict)
    _suffers: dict[Toxic, bool] = attrs.field(factory=dict, init=False)

    def suffers(self, toxic: Toxic) -> bool:
        """Whether *toxic* is for this link; its chance is drawn once."""
        if toxic not in self._suffers:
            self._suffers[toxic] = random.random() < toxic.toxicity  # noqa: S311 - no secret
        return toxic.stream == self.stream and self._suffers[toxic]


@attrs.frozen(kw_only=True, eq=False)
class Latency(Toxic):
    """Delay everything by *latency* seconds, give or take *jitter*."""

    latency: float
    jitter: float = 0.0

    async def apply(self, piece: Piece, forward: Forward, link: Link) -> None:
        """Wait until the bytes are old enough."""
        delay = self.latency + random.uniform(-self.jitter, self.jitter)  # noqa: S311 - no secret
        await link.clock.sleep(piece.arrived + delay - link.clock.monotonic())
        await forward(piece)


@attrs.frozen(kw_only=True, eq=False)
class Bandwidth(Toxic):
    """Let at most *rate* bytes a second through."""

    rate: float

    async def apply(self, piece: Piece, forward: Forward, link: Link) -> None:
        """Pass what fits into a tenth of a second, ten times a second."""
        for data in _cut(piece.data, max(1, int(self.rate / 10))):
            await link.clock.sleep(len(data) / self.rate)
            await forward(Piece(data=data, arrived=piece.arrived))


@attrs.frozen(kw_only=True, eq=False)
class SlowClose(Toxic):
    """Pass on the end of the stream *delay* seconds late."""

    delay: float

    async def apply(self, piece: Piece, forward: Forward, link: Link) -> None:  # noqa: ARG002 - as in Toxic
        """Change nothing."""
        await forward(piece)

    async def closing(self, link: Link) -> None:
        """Wait."""
        await link.clock.sleep(self.delay)


@attrs.frozen(kw_only=True, eq=False)
class Timeout(Toxic):
    """Let nothing through, and close *timeout* seconds after the first bytes; 0: never close."""

    timeout: float = 0.0

    async def apply(self, piece: Piece, forward: Forward, link: Link) -> None:  # noqa: ARG002 - as in Toxic
        """Drop the bytes."""
        if self.timeout > 0:
            await link.clock.sleep(self.timeout)
            raise CloseError


@attrs.frozen(kw_only=True, eq=False)
class ResetPeer(Toxic):
    """Reset the connection *timeout* seconds after the first bytes."""

    timeout: float = 0.0

    async def apply(self, piece: Piece, forward: Forward, link: Link) -> None:  # noqa: ARG002 - as in Toxic
        """Drop the bytes and reset."""
        await link.clock.sleep(self.timeout)
        raise CloseError(reset=True)


@attrs.frozen(kw_only=True, eq=False)
class Slicer(Toxic):
    """Cut everything into pieces of about *average_size* bytes, *delay* seconds apart."""

    average_size: int
    size_variation: int = 0
    delay: float = 0.0

    async def apply(self, piece: Piece, forward: Forward, link: Link) -> None:
        """Pass the slices on one by one."""
        left = piece.data
        while left:
            least = self.average_size - self.size_variation
            size = random.randint(max(1, least), self.average_size + self.size_variation)  # noqa: S311 - no secret
            await forward(Piece(data=left[:size], arrived=piece.arrived))
            left = left[size:]
            await link.clock.sleep(self.delay)


@attrs.frozen(kw_only=True, eq=False)
class LimitData(Toxic):
    """Close once *limit* bytes went through."""

    limit: int

    async def apply(self, piece: Piece, forward: Forward, link: Link) -> None:
        """Pass what is left of the limit."""
        data = piece.data[: self.limit - link.passed.get(self, 0)]
        link.passed[self] = link.passed.get(self, 0) + len(data)
        if data:
            await forward(Piece(data=data, arrived=piece.arrived))
        if link.passed[self] >= self.limit:
            raise CloseError


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]
