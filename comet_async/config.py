"""How the network is reached: time limits, proxy, certificates."""

from __future__ import annotations

import math
from ssl import SSLContext
from typing import TYPE_CHECKING

import attrs

from comet_async.errors import ConfigError

if TYPE_CHECKING:
    import aiohttp
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from comet_async.auth import ApiKey, Credentials, KlingToken
from comet_async.gateways import Gateway
from comet_async.secret import Secret, redact

SLOWEST = 50_000.0
"""Bytes a second of the slowest uplink that an upload's deadline allows for."""


@attrs.frozen(kw_only=True)
class Timeouts:
    """Limits of one exchange, in seconds.

    Attributes:
        connect: To reach the server, TLS included. 10 by default.
        answer: For a paid request: from the body's last byte to the answer. 60 by default.
        ask: For a question: the whole exchange. 20 by default.
    """

    connect: float = 10.0
    answer: float = 60.0
    ask: float = 20.0

    @classmethod
    def of(cls, given: float | Timeouts | None) -> Timeouts:
        """Return the limits that *given* stands for: seconds for one exchange, or limits.

        Seconds never shorten the wait for the answer to a paid request.

        Raises:
            ConfigError: It is no positive number of seconds.
        """
        if given is None:
            return cls()
        if isinstance(given, Timeouts):
            return given
        if not 0 < given < math.inf:
            msg = f"request_timeout={given!r} must be a positive number of seconds"
            raise ConfigError(msg, hint="20 is the default")
        return cls(ask=float(given), answer=max(cls().answer, float(given)))

    def post(self, length: int) -> float:
        """Return how long a POST of *length* bytes may take in all."""
        return 3 * self.connect + self.answer + length / SLOWEST


@attrs.frozen(kw_only=True)
class Network:
    """How to reach the network.

    Attributes:
        session: Your own ``aiohttp.ClientSession`` for the API's calls, never closed by us;
            by default one is made for each event loop.
        proxy: Address of an HTTP proxy.
        ssl: Your own SSL context, for an additional authority or a client certificate.
        trust_env: Read ``HTTP_PROXY`` and ``.netrc`` as aiohttp does. False by default.
        uploads: How many large bodies are on the wire at once. 4 by default.
        downloads: How many results are fetched at once. 8 by default.
        connections: The most connections at once. 33 by default.
    """

    session: aiohttp.ClientSession | None = attrs.field(default=None, repr=False)
    proxy: str | None = attrs.field(default=None, repr=False)
    ssl: SSLContext | None = attrs.field(default=None, repr=False)
    trust_env: bool = False
    uploads: int = 4
    downloads: int = 8
    connections: int = 33


_PRIVATE_BITS = 0o077
_LONGEST_NAME = 100


def config_path(env: Mapping[str, str]) -> Path:
    """Return where the config file is looked for."""
    base = env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "~")).expanduser() / ".config"
    return Path(base) / "comet-async" / "config.toml"


