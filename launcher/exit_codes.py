"""How a mistake of the user leaves the program: one message on stderr, exit code 2, no traceback."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from settings import RunError, UserError

P = ParamSpec("P")
R = TypeVar("R")

DONE = 0
USER_MISTAKE = 2
STOPPED_EARLY = 75  # with a checkpoint: run me again (EX_TEMPFAIL of sysexits.h)
FAILED = 1


def user_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Decorates a command: a UserError is printed as it is and the process exits with 2; with 1 for a RunError."""

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
