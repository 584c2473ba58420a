"""Every public constructor and option refuses what can't be meant, before anything happens.

The table below has a row for each parameter of everything public; a parameter without one fails
the test, so whoever adds it decides what it refuses.
"""

from __future__ import annotations

import enum
import functools
import inspect
import io
import math
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from obstore.store import S3Store

import comet_async
from comet_async import (
    ApiKey,
    CallbackReceiver,
    CometSession,
    ConfigError,
    ExpandRequest,
    FixedSchedule,
    Gateway,
    GenerationRequest,
    InputError,
    KlingToken,
    LearnedSchedule,
    LocalStore,
    Margins,
    Network,
    ObjectStore,
    RedactingFilter,
    ResultImage,
    RunOptions,
    Secret,
    SourceImage,
    SqliteJournal,
    TaskKind,
    TaskWaiter,
    Timeouts,
    TryOnRequest,
)
from comet_async._journal.memory import MemoryJournal
from comet_async.runs import Budget
from comet_async.sandbox import DEFAULT_KEY
from tests.support.images import make_png

PHOTO = make_png(400, 300)
BUCKET = S3Store("bucket")
WIDE = Margins(left=0.5)


class Odd:
    """An object that is nothing that anybody wants."""


async def awaited(*_args: object) -> None:
    """Do something only when it is awaited."""


class Awaited:
    """Its instances are called like `awaited`."""

    async def __call__(self, *_args: object) -> None:
        """Do something only when it is awaited."""


ODD = Odd()
NAN, INF = math.nan, math.inf

Wrong = tuple[object, ...]

# Each with what is near it, and what is a slip of the pen: bools for numbers, numbers for text.
FLAG: Wrong = ("yes", 1, 0, None, ODD)
SECONDS: Wrong = (-1, NAN, INF, "5", True, ODD)
POSITIVE: Wrong = (0, *SECONDS)
DEADLINE: Wrong = (-1, NAN, "5", True, ODD)
COUNT: Wrong = (0, -1, 1.5, NAN, INF, "2", True, None, ODD)
TEXT: Wrong = (5, True, b"x", ODD)
NAME: Wrong = ("", *TEXT)
PATH: Wrong = (5, True, ODD, "a\0b", "a\ud800b")
TOO_LONG = ("x" * 256, "x/" * 2_500)
WRITABLE_PATH = (*PATH, *TOO_LONG)
KEY: Wrong = ("", " ", "a b", "a\nb", "'k'", "\N{SNOWMAN}", 5, b"x", ODD)
CALL: Wrong = (5, "f", ODD, awaited, functools.partial(awaited, 1), Awaited())
OBJECT: Wrong = (5, "x", True, ODD)
PROMPT: Wrong = (5, True, b"x", "x" * 2501, "\ud800", ODD)
OWN_ID: Wrong = (5, True, "x" * 256, "a\nb", ".", "..", ODD)
IMAGE: Wrong = (5, True, None, ODD, "", "a\ud800b.png")
MARGINS: Wrong = (5, True, None, ODD, "", "wide", Path("wide.png"))
SHARE: Wrong = (-0.1, 2.1, NAN, INF, "1", True, None, ODD)
PIXELS: Wrong = (-1, 1.5, NAN, "1", True, None, ODD)
SIDE: Wrong = (0, *PIXELS)
ADDRESS: Wrong = (5, True, "", "x", "ftp://a.example", "https://", ODD)
ONE_OF: Wrong = (5, True, None, "", "something else", [], ODD)
TASK: Wrong = (5, True, None, "", "\ud800", ".", "..", ODD)
VARIANTS: Wrong = (0, 10, -1, 1.5, NAN, "2", True, None, ODD)
TASK_KIND: Wrong = (5, True, "", "something else", ODD)
MONEY: Wrong = (-1, NAN, INF, "1e999999", "1e-999999", "x", True, ODD)
PATTERNS: Wrong = (5, True, "", (5,), ("",), ODD)
AT_MOST: Wrong = (-1, 1.5, NAN, "2", True, ODD)

