"""A world in memory: a loop without a real clock, a provider without sockets, a seed for chance.

One seed gives one trace. Everything that a program would await (the provider, the journal) counts
a step, and the world can end at any step as a power cut would: what was not written by then is
never written.
"""

from __future__ import annotations

import asyncio
import json
import random
import selectors
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import attrs
import pytest
from yarl import URL

from comet_async._http.body import Body
from comet_async._journal.memory import MemoryJournal
from comet_async._journal.records import JobRecord, SavedFile
from comet_async._journal.states import JobState
from comet_async._wire.decode import Reply
from comet_async.auth import Credentials
from comet_async.config import Timeouts
from comet_async.errors import NotSentError, OutcomeUnknownError
from comet_async.session import CometSession

T = TypeVar("T")

ROOT = "http://127.0.0.1:9"
START = 1_767_225_600.0

FATES = (
    "ok", "1303", "5001", "not_sent", "lost_before", "lost_after", "504_before", "504_after",
    "garbage", "no_id", "hang_before", "hang_after", "late", "slow",
)  # fmt: skip
"""What may become of a paid request."""

_CHARGED = {"ok", "slow", "lost_after", "504_after", "garbage", "no_id", "hang_after"}


class DeadlockError(AssertionError):
    """Everybody waits, and nothing will ever happen."""


class _Selector(selectors.DefaultSelector):
    loop: SimLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if self.loop.tick() or ready or timeout == 0:
            return ready
        if timeout is None:
            msg = "everybody waits for somebody else"
            raise DeadlockError(msg)
        self.loop.now += timeout
        return []


