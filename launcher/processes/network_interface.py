"""The network interface over which this node reaches the other nodes of a run.

gloo listens at the address to which the host's own name resolves, unless it is told an interface. On Debian that is
127.0.1.1, which no other node can reach.
"""

from __future__ import annotations

import ipaddress
import socket

import psutil

# An address that no machine has (RFC 5737): the route to it is the default route. Nothing is sent there.
_ANYWHERE = "192.0.2.1"


def interface_to(host: str, *, across_nodes: bool) -> str | None:
    """Returns the name of the interface of the route to `host`; None if there is none, or `host` does not resolve.

    `across_nodes`: other nodes must reach this one, so a loopback interface does not serve. Its own name may resolve
    to one; then the interface is that of the default route.
    """
    address = _source_address(host)
    if across_nodes and address is not None and ipaddress.ip_address(address).is_loopback:
        address = _source_address(_ANYWHERE)
    return None if address is None else _interface_of(address)


def _source_address(host: str) -> str | None:
    """Returns the address of this machine from which packets to `host` would be sent; None without a route."""
    try:
        family, _, _, _, target = socket.getaddrinfo(host, 1, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)  # of a datagram socket: it looks up the route, and sends nothing
            return str(probe.getsockname()[0])
    except (OSError, UnicodeError):
        return None


def _interface_of(address: str) -> str | None:
    """Returns the name of the interface that has an address, or whose network has it (all of 127.0.0.0/8 is `lo`)."""
    wanted = ipaddress.ip_address(address.partition("%")[0])
    for name, addresses in psutil.net_if_addrs().items():
        for entry in addresses:
            if entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            found = ipaddress.ip_address(entry.address.partition("%")[0])
            if found == wanted or (found.is_loopback and wanted.is_loopback):
                return name
    return None
