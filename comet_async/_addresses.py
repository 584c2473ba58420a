"""Which hosts are this machine, and which addresses are on the public internet."""

from __future__ import annotations

import functools
import ipaddress

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