BUDGET = {
    "max_jobs": AT_MOST,
    "max_spend": MONEY,
    "price": MONEY,
    "budget": (5, True, None, ODD),
}
RUN = {
    "concurrency": COUNT,
    "prepare": FLAG,
    "settle": SECONDS,
    "timeout": DEADLINE,
    **BUDGET,
    "retry_failed": FLAG,
    "verify_remote": FLAG,
    "checksum": FLAG,
    "fresh": (5, True, None, ODD),
    "include": PATTERNS,
    "exclude": PATTERNS,
    "follow_links": FLAG,
}
CALLED = {
    "timeout": DEADLINE,
    "busy": ONE_OF,
    "on_submitted": CALL,
    "verify_remote": ("yes", 1, ODD),
    "out": WRITABLE_PATH,
}
WAITED = {"timeout": DEADLINE, "kind": TASK_KIND, "n": VARIANTS}
ASKED = {
    "prompt": PROMPT,
    "n": VARIANTS,
    "watermark": FLAG,
    "external_task_id": OWN_ID,
}

Rows = Mapping[str, Wrong]

MAKERS: dict[str, tuple[Callable[..., Any], dict[str, Any], Rows]] = {
    "ApiKey": (ApiKey, {"key": "k"}, {"key": (*KEY, None)}),
    "KlingToken": (
        KlingToken,
        {"access_key": "a" * 32, "secret_key": "b" * 32},
        {"access_key": (*KEY, None), "secret_key": (*KEY, None)},
    ),
    "Secret": (Secret, {"value": "k"}, {"value": (*KEY, None), "name": NAME}),
    "RedactingFilter": (RedactingFilter, {}, {"secrets": ("key", 5, None, ODD)}),
    "CallbackReceiver": (
        CallbackReceiver,
        {},
        {
            "host": (5, True, None, "", " ", ODD),
            "port": (-1, 70000, 1.5, "80", True, None, ODD),
            "token": ("short", "x" * 201, "ü" * 30, 5, ODD),
            "secret": ("x", "whsec_!", 5, ODD, (), (5,)),
            "public_url": ADDRESS,
            "allow_http": FLAG,
            "clock": OBJECT,
        },
    ),
    "Network": (
        Network,
        {},
        {
            "session": OBJECT,
            "download_session": OBJECT,
            "proxy": (5, True, "", "x", "ftp://a:1", ODD),
            "ssl": OBJECT,
            "trust_env": FLAG,
            "uploads": COUNT,
            "downloads": COUNT,
            "connections": COUNT,
        },
    ),
    "Timeouts": (
        Timeouts,
        {},
        {"connect": POSITIVE, "response": POSITIVE, "request": POSITIVE},
    ),
    "Gateway": (
        Gateway,
        {"name": "g", "root": "https://a.example"},
        {
            "name": (*NAME, None),
            "allow_http": FLAG,
            "root": (*ADDRESS, None, "http://a.example"),
            "prefix": (5, True, None, "v1", ODD),
            "down_field": ONE_OF,
            "lookup_forms": (5, "path", ("x",), None, ODD),
            "identity": (5, True, ODD),
            "headers": (5, "x", [], {"a": 5}, {5: "a"}, {"a b": "c"}, {"a": "b\r\nc: d"}, ODD),
        },
    ),
    "Gateway.comet": (Gateway.comet, {}, {"root": (*ADDRESS, None)}),
    "Gateway.kling": (Gateway.kling, {}, {"region": ONE_OF}),
    "Gateway.parse": (Gateway.parse, {"text": "comet"}, {"text": (*ADDRESS, None)}),
    "Margins": (Margins, {}, {"up": SHARE, "down": SHARE, "left": SHARE, "right": SHARE}),
    "Margins.uniform": (Margins.uniform, {"share": 0.1}, {"share": SHARE}),
    "Margins.for_aspect": (
        Margins.for_aspect,
        {"aspect": "16:9"},
        {"aspect": ("", "wide", "0:1", 0, -1, NAN, INF, True, None, ODD), "anchor": ONE_OF},
    ),
    "Margins.for_size": (
        Margins.for_size,
        {"width": 500, "height": 500},
        {"width": SIDE, "height": SIDE, "anchor": ONE_OF},
    ),
    "Margins.for_pixels": (
        Margins.for_pixels,
        {},
        {"up": PIXELS, "down": PIXELS, "left": PIXELS, "right": PIXELS},
    ),
    "FixedSchedule": (
        FixedSchedule,
        {"seconds": 1},
        {"seconds": (*POSITIVE, None), "rng": OBJECT},
    ),
    "LearnedSchedule": (
        LearnedSchedule,
        {},
        {
            "aim": (*POSITIVE, None),
            "floor": (*POSITIVE, None),
            "ceiling": (*POSITIVE, None),
            "rng": OBJECT,
        },
    ),
    "TaskKind": (
        TaskKind,
        {"name": "x", "path": "images/x"},
        {
            "name": (*NAME, None),
            "path": (*NAME, None, "/x", "images/../x"),
            "price": (-1, NAN, "x", True, ODD),
        },
    ),
    "ExpandRequest": (
        ExpandRequest,
        {"image": PHOTO, "margins": WIDE},
        {
            "image": IMAGE,
            "margins": MARGINS,
            **ASKED,
            "callback_url": (5, True, "", "x", "ftp://a.example", ODD),
        },
    ),
    "GenerationRequest": (
        GenerationRequest,
        {"prompt": "a dog"},
        {
            "prompt": (*PROMPT, "", None),
            "model": (*NAME, None),
            "negative_prompt": PROMPT,
            "image": (5, True, ODD, ""),
            "image_reference": (5, True, "", "something else", ODD),
            "aspect_ratio": ONE_OF,
            "n": VARIANTS,
            "callback_url": (5, True, "", "x", ODD),
            "external_task_id": OWN_ID,
        },
    ),
    "TryOnRequest": (
        TryOnRequest,
        {"human": PHOTO, "cloth": PHOTO},
        {
            "human": IMAGE,
            "cloth": IMAGE,
            "model": (*NAME, None),
            "callback_url": (5, True, "", "x", ODD),
            "external_task_id": OWN_ID,
        },
    ),
    "SourceImage.from_path": (SourceImage.from_path, {"path": "x.png"}, {"path": (*PATH, None)}),
    "SourceImage.from_bytes": (
        SourceImage.from_bytes,
        {"data": PHOTO},
        {"data": ("x", 5, True, None, ODD), "name": NAME},
    ),
    "SourceImage.from_file": (
        SourceImage.from_file,
        {"file": io.BytesIO(PHOTO)},
        {"file": (5, "x", None, ODD), "name": NAME},
    ),
    "SourceImage.from_url": (
        SourceImage.from_url,
        {"url": "https://a.example/x.png"},
        {"url": (*ADDRESS, None)},
    ),
    "CometSession": (
        CometSession,
        {"api_key": DEFAULT_KEY, "gateway": "http://127.0.0.1:9"},
        {
            "api_key": KEY,
            "gateway": (5, True, "", "x", "ftp://a.example", "http://a.example", ODD),
            "journal": (5, True, ODD, "a\0b", *TOO_LONG),
            "account": ("", 5, True, "a\nb", "x" * 101, ODD),
            "concurrency": COUNT,
            "request_timeout": POSITIVE,
            "settle": (*SECONDS, None),
            "verify_remote": FLAG,
            "schedule": (0, -1, NAN, INF, True, "5", ODD),
            "backoff": (5, "x", ODD),
            "callbacks": OBJECT,
            "on_event": CALL,
            "network": OBJECT,
            "prepare": FLAG,
            "stores": (5, "s3", True, {"https": Odd}, {5: Odd}, {"S3": Odd}, {"s3": 5}, ODD),
            "clock": OBJECT,
        },
    ),
    "LocalStore": (LocalStore, {"folder": "photos"}, {"folder": (*PATH, None, "")}),
    "ObjectStore": (ObjectStore, {"inner": BUCKET}, {"inner": (*OBJECT, None)}),
    "SqliteJournal.open": (
        SqliteJournal.open,
        {"path": "unused/journal.sqlite3"},
        {
            "path": (*WRITABLE_PATH, None, ""),
            "clock": OBJECT,
            "verify_remote": FLAG,
            "boot": NAME,
            "hook": CALL,
        },
    ),
}

