"""Closing a connection the hard way."""

from __future__ import annotations

import asyncio
import socket
import struct


def reset(transport: asyncio.BaseTransport) -> None:
    """Close a connection with RST: what the other side has not read yet is lost to it."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        # Lingering for zero seconds is how BSD sockets ask for a reset.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()
