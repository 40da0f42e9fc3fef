"""The interface of the route to a host, on this machine's own interfaces."""

from __future__ import annotations

import socket

import psutil
import pytest

from launcher.processes.network_interface import interface_to

OTHERS = [
    (name, entry.address)
    for name, entries in psutil.net_if_addrs().items()
    for entry in entries
    if entry.family == socket.AF_INET and not entry.address.startswith("127.")
]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.1", "localhost"])
def test_ranks_of_one_node_meet_on_the_loopback_interface(host: str) -> None:
    assert interface_to(host, across_nodes=False) == "lo"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.1", "localhost"])
def test_other_nodes_never_reach_a_node_on_its_loopback_interface(host: str) -> None:
    """The first node's own name can resolve to 127.0.1.1 there, as Debian's /etc/hosts says."""
    assert interface_to(host, across_nodes=True) != "lo"


@pytest.mark.parametrize(("name", "address"), OTHERS)
def test_a_nodes_own_address_is_at_its_interface(name: str, address: str) -> None:
    assert interface_to(address, across_nodes=True) == name


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 300, ""])
def test_a_host_that_does_not_resolve_has_no_interface(host: str) -> None:
    assert interface_to(host, across_nodes=True) in (None, *dict(OTHERS))