# Bound to a session below.
SESSION: dict[str, tuple[dict[str, Any], Rows]] = {
    "aclose": ({}, {"timeout": (*SECONDS, None)}),
    "submit": (
        {"request": ExpandRequest(image=PHOTO, margins=WIDE)},
        {"request": (PHOTO, "x.png", 5, None, ODD)}
        | {name: CALLED[name] for name in ("timeout", "busy", "verify_remote")},
    ),
    "run": (
        {"request": ExpandRequest(image=PHOTO, margins=WIDE)},
        {"request": (PHOTO, "x.png", 5, None, ODD), **CALLED},
    ),
    "expand": (
        {"image": PHOTO, "margins": WIDE},
        {"image": IMAGE, "margins": MARGINS, **ASKED, **CALLED},
    ),
    "expand_many": (
        {"requests": []},
        {"requests": (5, None, "x.png", ODD), "out": WRITABLE_PATH, **RUN},
    ),
    "expand_folder": (
        {"source": "photos", "out": "wide", "margins": WIDE},
        {
            "source": (5, True, None, ODD, "", [5]),
            "out": (*WRITABLE_PATH, None),
            "margins": MARGINS,
            **{name: ASKED[name] for name in ("prompt", "n", "watermark")},
            **RUN,
        },
    ),
    "run_job": ({"key": "ce1-x"}, {"key": (*NAME, None), "timeout": DEADLINE, **BUDGET}),
    "resume": ({}, RUN),
    "balance": ({}, {}),
    "measure": ({"image": PHOTO}, {"image": IMAGE}),
    "get": ({"task_id": "1"}, {"task_id": (*NAME, None, "\ud800"), "kind": (*TASK_KIND, None)}),
    "find": (
        {"external_task_id": "x"},
        {"external_task_id": (*NAME, None, "\ud800"), "kind": (*TASK_KIND, None)},
    ),
    "list_tasks": (
        {},
        {"kind": (*TASK_KIND, None), "page_size": (0, 501, -1, 1.5, "5", True, None, ODD)},
    ),
    "wait": ({"task": "1"}, {"task": TASK, **WAITED}),
    "transitions": ({"task": "1"}, {"task": TASK, **WAITED}),
    "as_completed": ({"tasks": ["1"]}, {"tasks": (5, None, ODD, "1", [5]), **WAITED}),
    "download": (
        {"image": ResultImage(index=0, url="https://a.example/x"), "path": "x.png"},
        {
            "image": (5, None, "https://a.example/x", ODD),
            "path": (*WRITABLE_PATH, None),
            "exists": ONE_OF,
            "watermarked": FLAG,
        },
    ),
    "read": (
        {"image": ResultImage(index=0, url="https://a.example/x")},
        {"image": (5, None, "https://a.example/x", ODD), "watermarked": FLAG},
    ),
    "stream": (
        {"image": ResultImage(index=0, url="https://a.example/x")},
        {"image": (5, None, "https://a.example/x", ODD), "watermarked": FLAG},
    ),
}
WAITER: dict[str, tuple[dict[str, Any], Rows]] = {
    "wait": SESSION["wait"],
    "transitions": SESSION["transitions"],
    "as_completed": (
        {"tasks": ["1"]},
        {"tasks": (5, None, ODD, "1", [5]), **WAITED, "prefetch": COUNT},
    ),
}
NEW_WAITER: Rows = {
    "session": (5, None, "x", ODD),
    "timeout": DEADLINE,
    "schedule": (0, -1, NAN, INF, True, "5", ODD),
    "callbacks": OBJECT,
    "error_budget": (*SECONDS, None),
    "not_found_grace": (*SECONDS, None),
    "use_list": FLAG,
    "concurrency": COUNT,
    "on_event": CALL,
    "rng": OBJECT,
}

