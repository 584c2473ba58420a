"""From what a user names (a path, bytes, a URL) to an image that is known to be acceptable.

Everything that the server would check is checked here, before anything is sent. A file is read
once, in a thread and in pieces, for its hash and its header; it is never in memory as a whole.

Limits: Kling's "Image expansion" page,
https://klingai.com/document-api/api/image/common/outpainting.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import hashlib
import io
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

import attrs
from yarl import URL

from comet_async._addresses import is_private, parse_web_url, url_scheme
from comet_async._images.formats import Inspector
from comet_async._images.prepare import Converted, colours_of, convert, encode, needs_conversion
from comet_async._images.reader import reader_of
from comet_async._images.rules import ImageRules, show
from comet_async._images.source import (
    FileIdentity,
    ImageInput,
    LocalCopy,
    Opener,
    SourceImage,
    changed,
    missing,
    not_read,
    opener,
    opener_no_links,
    unsupported,
)
from comet_async._images.streams import PillowImage, is_file, is_pillow, read_all
from comet_async._images.walkers import MISSING_DATA, has_all_data
from comet_async._validation import can_be_a_name, check_path
from comet_async.errors import InputError
from comet_async.stores import spool


async def load(
    image: ImageInput,
    *,
    field: str = "image",
    prepare: bool = False,
    allow_private: bool = False,
    follow_symlinks: bool = True,
    hashed: bool = True,
) -> SourceImage:
    """Return *image* checked, hashed and measured.

    Args:
        image: A path, bytes, an open file, a URL, or a `SourceImage`, which is returned as it
            is if it was loaded, unless *prepare* asks for more.
        field: What error messages call it.
        prepare: Convert what can be converted (see `comet_async._images.prepare`);
            `SourceImage.notes` says what was done. Needs the extra ``images``, for HEIC also
            ``heif``.
        allow_private: Accept URLs on this machine or in a private network.
        follow_symlinks: Accept a path that is a symbolic link.
        hashed: Whether `SourceImage.sha256` is wanted.

    Raises:
        InputError: The server would refuse it, or could not read it; the error names field,
            value, limit and remedy.
        MissingExtraError: *prepare* needs a library that is not installed.
    """
    if isinstance(image, SourceImage) and (image.loaded or image.remembered):
        if image.remembered:
            return image
        known = image.sha256 or not hashed
        if known and (not prepare or image.is_url or image.notes):
            return image
    given = image if isinstance(image, SourceImage) else _as_source(image, field)
    check = ImageRules(field=field, prepare=prepare, hashed=hashed, source=given.source)
    if given.url is not None:
        return _from_url(given.url, check, allow_private=allow_private)
    if given.file is not None:
        data = await read_all(given.file, check)
        read = functools.partial(_from_bytes, data, check)
    elif given.data is not None:
        read = functools.partial(_from_bytes, given.data, check)
    else:
        # As given, if it was given just now: "dog.png/" is not a file.
        path = str(given.path) if isinstance(image, SourceImage) else given.source
        read = functools.partial(
            _from_path, path, check, opener if follow_symlinks else opener_no_links
        )
    if not isinstance(image, SourceImage) and is_pillow(image):
        read = functools.partial(_from_pillow, image, check)
    found = await reader_of(asyncio.get_running_loop()).read(read)
    if isinstance(image, SourceImage):
        scaled_from = found.scaled_from or image.scaled_from
        return attrs.evolve(found, notes=found.notes or image.notes, scaled_from=scaled_from)
    return found


def _as_source(image: ImageInput, field: str) -> SourceImage:
    """Return what *image* is, by its type and, if it is text, by its first letters."""
    if isinstance(image, URL):
        return _from_text(str(image), field, only_url=True)
    if isinstance(image, str):
        return _from_text(image, field)
    if isinstance(image, bytes | bytearray | memoryview):
        return SourceImage.from_bytes(image)
    if isinstance(image, os.PathLike):
        check_path("path", image)
        return SourceImage(source=os.fsdecode(image))  # what is there is seen later
    if is_pillow(image):
        return SourceImage(source="Pillow image", data=b"")
    if is_file(image):
        return SourceImage.from_file(image)
    raise unsupported(image, field)


def _from_text(text: str, field: str, *, only_url: bool = False) -> SourceImage:
    scheme = url_scheme(text)
    if scheme == "data":
        check = ImageRules(field=field, source="data URI")
        return SourceImage.from_bytes(_decode_data_uri(text, check), name="data URI")
    if scheme or only_url:  # any scheme: which are fetched is checked when it is loaded
        return SourceImage(source=text.strip(), url=text.strip())
    return SourceImage(source=text)  # what is there is seen later


# ---------------------------------------------------------------------------- the kinds of input


_LONGEST_URL = 8192


def _from_url(text: str, check: ImageRules, *, allow_private: bool) -> SourceImage:
    """Return the image at a URL, of which only the text is looked at."""
    scheme = url_scheme(text)
    field = check.field
    refuse = functools.partial(
        InputError, field=field, value=show(text), limit="a public http or https URL"
    )
    if scheme not in {"http", "https"}:
        if not scheme:
            hint = "use an https URL; for a file pass its path, or SourceImage.from_path"
            raise refuse(f"{field}: {show(text)!r} is not a URL", hint=hint)
        raise refuse(
            f"{field}: the provider can't fetch a {scheme}: URL",
            hint="pass the path itself" if scheme == "file" else "use an https URL or a file",
        )
    url = parse_web_url(text)
    if url is None or url.host is None or len(text) > _LONGEST_URL:
        raise refuse(f"{field}: {show(text)!r} is not a URL", hint="check its spelling")
    if url.user is not None or url.password is not None:
        # Not shown: it would be the password.
        raise InputError(
            f"{field}: the URL holds a user name or a password",
            field=field,
            value=url.host,
            limit="no user information",
            hint="the provider would log it; use a signed URL or a file",
        )
    if not allow_private and is_private(url.host):
        raise refuse(
            f"{field}: the provider can't reach {url.host}, which is private",
            hint="pass the file itself",
        )
    # The text as given: another spelling of the same URL could break its signature.
    return SourceImage(source=text, url=text, sha256=hashlib.sha256(text.encode()).hexdigest())


def _decode_data_uri(text: str, check: ImageRules) -> bytes:
    head, comma, body = text.strip().partition(",")
    refuse = functools.partial(check.refuse, value=show(head), limit="data:image/…;base64,…")
    if not comma or not re.fullmatch(r"data:image/[\w.+-]+(;[^,]*)?;base64", head, re.IGNORECASE):
        raise refuse("is of another kind", hint="pass the image's bytes")
    try:
        return base64.b64decode("".join(unquote(body).split()), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise refuse(f"is not valid Base64: {exc}", hint="pass the image's bytes") from None


def _from_bytes(data: bytes, check: ImageRules) -> SourceImage:
    with io.BytesIO(data) as file:
        image = examine(file, len(data), check)
    return image if image.held else attrs.evolve(image, data=data)


def _from_pillow(image: PillowImage, check: ImageRules) -> SourceImage:
    """Return a file of a Pillow image's pixels; its hash is that of the pixels."""
    made = encode(image, check)
    check.check_shape(made.width, made.height)
    pixels = hashlib.sha256(f"pixels 1\0{image.mode}\0{image.size}\0".encode())
    pixels.update(image.tobytes())
    pixels.update(colours_of(image).encode())
    return _encoded(made, check.source, pixels.hexdigest() if check.hashed else "")


