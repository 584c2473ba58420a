"""From request to image: the sandbox's tasks, its clock, its money, its life."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from comet_async.errors import ConfigError
from comet_async.sandbox import Options, Sandbox, serve

if TYPE_CHECKING:
    from comet_async.testing import VirtualClock

Start = Any  # the fixture `start`

UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")


def size(answer_file: bytes) -> tuple[int, int]:
    """Return an image's width and height."""
    return Image.open(io.BytesIO(answer_file)).size


@pytest.mark.parametrize("profile", ["comet", "kling"])
async def test_expands_an_image(start: Start, profile: str) -> None:
    """A request becomes a task that ends with larger images."""
    client = await start(profile)
    created = await client.create(n=2)
    done = await client.finish(created.data["task_id"])
    assert done["task_status"] == "succeed"
    assert [image["index"] for image in done["task_result"]["images"]] == [0, 1]
    answer_file = await client.request("GET", done["task_result"]["images"][1]["url"])
    assert answer_file.headers["Content-Type"] == "image/png"
    assert size(answer_file.raw) == (480, 360)


async def test_kling_answers_create_as_documented(start: Start) -> None:
    """The answer has Kling's envelope, ids and times in milliseconds."""
    client = await start()
    reply = await client.create(external_task_id="order-17")
    assert reply.status == 200
    assert (reply.json["code"], reply.json["message"]) == (0, "SUCCEED")
    assert UUID.fullmatch(reply.json["request_id"])
    assert re.fullmatch(r"\d{18}", reply.data["task_id"])
    assert reply.data["task_info"] == {"external_task_id": "order-17"}
    assert reply.data["created_at"] == reply.data["updated_at"] >= 1_767_225_600_000
    assert reply.data["task_status"] == "submitted"


async def test_comet_answers_create_as_captured(start: Start) -> None:
    """CometAPI leaves out the request id and puts its own into a header."""
    client = await start("comet")
    reply = await client.create()
    assert set(reply.json) == {"code", "message", "data"}
    assert reply.data["task_info"] == {}
    assert re.fullmatch(r"2026\d{19}[A-Za-z]{8}", reply.headers["X-Cometapi-Request-Id"])


async def test_says_that_the_prompt_is_ignored(start: Start) -> None:
    """A header tells the truth, since the body has to look like the service's."""
    client = await start()
    assert (await client.create(prompt="a sun")).headers["X-Sandbox-Prompt"] == "ignored"


async def test_task_ids_sort_by_time(start: Start, clock: VirtualClock) -> None:
    """Their upper bits are milliseconds since September 2019."""
    client = await start()
    first = await client.create()
    await clock.sleep(0.01)
    second = await client.create()
    ids = [int(reply.data["task_id"]) for reply in (first, second)]
    assert ids == sorted(ids)
    assert (ids[0] >> 22) + 1_568_028_518_780 == first.data["created_at"]


async def test_goes_through_all_states(start: Start, clock: VirtualClock) -> None:
    """A task is submitted for up to 2 s, then processing, and succeeds after 8 to 40 s."""
    client = await start()
    task_id = (await client.create()).data["task_id"]
    seen: dict[str, int] = {}
    while "succeed" not in seen:
        shown = (await client.query(task_id)).data
        seen.setdefault(shown["task_status"], shown["updated_at"] - shown["created_at"])
        await clock.sleep(0.05)
    assert list(seen) == ["submitted", "processing", "succeed"]
    assert seen["submitted"] == 0 < seen["processing"] <= 2_100
    assert 8_000 <= seen["succeed"] <= 40_500


async def test_speed_shortens_tasks(start: Start) -> None:
    """With speed 60, a task of at most 40 s takes at most two thirds of a second, or painting."""
    client = await start(speed=60)
    done = await client.finish((await client.create()).data["task_id"])
    assert done["updated_at"] - done["created_at"] < 8_000


async def test_a_seed_repeats_a_run(start: Start) -> None:
    """Two sandboxes with the same seed give tasks of the same length."""
    lasted = []
    for _ in range(2):
        client = await start(seed=5)
        done = await client.finish((await client.create()).data["task_id"])
        lasted.append((done["updated_at"] - done["created_at"]) / 1000)
    assert lasted[0] == pytest.approx(lasted[1], abs=0.2)


