"""Settings: time limits, network, and gateway and key from arguments, environment and file."""

from __future__ import annotations

import difflib
import functools
import ipaddress
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from ssl import SSLContext
from typing import TYPE_CHECKING, cast

import attrs
from yarl import URL

from comet_async._addresses import is_loopback
from comet_async._validation import (
    Field,
    Validator,
    check_instance,
    check_number,
    flag,
    instance_of,
    number,
)
from comet_async.auth import ApiKey, Credentials, KlingToken
from comet_async.errors import ConfigError, InputError
from comet_async.gateways import DownField, Gateway
from comet_async.secret import Secret, redact

if TYPE_CHECKING:
    import aiohttp

SLOWEST = 50_000.0
"""Bytes a second of the slowest uplink that an upload's deadline allows for."""


@attrs.frozen(kw_only=True)
class Timeouts:
    """Limits of one exchange, in seconds.

    Attributes:
        connect: To reach the server, TLS included. 10 by default.
        response: For a paid request: from the body's last byte to the answer. 60 by default.
        request: For a request that costs nothing (GET): the whole exchange. 20 by default.

    Raises:
        InputError: A limit is not a positive number.
    """

    connect: float = attrs.field(default=10.0, validator=number(above=0))
    response: float = attrs.field(default=60.0, validator=number(above=0))
    request: float = attrs.field(default=20.0, validator=number(above=0))

    @classmethod
    def of(cls, given: float | Timeouts | None) -> Timeouts:
        """Return the limits that *given* stands for: seconds for one exchange, or limits.

        Seconds never shorten the wait for the answer to a paid request.

        Raises:
            InputError: It is not a positive number of seconds.
        """
        if given is None:
            return cls()
        if isinstance(given, Timeouts):
            return given
        check_number("request_timeout", given, above=0)
        return cls(request=float(given), response=max(cls().response, float(given)))

    def post(self, length: int) -> float:
        """Return how long a POST of *length* bytes may take in all."""
        return 3 * self.connect + self.response + length / SLOWEST


@attrs.frozen
class Proxies:
    """Which hosts are reached through which proxy, as the usual environment variables say.

    ``HTTPS_PROXY`` and ``HTTP_PROXY`` by the scheme of the URL, else ``ALL_PROXY``, in lower or
    upper case; ``NO_PROXY`` lists hosts, domains, networks or ``*``. This machine is always
    reached directly. ``~/.netrc`` is never read.
    """

    _by_scheme: Mapping[str, str] = attrs.field(repr=False)
    _direct: tuple[str, ...]

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Proxies:
        """Return what *env* says.

        Raises:
            ConfigError: A variable does not hold the address of a proxy.
        """
        found = {}
        for scheme in ("http", "https", "all"):
            # HTTP_PROXY may come from a request's "Proxy:" header in a CGI program.
            names = [f"{scheme}_proxy", *([] if scheme == "http" else [f"{scheme.upper()}_PROXY"])]
            if scheme == "http" and "REQUEST_METHOD" not in env:
                names.append("HTTP_PROXY")
            name = next((name for name in names if env.get(name, "").strip()), None)
            if name is not None:
                found[scheme] = _check_proxy(env[name].strip(), name)
        direct = env.get("no_proxy") or env.get("NO_PROXY") or ""
        return cls(found, tuple(direct.replace(",", " ").lower().split()))

    def for_url(self, url: URL) -> str | None:
        """Return the proxy for *url*, or None to reach it directly."""
        if not self._by_scheme:
            return None
        proxy = self._by_scheme.get(url.scheme) or self._by_scheme.get("all")
        host = (url.raw_host or "").rstrip(".").lower()
        if proxy is None or is_loopback(host):
            return None
        if any(_is_excepted(host, url.port, entry) for entry in self._direct):
            return None
        return proxy

    def addresses(self) -> Iterable[str]:
        """Return the addresses of the proxies; they may hold passwords."""
        return self._by_scheme.values()


def _is_excepted(host: str, port: int | None, entry: str) -> bool:
    """Return True if *entry* of ``NO_PROXY`` covers *host*."""
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass  # one of the two is a name
    name, _, only = entry.rpartition(":") if entry.count(":") == 1 else (entry, "", "")
    name = name.removeprefix("*").removeprefix(".")
    covered = host == name or host.endswith(f".{name}")
    return bool(name) and covered and only in {"", str(port)}