@attrs.frozen(kw_only=True)
class Config:
    """What the config file may say.

    Attributes:
        gateway: As for ``--gateway``.
        api_key: The key; the file must then be readable by its owner only.
        account: A name for the account, by which a journal recognises its jobs after the key has
            been replaced.
        down_field: Name of the lower margin on that gateway: ``down``, ``bottom``, ``both``.
    """

    gateway: str | None = None
    account: str | None = None
    api_key: str | None = attrs.field(default=None, repr=False)
    down_field: str | None = None

    @classmethod
    def read(cls, path: Path) -> Config:
        """Return the file's content; an absent file says nothing.

        Raises:
            ConfigError: It can't be read, or it holds a key that others may read.
        """
        try:
            with path.open("rb") as file:
                data = tomllib.load(file)
                mode = os.fstat(file.fileno()).st_mode
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError) as exc:
            msg = f"{path} can't be read: {exc}"
            raise ConfigError(msg, hint="mend it or remove it") from None
        known = {field.name for field in attrs.fields(cls)}
        wrong = sorted(name for name in known & set(data) if not isinstance(data[name], str))
        if wrong:
            msg = f"{path}: {', '.join(wrong)} must be text"
            raise ConfigError(msg, hint='write it like gateway = "kling"')
        if "api_key" in data and mode & _PRIVATE_BITS:
            msg = f"{path} holds a key and can be read by others"
            raise ConfigError(msg, hint=f"chmod 600 {path}")
        return cls(**{name: value for name, value in data.items() if name in known})


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
    if given is not None and not (root and given in {"comet", "cometapi"}):
        gateway = Gateway.parse(given)
    elif root:
        gateway = Gateway.comet(root.strip())
    elif config.gateway is not None:
        gateway = Gateway.parse(config.gateway)
    elif not env.get("COMETAPI_KEY") and _has_kling_key(env):
        gateway = Gateway.kling()
    else:
        gateway = Gateway.comet()
    if config.down_field is None:
        return gateway
    if config.down_field not in {"down", "bottom", "both"}:
        msg = f"down_field {config.down_field!r} is unknown"
        raise ConfigError(msg, hint="use down, bottom or both")
    return attrs.evolve(gateway, down_field=config.down_field)  # type: ignore[arg-type]  # checked


def _has_kling_key(env: Mapping[str, str]) -> bool:
    return bool(
        env.get("KLING_API_KEY") or (env.get("KLING_ACCESS_KEY") and env.get("KLING_SECRET_KEY"))
    )


def choose_credentials(
    given: str | Secret | Credentials | None,
    gateway: Gateway,
    env: Mapping[str, str],
    config: Config,
) -> Credentials:
    """Return what signs requests: the argument, else what the environment holds for the gateway.

    Raises:
        ConfigError: No key is set, or it can't be used as a header.
    """
    if isinstance(given, str):
        return ApiKey(Secret(given))
    if isinstance(given, Secret):
        return ApiKey(given)
    if given is not None:
        return given
    # A key is shown to nobody but its own company; other gateways may take either.
    host = gateway.root.host or ""
    kling = host.endswith("klingai.com")
    sources = (
        (_kling,) if kling else (_comet,) if host.endswith("cometapi.com") else (_comet, _kling)
    )
    for read in sources:
        credentials = read(env)
        if credentials is not None:
            return credentials
    if config.api_key is not None:
        return ApiKey(Secret(config.api_key))
    wanted = "KLING_API_KEY (or KLING_ACCESS_KEY and KLING_SECRET_KEY)"
    msg = f"no API key for {gateway.name}"
    variable = wanted if kling else "COMETAPI_KEY"
    hint = f"set {variable}, or try it without: comet-async expand --sandbox, comet-async sandbox"
    raise ConfigError(msg, hint=hint)


def _comet(env: Mapping[str, str]) -> Credentials | None:
    key = env.get("COMETAPI_KEY")
    return ApiKey(Secret(key)) if key is not None else None


def _kling(env: Mapping[str, str]) -> Credentials | None:
    if key := env.get("KLING_API_KEY"):
        return ApiKey(Secret(key))
    access, secret = env.get("KLING_ACCESS_KEY"), env.get("KLING_SECRET_KEY")
    return KlingToken(Secret(access), Secret(secret)) if access and secret else None


def choose_account(given: str | None, env: Mapping[str, str], config: Config) -> str | None:
    """Return the account's name: the argument, else ``COMETAPI_ACCOUNT``, else the config file's.

    Raises:
        ConfigError: It can't be a name.
    """
    name = given if given is not None else env.get("COMETAPI_ACCOUNT") or config.account
    if name is None:
        return None
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        limit = f"printable text of 1 to {_LONGEST_NAME} characters"
        raise ConfigError("account is not a usable name", hint=f"use {limit}")
    if redact(name) != name:
        raise ConfigError(
            "account looks like a key, and a journal never holds one",
            hint="choose a name, such as the project's",
        )
    return name
