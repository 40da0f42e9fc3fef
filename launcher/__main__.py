"""`python -m launcher` and the `lehr` command."""

from __future__ import annotations

import os
import sys

from launcher.processes.first_parent import first_parent
from launcher.processes.signals import exit_immediately


def main() -> None:
    """Runs the command line and exits.

    The parent is noted and the stop signals are handled first: the imports of the command line take a while.
    """
    first_parent()
    exit_immediately()
    _open_closed_streams()
    from launcher.cli import main as run_command_line

    run_command_line()


def _open_closed_streams() -> None:
    """Opens /dev/null for each standard stream that the caller closed (`>&-`).

    Otherwise sys.stdout is None, and the next file that is opened gets its descriptor and everything printed to it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


if __name__ == "__main__":
    main()
