"""A rank takes a device that it sees."""

from __future__ import annotations

import pytest

from parallel.mesh import device_of


@pytest.mark.parametrize(
    ("local_rank", "visible_devices", "device"),
    [(0, 1, 0), (3, 8, 3), (1, 1, 0), (5, 1, 0), (5, 4, 1)],  # all of the node's; its own; two ranks a device
)
def test_a_rank_takes_a_device_it_sees(local_rank: int, visible_devices: int, device: int) -> None:
    assert device_of(local_rank, visible_devices) == device
