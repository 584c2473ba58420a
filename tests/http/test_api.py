"""The API's calls: what is asked, under which key, once, and what the answers become."""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import attrs
import jwt
import pytest
from aiohttp import web

from comet_async._http.api import Api, Submission, Submissions
from comet_async._http.body import Body
from comet_async.auth import ApiKey, Credentials, KlingToken
from comet_async.config import Network, Timeouts
from comet_async.errors import (
    AccountError,
    AuthenticationError,
    CometError,
    ConnectionLostError,
    DecodeError,
    InputError,
    NotFoundError,
    OutcomeUnknownError,
    RouteUnavailableError,
)
from comet_async.gateways import Gateway, LookupForm
from comet_async.models import Task, TaskPage, TaskStatus
from comet_async.requests import EXPAND
from comet_async.secret import Secret
from comet_async.testing import VirtualClock
from tests.support.servers import Answer, Handler, Server, answering, serving

PATH = "/kling/v1/images/editing/expand"
BODY = Body((b'{"n":1}',))
KEY = ApiKey(Secret("sk-canary"))


def token() -> KlingToken:
    """Return credentials that can be signed anew."""
    return KlingToken(Secret("access"), Secret("s" * 40))


def data(task_id: str = "8781", own_id: str | None = "ce1-x") -> dict[str, Any]:
    """Return Kling's object for one task."""
    info = {} if own_id is None else {"external_task_id": own_id}
    return {"task_id": task_id, "task_status": "submitted", "task_info": info}


def envelope(content: Any, code: int = 0) -> dict[str, Any]:  # noqa: ANN401 - any content
    """Return Kling's envelope around *content*."""
    return {"code": code, "message": "SUCCEED", "request_id": "r-1", "data": content}


def refusal(status: int, code: int | str, message: str = "no") -> web.Response:
    """Return an error as Kling words it."""
    return web.json_response({"code": code, "message": message}, status=status)


@asynccontextmanager
async def api_on(
    handler: Handler, *, credentials: Credentials = KEY, headers: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Api, Server]]:
    """An account on a server that answers with *handler*."""
    clock = VirtualClock()
    async with serving(handler) as server:
        gateway = attrs.evolve(Gateway.comet(server.url), headers=headers or {})
        api = Api.connect(gateway, credentials, network=Network(), timeouts=Timeouts(), clock=clock)
        try:
            yield api, server
        finally:
            await api.transport.aclose()


Call = Callable[[Api], Any]
CREATE: Call = lambda api: api.create(EXPAND, BODY, external_task_id="ce1-x")  # noqa: E731 - a table of calls
GET: Call = lambda api: api.get("8781", kind=EXPAND)  # noqa: E731 - a table of calls
FIND: Call = lambda api: api.find("ce1-x", kind=EXPAND)  # noqa: E731 - a table of calls
FIND_QUERY: Call = lambda api: api.find("ce1-x", kind=EXPAND, form="query")  # noqa: E731 - a table of calls
PAGE: Call = lambda api: api.page(2, 30, kind=EXPAND)  # noqa: E731 - a table of calls


async def result_of(call: Call, *answers: Answer) -> Task | TaskPage | CometError:
    """Return what a call gives or raises on a server that gives *answers*."""
    async with api_on(answering(*answers)) as (api, _):
        try:
            result: Task | TaskPage = await call(api)
        except CometError as error:
            return error
        return result


@pytest.mark.parametrize(
    ("call", "content", "method", "path"),
    [
        (CREATE, data(), "POST", PATH),
        (GET, data(), "GET", f"{PATH}/8781"),
        (FIND, data(), "GET", f"{PATH}/ce1-x"),
        (FIND_QUERY, data(), "GET", f"{PATH}?external_task_id=ce1-x"),
        (PAGE, [data()], "GET", f"{PATH}?pageNum=2&pageSize=30"),
    ],
    ids=["create", "get", "find", "find-query", "page"],
)
async def test_one_exchange(call: Call, content: Any, method: str, path: str) -> None:  # noqa: ANN401 - any JSON
    """Each call is one request, to its own address, with the key."""
    async with api_on(answering(envelope(content))) as (api, server):
        await call(api)
    (request,) = server.seen
    assert (request.method, request.path) == (method, path)
    assert request.headers["authorization"] == "Bearer sk-canary"


async def test_create() -> None:
    """A paid request carries its body and its id, and becomes the task that was accepted."""
    async with api_on(answering(envelope(data(own_id=None)))) as (api, server):
        task = await CREATE(api)
    assert server.seen[0].json == {"n": 1}
    assert server.seen[0].headers["idempotency-key"] == "ce1-x"
    assert (task.id, task.external_task_id, task.kind) == ("8781", "ce1-x", "expand")


