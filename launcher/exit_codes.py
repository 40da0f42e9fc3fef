"""The exit codes of `lehr`, and the errors that end a command with one message and no traceback."""

from __future__ import annotations

import sys

from settings import RunError, UserError

DONE = 0
FAILED = 1
USER_MISTAKE = 2
STOPPED_EARLY = 75  # with a checkpoint: the same command continues (EX_TEMPFAIL of sysexits.h)


def explain(error: Exception) -> int | None:
    """Prints the message of a UserError or a RunError and returns the exit code; None for any other error."""
    if not isinstance(error, UserError | RunError):
        return None
    print(f"error: {error}", file=sys.stderr)
    return USER_MISTAKE if isinstance(error, UserError) else FAILED
