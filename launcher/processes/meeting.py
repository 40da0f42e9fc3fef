"""The meeting of the ranks that torchrun or srun started: they agree to train, or they all end with one message.

Each rank brings its fingerprint (what must be the same on all ranks), or the mistake that it has found. Rank 0 waits
for all and compares; then every rank does its share of the last check, which takes longest. Rank 0 waits for the shares
and gives its word to each: an exit code, of which 0 means to train. A mistake is printed by rank 0, whoever found it.
No rank ends before all have heard of it, because the launcher kills the others when one ends. Rank 0 may serve the
store and ends last: after the word, each of the others counts itself in `heard`, waits until all have heard, counts
itself in `left` and ends; rank 0 waits until all have left.

The store may hold the keys of an earlier attempt: torchrun restarts ranks, and its agent keeps the store. So rank 0
gives every meeting a name, under which all keys stand, and the word is for a token that the receiving rank has drawn.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

from torch._C._distributed_c10d import PrefixStore, Store

from launcher.exit_codes import DONE, FAILED, USER_MISTAKE, code_of
from launcher.processes.arrivals import Arrival, announce, arrival_of
from launcher.processes.fingerprints import disagreement
from launcher.processes.rank_exit import RANK_0_FIRST_SECONDS, exit_on_stop_signals, exit_process
from launcher.processes.rank_info import RankInfo, name_ranks
from launcher.processes.rendezvous import Patience
from settings import RunError, UserError

_GOODBYE_SECONDS = 30.0  # for ranks that start late, while the others wait to end
_NAME, _COMPLETE, _HEARD, _LEFT = "meeting", "complete", "heard", "left"


class LastCheck(Protocol):
    """A check that the ranks divide among themselves."""

    def share(self, stop: Callable[[], bool]) -> Any:
        """Does this rank's share and returns its result, which becomes JSON. Raises UserError or RunError.

        `stop` returns True once another rank has failed, so that the result is not needed any more.
        """

    def conclude(self, shares: Sequence[Any]) -> None:
        """Takes the results of all ranks, on rank 0."""


def meet(
    store: Store,
    rank_info: RankInfo,
    found: Mapping[str, Any] | UserError | RunError,
    *,
    limit_seconds: float,
    last_check: Callable[[], LastCheck],
) -> Store:
    """Returns a store for this attempt once all ranks have come and agree; else it ends the process, on every rank.

    `found`: this rank's fingerprint, or why it cannot train. `last_check` makes the check that all ranks share at the
    end; those that are done wait for the others without a limit.
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
    return _attend(store, rank_info, arrival, limit_seconds, last_check)


class _Host:
    """Rank 0's side."""

    def __init__(self, store: Store, arrival: Arrival, *, world_size: int) -> None:
        name = uuid.uuid4().hex
        self._store = PrefixStore(name, store)
        self._arrivals = {0: arrival}
        self._world_size = world_size
        announce(self._store, arrival)
        store.set(_NAME, name)

    def run(self, limit_seconds: float, last_check: Callable[[], LastCheck]) -> Store:
        try:
            self._wait_for_all(Patience(limit_seconds))
            if lines := disagreement(list(self._arrivals.values())):
                raise UserError(lines)
            self._store.set(_COMPLETE, "")
            check = last_check()
            check.conclude([check.share(self._raise_failed_share), *self._shares_of_others()])
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
                    raise _error(text, arrival.exit_code)
            if not (missing := self._missing()):
                return
            patience.check(f"waits for {name_ranks(missing)} of {self._world_size}", who="rank 0", prints=True)
            _pause(self._world_size)

    def _raise_failed_share(self) -> bool:
        """Raises the error of a rank that has failed in its share of the last check."""
        for rank, arrival in self._arrivals.items():
            if rank and self._store.check([_share_key(arrival)]):
                _result_of(arrival, self._store.get(_share_key(arrival)))
        return False

    def _shares_of_others(self) -> list[Any]:
        others = [arrival for rank, arrival in sorted(self._arrivals.items()) if rank]
        while not all(self._store.check([_share_key(arrival)]) for arrival in others):
            self._raise_failed_share()
            _pause(self._world_size)
        return [_result_of(arrival, self._store.get(_share_key(arrival))) for arrival in others]

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


def _attend(
    store: Store,
    rank_info: RankInfo,
    arrival: Arrival,
    limit_seconds: float,
    last_check: Callable[[], LastCheck],
) -> Store:
    """The side of the other ranks: it brings the arrival and a share of the last check, and waits for rank 0's word."""
    patience = Patience(limit_seconds, longer_seconds=RANK_0_FIRST_SECONDS)
    name, meeting, has_checked = "", store, False

    def has_word() -> bool:
        return bool(meeting.check([_word_key(arrival)]))

    try:
        while not (name and has_word()):
            if store.check([_NAME]) and (current := store.get(_NAME).decode()) != name:
                name, meeting, has_checked = current, PrefixStore(current, store), False
                announce(meeting, arrival)
            if name and meeting.check([_COMPLETE]):
                if not has_checked:
                    meeting.set(_share_key(arrival), json.dumps(_share_of(last_check, has_word)))
                    has_checked = True
            else:
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


def _share_of(last_check: Callable[[], LastCheck], stop: Callable[[], bool]) -> dict[str, Any]:
    """Does this rank's share of the last check, and returns the result or the error."""
    try:
        return {"result": last_check().share(stop)}
    except (UserError, RunError) as error:
        return {"error": str(error), "exit_code": _exit_code(error)}


def _result_of(arrival: Arrival, message: bytes) -> Any:
    """Returns the result of a rank's share of the last check. Raises its error."""
    share = json.loads(message)
    if "error" in share:
        raise _error(f"rank {arrival.rank} on {arrival.node}: {share['error']}", share["exit_code"])
    return share["result"]


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
    return code_of(error.kind) if isinstance(error, UserError | RunError) else FAILED


def _error(text: str, exit_code: int) -> UserError | RunError:
    return UserError(text) if exit_code == USER_MISTAKE else RunError(text)


def _name_of(arrival: Arrival) -> str:
    return f"rank {arrival.rank} on {arrival.node}"


def _share_key(arrival: Arrival) -> str:
    return f"share/{arrival.token}"


def _word_key(arrival: Arrival) -> str:
    return f"word/{arrival.token}"


def _pause(world_size: int) -> None:
    """Waits before the next look at the store, which answers all ranks one by one."""
    time.sleep(max(0.05, world_size / 2000))
