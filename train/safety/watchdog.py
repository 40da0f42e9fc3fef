"""A thread in each rank that notices a hang: it says where training stands, and ends the rank.

It counts the time without progress during which the watchdog itself could run. So no rank takes a pause of the whole
run (SIGSTOP to all of it, a laptop's sleep) for a hang, while the ranks that wait for a single paused one do. Gloo and
NCCL wait without Python's lock, so the thread runs meanwhile.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

from train.config import FIRST_TIME_FACTOR
from train.safety.tracked import Tracked

T = TypeVar("T")

SAVE_TIME_FACTOR = 12.0  # a save waits for the disk, as long as the earlier save is being written
_ROOT = Path(__file__).resolve().parents[2]
# The files whose functions are collectives. tests/train/safety/test_hang_places.py fails when a library moves them.
_COLLECTIVES = (
    "torch/distributed/",
    "megatron/core/pipeline_parallel/p2p_communication.py",
    "deepspeed/comm/",
)
_WAITING = _ROOT / "parallel" / "waiting.py"  # for collectives that were started before
_PATCHES = _ROOT / "parallel" / "patches"  # on a CPU one of them stands around every function of torch


@dataclass(frozen=True)
class Hang:
    """One rank's view of a hang."""

    position: str  # one line
    main_stack: str
    stacks: str  # of all threads, the main thread's last


class Watchdog:
    """Watches one rank. The loop says what it does; without progress the watchdog's own thread calls `on_hang`."""

    def __init__(self, hang_seconds: float, on_hang: Callable[[Hang], None]) -> None:
        self._hang_seconds = hang_seconds
        self._on_hang = on_hang
        self._main = threading.main_thread().ident
        self._phases_seen: set[str] = set()
        self._timeout_factor = FIRST_TIME_FACTOR
        self._position = "starting up"
        self._progress = 0  # a count that grows whenever the main thread moves on
        self._outer_frames = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @property
    def position(self) -> str:
        """What the main thread does, such as `step 3, micro-batch 1 of 4`."""
        return self._position

    def start(self) -> None:
        """Begins to watch. To be called in the main thread: reports leave out the frames outside the caller's."""
        self._outer_frames = len(traceback.extract_stack()) - 2
        self._thread.start()

    def set_phase(self, kind: str, detail: str = "", *, timeout_factor: float = 1.0) -> None:
        """Notes what the main thread begins. It may go `timeout_factor` times `hang_seconds` without progress."""
        self._position = f"{kind} {detail}".rstrip()
        is_first = kind not in self._phases_seen
        self._timeout_factor = max(timeout_factor, FIRST_TIME_FACTOR) if is_first else timeout_factor
        self._phases_seen.add(kind)
        self._progress += 1

    def track_progress(self, parts: Sequence[T]) -> Sequence[T]:
        """Returns the same micro-batches; whenever one is taken, the watchdog notes progress."""
        return Tracked(parts, self._note_micro_batch)

    def close(self) -> None:
        """Ends the watch."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _note_micro_batch(self, index: int, count: int) -> None:
        self._position = f"{self._position.partition(',')[0]}, micro-batch {index + 1} of {count}"
        self._progress += 1

    def _watch(self) -> None:
        tick = min(1.0, self._hang_seconds / 10)
        progress, still_seconds, looked_at = -1, 0.0, time.monotonic()
        while not self._ended.wait(tick):
            now = time.monotonic()
            # If more than a tick has passed, this process was paused, and maybe the others too.
            still_seconds += min(now - looked_at, 2 * tick)
            looked_at = now
            if self._progress != progress:
                progress, still_seconds = self._progress, 0.0
                self._arm_last_resort()
            elif still_seconds >= self._hang_seconds * self._timeout_factor:
                self._on_hang(self._describe_hang(still_seconds))
                break
        faulthandler.cancel_dump_traceback_later()

    def _arm_last_resort(self) -> None:
        """If the main thread never gives Python's lock back, this thread cannot run; a C thread writes the stacks."""
        faulthandler.dump_traceback_later(2 * self._hang_seconds * FIRST_TIME_FACTOR, file=2)

    def _describe_hang(self, still_seconds: float) -> Hang:
        frames = sys._current_frames()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        this_thread = threading.get_ident()
        main = frames[self._main] if self._main is not None else None
        position = f"no progress for {still_seconds:.0f} s at {self._position}, in {place_of(main)}"
        main_stack = "".join(traceback.format_stack(main)[self._outer_frames :])
        others = [
            f"thread {names.get(ident, ident)}:\n" + "".join(traceback.format_stack(frame))
            for ident, frame in frames.items()
            if ident not in (this_thread, self._main)
        ]
        return Hang(position, main_stack, "\n".join([*others, f"main thread:\n{main_stack}"]))


def place_of(frame: FrameType | None) -> str:
    """Returns the collective that a stack is in, if any, and lehr's line that called it.

    Such as `all_reduce of parallel/gather.py:21`; a wait for what was started before is a `wait_for_collectives`.
    """
    collective = ""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        # Going outwards, the last frame in a collective's file is the function that lehr called; torch and DeepSpeed
        # wrap it in functions `wrapper` and `log_wrapper`.
        if path == _WAITING or any(name in str(path) for name in _COLLECTIVES):
            if not frame.f_code.co_name.endswith("wrapper"):
                collective = frame.f_code.co_name
        elif _is_lehrs(path) and _PATCHES not in path.parents:
            where = f"{path.relative_to(_ROOT)}:{frame.f_lineno}"
            return f"{collective} of {where}" if collective else f"{frame.f_code.co_name} at {where}"
        frame = frame.f_back
    return collective or "no code of lehr"


def _is_lehrs(path: Path) -> bool:
    """Returns whether a file is of lehr's source: not of an environment within its folder, such as .venv."""
    return path.is_relative_to(_ROOT) and not any(part.startswith(".") for part in path.relative_to(_ROOT).parts)
