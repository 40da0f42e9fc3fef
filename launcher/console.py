"""What commands print on the console: columns, and a line of progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence


def print_columns(rows: Sequence[Sequence[str]], *, numbers: Collection[int] = ()) -> None:
    """Prints full columns, whatever the terminal's width, with the columns `numbers` aligned to the right.

    A cell that is shortened to the terminal's width would be useless.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


class ProgressLine:
    """One line that is overwritten on a terminal; elsewhere a new line every few seconds."""

    def __init__(self, *, seconds_between: float = 2.0, quiet_seconds: float = 0.0) -> None:
        """`seconds_between`: between two lines, if the output is no terminal. `quiet_seconds`: before the first one."""
        self._seconds_between = seconds_between
        self._next = time.monotonic() + quiet_seconds
        self._is_open = False

    def show(self, line: str) -> None:
        """Shows the progress, unless it is too early for another line."""
        if time.monotonic() < self._next:
            return
        if sys.stdout.isatty():
            print(f"\r\033[K{line}", end="", flush=True)
            self._is_open = True
        else:
            self._next = time.monotonic() + self._seconds_between
            print(line, flush=True)

    def end(self) -> None:
        """Ends the line on a terminal, so that other output begins on a new one."""
        if self._is_open:
            print(flush=True)
            self._is_open = False
