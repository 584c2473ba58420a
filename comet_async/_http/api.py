"""The API's calls, one exchange each: the request, its gateway, its key, and its answer.

Nothing here repeats a paid request, waits, or keeps anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import attrs
from yarl import URL

from comet_async._http.body import Body
from comet_async._http.transport import Transport
from comet_async._wire.decode import Reply, date_of, decode_created, decode_page, decode_task
from comet_async.auth import Credentials, KlingToken
from comet_async.clock import Clock
from comet_async.errors import AuthenticationError, CometError, InputError
from comet_async.gateways import Gateway, LookupForm
from comet_async.models import Task, TaskPage
from comet_async.requests import TaskKind
from comet_async.secret import SHORTEST, Secret, redact

MAX_PAGE = 1000
MAX_PAGE_SIZE = 500

_TOKEN_CODES = {1003, 1004}

# The fields of an error that hold what a server wrote.
_ECHOED = ("message", "code", "request_id", "task_id")

T = TypeVar("T")


def _without(secrets: Iterable[Secret], reply: Reply) -> Reply:
    """Return *reply* without the keys, whatever they look like and wherever it echoes them."""
    for secret in secrets:
        key = secret.reveal()
        if len(key) < SHORTEST:
            continue
        if key.encode() in reply.body:
            reply = attrs.evolve(reply, body=reply.body.replace(key.encode(), b"\xe2\x80\xa6"))
        if any(key in value for value in reply.headers.values()):
            headers = {name.lower(): value for name, value in reply.headers.items()}
            headers = {name: value.replace(key, "…") for name, value in headers.items()}
            reply = attrs.evolve(reply, headers=headers)
    return reply


def _redact_fields(error: CometError, secrets: Iterable[Secret]) -> None:
    """Redact what a server wrote: a key may be escaped in ways that only decoding undoes."""
    for name in _ECHOED:
        value = getattr(error, name)
        if isinstance(value, str):
            setattr(error, name, redact(value, *secrets))
    error.args = (error.message,)


@attrs.frozen
class Submission:
    """When a paid request was on its way, on the monotonic clock.

    Attributes:
        sent: When it was sent.
        answered: When its answer came.
    """

    sent: float
    answered: float


class Submissions:
    """When the newest tasks of this session were submitted, so that their ages need no clock."""

    _MOST = 8192

    def __init__(self) -> None:
        self._known: dict[str, Submission] = {}

    def add(self, task_id: str, submission: Submission) -> None:
        """Record a submission; the oldest one is dropped when there are too many."""
        self._known[task_id] = submission
        if len(self._known) > self._MOST:
            del self._known[next(iter(self._known))]

    def find(self, task_id: str) -> Submission | None:
        """Return when the task was submitted, if it was lately and here."""
        return self._known.get(task_id)


@attrs.define(eq=False)
class Api:
    """One account on one gateway."""

    gateway: Gateway
    credentials: Credentials = attrs.field(repr=False)
    transport: Transport
    clock: Clock
    submissions: Submissions = attrs.field(factory=Submissions, init=False, repr=False)

    @property
    def account(self) -> str:
        """Fingerprint of the gateway and the account, for the journal; never the key."""
        return f"{self.gateway.fingerprint}-{self.credentials.account}"

    async def create(self, kind: TaskKind, body: Body, *, external_task_id: str) -> Task:
        """Send one paid request, exactly once.

        A token that was refused as expired or not yet valid is signed anew once: the server
        refused the first request before reading it.

        Raises:
            CometError: As `comet_async._http.transport.Transport.post` and
                `comet_async._wire.decode.decode_created` say; each tells whether it was sent.
        """
        url = self.gateway.collection(kind)

        def decode(reply: Reply) -> Task:
            return decode_created(
                reply,
                kind=kind.name,
                external_task_id=external_task_id,
                now=self.clock.time(),
            )

        async def send() -> Task:
            sent = self.clock.monotonic()
            reply = await self.transport.post(
                url, self.credentials, body, external_task_id=external_task_id
            )
            task = self._read(decode, reply)
            self.submissions.add(task.id, Submission(sent, self.clock.monotonic()))
            return task

        try:
            return await send()
        except AuthenticationError as error:
            if not self._may_renew(error):
                raise
        return await send()

    async def get(self, task_id: str, *, kind: TaskKind, timeout: float | None = None) -> Task:
        """Ask for one task by the server's id.

        Args:
            task_id: The id.
            kind: The task's kind: the question repeats the path of the request.
            timeout: Seconds for the exchange; the transport's own limit by default.

        Raises:
            CometError: As `comet_async._wire.decode.decode_task` says.
        """
        if not task_id or "/" in task_id or not task_id.isprintable():
            msg = f"task id {task_id!r} can't be one"
            raise InputError(msg, field="task_id", value=task_id, limit="text without slashes")

        def decode(reply: Reply) -> Task:
            return decode_task(reply, kind=kind.name, task_id=task_id, now=self.clock.time())

        return await self._ask(self.gateway.task(kind, task_id), decode, timeout)

    async def find(
        self, external_task_id: str, *, kind: TaskKind, form: LookupForm = "path"
    ) -> Task:
        """Ask for one task by our own id.

        The answer is taken as it comes: whether it is about *this* id is for the caller to
        judge, because a gateway may ignore the question and show another task.

        Raises:
            CometError: As `comet_async._wire.decode.decode_task` says.
        """

        def decode(reply: Reply) -> Task:
            return decode_task(
                reply,
                kind=kind.name,
                external_task_id=external_task_id,
                now=self.clock.time(),
            )

        return await self._ask(self.gateway.lookup(kind, external_task_id, form), decode, None)

    async def page(
        self, number: int, size: int, *, kind: TaskKind, timeout: float | None = None
    ) -> TaskPage:
        """Ask for one page of the list.

        Args:
            number: 1 to 1000.
            size: 1 to 500.
            kind: The tasks' kind.
            timeout: Seconds for the exchange; the transport's own limit by default.

        Raises:
            InputError: A number is out of range.
            CometError: As `comet_async._wire.decode.decode_page` says.
        """
        for field, value, most in (("page", number, MAX_PAGE), ("size", size, MAX_PAGE_SIZE)):
            if not 1 <= value <= most:
                msg = f"{field}={value} is outside 1 to {most}"
                raise InputError(msg, field=field, value=value, limit=f"1 to {most}")

        def decode(reply: Reply) -> TaskPage:
            return decode_page(
                reply, kind=kind.name, number=number, size=size, now=self.clock.time()
            )

        return await self._ask(self.gateway.page(kind, number, size), decode, timeout)

    async def _ask(self, url: URL, decode: Callable[[Reply], T], timeout: float | None) -> T:
        limit = timeout if timeout is not None else self.transport.timeouts.ask
        try:
            return self._read(
                decode, await self.transport.ask(url, self.credentials, timeout=limit)
            )
        except AuthenticationError as error:
            if not self._may_renew(error):
                raise
        return self._read(decode, await self.transport.ask(url, self.credentials, timeout=limit))

    def _read(self, decode: Callable[[Reply], T], reply: Reply) -> T:
        """Decode an answer; nothing in the result or the error repeats a key that it echoes.

        The error's traceback starts anew: tools show the local variables of its frames.
        """
        secrets, failure = self.credentials.secrets, None
        try:
            return decode(_without(secrets, reply))
        except CometError as error:
            failure = error.with_traceback(None)
        if failure.code in _TOKEN_CODES:
            self._correct_clock(reply)
        _redact_fields(failure, secrets)
        raise failure

    def _correct_clock(self, reply: Reply) -> None:
        """Sign by the server's clock from now on: it refused a token for its time."""
        date = date_of(reply.headers)
        if date is not None and isinstance(self.credentials, KlingToken):
            self.credentials.correct_clock(self.clock.time(), date)

    def _may_renew(self, error: CometError) -> bool:
        return error.code in _TOKEN_CODES and self.credentials.renew()
