"""The meeting of the ranks that torchrun or srun started: they agree to train, or they all end with one message.

Each rank brings its fingerprint (what must be the same on all ranks), or the mistake that it has found. Rank 0 waits
for all, compares, and gives its word to each: an exit code, of which 0 means to train. A mistake is printed by rank 0,
whoever found it. No rank ends before all have heard of it, because the launcher kills the others when one ends. Rank 0
may serve the store and ends last: after the word, each of the others counts itself in `heard`, waits until all have
heard, counts itself in `left` and ends; rank 0 waits until all have left.

The store may hold the keys of an earlier attempt: torchrun restarts ranks, and its agent keeps the store. So rank 0
gives every meeting a name, under which all keys stand, and the word is for a token that the receiving rank has drawn.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from torch._C._distributed_c10d import PrefixStore, Store

from launcher.exit_codes import DONE, FAILED, USER_MISTAKE
from launcher.processes.arrivals import Arrival, announce, arrival_of
from launcher.processes.fingerprints import disagreement
from launcher.processes.rank_exit import RANK_0_FIRST_SECONDS, exit_on_stop_signals, exit_process
from launcher.processes.rank_info import RankInfo, name_ranks
from launcher.processes.rendezvous import Patience
from settings import RunError, UserError

_GOODBYE_SECONDS = 30.0  # for ranks that start late, while the others wait to end
_NAME, _COMPLETE, _HEARD, _LEFT = "meeting", "complete", "heard", "left"


def meet(
    store: Store,
    rank_info: RankInfo,
    found: Mapping[str, Any] | UserError | RunError,
    *,
    limit_seconds: float,
    last_check: Callable[[], None],
) -> Store:
    """Returns a store for this attempt once all ranks have come and agree; else it ends the process, on every rank.

    `found`: this rank's fingerprint, or why it cannot train. `last_check` is called on rank 0 at the end, while the
    others wait without a limit; it may raise UserError or RunError.
    """
    arrival = Arrival(
        rank=rank_info.rank,
        node=f"node {rank_info.node_rank} ({socket.gethostname()})",
        token=uuid.uuid4().hex,
        fingerprint={} if isinstance(found, Exception) else dict(found),
        error=str(found) if isinstance(found, Exception) else "",
        exit_code=_exit_code(found) if isinstance(found, Exception) else DONE,
    )
    if rank_info.rank == 0:
        return _Host(store, arrival, world_size=rank_info.world_size).run(limit_seconds, last_check)
    return _attend(store, rank_info, arrival, limit_seconds)


class _Host:
    """Rank 0's side."""

    def __init__(self, store: Store, arrival: Arrival, *, world_size: int) -> None:
        name = uuid.uuid4().hex
        self._store = PrefixStore(name, store)
        self._arrivals = {0: arrival}
        self._world_size = world_size
        announce(self._store, arrival)
        store.set(_NAME, name)

    def run(self, limit_seconds: float, last_check: Callable[[], None]) -> Store:
        try:
            self._wait_for_all(Patience(limit_seconds))
            if lines := disagreement(list(self._arrivals.values())):
                raise UserError(lines)
            self._store.set(_COMPLETE, "")
            last_check()
        except (UserError, RunError) as error:
            self._end(error)
        for arrival in self._arrivals.values():
            self._store.set(_word_key(arrival), str(DONE))
        return self._store

    def _wait_for_all(self, patience: Patience) -> None:
        """Raises the first error that is found, and RunError if a rank does not come."""
        while True:
            self._receive()
            for rank, arrival in sorted(self._arrivals.items()):
                if arrival.error:
                    text = f"rank {rank} on {arrival.node}: {arrival.error}" if rank else arrival.error
                    raise UserError(text) if arrival.exit_code == USER_MISTAKE else RunError(text)
            if not (missing := self._missing()):
                return
            patience.check(f"waits for {name_ranks(missing)} of {self._world_size}", who="rank 0", prints=True)
            _pause(self._world_size)

    def _missing(self) -> list[int]:
        return [rank for rank in range(self._world_size) if rank not in self._arrivals]

    def _receive(self) -> None:
        for rank in self._missing():
            if (arrival := arrival_of(self._store, rank)) is not None:
                self._arrivals[rank] = arrival

    def _end(self, error: UserError | RunError) -> NoReturn:
        """Prints the message, gives every rank the exit code, also those that still come, and ends."""
        code = _exit_code(error)
        print(f"error: {error}", file=sys.stderr, flush=True)
        exit_on_stop_signals(code)
        deadline = time.monotonic() + _GOODBYE_SECONDS
        with contextlib.suppress(RuntimeError):  # the agent has ended, and its store with it
            while time.monotonic() < deadline:
                self._receive()
                for arrival in self._arrivals.values():
                    self._store.set(_word_key(arrival), str(code))
                # After the limit, no rank is waited for that has not come.
                waits_for = self._world_size if code == USER_MISTAKE else len(self._arrivals)
                if self._store.add(_LEFT, 0) >= waits_for - 1:
                    break
                _pause(self._world_size)
        exit_process(code, sys.stdout, sys.stderr)


