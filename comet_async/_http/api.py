"""The API's calls, one exchange each: the request, its gateway, its key, and its answer.

Nothing here repeats a paid request, waits, or keeps anything but the offset of the server's clock.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Iterable
from functools import partial
from typing import Self, TypeVar

import attrs
from yarl import URL

from comet_async._http.body import Body
from comet_async._http.transport import Transport
from comet_async._validation import DOTS, check_number
from comet_async._wire.decode import Reply, date_of, decode_created, decode_page, decode_task
from comet_async.auth import Credentials, KlingToken
from comet_async.clock import Clock
from comet_async.config import Network, Timeouts
from comet_async.errors import AuthenticationError, CometError, InputError
from comet_async.gateways import Gateway, LookupForm
from comet_async.models import Task, TaskKind, TaskPage
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
        if key in "\n".join(reply.headers.values()):
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
        sent: When it was sent; the first time, if its token had to be renewed.
        answered: When its answer came.
    """

    sent: float
    answered: float


class Submissions:
    """When the newest tasks of this session were submitted, so that their ages need no clock."""

    _MOST = 8192

    def __init__(self) -> None:
        self._known: dict[str, Submission] = {}
        self._lock = threading.Lock()

    def add(self, task_id: str, submission: Submission) -> None:
        """Record a submission; the oldest one is dropped when there are too many."""
        with self._lock:  # loops in two threads could drop the same one
            self._known[task_id] = submission
            if len(self._known) > self._MOST:
                del self._known[next(iter(self._known))]

    def find(self, task_id: str) -> Submission | None:
        """Return when the task was submitted, if it was lately and here."""
        return self._known.get(task_id)


def _keys_of_gateway(api: Api) -> tuple[Secret, ...]:
    return api.gateway.keys


