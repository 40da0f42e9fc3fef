"""Writes what a step measured to metrics.jsonl, to TensorBoard, and to the console."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from parallel.engines.engine import StepResult
from settings.files import explained
from train.checkpoint.writer_lease import WriterLease
from train.evaluate import Evaluation
from train.metrics.console import ConsoleLines
from train.metrics.continual import ContinualMetrics, continual_text
from train.metrics.jsonl import MetricsFile, read_metrics
from train.metrics.sparse_cost import SparseCost
from train.run_folder.folder import RunFolder
from train.state import TrainState

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from train.metrics.forecast import RunForecast

# TensorBoard's page of custom scalars: forecast and measured loss in one chart.
_FORECAST_CHARTS = {
    "forecast": {
        "held-out loss": ["Multiline", ["held_out/loss", "forecast/loss", "forecast/low", "forecast/high"]],
        "final loss": ["Multiline", ["forecast/final", "forecast/final_low", "forecast/final_high", "held_out/loss"]],
    }
}


class MetricsLogger:
    """Logs the metrics of one run. On ranks that do not write, every method returns at once."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        writes: bool,
        state: TrainState,
        total_steps: int,
        flops_per_step: float,
        peak_flops: float | None,
        memory_bytes: Callable[[], int],
        log_every_steps: int = 1,
        forecast: RunForecast | None = None,
        sparse_cost: SparseCost | None = None,
        continual: ContinualMetrics | None = None,
        held_out_on: Mapping[str, Any] | None = None,
        console: Console | None = None,
        lease: WriterLease | None = None,
    ) -> None:
        """The steps of `state` are taken already; what a crashed run wrote past them is dropped. The evaluation after
        the last of them is dropped too if the state has none: it is made anew.

        `flops_per_step` counts forward and backward over a global batch, without recomputation. `peak_flops` is the sum
        over all ranks, so that mfu = flops_per_step / seconds / peak_flops; None if it is unknown, and mfu left out.

        `held_out_on`: the identity of the held-out sequences from now on, for `continual`.
        """
        self._file: MetricsFile | None = None
        if not writes:
            return
        self._folder = folder
        self._total_steps = total_steps
        self._flops_per_step = flops_per_step
        self._peak_flops = peak_flops
        self._memory_bytes = memory_bytes
        self._file = MetricsFile(
            folder.metrics, from_step=state.step, evaluated=state.evaluated_step == state.step, lease=lease
        )
        self._board = _open_board(folder, state.step)
        self._lines = ConsoleLines(console or Console(), from_step=state.step, total=total_steps, every=log_every_steps)
        self._forecast = forecast
        self._sparse_cost = sparse_cost
        self._continual = continual
        self._last_continual: str | None = None  # of the last evaluation
        if continual is not None:
            continual.recall(read_metrics(folder.metrics), state=state, sequences=held_out_on or {})
        if forecast is not None:
            forecast.recall(read_metrics(folder.metrics), state=state)
            self._board.add_custom_scalars(_FORECAST_CHARTS)
            self._lines.notice(forecast.opening_line())

    def step(
        self,
        state: TrainState,
        result: StepResult,
        *,
        lr: float,
        tokens: int,
        seconds: float,
        batch_hash: str,
        rank_seconds: Mapping[str, float],
    ) -> None:
        """Logs a training step, which `state` counts already; `tokens` (unmasked) and `seconds` are the step's own.

        The loss of a step without tokens is not defined: it is null in the file, and not on TensorBoard's page.

        By `batch_hash`, the hash of the global batch, the lines of two runs show whether they trained on the same.
        `rank_seconds`: the metrics of the ranks' own times, if they were compared after this step.
        """
        if self._file is None:
            return
        loss = result.nll / tokens if tokens else None
        values: dict[str, float | int] = {
            "step": state.step,
            "tokens": state.tokens,
            "lr": lr,
            "grad_norm": result.grad_norm,
            "tokens_per_second": tokens / seconds,
            **({"mfu": self._flops_per_step / seconds / self._peak_flops} if self._peak_flops is not None else {}),
            "memory_bytes": self._memory_bytes(),
            "seconds_per_step": seconds,
            "skipped_steps": state.skipped_steps,
        }
        if self._sparse_cost is not None:
            values |= self._sparse_cost.metrics(state, result)
        values |= {f"optim/{name}": value for name, value in result.diagnostics.items()} | dict(rank_seconds)
        self._write(
            state.step, {"step": state.step, "tokens": state.tokens, "loss": loss, **values}, batch_hash=batch_hash
        )
        self._lines.step(values, loss)
        if self._forecast is not None:
            self._forecast.step(state.step, lr=lr, skipped=result.skipped)

    def evaluation(self, state: TrainState, evaluation: Evaluation) -> None:
        """Logs an evaluation: a line of its own in the file, of the same step."""
        if self._file is None:
            return
        values = evaluation.metrics()
        continual = {} if self._continual is None else self._continual.evaluation(state.step, values)
        self._last_continual = continual_text(continual)
        record = None if self._forecast is None else self._forecast.evaluation(state, evaluation.loss)
        self._write(state.step, {"step": state.step, **values, **continual, **(record.metrics() if record else {})})
        with explained("writing TensorBoard's file"):
            self._board.flush()
        self._lines.evaluation(
            state.step, values, forecast=record.line() if record else None, continual=self._last_continual
        )
        self._lines.notice(record.drift_notice() if record else None)

    def notice(self, line: str) -> None:
        """Prints a line on the console."""
        if self._file is not None:
            self._lines.notice(line)

    def closing_lines(self, state: TrainState) -> list[str]:
        """Returns the last lines of a run: forecast, cost of zeroed weights, forgetting and adaptation."""
        if self._file is None:
            return []
        forecast = None if self._forecast is None else self._forecast.closing_line()
        sparse = None if self._sparse_cost is None else self._sparse_cost.closing_line(state)
        continual = None if self._last_continual is None else f"held-out loss: {self._last_continual}"
        return [line for line in (forecast, sparse, continual) if line is not None]

    def rewind(self, state: TrainState) -> None:
        """Drops what was logged past a state: the run goes on from there."""
        if self._file is None:
            return
        self._file.rewind(state.step, evaluated=state.evaluated_step == state.step)
        self._board.close()
        self._board = _open_board(self._folder, state.step)

    def close(self) -> None:
        """Flushes everything to disk."""
        if self._file is not None:
            self._file.close()
            with contextlib.suppress(OSError):  # a copy of what metrics.jsonl has
                self._board.close()
            self._lines.close()

    def _write(self, step: int, values: Mapping[str, float | int | None], **texts: str) -> None:
        assert self._file is not None
        self._file.append({**values, **texts})
        with explained("writing TensorBoard's file"):
            for name, value in values.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(name, value, step)


def _open_board(folder: RunFolder, from_step: int) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and of use on one rank only

    _silence_writer_thread()
    with explained("opening TensorBoard's file"):
        return SummaryWriter(str(folder.tensorboard), purge_step=from_step + 1 if from_step else None)


def _silence_writer_thread() -> None:
    """Prints no traceback of TensorBoard's thread: what it meets (the disk is full) its next call raises again."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if type(args.thread).__module__ != "tensorboard.summary.writer.event_file_writer":
            before(args)

    threading.excepthook = hook
