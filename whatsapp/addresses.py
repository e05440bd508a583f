"""Addresses of the net: read as proxies write them, and counted as one per household."""

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

_BRACKETS = re.compile(r"\[([^\[\]]+)\](?::[0-9]{1,5})?")
_WITH_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}")
HOUSEHOLD_BITS = 64
LONGEST = 100


def read(text: str) -> Address | None:
    """Return the address that ``text`` names; None if it names none.

    A port, brackets and a zone are left away. IPv4 inside of IPv6 is IPv4: a server that
    listens on both sees the same client both ways.
    """
    text = text.strip()[:LONGEST]
    form = _BRACKETS.fullmatch(text) or _WITH_PORT.fullmatch(text)
    try:
        address = ip_address(form[1] if form else text)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def household(text: str) -> str:
    """Return what counts as one client; "": nobody knows.

    Whoever has an IPv6 address has 2^64 of them.
    """
    address = read(text)
    if address is None:
        return ""
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((address, HOUSEHOLD_BITS), strict=False))