@attrs.define(eq=False)
class Api:
    """One account on one gateway."""

    gateway: Gateway
    credentials: Credentials = attrs.field(repr=False)
    transport: Transport
    clock: Clock
    submissions: Submissions = attrs.field(factory=Submissions, init=False, repr=False)
    # Looked for in each answer: found once.
    _gateway_keys: tuple[Secret, ...] = attrs.field(
        init=False, repr=False, default=attrs.Factory(_keys_of_gateway, takes_self=True)
    )

    @classmethod
    def connect(
        cls,
        gateway: Gateway,
        credentials: Credentials,
        *,
        network: Network,
        timeouts: Timeouts,
        clock: Clock,
    ) -> Self:
        """Return an account with connections of its own, of which none is open yet.

        Args:
            gateway: Where the account is. Its host may have a private address: it was configured.
            credentials: What signs the requests.
            network: How to reach the gateway, and the hosts of results.
            timeouts: Time limits.
            clock: The source of time.
        """
        hosts = {gateway.root.host or "", *(("localhost",) if gateway.loopback else ())}
        transport = Transport(
            network=network,
            timeouts=timeouts,
            clock=clock,
            trusted=frozenset(hosts),
            headers=gateway.headers,
        )
        return cls(gateway, credentials, transport, clock)

    @property
    def _keys(self) -> tuple[Secret, ...]:
        return (*self.credentials.secrets, *self._gateway_keys)

    @property
    def _secrets(self) -> tuple[Secret, ...]:
        return (*self.credentials.secrets, *self.gateway.secrets)

    async def create(self, kind: TaskKind, body: Body, *, external_task_id: str) -> Task:
        """Send one paid request, exactly once.

        If the server refuses a signed token as expired or not yet valid, the request is sent
        again with a new one: the server refused the first before reading it.

        Raises:
            CometError: As `comet_async._http.transport.Transport.post` and
                `comet_async._wire.decode.decode_created` say; ``sent`` says whether it left.
        """
        decode = partial(decode_created, kind=kind.name, external_task_id=external_task_id)
        url, sent = self.gateway.collection(kind), self.clock.monotonic()
        task = await self._exchange(url, decode, body=body, external_task_id=external_task_id)
        self.submissions.add(task.id, Submission(sent, self.clock.monotonic()))
        return task

    async def get(self, task_id: str, *, kind: TaskKind, timeout: float | None = None) -> Task:
        """Get one task by the server's id.

        Args:
            task_id: The id.
            kind: The task's kind, which decides the path.
            timeout: Seconds for the exchange; the transport's own limit by default.

        Raises:
            CometError: As `comet_async._wire.decode.decode_task` says.
        """
        if not task_id or "/" in task_id or task_id in DOTS or not task_id.isprintable():
            raise InputError(
                f"{task_id!r} is not a valid task id",
                field="task_id",
                value=task_id,
                limit="text without slashes that is not . or ..",
            )
        decode = partial(decode_task, kind=kind.name, task_id=task_id)
        return await self._exchange(self.gateway.task(kind, task_id), decode, timeout=timeout)

    async def find(
        self, external_task_id: str, *, kind: TaskKind, form: LookupForm = "path"
    ) -> Task:
        """Look one task up by our own id.

        Whether the answer is about *this* id is for the caller to judge: a gateway may ignore
        the id and show another task.

        Raises:
            CometError: As `comet_async._wire.decode.decode_task` says.
        """
        decode = partial(decode_task, kind=kind.name, external_task_id=external_task_id)
        return await self._exchange(self.gateway.lookup(kind, external_task_id, form), decode)

    async def page(
        self, number: int, size: int, *, kind: TaskKind, timeout: float | None = None
    ) -> TaskPage:
        """Get one page of the list.

        Args:
            number: 1 to 1000.
            size: 1 to 500.
            kind: The tasks' kind.
            timeout: Seconds for the exchange; the transport's own limit by default.

        Raises:
            InputError: A number is out of range.
            CometError: As `comet_async._wire.decode.decode_page` says.
        """
        for field, value, most in (("page", number, MAX_PAGE), ("page_size", size, MAX_PAGE_SIZE)):
            check_number(field, value, least=1, most=most, whole=True)
        decode = partial(decode_page, kind=kind.name, number=number, size=size)
        return await self._exchange(self.gateway.page(kind, number, size), decode, timeout=timeout)

    async def fetch(self, url: URL, *, timeout: float | None = None) -> Reply:
        """Get anything from the gateway with the key; return its answer, whatever its status.

        Args:
            url: An address on the gateway.
            timeout: Seconds for the exchange; the transport's own limit by default.

        Raises:
            CometError: As `comet_async._http.transport.Transport.get` says.
        """
        return _without(self._keys, await self._send(url, timeout))

    async def _exchange(
        self,
        url: URL,
        decode: partial[T],
        *,
        timeout: float | None = None,
        body: Body | None = None,
        external_task_id: str = "",
    ) -> T:
        """Send, and decode the answer; once more if only the token was too old or too young.

        Args:
            url: Where to.
            decode: Called with the answer and the wall clock.
            timeout: Seconds for a GET; the transport's own limit by default.
            body: What to POST, and pay for; None to GET.
            external_task_id: Our own id of what is paid for.
        """
        reply = await self._send(url, timeout, body, external_task_id)
        result = self._read(decode, reply)
        if isinstance(result, AuthenticationError) and self._may_renew(result, reply):
            result = self._read(decode, await self._send(url, timeout, body, external_task_id))
        del reply  # the frames of an error must not show what the server echoed
        if isinstance(result, CometError):
            raise result
        return result

    def _send(
        self, url: URL, timeout: float | None, body: Body | None = None, external_task_id: str = ""
    ) -> Awaitable[Reply]:
        """Return the answer to one POST of *body*, or to a GET if there is none."""
        if body is not None:
            return self.transport.post(
                url, self.credentials, body, external_task_id=external_task_id
            )
        limit = self.transport.timeouts.request if timeout is None else timeout
        return self.transport.get(url, self.credentials, timeout=limit)

    def _read(self, decode: partial[T], reply: Reply) -> T | CometError:
        """Return what *decode* returns or raises, without any key that the server echoed.

        An error loses its traceback: the variables in it hold what the server wrote.
        """
        try:
            return decode(_without(self._keys, reply), now=self.clock.time)
        except CometError as caught:
            error = caught.with_traceback(None)
        _redact_fields(error, self._secrets)
        error.__context__ = error.__cause__ = None
        return error

    def _may_renew(self, error: CometError, reply: Reply) -> bool:
        """Return True if a new token may be accepted where the last one was refused."""
        if error.code not in _TOKEN_CODES:
            return False
        date = date_of(reply.headers)
        if date is not None and isinstance(self.credentials, KlingToken):
            # It refused a token for its time: from now on the server's clock decides.
            self.credentials.correct_clock(self.clock.time(), date)
        return self.credentials.renew()
