"""Odd answers about finished tasks: URLs that fail, and more images than were asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from comet_async import CometSession, Margins
from comet_async.testing import VirtualClock
from tests.support.servers import serving


class Gateway:
    """Takes one task; each answer about it has new URLs.

    Attributes:
        photo: The result.
        n: How many images the task shows, in the first answer.
        later: How many in all others.
        answer: What the URLs of the first answer give instead of the result.
        fetched: The paths of the results that were asked for.
    """

    def __init__(self, photo: bytes, n: int, answer: web.Response | None = None) -> None:
        self.photo, self.n, self.answer = photo, n, answer
        self.later = n
        self.fetched: list[str] = []
        self.answers = 0
        self.base = ""
        self.first = 0  # the first image's index
        self.spoil: Callable[[bytes], bytes] = lambda body: body

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.path.startswith("/r/"):
            self.fetched.append(request.path)
            if self.answer is not None and request.path.startswith("/r/1/"):
                return self.answer
            return web.Response(body=self.photo)
        task: dict[str, Any] = {"task_id": "1", "task_status": "submitted"}
        if request.method == "GET" and "1" in request.path.rpartition("/")[2]:
            self.answers += 1
            shown = self.n if self.answers == 1 else self.later
            urls = [f"{self.base}/r/{self.answers}/{index}.png" for index in range(shown)]
            images = [{"index": index, "url": url} for index, url in enumerate(urls, self.first)]
            task |= {"task_status": "succeed", "task_result": {"images": images}}
        answer = {"code": 0, "message": "SUCCEED", "data": task}
        body = self.spoil(json.dumps(answer).encode())
        return web.Response(body=body, content_type="application/json")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418, 451])
@pytest.mark.parametrize("n", [1, 3])
async def test_a_run_renews_its_urls(
    photo: bytes, tmp_path: Path, clock: VirtualClock, status: int, n: int
) -> None:
    """What a store answers to an old signature differs; the task is asked for once, for free."""
    gateway = Gateway(photo, n, web.Response(status=status, text="<Code>ExpiredToken</Code>"))
    (tmp_path / "a.png").write_bytes(photo)
    async with serving(gateway.handle) as server:
        gateway.base = str(server.url)
        async with CometSession("sk-test", gateway=gateway.base, clock=clock) as comet:
            run = comet.expand_folder(tmp_path / "a.png", tmp_path / "out", Margins(left=0.5), n=n)
            outcomes = [outcome async for outcome in run]
    assert [str(outcome.status) for outcome in outcomes] == ["done"]
    assert len(outcomes[0].files) == n
    assert gateway.answers == 2


@pytest.mark.parametrize(("n", "shown"), [(1, 2), (2, 3), (1, 500), (9, 500)])
async def test_more_images_than_were_asked_for(
    photo: bytes, tmp_path: Path, clock: VirtualClock, n: int, shown: int
) -> None:
    """They share no name, and are not fetched without end; the job is done, also in a next run."""
    gateway = Gateway(photo, shown)
    (tmp_path / "a.png").write_bytes(photo)
    async with serving(gateway.handle) as server:
        gateway.base = str(server.url)
        for _ in range(2):
            async with CometSession("sk-test", gateway=gateway.base, clock=clock) as comet:
                run = comet.expand_folder(
                    tmp_path / "a.png", tmp_path / "out", Margins(left=0.5), n=n
                )
                outcomes = [outcome async for outcome in run]
            assert [str(outcome.status) for outcome in outcomes] == ["done"]
            assert len({*outcomes[0].files}) == len(outcomes[0].files) >= n
    assert len(gateway.fetched) <= 9


async def test_an_image_that_is_not_shown_for_a_while(
    photo: bytes, tmp_path: Path, clock: VirtualClock
) -> None:
    """It is paid: an answer without it does not make the journal forget it."""
    gateway = Gateway(photo, 2, web.Response(status=403))
    (tmp_path / "a.png").write_bytes(photo)

    async def files() -> list[str]:
        async with CometSession("sk-test", gateway=gateway.base, clock=clock) as comet:
            run = comet.expand_folder(tmp_path / "a.png", tmp_path / "out", Margins(left=0.5), n=2)
            (outcome,) = [outcome async for outcome in run]
            return [path.name for path in outcome.files]

    async with serving(gateway.handle) as server:
        gateway.base = str(server.url)
        gateway.later = 1
        assert await files() == []
        gateway.later = 2
        assert await files() == ["a-0.png", "a-1.png"]


@pytest.mark.parametrize("first", [1, 1000, 2**31, 2**63, 10**30])
@pytest.mark.parametrize("n", [1, 2])
async def test_indexes_that_count_from_elsewhere(
    photo: bytes, tmp_path: Path, clock: VirtualClock, first: int, n: int
) -> None:
    """No number is too large for the journal, and none makes the result's name a riddle."""
    gateway = Gateway(photo, n)
    gateway.first = first
    (tmp_path / "a.png").write_bytes(photo)
    async with serving(gateway.handle) as server:
        gateway.base = str(server.url)
        async with CometSession("sk-test", gateway=gateway.base, clock=clock) as comet:
            run = comet.expand_folder(tmp_path / "a.png", tmp_path / "out", Margins(left=0.5), n=n)
            (outcome,) = [outcome async for outcome in run]
    assert str(outcome.status) == "done", outcome.error
    assert len(outcome.files) == n
    if first > 1:
        names = ["a.png"] if n == 1 else ["a-0.png", "a-1.png"]
        assert [path.name for path in outcome.files] == names


@pytest.mark.parametrize(
    "message", ["\u6210\u529f".encode("gbk"), "\u6210".encode()[:2], b"one\nline\tmore\x00"]
)
async def test_texts_that_are_not_json(
    photo: bytes, tmp_path: Path, clock: VirtualClock, message: bytes
) -> None:
    """A text in another encoding, cut, or with a line break, hides no result that is paid."""
    gateway = Gateway(photo, 1)
    gateway.spoil = lambda body: body.replace(b"SUCCEED", message)
    (tmp_path / "a.png").write_bytes(photo)
    async with serving(gateway.handle) as server:
        gateway.base = str(server.url)
        async with CometSession("sk-test", gateway=gateway.base, clock=clock) as comet:
            run = comet.expand_folder(tmp_path / "a.png", tmp_path / "out", Margins(left=0.5))
            (outcome,) = [outcome async for outcome in run]
    assert str(outcome.status) == "done", outcome.error
