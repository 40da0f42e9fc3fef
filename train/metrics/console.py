"""The lines of a run on the console and, on a terminal, the progress bar under them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import median

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from settings.durations import format_duration

_STEPS_FOR_TIME_LEFT = 20


class ConsoleLines:
    """Prints a line for each step and each evaluation."""

    def __init__(self, console: Console, *, from_step: int, total: int, every: int) -> None:
        """`from_step` steps of `total` are taken already; every `every`-th step has a line."""
        self._console = console
        self._total = total
        self._every = every
        self._seconds: deque[float] = deque(maxlen=_STEPS_FOR_TIME_LEFT)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        if console.is_terminal:
            columns = (
                TextColumn("{task.completed}/{task.total} steps"),
                BarColumn(),
                TextColumn("{task.fields[left]}"),
            )
            self._progress = Progress(*columns, console=console, transient=True)
            self._task = self._progress.add_task("", total=total, completed=from_step, left="")
            self._progress.start()

    def step(self, values: Mapping[str, float | int], loss: float | None) -> None:
        """Prints the line of a step: its loss, None if no token counts, and other values by their keys in the file."""
        step = int(values["step"])
        self._seconds.append(float(values["seconds_per_step"]))
        # The median: one slow step (a checkpoint's copy, a first compilation) says nothing of the rest.
        left = format_duration((self._total - step) * median(self._seconds)) + " left"
        if self._progress is not None:
            self._progress.update(self._task, completed=step, left=left)
        if step % self._every and step != self._total:
            return
        parts = [
            f"step {step:>{len(str(self._total))}}/{self._total}",
            "no loss: no token counts" if loss is None else f"loss {loss:.4f}",
            f"lr {values['lr']:.2e}",
            f"grad {values['grad_norm']:.3f}",
            f"{format_count(values['tokens_per_second'])} tok/s",
            *([f"mfu {100 * values['mfu']:.1f}%"] if "mfu" in values else []),
            f"{format_count(values['memory_bytes'], base=1024)}B",
            f"{values['seconds_per_step']:.2f} s",
        ]
        if (loss is not None and not math.isfinite(loss)) or not math.isfinite(values["grad_norm"]):
            parts.append("skipped: not finite")
        self._print("  ".join(parts if self._progress is not None else [*parts, left]))

    def evaluation(
        self, step: int, values: Mapping[str, float], *, forecast: str | None = None, continual: str | None = None
    ) -> None:
        """Prints the line of an evaluation: held-out loss, its forecast, every source's bits a byte, forgetting."""
        bits = [
            f"{name.split('/')[1]} {value:.4f}" for name, value in values.items() if name.endswith("/bits_per_byte")
        ]
        parts = [f"step {step}", f"held-out loss {values['held_out/loss']:.4f}", forecast]
        self._print("  ".join(filter(None, [*parts, f"bits per byte: {', '.join(bits)}", continual])))

    def notice(self, line: str | None) -> None:
        """Prints any other line; nothing if it is None."""
        if line is not None:
            self._print(line)

    def close(self) -> None:
        """Removes the progress bar."""
        if self._progress is not None:
            self._progress.stop()

    def _print(self, line: str) -> None:
        # Numbers in colour are noise; a line must stay one line when a file or a pipe is read.
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


_UNITS = ("", "k", "M", "G", "T", "P", "E")


def format_count(value: float, *, base: int = 1000) -> str:
    """Formats a count with three or four digits and k, M, G, T, P or E, such as 1.54k; with base 1024, `1010 Mi`."""
    space, binary = (" ", "i") if base == 1024 else ("", "")
    power = 0
    # 999.6 would be printed as 1000: it takes the next unit, but with base 1024, where 1000 to 1023 have none.
    while abs(value) >= base - 0.5 and power < len(_UNITS) - 1:
        value, power = value / base, power + 1
    digits = f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
    unit = _UNITS[power].upper() if base == 1024 else _UNITS[power]
    return f"{digits}{space}{unit}{binary if power else ''}"
