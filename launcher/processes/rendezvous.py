"""The key-value store at which the ranks of a run meet: opened within a limit, with a word on what is waited for."""

from __future__ import annotations

import contextlib
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
_ANSWER_SECONDS = 30.0  # of a store that serves thousands of ranks; divided among the ports, which are tried in turn
_FIRST_NOTICE_SECONDS = 5.0
_STORE_NAME = "store of"


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
    """Serves the store at the master port, or at the first free one of those that may be tried."""
    *others, last = (rank_info.master_port, *rank_info.more_ports)
    for port in others:
        with contextlib.suppress(RuntimeError):
            return _named(_serve_at(port, timeout), rank_info)
    try:
        return _named(_serve_at(last, timeout), rank_info)
    except RuntimeError as error:
        reason = next((name for name in ("EADDRINUSE", "EACCES") if name in str(error)), None)
        if reason is None:
            raise
        text = "another process has it" if reason == "EADDRINUSE" else "this user may not listen at it"
        raise AddressError(
            f"MASTER_PORT = {last} on {socket.gethostname()}: {text}; set it to a port that is free on the first node",
            rank=rank_info.rank,
            local_rank=rank_info.local_rank,
        ) from None


def _serve_at(port: int, timeout: timedelta) -> Store:
    # The server's own client takes the shortest way, also if MASTER_ADDR should not lead here.
    return TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, timeout=timeout)


def _named(store: Store, rank_info: RankInfo) -> Store:
    store.set(_STORE_NAME, rank_info.store_name)
    return store


def _connect(rank_info: RankInfo, timeout: timedelta) -> Store:
    """Connects to the store as soon as it is served, at one of the ports that rank 0 may have taken.

    A port is tried by a plain socket first, which says what is wrong.
    """
    host, ports = rank_info.master_addr, (rank_info.master_port, *rank_info.more_ports)
    server = "the agent of node 0" if rank_info.agent_serves_store else "rank 0"
    patience = Patience(timeout.total_seconds())

    def wait(reason: str) -> None:
        who, prints = f"rank {rank_info.rank} on {socket.gethostname()}", rank_info.local_rank == 0
        place = f"MASTER_ADDR = {host}, MASTER_PORT = {ports[0]}"
        patience.check(f"waits for {server} at {place}: {reason}", who=who, prints=prints)

    while True:
        reason = "nobody listens there yet"
        for port in ports:
            try:
                socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
            except ConnectionRefusedError:
                continue
            except OSError as error:
                reason = str(error.strerror or error)
                break  # the other ports are on the same host
            store = _store_client((host, port), timeout, wait, seconds=_ANSWER_SECONDS / len(ports))
            if store is not None and _is_ours(store, rank_info):
                return store
            if len(ports) == 1:
                raise AddressError(
                    f"what answers at MASTER_ADDR = {host}, MASTER_PORT = {port} is no store of torch: another program "
                    "has the port; set MASTER_PORT to one that is free on the first node",
                    rank=rank_info.rank,
                    local_rank=rank_info.local_rank,
                )
            reason = "another program answers there"
        wait(reason)
        time.sleep(_RETRY_SECONDS)


def _is_ours(store: Store, rank_info: RankInfo) -> bool:
    """Returns whether a store is that of this run, and not of another job or of an earlier attempt."""
    if not rank_info.store_name:
        return True
    with contextlib.suppress(RuntimeError):  # it has ended meanwhile
        return store.check([_STORE_NAME]) and store.get(_STORE_NAME).decode() == rank_info.store_name
    return False


def _store_client(
    address: tuple[str, int], timeout: timedelta, wait: Callable[[str], None], *, seconds: float
) -> Store | None:
    """Returns None if what answers at the address is no store, or says nothing for `seconds`.

    Calls `wait`, which may raise, now and then.

    torch waits for ever for a server that accepts and stays silent: another thread waits, and is left behind.
    """
    stores: list[Store] = []

    def connect() -> None:
        with contextlib.suppress(RuntimeError):
            stores.append(TCPStore(*address, is_master=False, wait_for_workers=False, timeout=timeout))

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    deadline = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < deadline:
        wait("it accepts connections, but does not answer")
        thread.join(_RETRY_SECONDS)
    return stores[0] if stores else None
