"""The start of a rank by lehr's own launcher: in the forked process itself, or as a new program."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from launcher.processes.environment import one_openmp_thread, prepare_imports
from launcher.processes.rank_info import RankInfo

_THREAD_END_SECONDS = 1.0


def rank_starter(
    run_rank: Callable[[RankInfo], NoReturn], *, preload: str, command: list[str]
) -> Callable[[RankInfo], NoReturn]:
    """Returns the function that a forked process calls to become a rank: `run_rank`, or exec of `command`.

    Importing torch, Megatron and DeepSpeed takes seconds, most of them of computing. On a CPU the module `preload` is
    imported once, before the fork. CUDA's state and threads do not survive a fork: with them a rank is a new program.
    """
    prepare_imports()
    import torch

    if not torch.cuda.is_available():
        with one_openmp_thread():
            importlib.import_module(preload)
        if is_single_threaded():
            return run_rank
    return lambda rank_info: os.execv(command[0], command)


def lehr_command(*arguments: str) -> list[str]:
    """Returns the command `lehr ARGUMENTS` of this Python and this source tree.

    The user's folder may have a `data` or a `model` package of its own. `python -m` looks into the current folder
    first, and with -P it does not; -P would miss a source tree that is not installed.
    """
    from_source = Path.cwd() == Path(__file__).resolve().parents[2]
    return [sys.executable, *([] if from_source else ["-P"]), "-m", "launcher", *arguments]


def is_single_threaded() -> bool:
    """Returns whether this is the process's only thread. A joined thread exists for a moment more: it is waited for."""
    deadline = time.monotonic() + _THREAD_END_SECONDS
    while more := len(os.listdir("/proc/self/task")) > 1:
        if time.monotonic() > deadline:
            break
        time.sleep(0.001)
    return not more
