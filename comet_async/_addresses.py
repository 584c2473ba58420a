"""Which hosts are this machine, and which addresses are on the public internet."""

from __future__ import annotations

import functools
import ipaddress

# Two prefixes that end in an IPv4 address: the old "compatible" one, and NAT64 (RFC 6052).
_BEFORE_IPV4 = frozenset({0, 0x64FF9B << 64})
_OWN_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")  # RFC 8215: within one network


@functools.lru_cache(maxsize=256)
def is_loopback(host: str | None) -> bool:
    """Tell whether *host* (a name or an address) is this machine."""
    if host is None:
        return False
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def is_public(address: str) -> bool:
    """Tell whether an IP address is on the public internet; False for what is no address.

    An IPv4 address inside an IPv6 one (mapped, NAT64, 6to4, Teredo) is judged as the IPv4 it is.
    """
    try:
        ip = ipaddress.ip_address(address.strip("[]").partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.is_site_local or ip in _OWN_NAT64:
            return False
        if int(ip) >> 32 in _BEFORE_IPV4:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)))
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        ip = inner or ip
    return ip.is_global and not ip.is_multicast


def is_literal(host: str) -> bool:
    """Tell whether *host* is an IP address rather than a name.

    Digits and points are never a name: systems take "127.1" and "2130706433" for addresses.
    """
    try:
        ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host.replace(".", "").isdigit()
    return True
