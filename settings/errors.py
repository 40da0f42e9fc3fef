"""The two error types that are shown as a message, without a traceback: the user's mistake, and a failure explained."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake the user can mend: the command line prints it and exits with 2.

    The text says which key, what value, which rule, and what to do.
    """


class RunError(RuntimeError):
    """A run cannot go on, for a reason outside the program: a full disk, a folder taken over by another process.

    The text says what and where, and what to do; the command line exits with 1, as for every failure.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint of the form `; did you mean "x"?`, or the list of what is known, for an unknown name."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; known are: {', '.join(names)}" if names else ""
