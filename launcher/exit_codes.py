"""The exit codes of `lehr`, and the errors that end a command with one message and no traceback."""

from __future__ import annotations

import errno
import os
import sys

from settings import RunError, UserError

DONE = 0
FAILED = 1
USER_MISTAKE = 2
STOPPED_EARLY = 75  # with a checkpoint: the same command continues (EX_TEMPFAIL of sysexits.h)
FENCED = 76  # another process has taken the run over
DIVERGED = 77  # the same command would diverge again
BY_SIGNAL = 128  # plus the signal's number: a signal has ended the process, as a shell tells it

_CODES: dict[str, int] = {"user": USER_MISTAKE, "failure": FAILED, "fenced": FENCED, "diverged": DIVERGED}


def code_of(kind: str) -> int:
    """Returns the exit code of a kind of error (`settings.errors.Kind`), or of a hang."""
    return _CODES.get(kind, FAILED)


def explain(error: Exception) -> int | None:
    """Prints the message of an error that has one and returns the exit code; None for a fault of lehr's own.

    A user's mistake and an explained failure have a message, as does a full disk behind standard output. A reader that
    has closed the pipe (`lehr config keys | head`) needs none.
    """
    if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter would write the rest once more, and fail again
        if error.errno == errno.EPIPE:
            return FAILED
        error = RunError(f"{error.filename or 'the output'} cannot be written: {error.strerror}; make room there")
    if not isinstance(error, UserError | RunError):
        return None
    print(f"error: {error}", file=sys.stderr)
    return code_of(error.kind)
