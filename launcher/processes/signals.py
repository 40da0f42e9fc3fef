"""The signals that ask a run to stop: SIGINT (Ctrl-C), SIGTERM, SIGUSR1 (Slurm, before the time limit) and SIGHUP.

A signal takes this way, by how far the process is when it arrives:

1. launcher/__main__.py sets `exit_immediately` in its first line: the process ends with exit code 128 + the number.
2. launcher/cli.py sets `exit_by_exception` before a command runs: open files are closed, and the exit code is the same.
   `lehr data build` has a handler of its own (commands/data.py), which stops the build with exit code 75.
3. commands/train.py sets `exit_immediately` again while it checks the config, because there is nothing to save yet.
4. processes/local_launcher.py, if lehr starts the ranks itself, forwards the signal to every rank (SIGHUP as SIGTERM).
   A second Ctrl-C kills the ranks, with exit code 130.
5. run/rank_main.py calls `defer_signals` in every rank once all ranks are connected: a signal then waits. While they
   make their process groups, where one rank waits for another, it waits for 20 s at most (`exit_if_stuck`).
6. train/safety/stop_listener.py (`StopListener`) unblocks the signals when the training loop is built, and its handler
   notes the request. The ranks agree on it at the next step (train/step_agreement.py), or between the micro-batches of
   a long step, which they drop (train/safety/long_step.py). The loop (train/loop.py) saves a checkpoint and returns;
   the rank ends with exit code 75 (`exit_codes.STOPPED_EARLY`), and so does the launcher.

SIGHUP and SIGINT stay ignored if they were ignored when the process started: nohup and a shell's `&` rely on it
(train/safety/stop_signals.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from train.safety.stop_signals import STOP_SIGNALS, set_stop_handlers


def exit_immediately(*, silently: bool = False) -> None:
    """Lets a stop signal end this process at once, with a line on stderr unless `silently`.

    It raises no exception, which an import or a `finally` could swallow. If silent, the kernel ends the process: it can
    do so within a C call that waits for other ranks, where no Python handler would run.
    """
    set_stop_handlers(signal.SIG_DFL if silently else _exit)


def exit_by_exception() -> None:
    """Lets a stop signal raise SystemExit with code 128 + its number, so that `finally` clauses run."""
    set_stop_handlers(_raise_exit)


def defer_signals() -> None:
    """Blocks the stop signals until `train.safety.stop_listener.StopListener` unblocks them.

    So none is lost, and none ends a rank that will soon be able to save a checkpoint.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    set_stop_handlers(_send_to_main_thread)


@contextlib.contextmanager
def exit_if_stuck(seconds: float = 20.0) -> Iterator[None]:
    """Ends the process if a deferred signal has arrived and the body takes `seconds` more; the exit code is 128 + it.

    The main thread may be in C++, where no Python handler runs: so another thread receives the signals. The handler of
    `defer_signals` sends each on to the main thread, as soon as that runs Python again.
    """
    received, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    before = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_exit_after_signal, args=(received, seconds), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        wakeup.close()
        thread.join()
        received.close()


def _exit_after_signal(received: socket.socket, seconds: float) -> None:
    """Returns when the other end is closed; `received` gets the number of each signal as a byte."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    deadline, number = None, 0
    while True:
        received.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
        try:
            numbers = received.recv(64)
        except TimeoutError:
            text = f"ended by {signal.Signals(number).name} while the ranks wait for each other\n"
            with contextlib.suppress(OSError):
                os.write(2, text.encode())
            os._exit(128 + number)
        if not numbers:
            return
        stops = [each for each in numbers if each in STOP_SIGNALS]
        if stops and deadline is None:
            deadline, number = time.monotonic() + seconds, stops[0]


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(2, f"ended by {signal.Signals(number).name} before there was anything to save\n".encode())
    os._exit(128 + number)


def _raise_exit(number: int, frame: FrameType | None) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(2, f"ended by {signal.Signals(number).name}\n".encode())
    raise SystemExit(128 + number)


def _send_to_main_thread(number: int, frame: FrameType | None) -> None:
    """Python runs this in the main thread, where the signal is blocked: there it waits.

    It was received by a thread of a library, which does not block it.
    """
    signal.pthread_kill(threading.get_ident(), number)