async def test_get() -> None:
    """A task is told as the server shows it now."""
    task = await result_of(GET, envelope(data() | {"task_status": "processing"}))
    assert isinstance(task, Task)
    assert (task.status, task.request_id) == (TaskStatus.PROCESSING, "r-1")


async def test_page() -> None:
    """A page keeps the server's order, and knows its place."""
    page = await result_of(PAGE, envelope([data("2"), data("1")]))
    assert isinstance(page, TaskPage)
    assert [task.id for task in page.tasks] == ["2", "1"]
    assert (page.number, page.size, page.last) == (2, 30, True)


@pytest.mark.parametrize("form", ["path", "query", "flag"])
@pytest.mark.parametrize("own_id", ["ce1-x", "ce1-other", None], ids=str)
async def test_find_does_not_judge(form: LookupForm, own_id: str | None) -> None:
    """The answer is given as it came, even when it is about another task."""
    async with api_on(answering(envelope(data(own_id=own_id)))) as (api, _):
        task = await api.find("ce1-x", kind=EXPAND, form=form)
    assert task.external_task_id == own_id


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ([data("1")], "1"),
        ([data("1", None)], "1"),
        ([data("1", "a"), data("2"), data("3", "b")], "2"),
        ([], NotFoundError),
        ([data("1", "a"), data("2", "b")], DecodeError),
    ],
    ids=["one", "unnamed", "among-others", "none", "others"],
)
@pytest.mark.parametrize("call", [FIND, FIND_QUERY], ids=["path", "query"])
async def test_read_that_is_answered_with_a_list(
    call: Call, listed: list[dict[str, Any]], found: str | type[CometError]
) -> None:
    """Of a list, the task is taken that carries the id, or the only one there is."""
    result = await result_of(call, envelope(listed))
    assert (result.id if isinstance(result, Task) else type(result)) == found


@pytest.mark.parametrize(
    ("call", "answer", "error"),
    [
        (CREATE, refusal(401, 1002), AuthenticationError),
        (CREATE, refusal(429, 1102), AccountError),
        (CREATE, web.Response(status=502, body=b"<html>"), OutcomeUnknownError),
        (CREATE, web.Response(status=200, body=b"<html>"), OutcomeUnknownError),
        (CREATE, {"code": None, "message": "404"}, RouteUnavailableError),
        (GET, refusal(404, 1203), NotFoundError),
        (GET, refusal(400, "task_not_exist"), NotFoundError),
        (FIND, refusal(404, 1203), NotFoundError),
        (FIND_QUERY, refusal(404, 1203), NotFoundError),
        (FIND_QUERY, refusal(401, 1000), AuthenticationError),
        (PAGE, web.Response(status=404, body=b"<html>"), RouteUnavailableError),
    ],
)
async def test_error(call: Call, answer: Answer, error: type[CometError]) -> None:
    """An answer that is an error becomes the error that it means for this call."""
    result = await result_of(call, answer)
    assert type(result) is error
    assert result.status is not None


@pytest.mark.parametrize(
    "call", [GET, FIND, FIND_QUERY, PAGE, CREATE], ids=["get", "find", "query", "page", "create"]
)
@pytest.mark.parametrize("code", [1003, 1004, "1004"], ids=repr)
async def test_token_that_was_refused_is_signed_anew(call: Call, code: int | str) -> None:
    """A token that is too early or too late for the server is replaced, once."""
    credentials = token()
    good = envelope([data()] if call is PAGE else data())
    handler = answering(refusal(401, code), good)
    async with api_on(handler, credentials=credentials) as (api, server):
        first = credentials.header(api.clock.time() - 60)  # an older token
        await call(api)
    tokens = [request.headers["authorization"] for request in server.seen]
    assert len(tokens) == 2
    assert tokens[0] == first != tokens[1]


@pytest.mark.parametrize("call", [GET, CREATE], ids=["get", "create"])
@pytest.mark.parametrize(
    ("credentials", "code", "times"),
    [(token, 1004, 2), (token, 1002, 1), (lambda: KEY, 1004, 1)],
    ids=["token-again", "wrong-token", "key"],
)
async def test_refusal_that_signing_does_not_change(
    call: Call, credentials: Callable[[], Credentials], code: int, times: int
) -> None:
    """A second refusal, another reason, or a key that can't be renewed: that is the answer."""
    async with api_on(answering(refusal(401, code)), credentials=credentials()) as (api, server):
        with pytest.raises(AuthenticationError):
            await call(api)
    assert len(server.seen) == times


