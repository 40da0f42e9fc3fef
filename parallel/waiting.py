"""Waiting for collectives that were started before."""

from __future__ import annotations

from collections.abc import Iterable

import torch.distributed as dist


def wait_for_collectives(pending: Iterable[dist.Work]) -> None:
    """Waits for each in turn.

    `Work.wait` is a function of C++ and has no Python frame; this function has one, by which a hang report names the
    wait (train/safety/watchdog.py).
    """
    for work in pending:
        work.wait()