# Facts that the library hands out: nobody makes them but us, and tests.
FACTS = {
    "Balance", "Notification", "Outcome", "ResultImage", "Run", "SkipReport", "SourceImage",
    "SqliteJournal", "Task", "TaskPage",
}  # fmt: skip


def parameters(function: Callable[..., Any]) -> set[str]:
    """Return the names of a function's parameters, and of its options."""
    options = {"Unpack[RunOptions]": RunOptions, "Unpack[Budget]": Budget}
    names = set()
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            names |= set(typing.get_type_hints(options[parameter.annotation]))
        elif name != "self":
            names.add(name)
    return names


def public_methods(owner: type) -> set[str]:
    """Return the names of a class's public methods that take something."""
    names = (name for name in dir(owner) if not name.startswith("_"))
    return {name for name in names if inspect.isfunction(getattr(owner, name))}


def test_every_parameter_has_a_row() -> None:
    """Also those that will be added."""
    public = {name: getattr(comet_async, name) for name in comet_async.__all__}
    for name, value in public.items():
        if not inspect.isclass(value) or issubclass(value, BaseException | enum.Enum):
            continue
        if getattr(value, "_is_protocol", False) or typing.is_typeddict(value):
            continue
        known = name in FACTS or name in MAKERS or name == "TaskWaiter"
        assert known, f"{name} is new: what does it refuse?"
    for name, (function, _, rows) in MAKERS.items():
        assert parameters(function) == set(rows), name
    for owner, table in ((CometSession, SESSION), (TaskWaiter, WAITER)):
        for name, (_, rows) in table.items():
            assert parameters(getattr(owner, name)) == set(rows), name
    assert parameters(TaskWaiter) == set(NEW_WAITER)
    polls = {"poll", "poll_page", "submission"}  # for waiters
    assert public_methods(CometSession) - polls == set(SESSION)
    assert public_methods(TaskWaiter) - {"aclose", "notify"} == set(WAITER)


