"""Which addresses are on the internet, so that a callback may go there. Pure.

Decides: a URL of a caller must not lead to what only this host or its network can reach: its own
services, a cloud's metadata (169.254.169.254), the neighbours. So an address is refused unless it
is surely a public one; addresses that carry another one inside them, too.

Source: the registries of special-purpose addresses (RFC 6890; iana-ipv4- and -ipv6-special-
registry). Of IPv6 only 2000::/3 is in use; outside of it lie loopback, link-local, unique local,
multicast, IPv4-mapped and NAT64 (64:ff9b::/96, 64:ff9b:1::/48).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_SPECIAL_6 = (
    IPv6Network("2001::/23"),  # Teredo, benchmarking, ORCHID
    IPv6Network("2001:db8::/32"),  # documentation
    IPv6Network("2002::/16"),  # 6to4: an IPv4 address inside
    IPv6Network("3fff::/20"),  # documentation
)
_SPECIAL_4 = tuple(
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
    )
)


def is_public(text: str) -> bool:
    """Whether this address, as ``getaddrinfo`` has it, is one on the internet."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_4)
    if address.scope_id is not None or address not in _GLOBAL_UNICAST:
        return False
    return not any(address in network for network in _SPECIAL_6)