def _check_proxy(address: str, field: str) -> str:
    """Return *address* if it is the address of an HTTP proxy; it may hold a password.

    Raises:
        ConfigError: It is not.
    """
    try:
        url = URL(address if "://" in address else f"http://{address}")
        usable = bool(url.host) and url.port is not None
    except ValueError:
        usable, url = False, URL()
    if url.scheme.startswith("socks"):
        raise ConfigError(
            f"{field}: SOCKS proxies are not supported",
            field=field,
            limit="an HTTP proxy",
            hint="use the HTTP port of the proxy; or install aiohttp-socks, and pass sessions with "
            "its connector as the session and the download_session of Network",
        )
    if not usable or url.scheme not in {"http", "https"}:
        raise ConfigError(
            f"{field} is not the address of a proxy",
            field=field,
            limit="an address such as http://proxy.example:3128",
            hint="write it like http://proxy.example:3128",
        )
    return str(url)


def _as_proxy(given: str | None) -> str | None:
    return None if given is None else _proxy_of(given)


def _proxy_of(given: object) -> str:
    if not isinstance(given, str) or "://" not in given:
        raise InputError(
            "proxy is not the address of a proxy",  # not shown: it may hold a password
            field="proxy",
            limit="an address such as http://proxy.example:3128",
            hint="write it like http://proxy.example:3128",
        )
    return _check_proxy(given, "proxy")


def _check_session(_owner: object, field: Field, value: object) -> None:
    # By its looks: aiohttp is imported where requests are sent.
    if value is not None and not (hasattr(value, "request") and hasattr(value, "closed")):
        raise InputError(
            f"{field.name} is not an aiohttp.ClientSession",
            field=field.name,
            value=type(value).__name__,
            limit="an aiohttp.ClientSession",
        )


_is_session: Validator = _check_session


@attrs.frozen(kw_only=True)
class Network:
    """How to reach the network.

    Attributes:
        session: Your own ``aiohttp.ClientSession`` for the API's calls, never closed by us;
            by default one is created for each event loop. Results are not fetched with it:
            their hosts are named by the server and must not see its headers or cookies.
        download_session: Your own ``aiohttp.ClientSession`` for fetching results, never closed
            by us. It is then up to its connector whether a name may lead to a private address.
        proxy: Address of an HTTP proxy for everything.
        ssl: Your own SSL context, for an additional authority or a client certificate.
        trust_env: Use the proxies that ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and
            ``NO_PROXY`` name, unless *proxy* is given. False by default. ``~/.netrc`` is never
            read.
        uploads: How many large bodies are on the wire at once. 4 by default.
        downloads: How many results are fetched at once. 8 by default.
        connections: The most connections at once. 33 by default.

    Raises:
        InputError: A value can't be used.
        ConfigError: The environment names a proxy that can't be used.
    """

    session: aiohttp.ClientSession | None = attrs.field(
        default=None, repr=False, validator=_is_session
    )
    download_session: aiohttp.ClientSession | None = attrs.field(
        default=None, repr=False, validator=_is_session
    )
    proxy: str | None = attrs.field(default=None, repr=False, converter=_as_proxy)
    ssl: SSLContext | None = attrs.field(
        default=None, repr=False, validator=instance_of(SSLContext, None)
    )
    trust_env: bool = attrs.field(default=False, validator=flag)
    uploads: int = attrs.field(default=4, validator=number(least=1, whole=True))
    downloads: int = attrs.field(default=8, validator=number(least=1, whole=True))
    connections: int = attrs.field(default=33, validator=number(least=1, whole=True))
    _proxies: Proxies = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        used = self.trust_env and self.proxy is None
        object.__setattr__(self, "_proxies", Proxies.from_environment(os.environ if used else {}))

    def proxy_for(self, url: URL) -> str | None:
        """Return the address of the proxy that leads to *url*, or None.

        It may hold a password.
        """
        return self.proxy or self._proxies.for_url(url)

    @property
    def proxy_hosts(self) -> frozenset[str]:
        """Hosts of all proxies. They are configured, so they may be in a private network."""
        addresses = [*([self.proxy] if self.proxy else []), *self._proxies.addresses()]
        return frozenset(URL(address).host or "" for address in addresses)