@pytest.mark.parametrize("task_id", ["", "a/b", "../x", ".", "..", "a\nb", "\x00"], ids=repr)
async def test_what_can_not_be_a_task_id(task_id: str) -> None:
    """An id that would lead to another address is refused, and nothing is asked."""
    async with api_on(answering({})) as (api, server):
        with pytest.raises(InputError) as caught:
            await api.get(task_id, kind=EXPAND)
    assert caught.value.field == "task_id"
    assert server.seen == []


@pytest.mark.parametrize(
    ("number", "size", "field"),
    [(0, 30, "page"), (1001, 30, "page"), (1, 0, "page_size"), (1, 501, "page_size")],
)
async def test_page_out_of_range(number: int, size: int, field: str) -> None:
    """Pages go from 1 to 1000 with 1 to 500 tasks; anything else is not asked for."""
    async with api_on(answering({})) as (api, server):
        with pytest.raises(InputError) as caught:
            await api.page(number, size, kind=EXPAND)
    assert caught.value.field == field
    assert server.seen == []


async def silence(_request: web.BaseRequest) -> web.StreamResponse:
    """Never answer."""
    await asyncio.sleep(1e6)
    raise AssertionError


@pytest.mark.parametrize(("timeout", "seconds"), [(None, 20), (3, 3)])
async def test_read_has_its_timeout(timeout: float | None, seconds: float) -> None:
    """A question ends with its own time, or the transport's."""
    loop = asyncio.get_running_loop()
    async with api_on(silence) as (api, _):
        for call in (
            api.get("1", kind=EXPAND, timeout=timeout),
            api.page(1, 1, kind=EXPAND, timeout=timeout),
        ):
            begin = loop.time()
            with pytest.raises(ConnectionLostError):
                await call
            # aiohttp rounds long limits up to a whole second of the loop's clock.
            assert loop.time() - begin == pytest.approx(seconds, abs=2)


ECHOES = {
    "text": {"code": 1002, "message": "the token KEY is not valid"},
    "code": {"code": "KEY", "message": "no"},
    "request id": {"code": 1002, "message": "no", "request_id": "KEY"},
    "task id": {"code": 1201, "message": "no", "data": {"task_id": "KEY"}},
    "field": {"code": 1002, "message": "no", "authorization": ["Bearer KEY"]},
    "web page": b"<html><title>KEY is not valid</title>",
}


@pytest.mark.parametrize("call", [CREATE, GET, FIND, PAGE], ids=["create", "get", "find", "page"])
@pytest.mark.parametrize("key", ["canary-0123", "f47ac10b58cc4372a5670e02b2c3d479", "ab/cd+01=="])
@pytest.mark.parametrize("place", [*ECHOES, "header"])
async def test_key_that_the_server_repeats(call: Call, key: str, place: str) -> None:
    """Neither an error nor the local variables of its frames hold a key that a server echoes."""
    body = ECHOES.get(place, {"code": 1002, "message": "no"})
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"x-request-id": key} if place == "header" else {}
    echo = web.Response(status=401, body=raw.replace(b"KEY", key.encode()), headers=headers)
    async with api_on(answering(echo), credentials=ApiKey(Secret(key))) as (api, _):
        with pytest.raises(CometError) as caught:
            await call(api)
        shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        frames = [frame for frame in shown.stack if "comet_async/_" in frame.filename]
        assert frames
        assert key not in str([frame.locals for frame in frames])
        assert key not in f"{caught.value} {caught.value.args} {vars(caught.value)}"


@pytest.mark.parametrize("call", [CREATE, GET, FIND], ids=["create", "get", "find"])
async def test_key_that_the_server_repeats_in_a_task(call: Call) -> None:
    """The snapshot, its raw object included, does not hold it either."""
    echo = envelope({**data(), "task_status": "f47ac10b58cc", "note": "f47ac10b58cc"})
    echo["request_id"] = "f47ac10b58cc"
    async with api_on(answering(echo), credentials=ApiKey(Secret("f47ac10b58cc"))) as (api, _):
        task = await call(api)
    assert "f47ac10b58cc" not in f"{task} {task.raw} {task.request_id}"


DISGUISED = "canary-0123456789"


async def test_key_that_the_server_repeats_in_disguise() -> None:
    """JSON may write the key in other letters, and an echo in a good answer is cut out, too."""
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in DISGUISED)
    disguised = web.Response(text=f'{{"code": 1002, "request_id": "{escaped}"}}', status=401)
    good = web.json_response(envelope(data()) | {"request_id": DISGUISED})
    async with api_on(answering(disguised, good), credentials=ApiKey(DISGUISED)) as (api, _):
        with pytest.raises(AuthenticationError) as caught:
            await GET(api)
        assert DISGUISED not in repr(vars(caught.value))
        task = await GET(api)
    assert (task.id, task.request_id) == ("8781", "…")


