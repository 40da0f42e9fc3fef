"""The key-value store at which the ranks of a run meet: opened within a limit, with a word on what is waited for."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from torch._C._distributed_c10d import HashStore, Store, TCPStore

from launcher.processes.rank_info import AddressError, RankInfo
from settings import RunError

_RETRY_SECONDS = 0.2
_CONNECT_SECONDS = 10.0  # for one try
_ANSWER_SECONDS = 30.0  # of a store that serves thousands of ranks
_FIRST_NOTICE_SECONDS = 5.0


class Patience:
    """A wait with a limit: a line on the console after 5, 10, 20 ... seconds, and an error in the end."""

    def __init__(self, limit_seconds: float, *, longer_seconds: float = 0.0) -> None:
        """`longer_seconds` is added to the limit of train.rendezvous_seconds, so that another rank speaks first."""
        self._limit_seconds = limit_seconds
        self._longer_seconds = longer_seconds
        self._began = time.monotonic()
        self._notice_at = _FIRST_NOTICE_SECONDS

    def check(self, waits: str, *, who: str, prints: bool) -> None:
        """Prints a line if it is due, such as `rank 0 waits for rank 1 (5 s)`. Raises RunError after the limit."""
        waited = time.monotonic() - self._began
        if waited > self._limit_seconds + self._longer_seconds:
            raise RunError(
                f"{who} {waits}, since {waited:.0f} s (train.rendezvous_seconds = {self._limit_seconds:g}): check that "
                "every node starts the same command with the same MASTER_ADDR and MASTER_PORT, and see the output of "
                "the others"
            )
        if prints and waited >= self._notice_at:
            print(f"{who} {waits} ({waited:.0f} s)", file=sys.stderr, flush=True)
            self._notice_at *= 2


def open_store(rank_info: RankInfo, *, timeout_seconds: float) -> Store:
    """Opens the store of this run. Rank 0 serves it, except under torchrun, whose agent may.

    When it returns, all of lehr's own ranks have connected; others meet there (processes/meeting.py). Raises RunError
    if the store is not reached within `timeout_seconds`, and AddressError if its port is taken.
    """
    timeout = timedelta(seconds=timeout_seconds)
    if rank_info.launcher == "none":
        return HashStore()
    if rank_info.parent is not None:
        return TCPStore(
            rank_info.master_addr,
            rank_info.master_port,
            rank_info.world_size,
            is_master=rank_info.rank == 0,
            timeout=timeout,
            master_listen_fd=rank_info.parent.store_fd,
        )
    if rank_info.rank == 0 and not rank_info.agent_serves_store:
        return _serve(rank_info, timeout)
    return _connect(rank_info, timeout)


def _serve(rank_info: RankInfo, timeout: timedelta) -> Store:
    try:  # the server's own client takes the shortest way, also if MASTER_ADDR should not lead here
        return TCPStore("127.0.0.1", rank_info.master_port, is_master=True, wait_for_workers=False, timeout=timeout)
    except RuntimeError as error:
        reason = next((name for name in ("EADDRINUSE", "EACCES") if name in str(error)), None)
        if reason is None:
            raise
        text = "another process has it" if reason == "EADDRINUSE" else "this user may not listen at it"
        raise AddressError(
            f"MASTER_PORT = {rank_info.master_port} on {socket.gethostname()}: {text}; "
            "set it to a port that is free on the first node",
            rank=rank_info.rank,
            local_rank=rank_info.local_rank,
        ) from None


def _connect(rank_info: RankInfo, timeout: timedelta) -> Store:
    """Connects to the store as soon as it is served. It is tried by a plain socket first, which says what is wrong."""
    address = (rank_info.master_addr, rank_info.master_port)
    place = f"MASTER_ADDR = {address[0]}, MASTER_PORT = {address[1]}"
    server = "the agent of node 0" if rank_info.agent_serves_store else "rank 0"
    patience = Patience(timeout.total_seconds())

    def wait(reason: str) -> None:
        who, prints = f"rank {rank_info.rank} on {socket.gethostname()}", rank_info.local_rank == 0
        patience.check(f"waits for {server} at {place}: {reason}", who=who, prints=prints)

    while True:
        try:
            socket.create_connection(address, timeout=_CONNECT_SECONDS).close()
            break
        except OSError as error:
            wait("nobody listens there yet" if error.errno == errno.ECONNREFUSED else str(error.strerror or error))
        time.sleep(_RETRY_SECONDS)
    if (store := _store_client(address, timeout, wait)) is None:
        raise AddressError(
            f"what answers at {place} is no store of torch: another program has the port; "
            "set MASTER_PORT to one that is free on the first node",
            rank=rank_info.rank,
            local_rank=rank_info.local_rank,
        )
    return store


def _store_client(address: tuple[str, int], timeout: timedelta, wait: Callable[[str], None]) -> Store | None:
    """Returns None if what answers at the address is no store. Calls `wait`, which may raise, now and then.

    torch waits for ever for a server that accepts and stays silent: another thread waits, and is left behind.
    """
    stores: list[Store] = []

    def connect() -> None:
        with contextlib.suppress(RuntimeError):
            stores.append(TCPStore(*address, is_master=False, wait_for_workers=False, timeout=timeout))

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    deadline = time.monotonic() + _ANSWER_SECONDS
    while thread.is_alive() and time.monotonic() < deadline:
        wait("it accepts connections, but does not answer")
        thread.join(_RETRY_SECONDS)
    return stores[0] if stores else None
