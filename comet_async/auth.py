"""How a request proves who pays: an API key, or Kling's signed token.

Kling, "Authentication": https://klingai.com/document-api/api/get-started/authentication.
"""

from __future__ import annotations

import hashlib
import importlib
from types import ModuleType
from typing import Protocol

import attrs

from comet_async.errors import MissingExtraError
from comet_async.secret import Secret

TOKEN_LIFE = 1800.0
"""Seconds that a signed token is valid, as Kling's page proposes."""

TOKEN_MARGIN = 300.0
"""A token is signed again this many seconds before its end: a request at the edge would
otherwise meet code 1004 while it is on its way."""

TOKEN_BACKDATE = 5.0
"""Seconds that a token's begin is set back, as Kling's page proposes, for clocks that differ."""


class Credentials(Protocol):
    """What signs a request."""

    @property
    def account(self) -> str:
        """A short fingerprint of the account; never the key."""
        ...

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """What must never be shown."""
        ...

    def header(self, now: float) -> str:
        """Return the ``Authorization`` header's value at wall clock *now* (seconds)."""
        ...

    def renew(self) -> bool:
        """Forget a token that the server refused; False when there is none to renew."""
        ...


def _fingerprint(secret: Secret) -> str:
    return hashlib.sha256(b"comet_async account\0" + secret.reveal().encode()).hexdigest()[:16]


@attrs.frozen
class ApiKey:
    """A key that is sent as it is: CometAPI's, and Kling's newer keys."""

    key: Secret = attrs.field(repr=False)

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
    """Kling's access key and secret key: an HS256 token, signed again before it ends."""

    access_key: Secret = attrs.field(repr=False)
    secret_key: Secret = attrs.field(repr=False)
    _token: str = attrs.field(default="", init=False, repr=False)
    _expires: float = attrs.field(default=0.0, init=False)
    _signed: float = attrs.field(default=0.0, init=False)
    _ahead: float = attrs.field(default=0.0, init=False)

    @property
    def account(self) -> str:
        """A fingerprint of the access key."""
        return _fingerprint(self.access_key)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Both keys."""
        return (self.access_key, self.secret_key)

    def header(self, now: float) -> str:
        """Return the header's value, with a token that is valid for at least five minutes.

        Raises:
            MissingExtraError: PyJWT is not installed.
        """
        now += self._ahead
        # A clock set back makes a token "not yet valid": sign again then, too.
        if not self._token or now > self._expires - TOKEN_MARGIN or now < self._signed:
            self._sign(now)
        return f"Bearer {self._token}"

    def renew(self) -> bool:
        """Forget the token, so that the next request carries a new one."""
        renewable = bool(self._token)
        self._token = ""
        return renewable

    def correct_clock(self, now: float, server_now: float) -> None:
        """Sign by the server's clock from now on.

        Args:
            now: The local wall clock.
            server_now: The server's, as the ``Date`` of its answer says.
        """
        self._ahead = server_now - now

    def _sign(self, now: float) -> None:
        jwt = _pyjwt()
        claims = {
            "iss": self.access_key.reveal(),
            "exp": int(now + TOKEN_LIFE),
            "nbf": int(now - TOKEN_BACKDATE),
        }
        self._token = jwt.encode(claims, self.secret_key.reveal(), algorithm="HS256")
        self._signed, self._expires = now, now + TOKEN_LIFE


def _pyjwt() -> ModuleType:
    try:
        return importlib.import_module("jwt")
    except ImportError:
        pass
    msg = "signing with an access key and a secret key needs PyJWT"
    raise MissingExtraError(msg, extra="kling")