def _from_path(path: str, check: ImageRules, open_it: Opener) -> SourceImage:
    if not can_be_a_name(path):
        raise missing(check)
    try:
        with io.FileIO(path, opener=open_it) as file:
            return _from_file(file, path, check)
    except OSError as exc:
        raise not_read(exc, check) from exc


def _from_file(file: io.FileIO, path: str, check: ImageRules) -> SourceImage:
    read_at_ns = time.time_ns()  # comparable with the times of files
    before = os.fstat(file.fileno())
    if not stat.S_ISREG(before.st_mode):
        raise check.refuse("is not a regular file", limit="a file", hint="copy it to a file")
    image = examine(file, before.st_size, check)
    after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise changed(check)
    return attrs.evolve(
        image,
        path=Path(path).absolute(),
        mtime_ns=None if image.held else after.st_mtime_ns,
        identity=FileIdentity.of(path, after),
        read_at_ns=read_at_ns,
    )


# ---------------------------------------------------------------------------- reading


_CHUNK = 256 * 1024


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    return iter(functools.partial(file.read, _CHUNK), b"")


def examine(file: BinaryIO, size: int, check: ImageRules) -> SourceImage:
    """Return the image in *file*, read once from its start."""
    digest, inspector = hashlib.sha256(), Inspector()
    for piece in _pieces(file):
        if check.hashed:
            digest.update(piece)
        inspector.feed(piece)
        if inspector.size == len(piece):  # the first: the rest of a film is not worth reading
            check.check_kind(inspector.format, inspector.head)
            check.check_size(size)
        if inspector.size > size:
            raise changed(check)
    check.check_size(inspector.size)
    complete = inspector.complete or inspector.has_end(_pieces(file))
    check.check_whole(inspector, complete=complete)
    if inspector.doubtful and not has_all_data(_pieces(file)):
        raise check.damaged(MISSING_DATA)
    info = inspector.info
    convertible = needs_conversion(info, size)
    if info is None or (check.prepare and convertible):
        return _converted(file, inspector, digest.digest() if check.hashed else None, check)
    return SourceImage(
        source=check.source,
        sha256=digest.hexdigest() if check.hashed else "",
        other_sha256=_converted_sha256(digest.digest()) if check.hashed and convertible else "",
        size=inspector.size,
        width=info.width,
        height=info.height,
        format=info.format,
    )


def _converted(
    file: BinaryIO, inspector: Inspector, digest: bytes | None, check: ImageRules
) -> SourceImage:
    file.seek(0)
    made = convert(file, inspector.format or "", check, info=inspector.info)
    if digest is None:
        return _encoded(made, check.source, "")
    image = _encoded(made, check.source, _converted_sha256(digest))
    return attrs.evolve(image, other_sha256=digest.hex())


def _converted_sha256(digest: bytes) -> str:
    # Marked as converted: sent as it is, the same original would be another image.
    return hashlib.sha256(b"prepared 1\0" + digest).hexdigest()


def _encoded(made: Converted, source: str, sha256: str) -> SourceImage:
    copy = _in_file(made.data) if len(made.data) > _IN_MEMORY else None
    return SourceImage(
        source=source,
        sha256=sha256,
        data=made.data if copy is None else None,
        copy=copy,
        size=len(made.data),
        width=made.width,
        height=made.height,
        format=made.format,
        notes=made.notes,
        scaled_from=made.scaled_from,
    )


# Bytes of a converted image that stay in memory: many may wait for their turn to be sent.
_IN_MEMORY = 256 * 1024


def _in_file(data: bytes) -> LocalCopy | None:
    """Write *data* to a temporary file and return it; None if it can't be written."""
    try:
        fd, path = tempfile.mkstemp(dir=spool())
        copy = LocalCopy(Path(path))
        with os.fdopen(fd, "wb") as file:
            file.write(data)
    except OSError:
        return None
    return copy
