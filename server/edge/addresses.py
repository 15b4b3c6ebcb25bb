"""Whose connection this is, when a proxy may stand before the server.

`X-Forwarded-For` is believed only as far as known proxies wrote it: read from the right, the first entry that is no
trusted proxy is the client, and what stands left of it is whatever the client liked to write. An entry that is no
address ends the belief: then the proxy that passed it on has to answer for it.

Pure. An IPv6 client counts by its /64: that is what one customer gets.
"""

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

CUSTOMER_BITS = 64


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Raises ValueError."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def counted_as(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> str | None:
    """The address that limits count a connection to; None when it counts to none: a peer on this very machine that is
    no known proxy (benchmarks, tests, a proxy that nobody named), or one without an address.

    `forwarded`: the values of all X-Forwarded-For headers, in order."""
    at = _address(peer or "")
    if at is None or (at.is_loopback and not _within(at, trusted)):
        return None
    entries = [entry for value in forwarded for entry in value.split(",")]
    while _within(at, trusted) and entries:
        before = _address(entries.pop())
        if before is None:
            break
        at = before
    if isinstance(at, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(at), CUSTOMER_BITS), strict=False))
    return str(at)


def _address(text: str) -> Address | None:
    """Also with a port, in brackets, with a zone."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        at = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = at.ipv4_mapped if isinstance(at, ipaddress.IPv6Address) else None
    return mapped or at


def _within(at: Address, networks: Sequence[Network]) -> bool:
    return any(at in network for network in networks)