@pytest.mark.parametrize(
    ("fields", "image"),
    [
        pytest.param({}, (200, 300), id="too narrow"),
        pytest.param({}, (800, 300), id="too wide"),
        pytest.param({"image": base64.b64encode(b"no image").decode()}, None, id="no image"),
    ],
)
async def test_a_bad_image_fails_later(
    start: Start, fields: dict[str, str], image: tuple[int, int] | None
) -> None:
    """The request is accepted; the task fails after 1.6 s and costs nothing."""
    client = await start()
    if image:
        file = io.BytesIO()
        Image.new("RGB", image).save(file, "PNG")
        client.photo = file.getvalue()
    done = await client.finish((await client.create(**fields)).data["task_id"])
    assert (done["task_status"], done["task_status_msg"]) == ("failed", "Image pixel is invalid")
    assert done["updated_at"] - done["created_at"] == pytest.approx(1_600, abs=600)
    assert (done["task_result"], done["final_unit_deduction"]) == ({}, "0")
    assert client.sandbox.ledger.usd == 0


async def test_a_damaged_image_fails_later(start: Start) -> None:
    """A file whose header is good but whose pixels are cut off fails the task."""
    client = await start()
    client.photo = client.photo[:2000]
    done = await client.finish((await client.create()).data["task_id"])
    assert done["task_status"] == "failed"


async def test_success_costs_eight_units_an_image(start: Start) -> None:
    """The charge is shown in text, and the ledger knows it."""
    client = await start()
    done = await client.finish((await client.create(n=3)).data["task_id"])
    assert done["final_unit_deduction"] == "24"
    assert done["final_balance_deduction"] == {"quota": "0.084", "list_price": "0.084"}
    assert (client.sandbox.ledger.units, client.sandbox.ledger.usd) == (24, 0.084)


async def test_slots_are_counted_in_images(start: Start) -> None:
    """A task holds as many slots as it has images, until it ends."""
    client = await start(limit=4)
    first = await client.create(n=3)
    refused = await client.create(n=2)
    assert (refused.status, refused.json["code"]) == (429, 1303)
    assert refused.json["message"] == "parallel task over resource pack limit"
    assert (await client.create(n=1)).status == 200
    await client.finish(first.data["task_id"])
    assert (await client.create(n=2)).status == 200


async def test_no_limit(start: Start) -> None:
    """Without a limit any number of images may be in flight."""
    client = await start(limit=None)
    assert [(await client.create(n=9)).status for _ in range(4)] == [200] * 4


async def test_the_ledger_knows_each_charge(start: Start) -> None:
    """Accepted calls are charged, refused ones are only noted."""
    client = await start()
    await client.create(external_task_id="a", n=2)
    await client.create(external_task_id="b", n=0)
    ledger = client.sandbox.ledger
    assert [(charge.external_task_id, charge.n) for charge in ledger.charges] == [("a", 2)]
    assert [post.external_task_id for post in ledger.posts] == ["a", "b"]
    assert (ledger.count("a"), ledger.count("b"), ledger.posted("b")) == (1, 0, 1)
    assert ledger.charged_twice() == []
    assert len(str(ledger.posts[0].body["image"])) < 60


async def test_the_ledger_sees_a_double_charge(start: Start) -> None:
    """Where external ids need not be unique, the same one twice is charged twice."""
    client = await start(options=Options(unique_external_ids=False))
    for _ in range(2):
        await client.create(external_task_id="a")
    assert client.sandbox.ledger.charged_twice() == ["a"]
    served = (await client.request("GET", "/ledger.json")).json
    assert served["charged_twice"] == ["a"]
    assert len(served["charges"]) == len(served["posts"]) == 2


async def test_the_watermarked_version(start: Start) -> None:
    """It is another image at another address, shown only if it was wanted."""
    client = await start()
    plain = await client.finish((await client.create()).data["task_id"])
    assert "watermark_url" not in plain["task_result"]["images"][0]
    watermarked = await client.create(watermark_info={"enabled": True})
    done = await client.finish(watermarked.data["task_id"])
    assert done["watermark_info"] == {"enabled": True}
    image = done["task_result"]["images"][0]
    files = [await client.request("GET", image[name]) for name in ("url", "watermark_url")]
    assert files[0].raw != files[1].raw


async def test_cloudlike_sizes(start: Start) -> None:
    """The image can have the size that the paid service answers with."""
    client = await start(output="cloudlike")
    done = await client.finish((await client.create()).data["task_id"])
    answer_file = await client.request("GET", done["task_result"]["images"][0]["url"])
    width, height = size(answer_file.raw)
    assert width % 32 == height % 32 == 0
    assert width * height == pytest.approx(1_400_000, rel=0.1)


# ---------------------------------------------------------------------- other kinds


async def test_generates_an_image(start: Start) -> None:
    """The neighbour ``images/generations`` works on the same engine."""
    client = await start("comet")
    path = "/kling/v1/images/generations"
    body = {"prompt": "a sun", "n": 2, "aspect_ratio": "3:4"}
    created = await client.request("POST", path, json=body)
    shown = await client.finish(created.data["task_id"])
    answer_file = await client.request("GET", shown["task_result"]["images"][1]["url"])
    width, height = size(answer_file.raw)
    assert width / height == pytest.approx(0.75, abs=0.01)


