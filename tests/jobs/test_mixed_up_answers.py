"""Answers about another task of ours: a cache on the way may mix them up."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from comet_async import CometSession, DownloadError, Margins
from comet_async.sandbox import Fault, Options, Sandbox
from comet_async.testing import VirtualClock
from tests.reliability.conftest import small_png
from tests.support.servers import Server, serving

MARGINS = Margins(left=0.25, right=0.25)
NO_LIST = Options(list_tasks=False, task_seconds=(20, 20))


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, Path]:
    """Return two images that are not alike."""
    files = tmp_path / "red.png", tmp_path / "blue.png"
    for file, tint in zip(files, (3, 90), strict=True):
        file.write_bytes(small_png(tint))
    return files


@pytest.mark.parametrize("late", [False, True], ids=["poll", "renewal"])
async def test_the_result_of_another_image_is_not_saved(
    late: bool, photos: tuple[Path, Path], tmp_path: Path, clock: VirtualClock
) -> None:
    """Neither while the task is waited for, nor when its result's address is renewed."""
    first, second = photos
    out = tmp_path / "out.png"
    async with (
        Sandbox(clock=clock, seed=1, engine="pillow", options=NO_LIST) as sandbox,
        CometSession(
            sandbox.key, gateway=sandbox.url, clock=clock, journal=tmp_path / "j"
        ) as comet,
    ):
        other = await comet.expand(first, MARGINS)
        if late:
            await comet.expand(second, MARGINS)
            sandbox.faults.add(Fault("404", on="result"))  # so its address is asked for anew
        sandbox.faults.add(Fault("other_task", on="query", times=2))
        for _ in range(2):
            with contextlib.suppress(DownloadError):
                task = await comet.expand(second, MARGINS, out=out)
                assert out.read_bytes() == await comet.read(task.images[0])
                assert out.read_bytes() != await comet.read(other.images[0])
    assert out.exists()
    assert len(sandbox.ledger.charges) == 2


async def test_an_answer_that_names_the_task_of_another_job_is_looked_up(
    photos: tuple[Path, Path], clock: VirtualClock, tmp_path: Path
) -> None:
    """Both requests are billed; the answer to the second repeats that to the first."""
    keys: list[str] = []

    async def gateway(request: web.BaseRequest) -> web.StreamResponse:
        task: dict[str, Any] = {"task_status": "submitted"}
        if request.method == "POST":
            keys.append((await request.json())["external_task_id"])
            return web.json_response({"code": 0, "data": task | {"task_id": "1"}})
        name = request.path.rpartition("/")[2]
        number = keys.index(name) + 1 if name in keys else int(name) if name.isdigit() else 0
        if not 0 < number <= len(keys):
            return web.json_response({"code": 1203, "message": "no such task"}, status=404)
        if len(keys) > 1:  # both run at the same time
            images = [{"index": 0, "url": f"{server.url}/{number}.png"}]
            task = {"task_status": "succeed", "task_result": {"images": images}}
        task |= {"task_id": str(number), "task_info": {"external_task_id": keys[number - 1]}}
        return web.json_response({"code": 0, "data": task})

    server: Server
    async with (
        serving(gateway) as server,
        CometSession(
            "sk-test", gateway=str(server.url), clock=clock, journal=tmp_path / "j"
        ) as comet,
    ):
        tasks = await asyncio.gather(*(comet.expand(photo, MARGINS) for photo in photos))
    assert {task.id: task.external_task_id for task in tasks} == {"1": keys[0], "2": keys[1]}
    assert len(keys) == 2
