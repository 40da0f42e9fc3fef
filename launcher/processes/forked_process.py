"""A forked process: the head of a session of its own, with default signals and its own output, which ends with exit."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from launcher.exit_codes import FAILED
from settings.processes import die_with_parent
from train.safety.stop_signals import STOP_SIGNALS, stays_ignored


def run_forked(action: Callable[[], object], *, parent_pid: int, out: int, err: int) -> NoReturn:
    """Calls `action` in a process that was just forked, and exits: it never returns to the code of the parent.

    `out` and `err` are the descriptors of its output. The kernel kills it when the parent ends.
    """
    code = FAILED
    try:
        os.setsid()
        die_with_parent(parent_pid)
        for number in STOP_SIGNALS:
            if not stays_ignored(number):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDONLY)
        for descriptor, standard in ((null, 0), (out, 1), (err, 2)):
            os.dup2(descriptor, standard)
        sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))  # noqa: SIM115
        action()
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else FAILED
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