_PRIVATE_BITS = 0o077
_LONGEST_NAME = 100


def config_path(env: Mapping[str, str], *, windows: bool = os.name == "nt") -> Path:
    """Return where the config file is looked for.

    On Windows that is the folder for settings, unless there is a file where other systems have it.
    """
    base = env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "~")).expanduser() / ".config"
    path = Path(base) / "comet-async" / "config.toml"
    if not windows or path.exists():
        return path
    try:
        from platformdirs import user_config_path  # noqa: PLC0415 - on Windows only
    except ImportError:
        return path
    return user_config_path("comet-async", appauthor=False, roaming=True) / "config.toml"


@attrs.frozen(kw_only=True)
class Config:
    """What the config file may say.

    Attributes:
        gateway: The name or the address of a gateway.
        api_key: The key; the file must then be readable by its owner only.
        account: A name for the account, by which a journal recognises its jobs after the key has
            been replaced.
        down_field: Name of the lower margin on that gateway: ``down``, ``bottom``, ``both``.
        proxy: Address of an HTTP proxy, for the command; a program passes it to `Network`.
    """

    gateway: str | None = None
    account: str | None = None
    api_key: str | None = attrs.field(default=None, repr=False)
    down_field: str | None = None
    proxy: str | None = attrs.field(default=None, repr=False)

    @classmethod
    def read(cls, path: Path) -> Config:
        """Return the file's content; an absent file says nothing.

        The file is read again only after it has changed.

        Raises:
            ConfigError: It can't be read, has an unknown key, or holds an API key that others
                may read.
        """
        try:
            status = path.stat()
        except FileNotFoundError:
            return cls()
        except OSError as exc:
            raise _unreadable(path, exc) from None
        return _read_file(path, status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode)


@functools.lru_cache(maxsize=8)
def _read_file(path: Path, _changed: int, _size: int, _inode: int, mode: int) -> Config:
    try:
        data = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        return Config()
    except (OSError, ValueError) as exc:
        problem: ConfigError | None = _unreadable(path, exc)
        data = {}
    else:
        problem = _problem(path, data, mode)
    if problem is not None:
        data.clear()  # it may hold the key, and a frame's variables end up in error reports
        raise problem
    known = {field.name for field in attrs.fields(Config)}
    return Config(**{name: value for name, value in data.items() if name in known})


def _unreadable(path: Path, exc: Exception) -> ConfigError:
    return ConfigError(f"{path} can't be read: {exc}", hint="correct it or remove it")


def _problem(path: Path, data: Mapping[str, object], mode: int) -> ConfigError | None:
    """Return what is wrong with the content of the config file, without showing values."""
    known = [field.name for field in attrs.fields(Config)]
    for name, value in data.items():
        if name not in known and isinstance(value, dict):
            continue  # the options of a command, such as [expand]: the command checks them
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            return ConfigError(
                f"{path} has an unknown key {name!r}",
                field=name,
                limit=", ".join(known),
                hint=f"did you mean {close[0]}?" if close else f"it may have {', '.join(known)}",
            )
        if not isinstance(value, str):
            return ConfigError(
                f"{path}: {name} is not text",
                field=name,
                limit="text",
                hint=f'write it in quotes, like {name} = "..."',
            )
    if "api_key" in data and mode & _PRIVATE_BITS:
        return ConfigError(
            f"{path} holds a key and can be read by others",
            field="api_key",
            limit="a file that only its owner may read",
            hint=f"chmod 600 {path}",
        )
    return None