@pytest.mark.parametrize("ahead", [-86_400, -3600, 3600, 86_400])
@pytest.mark.parametrize("call", [GET, CREATE], ids=["get", "create"])
async def test_tokens_go_by_the_servers_clock(call: Call, ahead: int) -> None:
    """Once a token was refused, the server's Date decides what time it is."""
    credentials, times = token(), []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        words = request.headers["Authorization"].removeprefix("Bearer ")
        claims = jwt.decode(words, options={"verify_signature": False})
        times.append(claims)
        now = clock.time() + ahead
        date = {"Date": format_datetime(datetime.fromtimestamp(now, UTC), usegmt=True)}
        if claims["nbf"] <= now < claims["exp"]:
            return web.json_response(envelope(data()), headers=date)
        return web.json_response({"code": 1004, "message": "token"}, status=401, headers=date)

    async with api_on(handle, credentials=credentials) as (api, _):
        clock = api.clock
        await call(api)
        await call(api)
    assert len(times) == 3


async def test_the_key_is_not_shown() -> None:
    """Neither by the account nor by what it is known by."""
    async with api_on(answering({})) as (api, _):
        assert "canary" not in f"{api.credentials.account} {api!r}"


@pytest.mark.parametrize("call", [CREATE, GET, FIND, PAGE], ids=["create", "get", "find", "page"])
async def test_headers_of_the_gateway_go_with_each_call(call: Call) -> None:
    """Besides ours; and an answer that echoes one does not bring it into an error."""
    headers = {"X-Gateway-Auth": "Basic dXNlcjpwYXNzd29yZA"}
    refused = refusal(400, 1201, "no dXNlcjpwYXNzd29yZA here")
    async with api_on(answering(refused), headers=headers) as (api, server):
        with pytest.raises(CometError) as caught:
            await call(api)
    assert server.seen[0].headers["x-gateway-auth"] == headers["X-Gateway-Auth"]
    assert server.seen[0].headers["authorization"].startswith("Bearer ")
    assert "dXNlcjpwYXNzd29yZA" not in f"{caught.value}{caught.value.as_dict()}"


@pytest.mark.parametrize("value", ['"v1"', "W/'v1'", 'tenant "blue', '"', "it's"])
async def test_a_header_in_quotes_does_not_hide_what_was_accepted(value: str) -> None:
    """A key is never in quotes, a header may be: its request is paid, and its answer counts."""
    async with api_on(answering(envelope(data())), headers={"X-Tag": value}) as (api, server):
        assert (await CREATE(api)).id == "8781"
    assert server.seen[0].headers["x-tag"] == value
    assert "blue" not in repr(api.gateway)


@pytest.mark.parametrize("call", [CREATE, GET, FIND], ids=["create", "get", "find"])
async def test_a_header_that_is_no_key_may_stand_in_an_answer(call: Call) -> None:
    """A result whose URL has the tenant's name in it is not damaged."""
    url = "https://acme-images.example/acme-images/a.png"
    done = data() | {
        "task_status": "succeed",
        "task_result": {"images": [{"index": 0, "url": url}]},
    }
    headers = {"X-Tenant": "acme-images", "X-Api-Key": "acme-key-1"}
    async with api_on(answering(envelope(done)), headers=headers) as (api, _):
        task = await call(api)
    assert task.succeeded
    assert [image.url for image in task.images] == [url]
    refused = refusal(400, 1201, "no acme-images for acme-key-1")
    async with api_on(answering(refused), headers=headers) as (api, _):
        with pytest.raises(CometError) as caught:
            await call(api)
    assert "acme" not in f"{caught.value}{caught.value.as_dict()}"


async def test_hosts_of_results_see_no_header_of_the_gateway() -> None:
    """They are named by the server, and belong to others."""
    async with api_on(answering({}), headers={"X-Tenant": "t-17"}) as (api, server):
        (await api.transport.fetch(server.url / "image.png")).close()
    assert "x-tenant" not in server.seen[0].headers


@pytest.fixture
def busy_threads() -> Generator[None, None, None]:
    """Let threads take turns as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("busy_threads")
def test_loops_in_several_threads_record_their_submissions() -> None:
    """What was accepted, and is paid, must not fail for a note about when it was sent."""
    submissions = Submissions()

    def submit(thread: int) -> None:
        for number in range(10_000):
            submissions.add(f"{thread}-{number}", Submission(0.0, 1.0))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(submit, range(4)))
    assert len(submissions._known) == Submissions._MOST
