"""How a request proves who pays: an API key, or Kling's signed token.

Kling, "Authentication": https://klingai.com/document-api/api/get-started/authentication.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import warnings
from types import ModuleType
from typing import Protocol

import attrs

from comet_async.errors import ConfigError, MissingExtraError
from comet_async.secret import Secret

TOKEN_LIFE = 1800.0
"""Seconds that a signed token is valid, as Kling's page proposes."""

TOKEN_MARGIN = 300.0
"""A token is replaced this many seconds before its end: a request at the edge would otherwise
meet code 1004 while it is on its way."""

TOKEN_BACKDATE = 5.0
"""Seconds that a token's start is set back, as Kling's page proposes, for clocks that differ."""

SHORTEST_SIGNING_KEY = 32
"""Bytes that a key for HS256 should have at least (RFC 7518, section 3.2)."""

_logger = logging.getLogger("comet_async")


class Credentials(Protocol):
    """What signs a request."""

    @property
    def account(self) -> str:
        """A short fingerprint of the account; never the key."""
        ...

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Keys, and tokens made of them, which must never be shown."""
        ...

    def header(self, now: float) -> str:
        """Return the ``Authorization`` header's value.

        Args:
            now: The server's wall clock as far as it is known, in seconds since 1970.
        """
        ...

    def renew(self) -> bool:
        """Forget a token that the server refused; return False when there is none to renew."""
        ...


def _fingerprint(secret: Secret) -> str:
    return hashlib.sha256(b"comet_async account\0" + secret.reveal().encode()).hexdigest()[:16]


def _as_secret(given: str | Secret) -> Secret:
    return given if isinstance(given, Secret) else Secret(given)


@attrs.frozen
class ApiKey:
    """A key that is sent as it is: CometAPI's, and Kling's newer keys.

    Attributes:
        key: The key; text becomes a `Secret`.

    Raises:
        ConfigError: It can't be a key.
    """

    key: Secret = attrs.field(repr=False, converter=_as_secret)

    @property
    def account(self) -> str:
        """A fingerprint of the key."""
        return _fingerprint(self.key)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The key."""
        return (self.key,)

    def header(self, now: float) -> str:  # noqa: ARG002 - a key does not age
        """Return the header's value."""
        return f"Bearer {self.key.reveal()}"

    def renew(self) -> bool:
        """Return False: a key that was refused stays refused."""
        return False


@attrs.define(eq=False)
class KlingToken:
    """Kling's access key and secret key: an HS256 token, replaced before it ends.

    Attributes:
        access_key: The access key; text becomes a `Secret`.
        secret_key: The secret key; text becomes a `Secret`.

    Raises:
        ConfigError: One of them can't be a key.
    """

    access_key: Secret = attrs.field(repr=False, converter=_as_secret)
    secret_key: Secret = attrs.field(repr=False, converter=_as_secret)
    _token: Secret | None = attrs.field(default=None, init=False, repr=False)
    _expires: float = attrs.field(default=0.0, init=False)
    _signed: float = attrs.field(default=0.0, init=False)
    _ahead: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        length = len(self.secret_key.reveal())
        if length < SHORTEST_SIGNING_KEY:
            _logger.warning(
                "the secret key has %d characters; Kling's have %d or more: is it complete?",
                length,
                SHORTEST_SIGNING_KEY,
            )

    @property
    def account(self) -> str:
        """A fingerprint of the access key."""
        return _fingerprint(self.access_key)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Both keys, and the token that is in use."""
        keys = (self.access_key, self.secret_key)
        return keys if self._token is None else (*keys, self._token)

    def header(self, now: float) -> str:
        """Return the header's value, with a token that is valid for at least five minutes.

        Raises:
            MissingExtraError: PyJWT is not installed.
            ConfigError: The secret key can't sign.
        """
        now += self._ahead
        # A clock that was set back makes a token "not yet valid".
        token = self._token
        if token is None or now > self._expires - TOKEN_MARGIN or now < self._signed:
            token = self._sign(now)
        return f"Bearer {token.reveal()}"

    def renew(self) -> bool:
        """Forget the token, so that the next request carries a new one."""
        renewable = self._token is not None
        self._token = None
        return renewable

    def correct_clock(self, now: float, server_now: float) -> None:
        """Sign by the server's clock from now on.

        Args:
            now: The local wall clock.
            server_now: The server's, as the ``Date`` of its answer says.
        """
        self._ahead = server_now - now

    def _sign(self, now: float) -> Secret:
        jwt = _pyjwt()
        token: Secret | None = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a short key: `__attrs_post_init__` says so
                if self.secret_key.reveal().startswith("{"):
                    raise TypeError  # noqa: TRY301 - a JSON Web Key, which old versions sign with
                token = Secret(
                    jwt.encode(
                        {
                            "iss": self.access_key.reveal(),
                            "exp": int(now + TOKEN_LIFE),
                            "nbf": int(now - TOKEN_BACKDATE),
                        },
                        self.secret_key.reveal(),
                        algorithm="HS256",
                    )
                )
        except Exception:  # noqa: BLE001, S110 - its frames hold the key
            pass
        if token is None:
            raise ConfigError(
                "the secret key can't sign a token",
                field="secret_key",
                hint="copy the access key and the secret key from Kling's console again",
            )
        self._token, self._signed, self._expires = token, now, now + TOKEN_LIFE
        return token


def _pyjwt() -> ModuleType:
    try:
        return importlib.import_module("jwt")
    except ImportError:
        pass
    raise MissingExtraError(
        "signing with an access key and a secret key needs PyJWT", extra="kling"
    )