def choose_gateway(given: Gateway | str | None, env: Mapping[str, str], config: Config) -> Gateway:
    """Return the gateway: the argument, else the environment, else the config file.

    ``COMETAPI_API_ROOT``, else ``COMETAPI_BASE_URL`` without a final ``/v1``, names another
    root for CometAPI. With none of these, Kling's own keys choose Kling.

    Raises:
        ConfigError: A name or address can't be read.
    """
    if isinstance(given, Gateway):
        return given
    root = env.get("COMETAPI_API_ROOT") or env.get("COMETAPI_BASE_URL")
    only_kling = not env.get("COMETAPI_KEY") and _kling_keys(env)
    del env  # it holds keys, and a frame's variables end up in error reports
    if given is not None and not (root and given in {"comet", "cometapi"}):
        gateway = Gateway.parse(given)
    elif root:
        gateway = Gateway.comet(root.strip())
    elif config.gateway is not None:
        gateway = Gateway.parse(config.gateway)
    else:
        gateway = Gateway.kling() if only_kling else Gateway.comet()
    if config.down_field is None:
        return gateway
    if config.down_field not in {"down", "bottom", "both"}:
        raise ConfigError(
            f"down_field={config.down_field!r} is unknown",
            field="down_field",
            value=config.down_field,
            limit="down, bottom or both",
            hint="use down, bottom or both",
        )
    return attrs.evolve(gateway, down_field=cast("DownField", config.down_field))


def _kling_keys(env: Mapping[str, str]) -> bool:
    return bool(
        env.get("KLING_API_KEY") or (env.get("KLING_ACCESS_KEY") and env.get("KLING_SECRET_KEY"))
    )


def choose_credentials(
    given: str | Secret | Credentials | None,
    gateway: Gateway,
    env: Mapping[str, str],
    config: Config,
) -> Credentials:
    """Return what signs requests: the argument, else what the environment has for the gateway.

    Raises:
        ConfigError: No key is set, or it can't be used as a header.
    """
    # A key is shown only to the company that issued it; other gateways may take either.
    host = gateway.root.host or ""
    kling, comet = host.endswith("klingai.com"), host.endswith("cometapi.com")
    found: Credentials | None = None
    problem: ConfigError | None = None
    try:
        found = _as_credentials(given)
        if found is None and not kling:
            found = _comet(env)
        if found is None and not comet:
            found = _kling(env)
        if found is None:
            found = _as_credentials(config.api_key)
    except ConfigError as error:
        problem = error
    del given, env  # they hold keys, and a frame's variables end up in error reports
    if problem is not None:
        problem.__context__ = None
        raise problem.with_traceback(None)
    if found is None:
        wanted = "KLING_API_KEY (or KLING_ACCESS_KEY and KLING_SECRET_KEY)"
        raise ConfigError(
            f"no API key for {gateway.name}",
            field="api_key",
            hint=f"set {wanted if kling else 'COMETAPI_KEY'}, or use the sandbox, which needs none",
        )
    return found


def _as_credentials(given: str | Secret | Credentials | None) -> Credentials | None:
    if isinstance(given, str | Secret):
        return ApiKey(given)
    if given is None or all(hasattr(given, name) for name in ("account", "secrets", "header")):
        return given
    kind = type(given).__name__
    raise ConfigError(
        f"api_key is {kind}, not a key",
        field="api_key",
        value=kind,
        limit="text, a Secret, an ApiKey or a KlingToken",
    )


def _comet(env: Mapping[str, str]) -> Credentials | None:
    given = env.get("COMETAPI_KEY")
    return None if given is None else ApiKey(Secret(given, name="COMETAPI_KEY"))


def _kling(env: Mapping[str, str]) -> Credentials | None:
    if given := env.get("KLING_API_KEY"):
        return ApiKey(Secret(given, name="KLING_API_KEY"))
    access, secret = env.get("KLING_ACCESS_KEY"), env.get("KLING_SECRET_KEY")
    if not access or not secret:
        return None
    return KlingToken(
        Secret(access, name="KLING_ACCESS_KEY"), Secret(secret, name="KLING_SECRET_KEY")
    )


def choose_account(given: str | None, env: Mapping[str, str], config: Config) -> str | None:
    """Return the account's name: the argument, else ``COMETAPI_ACCOUNT``, else the config file's.

    Raises:
        ConfigError: It can't be a name.
    """
    name = given if given is not None else env.get("COMETAPI_ACCOUNT") or config.account
    del env  # it holds keys, and a frame's variables end up in error reports
    if name is None:
        return None
    limit = f"printable text of 1 to {_LONGEST_NAME} characters"
    check_instance("account", name, str, limit)
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise ConfigError(
            "account is not a usable name", field="account", limit=limit, hint=f"use {limit}"
        )
    if redact(name) != name:
        raise ConfigError(
            "account looks like a key, and a journal never holds one",
            field="account",
            limit=limit,
            hint="choose a name, such as the project's",
        )
    return name