class SimLoop(asyncio.SelectorEventLoop):
    """A loop whose clock is a number, and whose threads are steps of its own.

    Attributes:
        now: The clock.
        ticks: How many rounds it has made.
        at: The round before which *act* is called.
        act: What to do then.
        failures: What nobody caught.
    """

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        self.now = 0.0
        self.ticks = 0
        self.at: int | None = None
        self.act: Callable[[], object] = int
        self.failures: list[dict[str, Any]] = []
        super().__init__(selector)
        self.set_exception_handler(lambda _loop, context: self.failures.append(context))

    def tick(self) -> bool:
        """Count a round; True when it is the one to act before."""
        self.ticks += 1
        if self.ticks != self.at:
            return False
        self.act()
        return True

    def time(self) -> float:
        """Return the clock."""
        return self.now

    def run_in_executor(  # type: ignore[override]  # typeshed's overloads can't be repeated here
        self, _executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run *func* in a step of the loop: threads end in an order that no seed decides."""
        future = self.create_future()
        self.call_soon(_settle, future, func, args)
        return future


def _settle(future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        result = func(*args)
    except BaseException as error:  # noqa: BLE001 - a thread hands on whatever it is
        if not future.cancelled():
            future.set_exception(error)
        return
    if not future.cancelled():
        future.set_result(result)


@attrs.define(eq=False)
class SimClock:
    """The loop's clock, and a wall clock that an operator may set."""

    shift: float = 0.0

    def time(self) -> float:
        """Return the wall clock."""
        return START + self.shift + self.monotonic()

    def monotonic(self) -> float:
        """Return the loop's clock."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Wait on the loop."""
        await asyncio.sleep(max(0.0, seconds))


@attrs.define(eq=False)
class World:
    """Counts steps, keeps the trace, and may end at a step."""

    kill_at: int | None = None
    steps: int = 0
    dead: bool = False
    trace: list[tuple[float, str]] = attrs.field(factory=list)
    _end: asyncio.Event | None = None

    def step(self, what: str) -> None:
        """Note a step; nothing happens any more in a world that has ended."""
        if self.dead:
            raise asyncio.CancelledError
        self.steps += 1
        self.trace.append((round(asyncio.get_running_loop().time(), 6), what))
        if self.steps == self.kill_at:
            self.end()
            raise asyncio.CancelledError

    def end(self) -> None:
        """End the world, here and now."""
        self.dead = True
        if self._end is not None:
            self._end.set()

    async def live(self, life: Coroutine[Any, Any, T]) -> T | None:
        """Run *life* until it ends or the world does; None in the second case."""
        self._end = asyncio.Event()
        ending = asyncio.ensure_future(self._end.wait())
        task = asyncio.ensure_future(life)
        await asyncio.wait({ending, task}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not self.dead:
            return await task
        for _ in range(50):
            others = asyncio.all_tasks() - {cast("asyncio.Task[Any]", asyncio.current_task())}
            if not others:
                break
            for other in others:
                other.cancel()
            await asyncio.wait(others, timeout=1)
        return None


@attrs.frozen(kw_only=True)
class Charge:
    """One charge of the provider's."""

    at: float
    external_task_id: str
    task_id: str


@attrs.define(eq=False)
class _Made:
    key: str
    made: float
    seconds: float


@attrs.define(eq=False, kw_only=True)
class Provider:
    """The paid service and its account book; it lives through every crash of its clients.

    Attributes:
        image: What every result is.
        fate: What becomes of the paid request of a key; `FATES`.
        forms: Ways of asking by our own id that work.
        list_works: Whether the list shows anything.
        echo: Whether answers name our own id.
        hidden: Seconds for which no question finds a new task.
        broken: Questions by our own id that fail before one is answered again.
        late: Seconds after which a late request is charged.
    """

    image: bytes = b""
    fate: Callable[[str], str] = lambda _key: "ok"
    rng: random.Random = attrs.field(factory=lambda: random.Random(0))  # noqa: S311 - no secret
    clock: SimClock = attrs.field(factory=SimClock)
    forms: frozenset[str] = frozenset({"path", "query", "flag"})
    list_works: bool = True
    echo: bool = True
    hidden: float = 0.0
    broken: int = 0
    late: float = 30.0
    seconds: tuple[float, float] = (5.0, 40.0)
    now: float = 0.0
    charges: list[Charge] = attrs.field(factory=list)
    posts: list[str] = attrs.field(factory=list)
    tasks: dict[str, _Made] = attrs.field(factory=dict)
    pending: list[tuple[float, str]] = attrs.field(factory=list)

    def tick(self) -> None:
        """Charge what has become due; called by every exchange, on the provider's own clock."""
        self.now = max(self.now, START + self.clock.monotonic())
        due = [item for item in self.pending if item[0] <= self.now]
        self.pending = [item for item in self.pending if item[0] > self.now]
        for at, key in sorted(due):
            self._charge(key, at)

    def pass_time(self, seconds: float) -> None:
        """Let time pass while no client is there."""
        self.now += seconds
        for at, key in sorted(self.pending):
            if at <= self.now:
                self._charge(key, at)
        self.pending = [item for item in self.pending if item[0] > self.now]

    def _charge(self, key: str, at: float) -> str:
        task_id = f"t{len(self.charges) + 1}"
        self.charges.append(Charge(at=at, external_task_id=key, task_id=task_id))
        self.tasks[task_id] = _Made(key, at, self.rng.uniform(*self.seconds))
        return task_id

    # What it answers --------------------------------------------------------------------

    def create(self, key: str, fate: str) -> Reply:
        """Answer a paid request."""
        if fate == "late":
            self.pending.append((self.now + self.late, key))
        task_id = self._charge(key, self.now) if fate in _CHARGED else ""
        if fate in {"lost_before", "lost_after", "hang_before", "hang_after", "late"}:
            raise OutcomeUnknownError("the answer was lost", external_task_id=key)
        if fate == "not_sent":
            raise NotSentError("can't connect")
        if fate.startswith("504"):
            return Reply(status=504, body=b"<html>gateway time-out</html>")
        if fate == "garbage":
            return Reply(status=200, body=b"%%garbage%%")
        if fate in {"1303", "5001"}:
            return _reply(429 if fate == "1303" else 503, {"code": int(fate), "message": "later"})
        data = {} if fate == "no_id" else self._task(task_id)
        return _reply(200, {"code": 0, "message": "SUCCEED", "data": data})

    def answer(self, url: URL) -> Reply:
        """Answer a question."""
        tail = url.path.rpartition("/")[2]
        if tail in self.tasks and not url.query:
            if self._seen(tail):
                return self._one(tail)
            return _missing()
        if self.broken > 0:
            self.broken -= 1
            return Reply(status=500, body=b"<html>oops</html>")
        if "pageNum" in url.query:
            return self._page()
        form = "query" if "external_task_id" in url.query else "path"
        key = url.query.get("external_task_id", tail)
        if key == "true":
            form, key = "flag", tail
        found = [task_id for task_id, made in self.tasks.items() if made.key == key]
        if form not in self.forms or not found or not self._seen(found[0]):
            return _missing()
        return self._one(found[0])

    def _page(self) -> Reply:
        if not self.list_works:
            return _reply(404, {"code": None, "message": "404"})
        seen = [task_id for task_id in reversed(self.tasks) if self._seen(task_id)]
        data = [self._task(task_id) for task_id in seen]
        return _reply(200, {"code": 0, "message": "SUCCEED", "data": data})

    def _seen(self, task_id: str) -> bool:
        return self.now >= self.tasks[task_id].made + self.hidden

    def _one(self, task_id: str) -> Reply:
        return _reply(200, {"code": 0, "message": "SUCCEED", "data": self._task(task_id)})

    def _task(self, task_id: str) -> dict[str, Any]:
        made = self.tasks[task_id]
        done = self.now >= made.made + made.seconds
        task: dict[str, Any] = {
            "task_id": task_id,
            "task_status": "succeed" if done else "processing",
            "task_info": {"external_task_id": made.key} if self.echo else {},
            "created_at": int(made.made * 1000),
            "updated_at": int((made.made + done * made.seconds) * 1000),
        }
        if done:
            url = f"{ROOT}/results/{task_id}.png"
            task["task_result"] = {"images": [{"index": 0, "url": url}]}
        return task

    def charged_twice(self) -> list[str]:
        """Return the keys that were charged more than once."""
        keys = [charge.external_task_id for charge in self.charges]
        return sorted({key for key in keys if keys.count(key) > 1})


def _reply(status: int, body: object) -> Reply:
    headers = {"content-type": "application/json"}
    return Reply(status=status, headers=headers, body=json.dumps(body).encode())


def _missing() -> Reply:
    return _reply(404, {"code": 1203, "message": "The requested resource does not exist"})


@attrs.define(eq=False)
class Line:
    """What stands in for a `Transport`: an exchange is a pause and a call of the provider."""

    provider: Provider
    world: World
    timeouts: Timeouts = attrs.field(factory=Timeouts)
    unclosed: bool = False

    async def _travel(self, what: str) -> None:
        self.world.step(what)
        await asyncio.sleep(self.provider.rng.uniform(0.01, 0.3))
        self.world.step(f"{what} arrives")
        self.provider.tick()

    async def post(
        self, _url: URL, _credentials: Credentials, _body: Body, *, external_task_id: str
    ) -> Reply:
        """Send a paid request."""
        key = external_task_id
        await self._travel(f"post {key}")
        self.provider.posts.append(key)
        fate = self.provider.fate(key)
        if fate == "slow":  # a large image on a slow line
            await asyncio.sleep(200.0)
            self.world.step(f"post {key} is there")
            self.provider.tick()
        answer: Reply | None = None
        error: Exception | None = None
        try:
            answer = self.provider.create(key, fate)
        except (OutcomeUnknownError, NotSentError) as caught:
            error = caught
        await asyncio.sleep(60.0 if fate.startswith("hang") else self.provider.rng.uniform(0, 0.3))
        self.world.step(f"post {key} {fate}")
        if answer is None:
            raise error or AssertionError
        return answer

    async def get(self, url: URL, _credentials: Credentials | None, *, timeout: float) -> Reply:
        """Ask a question."""
        assert timeout > 0
        await self._travel(f"ask {url.path_qs.rpartition('/')[2]}")
        return self.provider.answer(url)

    async def download_gate(self) -> asyncio.Semaphore:
        """Return more places than are wanted."""
        return asyncio.Semaphore(1000)

    async def fetch(self, url: URL) -> _File:
        """Fetch a result."""
        await self._travel(f"fetch {url.path.rpartition('/')[2]}")
        return _File(self.provider.image)

    async def aclose(self) -> None:
        """Do nothing."""


@attrs.define(eq=False)
class _File:
    data: bytes
    status: int = 200
    location: str | None = None
    encoding: str = ""

    @property
    def length(self) -> int:
        return len(self.data)

    async def read(self, size: int) -> bytes:
        await asyncio.sleep(0.01)
        piece, self.data = self.data[:size], self.data[size:]
        return piece

    def close(self) -> None:
        """Do nothing."""


class SimJournal(MemoryJournal):
    """A journal that lives through crashes, as one on disk does; each write counts two steps."""

    world: World

    def reboot(self, world: World) -> None:
        """Open it again: what was being sent is unknown (T6)."""
        self.world = world
        self.boot = f"boot-{id(world):x}"
        for record in list(self._jobs.values()):
            if record.state is JobState.SENDING:
                self._swap(record, self._lost(record), "its process ended")

    def _lost(self, record: JobRecord) -> JobRecord:
        state = JobState.UNKNOWN
        return attrs.evolve(record, state=state, fence=record.fence + 1)

    async def _write(self, what: str, write: Callable[..., Coroutine[Any, Any, T]]) -> T:
        self.world.step(f"before {what}")
        await asyncio.sleep(0)
        if self.world.dead:
            raise asyncio.CancelledError
        result = await write()
        self.world.step(f"after {what}")
        return result

    async def plan(self, jobs: Any, *, now: float) -> list[JobRecord]:  # noqa: ANN401 - as above
        """Write jobs down."""
        base = super().plan
        return await self._write("plan", lambda: base(jobs, now=now))

    async def move(self, record: JobRecord, new: JobState, **details: Any) -> JobRecord:
        """Move a job."""
        base = super().move
        what = f"{record.key} {record.state}->{new}"
        return await self._write(what, lambda: base(record, new, **details))

    async def send(self, record: JobRecord, **details: Any) -> Any:  # noqa: ANN401 - as above
        """Enter ``sending``."""
        base = super().send
        return await self._write(f"{record.key} send", lambda: base(record, **details))

    async def note(self, record: JobRecord, **details: Any) -> JobRecord:
        """Write details."""
        base = super().note
        return await self._write(f"{record.key} note", lambda: base(record, **details))

    async def save_file(self, key: str, dest: str, file: SavedFile) -> None:
        """Write a file down."""
        base = super().save_file
        await self._write(f"{key} file", lambda: base(key, dest, file))

    async def aclose(self) -> None:
        """Stay: the next boot goes on with it."""

    @property
    def records(self) -> Sequence[JobRecord]:
        """All jobs."""
        return list(self._jobs.values())


@attrs.define(eq=False)
class Simulation:
    """A provider and a journal, and one boot of the library after the other on them.

    Attributes:
        ticks: Rounds of the loop to the end of the last boot; None if it was ended before.
        cancelled: Whether the last boot ended with a `CancelledError`.
        failures: What nobody caught, in all boots.
    """

    patch: pytest.MonkeyPatch
    provider: Provider
    journal: SimJournal = attrs.field(factory=SimJournal)
    settle: float = 60.0
    seed: int = 0
    world: World = attrs.field(factory=World)
    boots: int = 0
    ticks: int | None = None
    cancelled: bool = False
    failures: list[dict[str, Any]] = attrs.field(factory=list)

    def boot(
        self,
        life: Callable[[CometSession], Coroutine[Any, Any, T]],
        *,
        kill_at: int | None = None,
        cancel_at: int | None = None,
        journal: bool = True,
    ) -> T | None:
        """Start the library, let it live *life*, and end it; None when it was ended from outside.

        Args:
            life: What the program does with its session.
            kill_at: The step of the world at which it is killed.
            cancel_at: The round of the loop at which the program is cancelled.
            journal: Whether the session has one.
        """
        self.world = world = World(kill_at=kill_at)
        self.boots += 1
        self.journal.reboot(world)
        rng = random.Random(f"{self.seed} {self.boots}")  # noqa: S311 - no secret
        self._determine(rng)

        async def whole() -> T:
            # The clock begins where the provider's stands.
            loop = cast("SimLoop", asyncio.get_running_loop())
            loop.now = max(0.0, self.provider.now - START)
            begin = loop.ticks
            loop.at = None if cancel_at is None else begin + cancel_at
            loop.act = cast("asyncio.Task[T]", asyncio.current_task()).cancel
            line = Line(self.provider, world)
            self.patch.setattr("comet_async._http.api.Transport", lambda **_: line)
            async with CometSession(
                "sk-canary-simulated",
                gateway=ROOT,
                journal=self.journal if journal else None,
                settle=self.settle,
                clock=self.provider.clock,
            ) as comet:
                result = await life(comet)
            self.ticks = loop.ticks - begin
            return result

        self.cancelled, self.ticks = False, None
        with asyncio.Runner(loop_factory=SimLoop) as runner:
            loop = cast("SimLoop", runner.get_loop())
            try:
                return runner.run(world.live(whole()))
            except asyncio.CancelledError:
                self.cancelled = True
                return None
            finally:
                self.provider.now = max(self.provider.now, START + loop.now)
                self.failures += loop.failures

    def _determine(self, rng: random.Random) -> None:
        """Let all chance in the library come from *rng*."""
        dice = SimpleNamespace(Random=lambda *_: rng)
        for room in ("_backoff", "waiter", "schedules"):
            self.patch.setattr(f"comet_async.{room}.random", dice)
        self.patch.setattr("comet_async._backoff._RNG", rng)
