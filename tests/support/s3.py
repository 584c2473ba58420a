"""An S3 server on this machine, with a bucket for each test."""

from __future__ import annotations

import itertools
import logging
import urllib.request
from collections.abc import Iterator

import attrs
import pytest

from comet_async.stores import ObjectStore, open_s3

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Start moto's server once, and return its address."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - it takes a while, for few tests

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@attrs.frozen
class Bucket:
    """A bucket, as the outside world sees it."""

    name: str
    store: ObjectStore

    @property
    def address(self) -> str:
        """Its address."""
        return f"s3://{self.name}"

    def write(self, name: str, data: bytes) -> None:
        """Write an object, or replace it."""
        self.store.inner.put(name, data)

    def read(self, name: str) -> bytes:
        """Return the bytes of an object."""
        return bytes(self.store.inner.get(name).bytes())

    def names(self) -> list[str]:
        """Return the names of all objects."""
        return sorted(each["path"] for page in self.store.inner.list() for each in page)


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Return a new bucket, to which the environment has the key."""
    return make_bucket(f"bucket-{next(_numbers)}", s3_server, monkeypatch)


def make_bucket(name: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Return a new bucket of this name."""
    for variable, value in {
        "AWS_ACCESS_KEY_ID": "a-key",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
    }.items():
        monkeypatch.setenv(variable, value)
    request = urllib.request.Request(f"{s3_server}/{name}", method="PUT")  # noqa: S310 - loopback
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - the same
        assert answer.status == 200
    return Bucket(name, open_s3(name))
