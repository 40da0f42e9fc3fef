"""A thread in each rank that notices when training no longer moves, says where it stands, and ends the rank.

What counts is time without progress during which the watchdog itself could run: of a run that was paused as a whole
(SIGSTOP to all of it, a laptop's sleep) no rank takes the pause for a hang, while the ranks that wait for a single
paused one do. Gloo and NCCL wait without Python's lock, so the thread runs while they do.
"""

from __future__ import annotations

import faulthandler
import linecache
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar, overload

from train.config import FIRST_TIME_FACTOR

T = TypeVar("T")

SAVE_TIME_FACTOR = 12.0  # it waits for the disk, as long as the earlier one is being written
_ROOT = Path(__file__).resolve().parents[2]
_COLLECTIVES = (
    Path("torch/distributed"),
    Path("megatron/core/pipeline_parallel/p2p_communication.py"),
    Path("deepspeed/comm"),
)


@dataclass(frozen=True)
class Hang:
    """One rank's view of a hang."""

    position: str  # one line
    main_stack: str
    stacks: str  # of all threads, the main one last


class Watchdog:
    """Knows where the rank is, because the loop tells it; calls `on_hang` from its own thread when that stays so."""

    def __init__(self, hang_seconds: float, on_hang: Callable[[Hang], None]) -> None:
        self._hang_seconds = hang_seconds
        self._on_hang = on_hang
        self._main = threading.main_thread().ident
        self._seen: set[str] = set()
        self._patience = FIRST_TIME_FACTOR
        self._position = "starting up"
        self._moves = 0
        self._outer = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch. To be called in the main thread: what lies outwards from here is not shown."""
        self._outer = len(traceback.extract_stack()) - 2
        self._thread.start()

    def set_phase(self, kind: str, detail: str = "", *, timeout_factor: float = 1.0) -> None:
        """The main thread begins something. `patience`: how many times the usual it may go without progress."""
        self._position = f"{kind} {detail}".rstrip()
        self._patience = timeout_factor if kind in self._seen else max(timeout_factor, FIRST_TIME_FACTOR)
        self._seen.add(kind)
        self._moves += 1

    def track_progress(self, parts: Sequence[T]) -> Sequence[T]:
        """Micro-batches that tell the watchdog when they are taken."""
        return _Tracked(parts, self._at_micro_batch)

    def close(self) -> None:
        """No longer watch."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _at_micro_batch(self, number: int, count: int) -> None:
        self._position = f"{self._position.partition(',')[0]}, micro-batch {number} of {count}"
        self._moves += 1

    def _watch(self) -> None:
        tick = min(1.0, self._hang_seconds / 10)
        moves, still_seconds, looked_at = -1, 0.0, time.monotonic()
        while not self._ended.wait(tick):
            now = time.monotonic()
            # Where more than a tick has passed, this process was paused, and maybe the others too.
            still_seconds += min(now - looked_at, 2 * tick)
            looked_at = now
            if self._moves != moves:
                moves, still_seconds = self._moves, 0.0
                self._arm_last_resort()
            elif still_seconds >= self._hang_seconds * self._patience:
                self._on_hang(self._hang(still_seconds))
                break
        faulthandler.cancel_dump_traceback_later()

    def _arm_last_resort(self) -> None:
        """Where the main thread never gives Python's lock back, this one cannot run; a C thread writes the stacks."""
        faulthandler.dump_traceback_later(2 * self._hang_seconds * FIRST_TIME_FACTOR, file=2)

    def _hang(self, still_seconds: float) -> Hang:
        frames = sys._current_frames()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        own = threading.get_ident()
        main = frames[self._main] if self._main is not None else None
        position = f"no progress for {still_seconds:.0f} s at {self._position}, in {place_of(main)}"
        main_stack = "".join(traceback.format_stack(main)[self._outer :])
        others = [
            f"thread {names.get(ident, ident)}:\n" + "".join(traceback.format_stack(frame))
            for ident, frame in frames.items()
            if ident not in (own, self._main)
        ]
        return Hang(position, main_stack, "\n".join([*others, f"main thread:\n{main_stack}"]))


def place_of(frame: FrameType | None) -> str:
    """The collective that a stack is in, if any, and lehr's innermost line: `all_reduce of parallel/gather.py:21`."""
    collective = ""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_ROOT) and not any(part.startswith(".") for part in path.relative_to(_ROOT).parts):
            where = f"{path.relative_to(_ROOT)}:{frame.f_lineno}"
            if not collective and ".wait()" in linecache.getline(str(path), frame.f_lineno):
                collective = "wait"  # for one that was started before: it is no Python function, and has no frame
            return f"{collective} of {where}" if collective else f"{frame.f_code.co_name} at {where}"
        # Going outwards, the last frame of a library of collectives is the one that was called.
        if any(str(part) in str(path) for part in _COLLECTIVES) and frame.f_code.co_name != "wrapper":
            collective = frame.f_code.co_name
        frame = frame.f_back
    return collective or "no code of lehr"


class _Tracked(Sequence[T]):
    def __init__(self, parts: Sequence[T], at: Callable[[int, int], None]) -> None:
        self._parts = parts
        self._at = at

    def __len__(self) -> int:
        return len(self._parts)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self._parts[index]

    def __iter__(self) -> Iterator[T]:
        for number, part in enumerate(self._parts, start=1):
            self._at(number, len(self._parts))
            yield part
