"""Why a call is refused, in Kling's own numbers.

Kling API: Error codes, https://kling.ai/document-api/api/get-started/error-codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

CODES: Mapping[int, tuple[int, str]] = MappingProxyType(
    {
        1000: (401, "Authentication failed"),
        1001: (401, "Authorization is empty"),
        1002: (401, "Authorization is invalid"),
        1003: (401, "Authorization is not yet valid"),
        1004: (401, "Authorization has expired"),
        1100: (429, "Account exception"),
        1101: (429, "Account in arrears"),
        1102: (429, "Account balance not enough"),
        1103: (403, "Unauthorized access to the requested API or model"),
        1200: (400, "Invalid request parameters"),
        1201: (400, "Invalid parameter: wrong key or illegal value"),
        1202: (404, "The requested method is invalid"),
        1203: (404, "The requested resource does not exist"),
        1300: (400, "Triggered the strategy of the platform"),
        1301: (400, "Triggered the content security policy of the platform"),
        1302: (429, "The API request is too fast, exceeding the platform rate limit"),
        1303: (429, "parallel task over resource pack limit"),
        1304: (429, "Triggered the IP whitelisting policy of the platform"),
        5000: (500, "Server internal error"),
        5001: (503, "Server temporarily unavailable, usually due to maintenance"),
        5002: (504, "Server internal timeout, usually due to a backlog"),
    }
)
"""HTTP status and message of each code."""


class RefusalError(Exception):
    """The call is refused.

    Attributes:
        code: Kling's number.
        message: What is wrong.
    """

    def __init__(self, code: int, message: str = "") -> None:
        self.code = code
        self.message: str = message or CODES[code][1]
        super().__init__(self.message)


class BodyTooLargeError(RefusalError):
    """The request's body is larger than the service reads."""

    def __init__(self) -> None:
        super().__init__(1200)


class MalformedBodyError(RefusalError):
    """The request's body is not a JSON object."""

    def __init__(self) -> None:
        super().__init__(1200)


class AccountRefusalError(RefusalError):
    """The account may not create tasks, whatever it asks for."""