def check_refused(error: InputError | ConfigError, name: str) -> None:
    """Check that the error names the field, and says what it may be."""
    assert error.field, name
    assert error.limit or error.hint, name
    assert len(str(error)) < LONGEST


LONGEST = 600  # characters that anybody reads


async def call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Call a function of any kind, up to where it would do something."""
    given = dict(arguments)
    several = [
        given.pop(name)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.VAR_POSITIONAL and name in given
    ]
    made = function(*several, **given)
    if inspect.isawaitable(made):
        await made
    elif function.__name__ == "stream":
        async with made:
            pass
    elif function.__name__ in {"transitions", "as_completed", "list_tasks"}:
        async for _ in made:
            pass


def parametrize(table: Mapping[str, tuple[Any, ...]]) -> pytest.MarkDecorator:
    """Return a test for each parameter of each function in *table*."""
    rows = [pytest.param(key, name, id=f"{key}-{name}") for key in table for name in table[key][-1]]
    return pytest.mark.parametrize(("key", "name"), rows)


@parametrize(MAKERS)
async def test_makers_refuse(
    key: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong value is an error of ours when the object is made, with the field and the limit."""
    monkeypatch.chdir(tmp_path)
    function, good, rows = MAKERS[key]
    for value in rows[name]:
        with pytest.raises((InputError, ConfigError)) as caught:
            await call(function, {**good, name: value})
        check_refused(caught.value, name)
    assert list(tmp_path.iterdir()) == []


@parametrize(SESSION)
async def test_sessions_refuse(
    key: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in calls: before anything is sent, or there would be another error here."""
    monkeypatch.chdir(tmp_path)
    good, rows = SESSION[key]
    for value in rows[name]:
        async with CometSession(
            DEFAULT_KEY, gateway="http://127.0.0.1:9", journal=MemoryJournal()
        ) as comet:
            with pytest.raises((InputError, ConfigError)) as caught:
                await call(getattr(comet, key), {**good, name: value})
        check_refused(caught.value, name)
    assert list(tmp_path.iterdir()) == []


@parametrize(WAITER)
async def test_waiters_refuse(key: str, name: str) -> None:
    """A waiter of one's own is as strict."""
    good, rows = WAITER[key]
    async with CometSession(DEFAULT_KEY, gateway="http://127.0.0.1:9") as comet:
        for value in rows[name]:
            with pytest.raises(InputError) as caught:
                await call(getattr(TaskWaiter(comet), key), {**good, name: value})
            check_refused(caught.value, name)


@pytest.mark.parametrize("name", NEW_WAITER)
async def test_new_waiters_refuse(name: str) -> None:
    """And when it is made."""
    async with CometSession(DEFAULT_KEY, gateway="http://127.0.0.1:9") as comet:
        for value in NEW_WAITER[name]:
            with pytest.raises(InputError) as caught:
                TaskWaiter(**{"session": comet, name: value})
            check_refused(caught.value, name)


async def test_unknown_options_are_refused(comet: CometSession, tmp_path: Path) -> None:
    """A slip in an option's name must not be taken for nothing said."""
    with pytest.raises(InputError, match="max_job is not an option"):
        comet.expand_folder(tmp_path, tmp_path / "o", WIDE, max_job=1)  # type: ignore[call-arg]  # a wrong name is tested


def test_good_values_are_taken() -> None:
    """The table's other values are right, or its rows would prove nothing."""
    for key, (function, good, _) in MAKERS.items():
        if key != "SqliteJournal.open":
            function(**good)
