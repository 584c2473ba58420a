"""Tasks in the hands of a test, the engine `stub`, and what a test can assert."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from comet_async.errors import InputError
from comet_async.sandbox import Options

if TYPE_CHECKING:
    from comet_async.testing import VirtualClock

Start = Any  # the fixture `start`

# ------------------------------------------------------------------ one task


async def test_succeed_does_not_wait(start: Start, clock: VirtualClock) -> None:
    """The task ends at once, with images that were painted as usual."""
    client = await start(engine="stub")
    task = client.sandbox.tasks.get((await client.create()).data["task_id"])
    before = clock.monotonic()
    task.succeed()
    done = await client.finish(task.id)
    assert done["task_status"] == "succeed"
    assert clock.monotonic() - before < 1
    assert client.sandbox.tasks.in_flight == 0
    assert (await client.request("GET", done["task_result"]["images"][0]["url"])).status == 200


async def test_succeed_with_canned_files(start: Start) -> None:
    """A test decides what is downloaded; the last file serves for the rest."""
    client = await start(engine="stub")
    task = client.sandbox.tasks.get((await client.create(n=3)).data["task_id"])
    task.succeed(b"GIF89a, more or less", b"not an image")
    urls = [image["url"] for image in (await client.finish(task.id))["task_result"]["images"]]
    replies = [await client.request("GET", url) for url in urls]
    assert [reply.raw for reply in replies] == [
        b"GIF89a, more or less",
        b"not an image",
        b"not an image",
    ]
    assert [reply.headers["Content-Type"] for reply in replies][:2] == ["image/gif", "image/png"]
    assert task.engine == "canned"


async def test_canned_watermarks(start: Start) -> None:
    """A canned file also serves as its watermarked version."""
    client = await start(engine="stub")
    created = await client.create(watermark_info={"enabled": True})
    client.sandbox.tasks.get(created.data["task_id"]).succeed(b"mine")
    image = (await client.finish(created.data["task_id"]))["task_result"]["images"][0]
    assert (await client.request("GET", image["watermark_url"])).raw == b"mine"


async def test_fail_tells_why(start: Start) -> None:
    """The next poll sees the failure, and the money is given back."""
    client = await start(engine="stub")
    task = client.sandbox.tasks.get((await client.create()).data["task_id"])
    task.fail("no such sky")
    answer = (await client.query(task.id)).data
    assert (answer["task_status"], answer["task_status_msg"]) == ("failed", "no such sky")
    assert client.sandbox.ledger.images == 0
    assert client.sandbox.tasks.in_flight == 0


async def test_hold_and_release(start: Start, clock: VirtualClock) -> None:
    """A held task stays as it is for as long as the test likes; released, it makes up for it."""
    client = await start(engine="stub")
    task = client.sandbox.tasks.get((await client.create()).data["task_id"])
    while task.status == "submitted":
        await clock.sleep(0.1)
    task.hold()
    await clock.sleep(3600)
    assert task.held
    assert (await client.query(task.id)).data["task_status"] == "processing"
    task.release()
    before = clock.monotonic()
    assert (await client.finish(task.id))["task_status"] == "succeed"
    assert clock.monotonic() - before < 1


async def test_a_held_failure_still_fails(start: Start, clock: VirtualClock) -> None:
    """Holding does not forget what is wrong with a source image."""
    client = await start(engine="stub", options=Options(failure_seconds=20))
    task = client.sandbox.tasks.get((await client.create(image="AAAA")).data["task_id"])
    while task.status == "submitted":
        await clock.sleep(0.01)
    task.hold()
    await clock.sleep(60)
    task.release()
    assert (await client.finish(task.id))["task_status_msg"] == "Image pixel is invalid"


async def test_a_succeeded_task_can_be_held_before_its_end(start: Start) -> None:
    """After its images are painted, too: they are not painted again."""
    client = await start(engine="stub")
    task = client.sandbox.tasks.get((await client.create()).data["task_id"])
    while not task.engine:
        await client.sandbox.tasks.clock.sleep(0.1)
    task.hold()
    task.succeed()
    assert (await client.finish(task.id))["task_status"] == "succeed"


@pytest.mark.parametrize("call", ["succeed", "fail", "hold", "release"])
async def test_what_has_ended_stays(start: Start, call: str) -> None:
    """A mistake in a test gets an error with the status."""
    client = await start(engine="stub")
    task = client.sandbox.tasks.get((await client.create()).data["task_id"])
    task.fail("first")
    with pytest.raises(InputError, match="has ended: its status is failed"):
        getattr(task, call)()
    assert task.message == "first"


async def test_a_failure_needs_a_message(start: Start) -> None:
    """Without one the task would have succeeded."""
    client = await start(engine="stub")
    task = client.sandbox.tasks.get((await client.create()).data["task_id"])
    with pytest.raises(InputError, match="needs a message"):
        task.fail("")
    assert not task.done


# ------------------------------------------------------------------ all tasks


async def test_hold_all_and_take_them_one_by_one(start: Start, clock: VirtualClock) -> None:
    """`hold` keeps new tasks from running; `next` waits for each."""
    client = await start(engine="stub")
    early = client.sandbox.tasks.get((await client.create()).data["task_id"])
    client.sandbox.tasks.hold()
    waiting = asyncio.create_task(anext_two(client))
    for _ in range(2):
        await client.create()
    first, second, third = await waiting
    assert first is early
    await clock.sleep(3600)
    assert {task.status for task in (first, second, third)} == {"submitted"}
    second.fail("one")
    client.sandbox.tasks.release()
    assert [(await client.finish(task.id))["task_status"] for task in (first, second, third)] == [
        "succeed",
        "failed",
        "succeed",
    ]
    later = (await client.create()).data["task_id"]
    assert (await client.finish(later))["task_status"] == "succeed"


async def anext_two(client: Any) -> list[Any]:  # noqa: ANN401 - the fixtures' client
    """Return the first three tasks."""
    return [await client.sandbox.tasks.next() for _ in range(3)]


async def test_clear_forgets_all(start: Start, clock: VirtualClock) -> None:
    """Slots are free again, and external ids can be used again."""
    client = await start(engine="stub", limit=1)
    task_id = (await client.create(external_task_id="a")).data["task_id"]
    client.sandbox.tasks.clear()
    await clock.sleep(60)
    assert len(client.sandbox.tasks) == 0
    assert (await client.query(task_id)).status == 404
    again = (await client.create(external_task_id="a")).data["task_id"]
    assert (await client.finish(again))["task_status"] == "succeed"
    assert (await client.sandbox.tasks.next()).id == again


# ------------------------------------------------------------------ the engine


async def test_stub_images_have_the_right_size(start: Start) -> None:
    """Grey, as large as the real thing would be, and each its own."""
    client = await start(engine="stub")
    created = await client.create(n=2, left_expansion_ratio=0.5, watermark_info={"enabled": True})
    images = (await client.finish(created.data["task_id"]))["task_result"]["images"]
    urls = [images[0]["url"], images[1]["url"], images[0]["watermark_url"]]
    files = [(await client.request("GET", url)).raw for url in urls]
    assert len(set(files)) == 3
    for file in files:
        image = Image.open(io.BytesIO(file))
        assert (image.size, image.mode) == ((640, 360), "RGB")
        (low, high), *_ = image.getextrema()
        assert low == high
    assert image.info["Engine"] == "stub"


async def test_stub_knows_the_other_kinds(start: Start) -> None:
    """Generation has the asked shape; cloudlike sizes work as well."""
    client = await start(engine="stub", output="cloudlike")
    body = {"prompt": "x", "aspect_ratio": "1:1"}
    created = await client.request("POST", "/v1/images/generations", json=body)
    image = (await client.finish(created.data["task_id"]))["task_result"]["images"][0]
    file = (await client.request("GET", image["url"])).raw
    assert Image.open(io.BytesIO(file)).size == (1184, 1184)


@pytest.mark.parametrize("image", ["AAAA", "too small"])
async def test_stub_refuses_bad_images(start: Start, image: str) -> None:
    """The checks are the same as those of the other engines."""
    client = await start(engine="stub")
    photo = image
    if image == "too small":
        file = io.BytesIO()
        Image.new("RGB", (299, 400)).save(file, "PNG")
        client.photo, photo = file.getvalue(), None
    fields = {} if photo is None else {"image": photo}
    done = await client.finish((await client.create(**fields)).data["task_id"])
    assert done["task_status_msg"] == "Image pixel is invalid"


@pytest.mark.program
def test_stub_needs_no_image_library(tmp_path: Path, photo: bytes) -> None:
    """A sandbox with it runs where neither Pillow nor numpy is installed."""
    code = """
