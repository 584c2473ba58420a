"""The front page."""

from __future__ import annotations

import re
from typing import Any

from comet_async.sandbox import Fault

Start = Any  # the fixture `start`
Client = Any  # what it returns


async def page(client: Client) -> str:
    """Return the front page's HTML."""
    return (await client.ask("GET", "/")).raw.decode()


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
    for told in ("order-17", "a sun", "painted by pillow", "before.jpg", "1.jpg", "$ 0.056"):
        assert told in text
    thumbs = re.findall(r'src="(/thumbs/[^"]+)"', text)
    assert len(thumbs) == 3
    replies = [await client.ask("GET", thumb) for thumb in thumbs]
    assert all(reply.raw.startswith(b"\xff\xd8") for reply in replies)
    full = re.findall(r'href="(http[^"]+)"', text)
    assert (await client.ask("GET", full[0].replace("&amp;", "&"))).status == 200


async def test_shows_what_clients_sent_as_text(start: Start) -> None:
    """Nothing that a client sends becomes part of the page, and the page loads nothing."""
    client = await start()
    await client.create(external_task_id="<script>alert(1)</script>", prompt='"><img src=x>')
    reply = await client.ask("GET", "/")
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
    await client.ask("GET", f"/results/{created.data['task_id']}/0.png")
    client.sandbox.faults.add(Fault("502", on="list"))
    await client.list()
    text = await page(client)
    assert "risk control" in text
    assert '<dt>keys leaked</dt><dd class="bad">1</dd>' in text
    assert "<dt>faults</dt><dd>1</dd>" in text


async def test_generated_images_have_no_before(start: Start) -> None:
    """A task that started from nothing shows its result only."""
    client = await start()
    created = await client.ask("POST", "/v1/images/generations", json={"prompt": "x"})
    await client.finish(created.data["task_id"])
    assert "before.jpg" not in await page(client)


async def test_stays_short(start: Start) -> None:
    """Of many tasks the latest are shown, and the rest is counted."""
    client = await start(limit=None)
    for _ in range(63):
        await client.create()
    text = await page(client)
    assert text.count("<article") == 60
    assert "and 3 older tasks" in text
    assert "63 of any" in text


async def test_missing_thumbs(start: Start) -> None:
    """A small image that is not there is not found."""
    client = await start()
    assert (await client.ask("GET", "/thumbs/1/0.jpg")).status == 404
    assert (await client.ask("GET", "/thumbs/1/..%2F..%2Fx.jpg")).status == 404
