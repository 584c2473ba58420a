"""URLs and their hosts: which are well formed, this machine, or on the public internet."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import re
import socket

from yarl import URL

_NAT64 = 0x64FF9B << 64  # RFC 6052: the first 96 bits, before an IPv4 address
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # all that is assigned so far
# Parts of it, and of IPv4, that lead nowhere public although Python's `is_global` may say so.
_NOT_PUBLIC = (
    ipaddress.ip_network("3fff::/20"),  # documentation, RFC 9637
    ipaddress.ip_network("192.88.99.0/24"),  # relays from 6to4, RFC 7526
)


@functools.lru_cache(maxsize=256)
def is_loopback(host: str | None) -> bool:
    """Return True if *host* (a name or an address) is this machine."""
    if host is None:
        return False
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def is_public(address: str) -> bool:
    """Return True if an IP address is on the public internet; False if it is not an address.

    An IPv4 address inside an IPv6 one (mapped, NAT64, 6to4, Teredo) is judged as the IPv4 it is.
    """
    try:
        ip = ipaddress.ip_address(address.strip("[]").partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if int(ip) >> 32 == _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is None and ip not in _GLOBAL_UNICAST:
            return False
        ip = inner or ip
    return ip.is_global and not ip.is_multicast and not any(ip in net for net in _NOT_PUBLIC)


def is_literal(host: str) -> bool:
    """Return True if *host* is an IP address rather than a name.

    Digits and dots are never a name: systems take "127.1" and "2130706433" for addresses.
    """
    try:
        ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host.replace(".", "").isdigit()
    return True


_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):(//)?")


def url_scheme(text: str) -> str:
    """Return the URL scheme that *text* starts with, "" for a path."""
    found = _SCHEME.match(text)
    if found is None:
        return ""
    scheme = found[1].lower()
    # "photo:1.png" is a file name; "file:" and "data:" have no slashes of their own to tell.
    return scheme if found[2] or scheme in {"data", "file"} else ""


def parse_web_url(text: str) -> URL | None:
    """Return the http or https URL in *text*, or None if no program could go there."""
    try:
        url = URL(text)
        host, _ = url.host, url.port  # read only here, and each can fail
    except ValueError:
        return None
    spelled = text.isprintable() and " " not in text and url.scheme in {"http", "https"}
    return url if host and spelled and is_host(url.raw_host or "") else None


_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


def is_host(host: str) -> bool:
    """Return True if *host* is an IP address, or a name that the domain name system can hold."""
    if is_literal(host) or ":" in host:
        return True
    labels = host.removesuffix(".").split(".")
    return len(host) <= 253 and all(map(_LABEL.fullmatch, labels))  # noqa: PLR2004 - RFC 1035


def is_private(host: str) -> bool:
    """Return True if *host* is this machine, or an address that is not on the public internet.

    An address counts in any spelling. Other names are not looked up.
    """
    host = host.rstrip(".").lower()
    if is_loopback(host):
        return True
    with contextlib.suppress(OSError):  # "127.1", "0x7f.1" and "2130706433" are addresses too
        host = socket.inet_ntoa(socket.inet_aton(host))
    return is_literal(host) and not is_public(host)
