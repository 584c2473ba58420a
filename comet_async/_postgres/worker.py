"""One worker among several: its lease, and the messages of the others.

One thread with its own connection renews the lease, takes over the jobs of lost workers, and
listens. Only the lease is needed for correctness: waiting callers also check from time to
time, so a lost message costs only time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import attrs
import psycopg
from psycopg import sql as names

from comet_async._journal.transitions import new_boot
from comet_async._postgres import sql
from comet_async._postgres.connection import PostgresConnection, Row, Target, interrupt

logger = logging.getLogger("comet_async.journal")

LEASE = 1.5
"""How long a lease lasts, in heartbeats."""

TICK = 0.5
"""How often it is renewed, in heartbeats. Then a lost worker's jobs are free after two at most."""

_RECONNECT = 0.2  # seconds
_STOPPING = 2.0  # seconds that the thread has to stop until its connection is cut
_GIVEN_UP = 12  # seconds after that, longer than an attempt to connect


def since_boot() -> float:
    """Return a clock that also counts the time while the machine sleeps, if there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@attrs.define(eq=False)
class Signal:
    """Set by another thread, awaited in an event loop."""

    _loop: asyncio.AbstractEventLoop
    _event: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    def set(self) -> None:
        """Wake those who wait; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and its tasks with it
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout: float) -> bool:
        """Wait for the next `set`, at most *timeout* seconds; return whether it came."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


@attrs.define(eq=False)
class Worker:
    """This process as the others see it.

    Attributes:
        target: The journal.
        heartbeat: Seconds; see `LEASE` and `TICK`.
        boot: The name of its lease; another one after a lease was lost.
        on_hint: Gives what is called with each hint, or None if it is gone.
    """

    target: Target
    heartbeat: float
    boot: str = attrs.field(factory=new_boot)
    on_hint: Callable[[], Callable[[str], None] | None] = attrs.field(
        default=lambda: None, init=False
    )
    # When the lease surely ends, by `since_boot`. Counted from before the renewal was asked for.
    _until: float = attrs.field(default=0.0, init=False)
    # Jobs whose release failed, while the database could not be reached, say.
    _owed: set[str] = attrs.field(factory=set, init=False)
    _signals: dict[str, set[Signal]] = attrs.field(factory=dict, init=False)
    _mutex: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _stop: threading.Event = attrs.field(factory=threading.Event, init=False)
    _listens: threading.Event = attrs.field(factory=threading.Event, init=False)
    _thread: threading.Thread | None = attrs.field(default=None, init=False)
    _db: psycopg.Connection[Row] | None = attrs.field(default=None, init=False)

    @property
    def lease(self) -> float:
        """Seconds that a lease lasts."""
        return LEASE * self.heartbeat

    @property
    def name(self) -> str:
        """What operators call it: host and process."""
        return f"{socket.gethostname()}:{os.getpid()}"

    @property
    def left(self) -> float:
        """Seconds until the lease ends, at the earliest; negative if it has, or is given up."""
        return -1.0 if self._stop.is_set() else self._until - since_boot()

    # Waiting ----------------------------------------------------------------------------

    @contextmanager
    def listening(self, topic: str) -> Generator[Signal, None, None]:
        """Yield a signal for messages on *topic*; enter before reading what they may change."""
        signal = Signal(asyncio.get_running_loop())
        with self._mutex:
            self._signals.setdefault(topic, set()).add(signal)
        try:
            yield signal
        finally:
            with self._mutex:
                signals = self._signals[topic]
                signals.discard(signal)
                if not signals:
                    del self._signals[topic]

    def _wake(self, topic: str | None = None) -> None:
        """Wake those who listen on *topic*, or everybody."""
        with self._mutex:
            chosen = self._signals.values() if topic is None else [self._signals.get(topic, set())]
            woken = [signal for signals in chosen for signal in signals]
        for signal in woken:
            signal.set()

    def listens(self, topic: str) -> bool:
        """Return True if anybody listens for messages on *topic*."""
        return topic in self._signals

    # Releasing --------------------------------------------------------------------------

    def owe(self, key: str) -> None:
        """Release a job with the next renewal of the lease, unless `keep` is called before."""
        with self._mutex:
            self._owed.add(key)

    def keep(self, key: str) -> None:
        """Do not release a job: it has been, or is to be worked on again."""
        with self._mutex:
            self._owed.discard(key)

    # The thread -------------------------------------------------------------------------

    def register(self, db: PostgresConnection) -> None:
        """Get the first lease, in a transaction of the journal's."""
        before = since_boot()
        sql.register(db, self.boot, self.name, self.lease)
        self._until = before + self.lease

    def start(self) -> None:
        """Start the thread; the lease is registered already."""
        name = "comet_async lease"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wait_until_it_listens(self) -> None:
        """Wait for the thread's connection, but not for long: the journal works without it."""
        self._listens.wait(self.lease)

    def stop_soon(self) -> None:
        """Have the thread end at its next step."""
        self._stop.set()

    def stop(self) -> None:
        """Stop the thread and wait for it, not long for a server's answer; may be called again."""
        self._stop.set()
        if (thread := self._thread) is None:
            return
        thread.join(_STOPPING)
        for _ in range(_GIVEN_UP):
            if not thread.is_alive():
                return
            if (db := self._db) is not None:
                interrupt(db)
            thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                db = self.target.connect()
            except psycopg.Error as error:
                logger.debug("no connection for the lease: %s", type(error).__name__)
                self._stop.wait(_RECONNECT)
                continue
            self._db = db
            try:
                with db:
                    self._serve(db)
            except psycopg.Error as error:
                logger.warning("the lease's connection was lost: %s", type(error).__name__)
                self._stop.wait(_RECONNECT)  # a replica refuses each one
            except Exception:
                logger.exception("a bug in the lease's thread")
                self._stop.wait(self.heartbeat)

    def _serve(self, db: psycopg.Connection[Row]) -> None:
        # The lease is renewed in time or not at all: no statement may take longer than a lease.
        db.execute(f"SET statement_timeout = {int(self.lease * 1000)}".encode())
        for channel in (self.target.schema, _channel(self.boot)):
            db.execute(names.SQL("LISTEN {}").format(names.Identifier(channel)))
        self._listens.set()
        self._wake()  # messages may have been missed
        while not self._stop.is_set():
            self.beat(db)
            until = time.monotonic() + TICK * self.heartbeat
            while not self._stop.is_set() and (left := until - time.monotonic()) > 0:
                # In short waits, so that stopping does not take long.
                for note in db.notifies(timeout=min(left, 0.2), stop_after=1):
                    self._heard(note.payload)

    def beat(self, db: psycopg.Connection[Row]) -> None:
        """Renew the lease, and take over the jobs of lost workers."""
        before = since_boot()
        if db.execute(sql.RENEW.encode(), [self.lease, self.boot]).rowcount:
            self._until = before + self.lease
            self._release_owed(db)
        elif not self._stop.is_set():  # otherwise it is closing, and has just left
            self._register_anew(db)
        lost = db.execute(sql.MARK_LOST.encode(), [self.lease]).rowcount
        freed = db.execute(sql.TAKE_OVER.encode(), [sql.ENDED]).rowcount
        if lost or freed:
            logger.warning("workers lost: %d; jobs of theirs that are free now: %d", lost, freed)
            db.execute(sql.FORGET_WAITERS.encode())
            db.execute(sql.FORGET_WORKERS.encode())

    def _release_owed(self, db: psycopg.Connection[Row]) -> None:
        with self._mutex:
            keys = list(self._owed)
        for key in keys:  # one by one: who holds one lock only meets no deadlock
            db.execute(sql.RELEASE.encode(), [key, self.boot])
            self.keep(key)

    def _register_anew(self, db: psycopg.Connection[Row]) -> None:
        """Get a lease under another name: the old one was lost, and its jobs belong to others."""
        logger.warning("the lease of %s was lost: others continue its jobs", self.name)
        boot, before = new_boot(), since_boot()
        db.execute(names.SQL("LISTEN {}").format(names.Identifier(_channel(boot))))
        db.execute(
            b"INSERT INTO worker (boot, name, lease_until)"
            b" VALUES (%s, %s, clock_timestamp() + make_interval(secs => %s))",
            [boot, self.name, self.lease],
        )
        self.boot, self._until = boot, before + self.lease
        self._wake()

    def _heard(self, payload: str) -> None:
        topic, _, text = payload.partition(" ")
        if topic != "hint":
            self._wake(payload)
        elif (handler := self.on_hint()) is not None:
            try:
                handler(text)
            except Exception:  # it must not cost the lease
                logger.exception("a hint could not be passed on")


def _channel(boot: str) -> str:
    """Return the channel of one worker, as the triggers name it."""
    return f"comet_async {boot}"