import asyncio, sys
sys.modules.update({"PIL": None, "numpy": None, "patchmatch": None})
from comet_async import CometSession, Margins
from comet_async.sandbox import DEFAULT_KEY, Sandbox
from comet_async.testing import VirtualLoop

async def main():
    async with Sandbox(engine="stub") as sandbox:
        async with CometSession(DEFAULT_KEY, gateway=sandbox.url) as comet:
            task = await comet.expand(sys.argv[1], Margins(left=0.5))
            print(task.status, len(sandbox.ledger.charges))

with asyncio.Runner(loop_factory=VirtualLoop) as runner:
    runner.run(main())
"""
    source = tmp_path / "photo.png"
    source.write_bytes(photo)
    command = [sys.executable, "-c", code, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["succeed", "1"]


# ------------------------------------------------------------------ assertions


async def test_assertions_pass_for_a_correct_client(start: Start) -> None:
    """One purchase, polled and downloaded."""
    client = await start(engine="stub")
    client.sandbox.assert_charged(0)
    created = await client.create(external_task_id="a")
    image = (await client.finish(created.data["task_id"]))["task_result"]["images"][0]
    client.key = None
    await client.request("GET", image["url"])
    client.sandbox.assert_charged(1)
    client.sandbox.assert_nothing_charged_twice()
    client.sandbox.assert_no_unexpected_requests()


async def test_assertions_name_what_is_wrong(start: Start) -> None:
    """Each message says what was found."""
    client = await start(engine="stub", options=Options(unique_external_ids=False))
    for _ in range(2):
        created = await client.create(external_task_id="order-17")
    await client.request("GET", f"/results/{created.data['task_id']}/0.png")
    await client.request("GET", "/v2/images")
    await client.request("DELETE", "/v1/images/editing/expand")
    sandbox = client.sandbox
    with pytest.raises(AssertionError, match="expected 1 charges, found 2: order-17, order-17"):
        sandbox.assert_charged(1)
    with pytest.raises(AssertionError, match="more than once: order-17"):
        sandbox.assert_nothing_charged_twice()
    with pytest.raises(AssertionError) as caught:
        sandbox.assert_no_unexpected_requests()
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[2] for line in lines[1:]] == [
        "a request for a result carried Authorization",
        "unknown path",
        "the path does not have this method",
    ]


async def test_a_cleared_task_is_out_of_hand(start: Start) -> None:
    """Ending it would give back a place that it does not hold any more."""
    client = await start()
    await client.create()
    task = await client.sandbox.tasks.next()
    task.hold()
    client.sandbox.tasks.clear()
    with pytest.raises(InputError, match="has been cleared away"):
        task.succeed()
    assert client.sandbox.tasks.in_flight == 0
