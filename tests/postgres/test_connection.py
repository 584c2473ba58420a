"""Connections to a server, as far as they need none."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, cast

import psycopg
import pytest

from comet_async._postgres import connection


def test_an_interruption_needs_no_file_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket is none on Windows."""

    def refuse(_: int) -> int:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(os, "dup", refuse)
    ours, server = socket.socketpair()
    with ours, server:
        connection.interrupt(cast("psycopg.Connection[Any]", ours))
        assert server.recv(1) == b""
        assert ours.fileno() > 0