async def test_tries_a_garment_on(start: Start) -> None:
    """The neighbour ``images/kolors-virtual-try-on`` keeps the person's size."""
    client = await start()
    path = "/v1/images/kolors-virtual-try-on"
    image = base64.b64encode(client.photo).decode()
    created = await client.request("POST", path, json={"human_image": image, "cloth_image": image})
    shown = await client.finish(created.data["task_id"])
    answer_file = await client.request("GET", shown["task_result"]["images"][0]["url"])
    assert size(answer_file.raw) == (400, 300)


# ---------------------------------------------------------------------- life


async def test_stops_in_the_middle(start: Start, clock: VirtualClock) -> None:
    """Closing ends tasks wherever they are, without a word."""
    client = await start()
    await client.create(n=9)
    await clock.sleep(2.1)
    await client.sandbox.aclose()
    assert len(asyncio.all_tasks()) == 1


async def test_a_painter_that_breaks(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake of our own fails the task, and says so in the log."""
    monkeypatch.setattr("comet_async.sandbox._painting.painter.paint", lambda *_, **__: 1 / 0)
    client = await start()
    done = await client.finish((await client.create()).data["task_id"])
    assert done["task_status"] == "failed"
    assert "ZeroDivisionError" in caplog.text


async def test_canvas_larger_than_the_largest_photo(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is decoded has a limit; what is painted around it may be larger."""
    monkeypatch.setattr("comet_async.sandbox._painting.painter.MAX_PIXELS", 400 * 300)
    client = await start()
    done = await client.finish((await client.create()).data["task_id"])
    assert done["task_status"] == "succeed"
    answer_file = await client.request("GET", done["task_result"]["images"][0]["url"])
    assert size(answer_file.raw) == (480, 360)


async def test_large_results_are_not_kept_twice(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results for requests that come again are kept within a limit of their own."""
    client = await start()
    await client.finish(
        (await client.create(n=2, watermark_info={"enabled": True})).data["task_id"]
    )
    made = client.sandbox._studio._made
    assert len(made) == 2
    largest = max(each.size for each in made.values())
    monkeypatch.setattr("comet_async.sandbox._painting.images._REMEMBERED_BYTES", largest + 1000)
    await client.finish((await client.create(n=3)).data["task_id"])
    assert 0 < sum(each.size for each in made.values()) <= largest + 1000


async def test_tells_what_it_knows(start: Start) -> None:
    """Tasks and switches can be looked at."""
    options = Options(lenient_n=True)
    client = await start(options=options)
    created = await client.create(external_task_id="a")
    assert client.sandbox.options is options
    assert len(client.sandbox.tasks) == 1
    assert client.sandbox.tasks.find("a") is client.sandbox.tasks.get(created.data["task_id"])


@pytest.mark.parametrize("host", [".", "a" * 300, "\udcff"])
async def test_a_host_that_is_none(host: str) -> None:
    """It is wrong usage, not a defect."""
    with pytest.raises(ConfigError, match="it is not a host"):
        async with Sandbox(host=host, engine="stub"):
            pass


async def test_a_taken_port(start: Start) -> None:
    """A port that is taken is reported at the start."""
    client = await start()
    port = int(client.sandbox.url.rpartition(":")[2])
    with pytest.raises(OSError, match="address already in use"):
        async with Sandbox(port):
            pass


async def test_shows_its_address(start: Start) -> None:
    """Its text shows where it listens."""
    client = await start()
    assert client.sandbox.url in repr(client.sandbox)
    assert repr(Sandbox()) == "<Sandbox not running>"


async def test_ipv6() -> None:
    """An IPv6 address stands in brackets."""
    async with Sandbox(host="::1") as sandbox:
        assert sandbox.url.startswith("http://[::1]:")


@pytest.mark.parametrize("wrong", [{"speed": 0}, {"limit": 0}])
def test_refuses_nonsense(wrong: dict[str, Any]) -> None:
    """A speed or limit of nothing would never end."""
    with pytest.raises(ConfigError):
        Sandbox(**wrong)


async def test_is_started_once() -> None:
    """What it painted with is gone: a task would be charged, and fail."""
    sandbox = Sandbox(engine="stub")
    async with sandbox:
        pass
    with pytest.raises(ConfigError, match="make a new one"):
        await sandbox.__aenter__()


async def test_serves_until_cancelled() -> None:
    """`serve` says when it listens, and stops with its task."""
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    sandbox = Sandbox()
    serving = asyncio.create_task(
        serve(sandbox, ready=lambda ready: listening.set_result(ready.url))
    )
    assert (await listening).startswith("http://127.0.0.1:")
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
