"""The two errors that the command line prints without a traceback: a user's mistake, and an explained failure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal

Kind = Literal["user", "failure", "fenced", "diverged"]

_MOST_LISTED = 200


class UserError(ValueError):
    """A mistake that the user can fix: the command line prints it and exits with 2.

    The text says which key, what value, which rule, and what to do.
    """

    kind: Kind = "user"


class RunError(RuntimeError):
    """A reason outside the program for which a run cannot go on: a full disk, a folder that another process took over.

    The text says what failed, where, and what to do. The kind decides the exit code (launcher/exit_codes.py): a run
    that was fenced or has diverged is not started again by itself.
    """

    kind: Kind = "failure"


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a hint for an unknown name: `; did you mean "x"?`, or the list of known names if it is not too long."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; known are: {', '.join(names)}" if 0 < len(names) <= _MOST_LISTED else ""
