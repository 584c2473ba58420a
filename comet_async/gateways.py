"""Where the API lives: CometAPI, Kling itself, or any gateway that copies its paths.

Hosts: https://apidoc.cometapi.com/api/video/kling/image-expansion (CometAPI) and
https://klingai.com/document-api/api/get-started/authentication (Kling).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Literal
from urllib.parse import quote

import attrs
from yarl import URL

from comet_async._addresses import is_loopback
from comet_async._validation import check_instance, check_text, flag, instance_of, text, wrong
from comet_async.errors import ConfigError, InputError
from comet_async.models import JSON, TaskKind
from comet_async.secret import QUOTES, Secret, redact

LookupForm = Literal["path", "query", "flag"]
"""How to look a task up by our own id: as the last part of the path (Kling's page), as
``?external_task_id=`` on the collection, or as the path with a flag behind it."""

DownField = Literal["down", "bottom", "both"]
"""Name of the lower margin: ``down``, ``bottom``, or both with equal values."""

_FORMS: tuple[LookupForm, ...] = ("path", "query", "flag")

COMET_ROOT = "https://api.cometapi.com"
KLING_HOSTS: Mapping[str, str] = {
    "singapore": "https://api-singapore.klingai.com",
    "beijing": "https://api-beijing.klingai.com",
}


_KEYS = re.compile("auth|cookie|credential|jwt|key|pass|secret|session|sign|token", re.IGNORECASE)

_UNRESERVED = re.compile("[A-Za-z0-9_-]+")  # in a path as it is


def _secrets_in(values: Iterable[str]) -> tuple[Secret, ...]:
    words = (value.split()[-1].strip(QUOTES) for value in values)
    return tuple(Secret(word) for word in words if word)


def _as_root(root: URL | str) -> URL:
    """Return the root of an API from what a caller or the environment gave.

    Raises:
        ConfigError: It is not a web address, or holds a password. It is not shown, because it
            may be a misplaced key.
    """
    limit = "an address such as https://api.cometapi.com"
    try:
        url = URL(root)
        _ = url.host, url.port  # read only here, and each can fail
        labels = (url.raw_host or "").removesuffix(".").split(".")
    except (ValueError, TypeError):
        url, labels = URL(), [""]
    if url.user or url.password or url.query_string:
        raise ConfigError(
            "the API root must not hold a user name, a password or a query",
            field="root",
            limit=limit,
            hint="pass the key as api_key, or set COMETAPI_KEY",
        )
    known = url.scheme in {"http", "https"}
    if not known or not all(0 < len(label) <= _LONGEST_LABEL for label in labels):
        raise ConfigError(
            "the API root is not a web address",
            field="root",
            limit=limit,
            hint="write it like https://api.cometapi.com",
        )
    return url.origin().with_path(url.path.rstrip("/"))


_LONGEST_LABEL = 63  # of the name of a host


def _check_encrypted(gateway: Gateway, _field: object, root: URL) -> None:
    """Refuse a root that would send the key over the network in the clear."""
    if root.scheme == "http" and not gateway.allow_http and not is_loopback(root.host):
        raise ConfigError(
            f"the API root http://{root.raw_host} would send the key unencrypted",
            field="root",
            limit="https, or plain http to this machine",
            hint="use https; only a program can allow plain http, by Gateway(..., allow_http=True)",
        )


def _check_prefix(_owner: object, _field: object, value: object) -> None:
    if not isinstance(value, str) or (value and not value.startswith("/")):
        raise wrong("prefix", value, "a path that begins with /")


def _check_forms(_owner: object, _field: object, value: object) -> None:
    if not isinstance(value, tuple) or not all(form in _FORMS for form in value):
        raise wrong("lookup_forms", value, "a tuple of path, query and flag")


# What the library sets itself, and what would change how much of a request is sent.
_OUR_HEADERS = {
    *("accept", "accept-encoding", "authorization", "connection", "content-encoding"),
    *("content-length", "content-type", "cookie", "expect", "host", "idempotency-key"),
    *("trailer", "transfer-encoding", "upgrade"),
}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")


def _is_text(value: object, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _as_headers(given: Mapping[str, str]) -> Mapping[str, str]:
    """Return a copy of *given*.

    Raises:
        InputError: A header can't be sent, or is one of ours. Its value is not shown.
    """
    check_instance("headers", given, Mapping, "a mapping of names to values")
    for name, value in given.items():
        if not _is_text(name, _HEADER_NAME):
            raise wrong("headers", name, "the name of a header")
        if name.lower() in _OUR_HEADERS:
            raise InputError(
                f"headers: {name} is set by the library",
                field="headers",
                value=name,
                limit="other headers",
                hint="pass the key as api_key" if name.lower() == "authorization" else None,
            )
        if not _is_text(value, _HEADER_VALUE):
            raise InputError(
                f"headers: the value of {name} can't be sent",
                field="headers",
                limit="printable ASCII without spaces around it",
            )
    return dict(given)


@attrs.frozen(kw_only=True)
class Gateway:
    """A gateway to the API.

    Attributes:
        name: What to call it in messages.
        root: Scheme, host and port, and a path before ``prefix`` if there is one.
        prefix: What precedes ``/images/…`` on this gateway; ``/v1`` by default, as at Kling.
            (`parse` takes an address without a path for one with CometAPI's, ``/kling/v1``.)
        down_field: Name of the lower margin: ``down``, ``bottom`` or both with equal values.
        lookup_forms: Ways to look a task up by our own id, in the order to try them.
        headers: Headers to send with each call to this gateway, such as the token of an access
            proxy in front of it. Not sent to the hosts of results, and not shown in ``repr``.
        identity: What a journal knows this gateway by, if its address may change; the address
            by default.
        allow_http: Allow plain http to other machines, for the API and for results on its
            host: for a sandbox in another container. The key is then sent unencrypted, so
            this is set in code only, never by the environment or the config file.

    Raises:
        ConfigError: The root is not a web address, holds a password, or is plain http to
            another machine.
        InputError: Another value can't be used.
    """

    name: str = attrs.field(validator=text)
    allow_http: bool = attrs.field(default=False, validator=flag)
    root: URL = attrs.field(converter=_as_root, validator=_check_encrypted)
    prefix: str = attrs.field(default="/v1", validator=_check_prefix)
    down_field: DownField = "down"
    lookup_forms: tuple[LookupForm, ...] = attrs.field(default=_FORMS, validator=_check_forms)
    headers: Mapping[str, str] = attrs.field(
        factory=dict, converter=_as_headers, repr=False, hash=False
    )
    identity: str | None = attrs.field(default=None, validator=instance_of(str, None))
    _collections: dict[str, URL] = attrs.field(factory=dict, init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.down_field not in ("down", "bottom", "both"):  # not hashed: it may be anything
            raise wrong("down_field", self.down_field, "down, bottom or both")

    @classmethod
    def comet(cls, root: URL | str = COMET_ROOT) -> Gateway:
        """Return CometAPI, or another gateway that keeps the API below ``/kling/v1``."""
        url = _as_root(root)
        base = url.path.rstrip("/").removesuffix("/v1").removesuffix("/kling").rstrip("/")
        return cls(name="cometapi", root=url.with_path(base), prefix="/kling/v1")

    @classmethod
    def kling(cls, region: str = "singapore") -> Gateway:
        """Return Kling itself.

        Args:
            region: ``singapore`` (servers outside China; the default) or ``beijing``. Keys
                belong to one of them.

        Raises:
            ConfigError: The region is unknown.
        """
        if region not in tuple(KLING_HOSTS):  # not hashed: it may be anything
            regions = " or ".join(KLING_HOSTS)
            raise ConfigError(
                f"Kling has no region {region!r}",
                field="region",
                value=region,
                limit=regions,
                hint=f"use {regions}",
            )
        return cls(name=f"kling-{region}", root=KLING_HOSTS[region], prefix="/v1")

    @classmethod
    def parse(cls, text: str) -> Gateway:
        """Return the gateway that *text* names.

        That is ``comet``, ``kling``, ``kling-beijing``, or an address. If its path ends in
        ``/v1``, the API is below it (``https://host/v1``, ``https://host/klingai/v1``); without a
        path it is below ``/kling/v1``, and with any other path below ``/v1`` of that.

        Raises:
            ConfigError: It is neither a known name nor a web address.
        """
        check_text("gateway", text, empty=True)
        word = text.strip()
        if word in {"comet", "cometapi"}:
            return cls.comet()
        if word in {"kling", *(f"kling-{region}" for region in KLING_HOSTS)}:
            return cls.kling(word.partition("-")[2] or "singapore")
        if "://" not in word:
            raise ConfigError(
                f"gateway {redact(word)!r} is unknown",
                field="gateway",
                limit="comet, kling, kling-beijing or an address",
                hint="use comet, kling, kling-beijing or an address",
            )
        url = _as_root(word)
        if url.path in {"", "/", "/kling", "/kling/v1"} and not (url.host or "").endswith(
            "klingai.com"
        ):
            return attrs.evolve(cls.comet(url), name=url.host or "gateway")
        path = url.path.removesuffix("/").removesuffix("/v1")
        return cls(name=url.host or "gateway", root=url.with_path(""), prefix=f"{path}/v1")

    @property
    def loopback(self) -> bool:
        """True when the API runs on this machine (a sandbox)."""
        return is_loopback(self.root.host)

    @property
    def fingerprint(self) -> str:
        """A short name of the gateway for the journal."""
        what = self.identity or f"{self.root}{self.prefix}"
        return hashlib.sha256(what.encode()).hexdigest()[:16]

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The parts of the headers that must never be shown, such as what follows ``Basic``."""
        return _secrets_in(self.headers.values())

    @property
    def keys(self) -> tuple[Secret, ...]:
        """Those of the `secrets` that are keys by their headers' names.

        What else a header says may rightly stand in an answer, such as a tenant's name in the
        URL of a result.
        """
        return _secrets_in(value for name, value in self.headers.items() if _KEYS.search(name))

    def collection(self, kind: TaskKind) -> URL:
        """Return the address that creates and lists tasks of *kind*."""
        known = self._collections.get(kind.path)
        if known is None:
            path = f"{self.root.path.rstrip('/')}{self.prefix}/{kind.path}"
            known = self._collections[kind.path] = self.root.with_path(path)
        return known

    def task(self, kind: TaskKind, task_id: str) -> URL:
        """Return the address of one task."""
        name = task_id if _UNRESERVED.fullmatch(task_id) else quote(task_id, safe="")
        return self.collection(kind).joinpath(name, encoded=True)

    def lookup(self, kind: TaskKind, external_task_id: str, form: LookupForm) -> URL:
        """Return the address that looks a task up by our own id."""
        if form == "query":
            return self.collection(kind).with_query(external_task_id=external_task_id)
        address = self.task(kind, external_task_id)
        return address if form == "path" else address.with_query(external_task_id="true")

    def page(self, kind: TaskKind, number: int, size: int) -> URL:
        """Return the address of one page of the list (number 1 to 1000, size 1 to 500)."""
        return self.collection(kind).with_query(pageNum=number, pageSize=size)

    def adapt(self, fields: Mapping[str, JSON]) -> dict[str, JSON]:
        """Return *fields* under the names that this gateway reads."""
        adapted = dict(fields)
        down = adapted.get("down_expansion_ratio")
        if down is None or self.down_field == "down":
            return adapted
        adapted["bottom_expansion_ratio"] = down
        if self.down_field == "bottom":
            del adapted["down_expansion_ratio"]
        return adapted
