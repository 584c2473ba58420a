"""Images in a store: copied to this machine in pieces, then looked at like any other.

The copy is what is hashed, measured and sent, so that these can't be three different images. It
is made without holding more than a piece in memory, and is removed with the last use of the image.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import hashlib
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import attrs

from comet_async._images.load import examine
from comet_async._images.rules import ImageRules
from comet_async._images.source import FileIdentity, LocalCopy, SourceImage, changed
from comet_async.errors import InputError
from comet_async.stores import PIECE, ObjectInfo, ObjectReader, Store, spool


def identity_of(address: str, info: ObjectInfo) -> FileIdentity | None:
    """Return what an object is recognised by, or None if its store has no versions."""
    if not info.version:
        return None
    digest = hashlib.sha256(info.version.encode()).digest()
    number = int.from_bytes(digest[:8], "big") & (2**63 - 1)
    return FileIdentity(address, info.size, info.modified_ns, info.modified_ns, number)


async def load_stored(
    address: str, store: Store, name: str, *, field: str, prepare: bool, hashed: bool
) -> SourceImage:
    """Return the image at *address* checked, hashed and measured.

    Args:
        address: Where it is, as the user named it.
        store: The store.
        name: The object's name there.
        field: What error messages call the image.
        prepare: As for `comet_async._images.load.load`.
        hashed: As for `comet_async._images.load.load`.

    Raises:
        InputError: It can't be read, it changed while it was read, or the server would refuse it.
    """
    check = ImageRules(field=field, prepare=prepare, hashed=hashed, source=address)
    read = functools.partial(_load, address, store, name, check)
    return await asyncio.get_running_loop().run_in_executor(_pool(os.getpid()), read)


@functools.cache
def _pool(_pid: int) -> ThreadPoolExecutor:
    # More than for files: these wait for a network. By process: threads do not survive a fork.
    return ThreadPoolExecutor(max_workers=8, thread_name_prefix="comet-store")


def _load(address: str, store: Store, name: str, check: ImageRules) -> SourceImage:
    read_at_ns = time.time_ns()
    try:
        fd, path = tempfile.mkstemp(dir=spool())
        copy = LocalCopy(Path(path))
        with os.fdopen(fd, "w+b") as file:
            with store.open(name) as reader:
                info = reader.info
                check.check_size(info.size)
                _copy(reader, file, check)
            image = examine(file, info.size, check)
    except OSError as exc:
        raise _not_read(exc, check) from exc
    if not image.held:  # as it would be if it were converted
        image = attrs.evolve(image, copy=copy)
    return attrs.evolve(
        image,
        address=address,
        identity=identity_of(address, info),
        read_at_ns=read_at_ns,
    )


def _copy(reader: ObjectReader, file: BinaryIO, check: ImageRules) -> None:
    size = 0
    while piece := reader.read(PIECE):
        size += len(piece)
        if size > reader.info.size:
            raise changed(check)
        file.write(piece)
    if size != reader.info.size:
        raise changed(check)
    file.flush()


def _not_read(exc: OSError, check: ImageRules) -> InputError:
    """Return the error for an object that can't be read."""
    if exc.errno == errno.ENOENT:
        hint = "check the spelling of the address"
        return check.refuse("is not in the store", limit="an existing object", hint=hint)
    if exc.errno == errno.ESTALE:
        return changed(check)
    hint = "check the store's address and your rights there, and run again"
    return check.refuse(f"can't be read: {exc.strerror}", limit="a readable object", hint=hint)
