"""Addresses: what is this machine, and what is on the public internet."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from comet_async._addresses import is_literal, is_loopback, is_public


@pytest.mark.parametrize(
    "host", ["localhost", "app.localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]"]
)
def test_this_machine(host: str) -> None:
    """Loopback addresses and the names reserved for them are this machine."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", [None, "", "localhost.example.com", "notlocalhost", "10.0.0.1", "::"]
)
def test_another_machine(host: str | None) -> None:
    """A name that only looks like this machine's, or no host, is not this machine."""
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "[2606:4700::1111]", "2606:4700::1%eth0"]
)
def test_public(address: str) -> None:
    """Addresses of the internet are public, however they are written."""
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "127.0.0.1",
        "169.254.169.254",  # where clouds keep a machine's credentials
        "100.64.0.1",  # carrier-grade NAT
        "0.0.0.0",  # noqa: S104 - looked at, not bound
        "255.255.255.255",
        "224.0.0.251",
        "240.0.0.1",
        "198.18.0.1",
        "::",
        "::1",
        "fe80::1%eth0",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "2001:db8::1",
        "64:ff9b:1::a00:1",  # a translator of one network's own
        "192.88.99.1",  # relays from 6to4
        "::8.8.8.8",  # IPv4-compatible, obsolete
        "::ffff:0:8.8.8.8",  # IPv4-translated
        "5f00::1",  # segment routing
        "3fff::1",  # documentation
        "100::1",
        "4000::1",  # not assigned
    ],
)
def test_private(address: str) -> None:
    """Addresses that lead into somebody's own network are not public."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "template",
    [
        "::ffff:{}",
        "64:ff9b::{}",  # NAT64, https://www.rfc-editor.org/rfc/rfc6052
    ],
)
@pytest.mark.parametrize(("inner", "public"), [("10.0.0.1", False), ("8.8.8.8", True)])
def test_ipv4_at_the_end_of_ipv6(template: str, inner: str, public: bool) -> None:
    """An IPv6 address that ends in an IPv4 one is judged as that one."""
    assert is_public(template.format(inner)) is public


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("2002:0a00:0001::", False),  # 6to4 of 10.0.0.1
        ("2002:0808:0808::", True),  # 6to4 of 8.8.8.8
        ("2001:0:4136:e378:8000:63bf:f5ff:fffe", False),  # Teredo, client 10.0.0.1
        ("2001:0:4136:e378:8000:63bf:f7f7:f7f7", True),  # Teredo, client 8.8.8.8
    ],
)
def test_ipv4_inside_a_tunnel(address: str, public: bool) -> None:
    """A tunnel's address is judged as the IPv4 address at its end."""
    assert is_public(address) is public


@pytest.mark.parametrize("text", ["", "example.com", "1.2.3", "1.2.3.4.5", "300.1.1.1"])
def test_no_address_is_not_public(text: str) -> None:
    """What is no address at all is not public."""
    assert not is_public(text)


@pytest.mark.parametrize("host", ["1.2.3.4", "::1", "[::1]", "fe80::1%eth0"])
def test_literal(host: str) -> None:
    """An address is reported from a name, with brackets and zone or without."""
    assert is_literal(host)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0", "0177.0.0.1", "127.0.0.1."])
def test_other_spellings_of_an_address_are_literal_and_private(host: str) -> None:
    """Digits and points that a system would take for an address never count as a name."""
    assert is_literal(host)
    assert not is_public(host)


@pytest.mark.parametrize("host", ["example.com", "localhost", "1e100.net", "a.1", ""])
def test_name(host: str) -> None:
    """A name is no address, even with digits in it."""
    assert not is_literal(host)


@given(st.ip_addresses())
def test_what_is_this_machine_is_never_public(address: object) -> None:
    """No address is both this machine and on the internet."""
    assert not (is_loopback(str(address)) and is_public(str(address)))
