"""What a step gave, told three times: metrics.jsonl, TensorBoard, and a line on the console."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from parallel.engines.engine import StepResult
from settings.files import explained
from train.checkpoint.writer_lease import WriterLease
from train.evaluate import Evaluation
from train.metrics.jsonl import MetricsFile, read_metrics
from train.run_folder.folder import RunFolder
from train.state import TrainState

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from train.metrics.forecast import RunForecast

_STEPS_FOR_TIME_LEFT = 20
# TensorBoard's page of custom scalars: forecast and fact in one chart.
_BESIDE_THE_FACT = {
    "forecast": {
        "held-out loss": ["Multiline", ["held_out/loss", "forecast/loss", "forecast/low", "forecast/high"]],
        "final loss": ["Multiline", ["forecast/final", "forecast/final_low", "forecast/final_high", "held_out/loss"]],
    }
}


class MetricsLogger:
    """Of one run. On ranks that do not write, every method returns at once, so the loop need not ask."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        writes: bool,
        from_step: int,
        evaluated: bool = True,
        total_steps: int,
        flops_per_step: float,
        peak_flops: float,
        memory_bytes: Callable[[], int],
        log_every_steps: int = 1,
        forecast: RunForecast | None = None,
        console: Console | None = None,
        lease: WriterLease | None = None,
    ) -> None:
        """`from_step`: steps taken so far; what a crashed run wrote past it is dropped. So is the evaluation of that
        step where it is not `evaluated`: that is made anew.

        `flops_per_step`: of forward and backward over a global batch, recomputation not counted. `peak_flops`: of all
        ranks together, so that mfu = flops_per_step / seconds / peak_flops.
        """
        self._file: MetricsFile | None = None
        if not writes:
            return
        self._folder = folder
        self._total_steps = total_steps
        self._flops_per_step = flops_per_step
        self._peak_flops = peak_flops
        self._memory_bytes = memory_bytes
        self._file = MetricsFile(folder.metrics, from_step=from_step, evaluated=evaluated, lease=lease)
        self._board = _open_board(folder, from_step)
        self._lines = ConsoleLines(console or Console(), from_step=from_step, total=total_steps, every=log_every_steps)
        self._forecast = forecast
        if forecast is not None:
            forecast.recall(read_metrics(folder.metrics), step=from_step)
            self._board.add_custom_scalars(_BESIDE_THE_FACT)
            self._lines.say(forecast.opening())

    def step(
        self, state: TrainState, result: StepResult, *, lr: float, tokens: int, seconds: float, batch_hash: str
    ) -> None:
        """After a training step: `state` counts it already; `tokens`, unmasked, and `seconds` are the step's own.

        `batch_hash`: of the global batch, so that two runs' lines tell whether they saw the same.
        """
        if self._file is None:
            return
        values: dict[str, float | int] = {
            "step": state.step,
            "tokens": state.tokens,
            "loss": result.nll / max(tokens, 1),
            "lr": lr,
            "grad_norm": result.grad_norm,
            "tokens_per_second": tokens / seconds,
            "mfu": self._flops_per_step / seconds / self._peak_flops,
            "memory_bytes": self._memory_bytes(),
            "seconds_per_step": seconds,
            "skipped_steps": state.skipped_steps,
        }
        values |= {f"optim/{name}": value for name, value in result.diagnostics.items()}
        self._write(state.step, values, batch_hash=batch_hash)
        self._lines.step(values)
        if self._forecast is not None:
            self._forecast.step(state.step, lr=lr, skipped=result.skipped)

    def evaluation(self, state: TrainState, evaluation: Evaluation) -> None:
        """After an evaluation: a line of its own in the file, of the same step."""
        if self._file is None:
            return
        values = evaluation.metrics()
        seen = None if self._forecast is None else self._forecast.evaluation(state.step, evaluation.loss)
        self._write(state.step, {"step": state.step, **values, **(seen.metrics() if seen else {})})
        with explained("writing TensorBoard's file"):
            self._board.flush()
        self._lines.evaluation(state.step, values, forecast=seen.line() if seen else None)
        self._lines.say(seen.notice() if seen else None)

    def verdict(self) -> str | None:
        """Forecast, fact and error of a run that has come to its end; None of any other, and without a forecast."""
        return None if self._file is None or self._forecast is None else self._forecast.verdict()

    def go_back(self, state: TrainState) -> None:
        """Drop what was written past a state: the run goes on from there."""
        if self._file is None:
            return
        self._file.rewind(state.step, evaluated=state.evaluated_step == state.step)
        self._board.close()
        self._board = _open_board(self._folder, state.step)

    def close(self) -> None:
        """Flush everything to disk."""
        if self._file is not None:
            self._file.close()
            with contextlib.suppress(OSError):  # a copy of what metrics.jsonl has
                self._board.close()
            self._lines.close()

    def _write(self, step: int, values: Mapping[str, float | int], **texts: str) -> None:
        assert self._file is not None
        self._file.append({**values, **texts})
        with explained("writing TensorBoard's file"):
            for name, value in values.items():
                if name != "step":
                    self._board.add_scalar(name, value, step)


