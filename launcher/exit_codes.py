"""The exit codes of `lehr`, and the decorator by which a user's mistake becomes one message without a traceback."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from settings import RunError, UserError

P = ParamSpec("P")
R = TypeVar("R")

DONE = 0
FAILED = 1
USER_MISTAKE = 2
STOPPED_EARLY = 75  # with a checkpoint: the same command continues (EX_TEMPFAIL of sysexits.h)


def user_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Decorates a command: prints the message of a UserError or a RunError, and exits with code 2 or 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(USER_MISTAKE) from None
        except RunError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(FAILED) from None

    return run
