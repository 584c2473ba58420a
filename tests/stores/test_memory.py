"""Large objects pass by in pieces: what a process holds does not grow with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.s3 import Bucket

SIZE = 128 * 1024 * 1024

PROGRAM = r"""
import re, sys
from pathlib import Path
from comet_async.stores import PIECE, open_s3

def most():
    # Not getrusage: its value includes what the parent held when it forked.
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) // 1024

store, path, size = open_s3(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with open(path, "rb") as file:
    store.find("nothing")
    before = most()
    store.put("large", file, size=size)
written, read = most(), 0
with store.open("large") as reader:
    while piece := reader.read(PIECE):
        read += len(piece)
assert read == size, read
print(written - before, most() - written)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_follow_the_size(bucket: Bucket, tmp_path: Path) -> None:
    """Writing holds two parts of 8 MiB and what is on the wire; reading a few pieces."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(SIZE)
    program = [sys.executable, "-c", PROGRAM, bucket.name, str(path), str(SIZE)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    writing, reading = map(int, done.stdout.split())
    assert writing < 64, f"writing took {writing} MiB"
    assert reading < 64, f"reading took {reading} MiB"
