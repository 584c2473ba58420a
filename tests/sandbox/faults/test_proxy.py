"""The fault proxy: each toxic, in both directions, and a proxy that goes down."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from comet_async.sandbox import (
    Bandwidth,
    FaultProxy,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
    Toxic,
)
from comet_async.sandbox._faults.toxics import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from comet_async.testing import VirtualClock


Start = Any  # the fixture `start`


@attrs.define
class Line:
    """A connection through a proxy to a server that sends back what it gets."""

    proxy: FaultProxy
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def echo(self, data: bytes) -> bytes:
        """Send *data*, close that side, and return all that comes back."""
        self.writer.write(data)
        self.writer.write_eof()
        return await self.reader.read()


@asynccontextmanager
async def line(clock: VirtualClock, *toxics: Toxic) -> AsyncIterator[Line]:
    """Connect through a proxy with these toxics."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with FaultProxy("127.0.0.1", port, clock=clock) as proxy:
        for toxic in toxics:
            proxy.add(toxic)
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        yield Line(proxy, reader, writer)
        writer.close()
    server.close()


async def test_passes_everything_on(clock: VirtualClock) -> None:
    """Without toxics a proxy changes nothing."""
    data = bytes(range(256)) * 10_000
    async with line(clock) as there:
        assert await there.echo(data) == data
        assert there.proxy.accepted == 1


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
async def test_latency(clock: VirtualClock, stream: Stream) -> None:
    """All bytes come late, but not one after the other."""
    async with line(clock, Latency(stream=stream, latency=2)) as there:
        before = clock.monotonic()
        assert len(await there.echo(bytes(1_000_000))) == 1_000_000
        assert clock.monotonic() - before == pytest.approx(2, abs=0.5)


async def test_jitter(clock: VirtualClock) -> None:
    """The delay can vary."""
    async with line(clock, Latency(latency=10, jitter=3)) as there:
        before = clock.monotonic()
        await there.echo(b"x")
        assert 7 <= clock.monotonic() - before <= 13.5


async def test_bandwidth(clock: VirtualClock) -> None:
    """Only so many bytes come through per second."""
    async with line(clock, Bandwidth(rate=1000)) as there:
        before = clock.monotonic()
        assert len(await there.echo(bytes(5_000))) == 5_000
        assert clock.monotonic() - before == pytest.approx(5, abs=0.5)


async def test_slow_close(clock: VirtualClock) -> None:
    """The end of the stream comes late."""
    async with line(clock, SlowClose(delay=30)) as there:
        before = clock.monotonic()
        assert await there.echo(b"x") == b"x"
        assert clock.monotonic() - before == pytest.approx(30, abs=0.5)


async def test_timeout(clock: VirtualClock) -> None:
    """Nothing comes, and the connection ends."""
    async with line(clock, Timeout(timeout=5)) as there:
        before = clock.monotonic()
        assert await there.echo(b"x") == b""
        assert clock.monotonic() - before == pytest.approx(5, abs=0.5)


async def test_timeout_without_end(clock: VirtualClock) -> None:
    """Nothing comes, and the connection stays open until the toxic is gone."""
    async with line(clock, Timeout(stream="upstream")) as there:
        there.writer.write(b"lost")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(100):
                await there.reader.read(1)
        there.proxy.clear()
        assert await there.echo(b"found") == b"found"


async def test_reset_peer(clock: VirtualClock) -> None:
    """The connection is reset."""
    async with line(clock, ResetPeer(timeout=3)) as there:
        before = clock.monotonic()
        with pytest.raises(ConnectionResetError):
            await there.echo(b"x")
        assert clock.monotonic() - before == pytest.approx(3, abs=0.5)


async def test_slicer(clock: VirtualClock) -> None:
    """Bytes come in small pieces with pauses."""
    async with line(clock, Slicer(average_size=10, size_variation=5, delay=1)) as there:
        there.writer.write(bytes(100))
        sizes = [len(await there.reader.read(1000)) for _ in range(6)]
    assert all(5 <= size <= 15 for size in sizes)


async def test_limit_data(clock: VirtualClock) -> None:
    """The connection ends after so many bytes."""
    async with line(clock, LimitData(limit=70_000)) as there:
        assert len(await there.echo(bytes(100_000))) == 70_000


async def test_toxics_add_up(clock: VirtualClock) -> None:
    """Several toxics work one after the other."""
    async with line(clock, Latency(latency=4), LimitData(limit=3)) as there:
        before = clock.monotonic()
        assert await there.echo(b"abcdef") == b"abc"
        assert clock.monotonic() - before == pytest.approx(4, abs=0.5)


async def test_toxics_come_and_go(clock: VirtualClock) -> None:
    """A change holds for connections that are open."""
    async with line(clock) as there:
        for seconds in (0, 3, 0):
            toxic = there.proxy.add(Latency(latency=seconds))
            before = clock.monotonic()
            there.writer.write(b"x")
            await there.reader.readexactly(1)
            assert clock.monotonic() - before == pytest.approx(seconds, abs=0.5)
            there.proxy.remove(toxic)


async def test_toxicity(clock: VirtualClock) -> None:
    """A toxic with no chance spares the connection."""
    async with line(clock, ResetPeer(toxicity=0)) as there:
        assert await there.echo(b"x") == b"x"


async def test_down_and_up(clock: VirtualClock) -> None:
    """A proxy that is down cuts what is open and refuses the rest, until it is up again."""
    async with line(clock) as there:
        await there.proxy.down()
        await there.proxy.down()  # again changes nothing
        assert await there.reader.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", there.proxy.port)
        await there.proxy.up()
        reader, writer = await asyncio.open_connection("127.0.0.1", there.proxy.port)
        again = Line(there.proxy, reader, writer)
        assert await again.echo(b"x") == b"x"
        writer.close()


async def test_nobody_behind(clock: VirtualClock) -> None:
    """If the target refuses, the connection ends."""
    async with FaultProxy("127.0.0.1", 1, clock=clock) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await reader.read() == b""
        writer.close()


async def test_in_front_of_a_sandbox(start: Start, clock: VirtualClock) -> None:
    """HTTP goes through."""
    client = await start()
    port = int(client.sandbox.url.rpartition(":")[2])
    async with FaultProxy("127.0.0.1", port, clock=clock) as proxy:
        reply = await client.request("GET", f"{proxy.url}/v1/images/editing/expand")
    assert reply.data == []
