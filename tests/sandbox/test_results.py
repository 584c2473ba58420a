"""Results of the sandbox: their addresses, where they are kept, and images fetched by address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from comet_async.sandbox import Fault, Options
from comet_async.sandbox.outgoing import is_loopback

if TYPE_CHECKING:
    from pathlib import Path

    from comet_async.testing import VirtualClock

Start = Any  # the fixture `start`
Client = Any  # what it returns


async def image_url(client: Client) -> str:
    """Make a task and return its image's address."""
    done = await client.finish((await client.create()).data["task_id"])
    return done["task_result"]["images"][0]["url"]


async def test_results_need_no_key_but_their_token(start: Start) -> None:
    """The address alone opens the image; without its token it does not."""
    client = await start()
    url = await image_url(client)
    client.key = None
    assert (await client.request("GET", url)).status == 200
    assert (await client.request("GET", url.partition("?")[0])).status == 403
    assert (await client.request("GET", url.replace("/0.png", "/1.png"))).status == 403
    assert client.sandbox.leaks == []


async def test_a_leaked_key_is_noted(start: Start) -> None:
    """A key that is sent along with a request for a result is no secret any more."""
    client = await start()
    url = await image_url(client)
    assert (await client.request("GET", url)).status == 200
    assert [leak.header for leak in client.sandbox.leaks] == ["Authorization"]


async def test_addresses_expire(start: Start, clock: VirtualClock) -> None:
    """An address works for its time; the next query tells a new one."""
    client = await start(options=Options(url_lifetime=60))
    task_id = (await client.create()).data["task_id"]
    first = (await client.finish(task_id))["task_result"]["images"][0]["url"]
    assert (await client.request("GET", first)).status == 200
    await clock.sleep(61)
    assert (await client.request("GET", first)).status == 403
    second = (await client.query(task_id)).data["task_result"]["images"][0]["url"]
    assert (await client.request("GET", second)).status == 200


async def test_results_are_cleared(start: Start, clock: VirtualClock) -> None:
    """After their lifetime the images are gone, whatever the address."""
    client = await start(options=Options(result_lifetime=60))
    url = await image_url(client)
    await clock.sleep(61)
    assert (await client.request("GET", url)).status == 404


async def test_results_in_a_folder(start: Start, tmp_path: Path) -> None:
    """Files can be kept, and are served from there."""
    client = await start(save_dir=tmp_path / "made")
    url = await image_url(client)
    (file,) = (tmp_path / "made").iterdir()
    assert (await client.request("GET", url)).raw == file.read_bytes()
    file.unlink()
    assert (await client.request("GET", url)).status == 404


async def test_results_beyond_memory(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """When memory is full, results go to a temporary folder, which goes with the sandbox."""
    monkeypatch.setattr("comet_async.sandbox.results._IN_MEMORY", 0)
    client = await start()
    assert (await client.request("GET", await image_url(client))).status == 200


async def test_results_at_another_root(start: Start) -> None:
    """Their addresses can lead through a proxy."""
    client = await start(options=Options(results_root="http://127.0.0.1:9"))
    assert (await image_url(client)).startswith("http://127.0.0.1:9/results/")


# ---------------------------------------------------------------------- images by address


async def test_fetches_an_image_from_this_machine(start: Start) -> None:
    """An image can be named by an address on loopback."""
    client = await start()
    url = await image_url(client)
    done = await client.finish((await client.create(image=url)).data["task_id"])
    assert done["task_status"] == "succeed"


async def test_fetches_ten_megabytes_at_most(start: Start) -> None:
    """An image that does not end is given up."""
    client = await start()
    url = await image_url(client)
    client.sandbox.faults.add(Fault("endless", on="result"))
    done = await client.finish((await client.create(image=url)).data["task_id"])
    assert done["task_status_msg"].startswith("Something went wrong when we tried to get")


@pytest.mark.parametrize(("url", "here"), [
    ("http://127.0.0.1:8000/a.png", True), ("https://127.9.9.9/", True),
    ("http://[::1]:80/", True), ("http://localhost/x", True),
    ("http://example.com/", False), ("http://10.0.0.1/", False), ("http://0.0.0.0/", False),
    ("http://127.0.0.1.example.com/", False), ("http://localhost@example.com/", False),
    ("ftp://127.0.0.1/", False), ("file:///etc/passwd", False), ("//127.0.0.1/", False),
    ("", False), ("http://[::1/", False), ("http://127.0.0.1:99999/", False),
])  # fmt: skip
def test_reaches_this_machine_only(url: str, here: bool) -> None:
    """Addresses elsewhere are not asked at all."""
    assert is_loopback(url) is here


@pytest.mark.parametrize(
    "path", ["http://example.com/dog.png", "http://127.0.0.1:1/", "/ledger.json"]
)
async def test_an_image_out_of_reach(start: Start, path: str) -> None:
    """An address elsewhere, a dead one, and one without an image fail the task."""
    client = await start()
    url = client.sandbox.url + path if path.startswith("/") else path
    done = await client.finish((await client.create(image=url)).data["task_id"])
    assert done["task_status_msg"].startswith("Something went wrong when we tried to get")