class ConsoleLines:
    """The console: a line a step and, on a terminal, the progress under the lines."""

    def __init__(self, console: Console, *, from_step: int, total: int, every: int) -> None:
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

    def step(self, values: Mapping[str, float | int]) -> None:
        """The line of a step."""
        step = int(values["step"])
        self._seconds.append(float(values["seconds_per_step"]))
        # The median: one slow step (a checkpoint's copy, a first compilation) says nothing of the rest.
        left = duration((self._total - step) * median(self._seconds)) + " left"
        if self._progress is not None:
            self._progress.update(self._task, completed=step, left=left)
        if step % self._every and step != self._total:
            return
        parts = [
            f"step {step:>{len(str(self._total))}}/{self._total}",
            f"loss {values['loss']:.4f}",
            f"lr {values['lr']:.2e}",
            f"grad {values['grad_norm']:.3f}",
            f"{count(values['tokens_per_second'])} tok/s",
            f"mfu {100 * values['mfu']:.1f}%",
            f"{count(values['memory_bytes'], base=1024)}B",
            f"{values['seconds_per_step']:.2f} s",
        ]
        if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
            parts.append("skipped: not finite")
        self._print("  ".join(parts if self._progress is not None else [*parts, left]))

    def evaluation(self, step: int, values: Mapping[str, float], *, forecast: str | None = None) -> None:
        """A line for the held-out loss, its forecast, and every source's bits a byte."""
        bits = [
            f"{name.split('/')[1]} {value:.4f}" for name, value in values.items() if name.endswith("/bits_per_byte")
        ]
        parts = [f"step {step}", f"held-out loss {values['held_out/loss']:.4f}", forecast]
        self._print("  ".join([*filter(None, parts), f"bits per byte: {', '.join(bits)}"]))

    def say(self, line: str | None) -> None:
        """A line of its own, if there is one."""
        if line is not None:
            self._print(line)

    def close(self) -> None:
        """Take the progress away."""
        if self._progress is not None:
            self._progress.stop()

    def _print(self, line: str) -> None:
        # Numbers in colour are noise; a line must stay one line where a file or a pipe is read.
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """`5 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for name, size, smaller, smaller_size in (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86400, "h", 3600)):
        if whole < size * (60 if size == 60 else 24) or name == "d":
            return f"{whole // size} {name} {whole % size // smaller_size} {smaller}"
    raise AssertionError


def count(value: float, *, base: int = 1000) -> str:
    """Three digits and k, M, G, T."""
    for unit in ("", "k", "M", "G"):
        if abs(value) < base:
            return f"{value:.3g}{' ' if base == 1024 else ''}{unit}"
        value /= base
    return f"{value:.3g}{' ' if base == 1024 else ''}T"


def _open_board(folder: RunFolder, from_step: int) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and of use on one rank only

    _leave_writer_errors_to_the_caller()
    with explained("opening TensorBoard's file"):
        return SummaryWriter(str(folder.tensorboard), purge_step=from_step + 1 if from_step else None)


def _leave_writer_errors_to_the_caller() -> None:
    """What TensorBoard's thread meets (the disk is full) its next call raises again: no traceback of the thread."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if type(args.thread).__module__ != "tensorboard.summary.writer.event_file_writer":
            before(args)

    threading.excepthook = hook
