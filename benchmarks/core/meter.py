"""What a process used: CPU, memory, and how long its event loop kept others waiting."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import sys
from pathlib import Path
from typing import Self

import attrs

_MIB = 1024 * 1024
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
# A probe more often than this would itself be seen in the CPU figures.
_TICK = 0.005


def cpu_seconds() -> float:
    """Return the CPU time of this process, all threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def bytes_read() -> int:
    """Return how many bytes this process has read, from files and sockets (Linux only)."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/io").read_text().split()[1])  # rchar
    return 0


def _status(field: str) -> float | None:
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
    return None


def resident_mib() -> float:
    """Return the memory that this process holds."""
    return _status("VmRSS") or peak_mib()


def peak_mib() -> float:
    """Return the most memory that this process held, since `forget_peak` where that works."""
    peak = _status("VmHWM")
    if peak is None:  # not Linux: bytes on macOS, KiB elsewhere
        unit = _MIB if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return peak


def forget_peak() -> float:
    """Forget the peak so far, and return what is held now, in MiB."""
    gc.collect()
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")  # man 5 proc: resets VmHWM to the current size
    return _status("VmRSS") or peak_mib()


@attrs.define(eq=False)
class LoopLag:
    """How late the running loop wakes a task that sleeps for 5 ms, again and again.

    Attributes:
        late: Each delay, in seconds.
    """

    late: list[float] = attrs.field(factory=list, init=False)
    _task: asyncio.Task[None] | None = attrs.field(default=None, init=False)

    async def __aenter__(self) -> Self:
        """Start to look."""
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begin = loop.time()
            await asyncio.sleep(_TICK)
            self.late.append(loop.time() - begin - _TICK)

    def worst(self) -> float:
        """Return the longest delay, in ms."""
        return 1000 * max(self.late, default=0.0)

    def p99(self) -> float:
        """Return the delay that one in a hundred exceeds, in ms."""
        ordered = sorted(self.late)
        return 1000 * ordered[int(0.99 * (len(ordered) - 1))] if ordered else 0.0
