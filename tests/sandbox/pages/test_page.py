"""The front page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from yarl import URL

from comet_async.sandbox import Fault

Start = Any  # the fixture `start`
Client = Any  # what it returns


async def page(client: Client) -> str:
    """Return the front page's HTML."""
    return (await client.request("GET", "/")).raw.decode()


async def test_an_empty_page(start: Start) -> None:
    """Without tasks it says what to do."""
    client = await start()
    assert "No task yet" in await page(client)


async def test_says_what_it_is(start: Start) -> None:
    """The page does not pretend to be the service."""
    text = " ".join((await page(await start())).split())
    assert "made on this machine" in text
    assert "The prompt is checked but not followed" in text


async def test_shows_tasks_and_images(start: Start) -> None:
    """A task is shown with its times, and images before and after."""
    client = await start()
    created = await client.create(n=2, external_task_id="order-17", prompt="a sun")
    await client.finish(created.data["task_id"])
    text = await page(client)
    for shown in ("order-17", "a sun", "pillow", "before.jpg", "1.jpg", "$ 0.056", "2 images"):
        assert shown in text
    thumbs = re.findall(r'src="(/thumbs/[^"]+)"', text)
    assert len(thumbs) == 3
    replies = [await client.request("GET", thumb) for thumb in thumbs]
    assert all(reply.raw.startswith(b"\xff\xd8") for reply in replies)
    assert re.findall(r'data-variant="(\d)"', text) == ["0", "1"]  # as the files are numbered


async def test_shows_what_clients_sent_as_text(start: Start) -> None:
    """Nothing that a client sends becomes part of the page, and the page loads nothing."""
    client = await start()
    await client.create(external_task_id="<script>alert(1)</script>", prompt='"><img src=x>')
    reply = await client.request("GET", "/")
    text = reply.raw.decode()
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert not re.search(r'(src|href)="(https?:)?//(?!127)', text)


async def test_shows_alarms(start: Start) -> None:
    """Failures, leaked keys and faults catch the eye."""
    client = await start()
    created = await client.create(prompt="sandbox-risky")
    await client.finish(created.data["task_id"])
    await client.request("GET", f"/results/{created.data['task_id']}/0.png")
    client.sandbox.faults.add(Fault("502", on="list"))
    await client.list()
    text = await page(client)
    assert "risk control" in text
    assert '<dt>keys leaked</dt><dd class="bad">1</dd>' in text
    assert "<dt>faults</dt><dd>1</dd>" in text


async def test_generated_images_have_no_before(start: Start) -> None:
    """A task that started from nothing shows its result only."""
    client = await start()
    created = await client.request("POST", "/v1/images/generations", json={"prompt": "x"})
    await client.finish(created.data["task_id"])
    assert "before.jpg" not in await page(client)


async def test_the_source_lies_where_it_was(start: Start) -> None:
    """On the canvas of the result, in percent, with the result's own shape."""
    client = await start()
    created = await client.create(left_expansion_ratio=0.5, right_expansion_ratio=0)
    await client.finish(created.data["task_id"])
    text = await page(client)
    assert "left: 33.333%; top: 8.333%; width: 66.667%; height: 83.333%" in text
    assert "--ratio: 1.6667" in text
    assert "left 50%" in text


async def test_stub_images_are_shown_as_they_are(start: Start) -> None:
    """They have no small copies, so the page shows the files."""
    client = await start(engine="stub")
    await client.finish((await client.create()).data["task_id"])
    text = await page(client)
    assert "before.jpg" not in text
    address = re.findall(r'class="after" src="([^"]+)"', text)[0].replace("&amp;", "&")
    assert (await client.request("GET", address)).raw.startswith(b"\x89PNG")


async def test_every_task_can_be_reached(start: Start) -> None:
    """By pages, newest first; a page that does not exist is the nearest one."""
    client = await start(limit=None, engine="stub")
    created = [(await client.create()).data["task_id"] for _ in range(63)]
    first, second = await page(client), (await client.request("GET", "/?page=2")).raw.decode()
    found = [re.findall(r'<li id="task-(\d+)"', text) for text in (first, second)]
    assert found == [created[:2:-1], created[2::-1]]
    assert "63 of 63 tasks" in first
    assert "63 of any" in first
    assert '<a href="/?page=2">2</a>' in first
    for odd in ("0", "99", "9" * 5000, "x", "-1"):
        assert (await client.request("GET", f"/?page={odd}")).status == 200


async def test_tasks_can_be_filtered(start: Start) -> None:
    """By status and by words; the chips count all tasks and keep the words."""
    client = await start(limit=None, engine="stub")
    for number in range(4):
        await client.create(prompt=f"a Sun {number}", external_task_id=f"order-{number}")
    client.sandbox.tasks.find("order-2").fail("no luck")
    failed = (await client.request("GET", "/?status=failed")).raw.decode()
    assert re.findall(r"data-open>([^<]+)<", failed) == ["order-2"]
    assert "1 of 4 tasks" in failed
    assert 'failed <span class="count">1</span>' in failed
    both = (await client.request("GET", "/?q=sun+ORDER-3&status=submitted")).raw.decode()
    assert re.findall(r"data-open>([^<]+)<", both) == ["order-3"]
    assert "status=failed&amp;q=sun+ORDER-3" in both
    assert "No task matches" in (await client.request("GET", "/?q=moon")).raw.decode()
    assert (
        "<script>" not in (await client.request("GET", "/?q=<script>&status=<script>")).raw.decode()
    )


async def test_assets_are_served(start: Start) -> None:
    """The page's own scripts and styles, and no other file."""
    client = await start()
    text = await page(client)
    names = re.findall(r'(?:src|href)="(/assets/[^"]+)"', text)
    assert len(names) == 4
    for name in names:
        reply = await client.request("GET", name)
        assert (reply.status, len(reply.raw) > 100) == (200, True)
    assert (await client.request("GET", "/assets/front.html")).status == 404
    assert (await client.request("GET", "/assets/..%2Fserver.py")).status == 404


async def test_changes_are_announced(start: Start) -> None:
    """The page hears of each change, and the stream ends with the sandbox."""
    client = await start(engine="stub")
    async with client.http.get(client.sandbox.url + "/events") as reply:
        assert reply.headers["Content-Type"] == "text/event-stream"
        assert await reply.content.readuntil(b"\n\n") == b"event: change\ndata: 1\n\n"
        await client.create()
        assert await reply.content.readuntil(b"\n\n")
        await client.sandbox.aclose()
        await reply.content.read()


async def test_missing_thumbs(start: Start, tmp_path: Path) -> None:
    """A small image that is not there is not found, and no other file is."""
    (tmp_path / "private-0.jpg").write_bytes(b"private")
    (tmp_path / "results").mkdir()
    client = await start(save_dir=tmp_path / "results")
    absolute = str(tmp_path / "private").replace("/", "%2F")
    for path in ("1/0.jpg", "..%2Fprivate/0.jpg", f"{absolute}/0.jpg"):
        address = URL(f"{client.sandbox.url}/thumbs/{path}", encoded=True)
        async with client.http.get(address) as reply:
            assert (path, reply.status) == (path, 404)