def _attend(store: Store, rank_info: RankInfo, arrival: Arrival, limit_seconds: float) -> Store:
    """The side of the other ranks: it brings the arrival, and waits for rank 0's word."""
    patience = Patience(limit_seconds, longer_seconds=RANK_0_FIRST_SECONDS)
    name, meeting = "", store
    try:
        while not (name and meeting.check([_word_key(arrival)])):
            if store.check([_NAME]) and (current := store.get(_NAME).decode()) != name:
                name, meeting = current, PrefixStore(current, store)
                announce(meeting, arrival)
            if not (name and meeting.check([_COMPLETE])):
                patience.check("waits for rank 0", who=_name_of(arrival), prints=not name and rank_info.local_rank == 0)
            _pause(rank_info.world_size)
        code = int(meeting.get(_word_key(arrival)))
    except RunError as error:
        _end_alone(arrival, error)
    except RuntimeError:  # torch's errors of a connection
        _end_alone(arrival, RunError("the store of the ranks has ended: see the output of rank 0 and of its node"))
    if code == DONE:
        return meeting
    _say_goodbye(meeting, rank_info, code)


def _say_goodbye(meeting: Store, rank_info: RankInfo, code: int) -> NoReturn:
    """Ends a rank that has heard of a mistake, once all have heard of it."""
    exit_on_stop_signals(code)
    deadline = time.monotonic() + _GOODBYE_SECONDS
    with contextlib.suppress(RuntimeError):  # rank 0, which may serve the store, has ended
        meeting.add(_HEARD, 1)
        others = rank_info.world_size - 1
        while code == USER_MISTAKE and time.monotonic() < deadline and meeting.add(_HEARD, 0) < others:
            _pause(rank_info.world_size)
        meeting.add(_LEFT, 1)
    exit_process(code, sys.stdout, sys.stderr)


def _end_alone(arrival: Arrival, error: RunError) -> NoReturn:
    """Ends a rank that has not heard rank 0: it prints its own error, or what it waits for."""
    print(f"error: {_name_of(arrival)}: {arrival.error or error}", file=sys.stderr, flush=True)
    exit_process(arrival.exit_code or FAILED, sys.stdout, sys.stderr)


def _exit_code(error: Exception) -> int:
    return USER_MISTAKE if isinstance(error, UserError) else FAILED


def _name_of(arrival: Arrival) -> str:
    return f"rank {arrival.rank} on {arrival.node}"


def _word_key(arrival: Arrival) -> str:
    return f"word/{arrival.token}"


def _pause(world_size: int) -> None:
    """Waits before the next look at the store, which answers all ranks one by one."""
    time.sleep(max(0.05, world_size / 2000))
