"""metrics.jsonl through crashes and resumes, TensorBoard read back, and the lines on the console."""

from __future__ import annotations

import io
import json
import math
import mmap
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from parallel.engines.engine import StepResult
from train.evaluate import Evaluation, SourceLoss
from train.metrics.console import format_count
from train.metrics.jsonl import MetricsFile, read_metrics
from train.metrics.logger import MetricsLogger
from train.run_folder.folder import RunFolder
from train.state import TrainState


def open_metrics(folder: Path, console: Console | None = None, **options: Any) -> MetricsLogger:
    folder.mkdir(exist_ok=True)
    options = {"writes": True, "state": TrainState(), "total_steps": 10, "peak_flops": 1e10, **options}
    return MetricsLogger(
        RunFolder(folder),
        flops_per_step=5e9,
        memory_bytes=lambda: 3 * 1024**3,
        console=console or Console(file=io.StringIO()),
        **options,
    )


def take_steps(metrics: MetricsLogger, first: int, last: int) -> None:
    for step in range(first, last + 1):
        result = StepResult(nll=200.0 / step, grad_norm=0.1 + step, skipped=False, diagnostics={"fire_rate": 0.5})
        metrics.step(
            TrainState(step=step, tokens=100 * step),
            result,
            lr=1e-3 / 3,
            tokens=100,
            seconds=2.0,
            batch_hash=f"{step:016x}",
            rank_seconds={},
        )


def read_board(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_a_line_a_step_with_floats_in_full(tmp_path: Path) -> None:
    metrics = open_metrics(tmp_path)
    take_steps(metrics, 1, 3)
    metrics.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    last = lines[2]
    assert last["loss"] == 200.0 / 3 / 100  # to the bit
    assert last["lr"] == 1e-3 / 3
    assert last["grad_norm"] == 0.1 + 3
    assert last["tokens"] == 300
    assert last["tokens_per_second"] == 50
    assert last["mfu"] == 0.25
    assert last["seconds_per_step"] == 2.0
    assert last["memory_bytes"] == 3 * 1024**3
    assert last["optim/fire_rate"] == 0.5
    assert last["batch_hash"] == "0000000000000003"


def test_a_step_without_tokens_has_no_loss(tmp_path: Path) -> None:
    out = io.StringIO()
    metrics = open_metrics(tmp_path, Console(file=out, width=200))
    result = StepResult(nll=0.0, grad_norm=0.0, skipped=False, diagnostics={})
    metrics.step(TrainState(step=1), result, lr=1e-3, tokens=0, seconds=2.0, batch_hash="", rank_seconds={})
    take_steps(metrics, 2, 2)
    metrics.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert list(lines[0]) == [key for key in lines[1] if not key.startswith("optim/")]
    assert [line["loss"] for line in lines] == [None, 1.0]
    assert read_board(tmp_path)["loss"] == [(2, 1.0)]
    first, second = out.getvalue().splitlines()
    assert "no loss: no token counts" in first
    assert "skipped" not in first
    assert "loss 1.0000" in second


def test_without_a_known_peak_there_is_no_mfu(tmp_path: Path) -> None:
    file = io.StringIO()
    metrics = open_metrics(tmp_path / "run", Console(file=file, width=200), peak_flops=None)
    take_steps(metrics, 1, 2)
    metrics.close()
    assert all("mfu" not in line for line in read_metrics(tmp_path / "run" / "metrics.jsonl"))
    assert "mfu" not in file.getvalue()
    assert "tok/s" in file.getvalue()


def test_lines_are_there_as_soon_as_the_step_is_over(tmp_path: Path) -> None:
    metrics = open_metrics(tmp_path)
    take_steps(metrics, 1, 1)
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(b"}\n")
    metrics.close()


def test_an_evaluation_that_is_made_anew_stands_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 4, "loss": 1.0}, {"step": 4, "held_out/loss": 3.0}, {"step": 5, "loss": 0.5}]
    lines += [{"step": 5, "held_out/loss": 2.0}, {"step": 6, "loss": 0.2}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    MetricsFile(path, from_step=5).close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines[:4]
    MetricsFile(path, from_step=5, evaluated=False).close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines[:3]


def test_an_evaluation_joins_its_step(tmp_path: Path) -> None:
    metrics = open_metrics(tmp_path)
    take_steps(metrics, 1, 2)
    sources = {"plays": SourceLoss(4.0, 2.0, 300), "code": SourceLoss(2.0, 1.5, 100)}
    metrics.evaluation(TrainState(step=2, tokens=200), Evaluation(sources))
    take_steps(metrics, 3, 3)
    metrics.close()
    steps = read_metrics(tmp_path / "metrics.jsonl")
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert steps[1]["loss"] == 1.0
    assert steps[1]["held_out/loss"] == 3.5  # weighted by tokens
    assert steps[1]["held_out/plays/bits_per_byte"] == 2.0
    assert "held_out/loss" not in steps[2]


def test_a_resume_drops_what_is_past_it_and_a_torn_line(tmp_path: Path) -> None:
    metrics = open_metrics(tmp_path)
    take_steps(metrics, 1, 5)
    metrics.close()
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    kept = b"".join(whole.splitlines(keepends=True)[:3])
    (tmp_path / "metrics.jsonl").write_bytes(whole + b'{"step": 3, "lo')
    metrics = open_metrics(tmp_path, state=TrainState(step=3, evaluated_step=3))
    assert (tmp_path / "metrics.jsonl").read_bytes() == kept
    take_steps(metrics, 4, 6)
    metrics.close()
    assert [step["step"] for step in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_tensorboard_shows_the_same_and_no_step_twice_after_a_resume(tmp_path: Path) -> None:
    metrics = open_metrics(tmp_path)
    take_steps(metrics, 1, 5)
    metrics.close()
    time.sleep(1.1)  # event files are named and ordered by the second
    metrics = open_metrics(tmp_path, state=TrainState(step=3, evaluated_step=3))
    take_steps(metrics, 4, 6)
    metrics.close()
    board = read_board(tmp_path)
    assert [step for step, _ in board["loss"]] == [1, 2, 3, 4, 5, 6]
    assert board["loss"][5][1] == pytest.approx(200.0 / 6 / 100, rel=1e-6)
    assert set(board) >= {"lr", "grad_norm", "tokens_per_second", "mfu", "memory_bytes", "seconds_per_step"}


def test_what_is_not_finite_is_null_and_reads_as_nan(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl", from_step=0)
    file.append({"step": 1, "loss": math.nan, "grad_norm": math.inf})
    file.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": None, "grad_norm": None}
    (step,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(step["loss"])


@hypothesis.settings(deadline=None)  # how busy the machine is proves nothing
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_reads_back_to_the_bit(value: float) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = MetricsFile(Path(folder) / "m", from_step=0)
        file.append({"step": 1, "loss": value})
        file.close()
        assert read_metrics(Path(folder) / "m")[0]["loss"] == value


def write_for_ever(path: Path) -> None:
    file = MetricsFile(path, from_step=0)
    for step in range(1, 10**9):
        file.append({"step": step, "loss": 1 / step, "filling": 1.0 / 3})


def test_killed_at_any_moment_no_line_is_lost_and_only_the_last_may_be_cut_off(tmp_path: Path) -> None:
    """A write that crosses from one page to the next may be cut there by a kill; readers leave such a line out."""
    path = tmp_path / "metrics.jsonl"
    for _ in range(5):
        writer = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(path,))
        writer.start()
        while not path.exists() or path.stat().st_size < 1000:
            time.sleep(0.005)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        *lines, cut_off = path.read_bytes().split(b"\n")
        assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))
        assert [line["step"] for line in read_metrics(path)] == list(range(1, len(lines) + 1))
        assert not cut_off or path.stat().st_size % mmap.PAGESIZE == 0
        path.unlink()


def test_a_rank_that_does_not_write_writes_nothing(tmp_path: Path) -> None:
    out = io.StringIO()
    metrics = open_metrics(tmp_path, Console(file=out), writes=False)
    take_steps(metrics, 1, 2)
    metrics.evaluation(TrainState(step=2), Evaluation({"plays": SourceLoss(4.0, 2.0, 300)}))
    metrics.close()
    assert list(tmp_path.iterdir()) == []
    assert out.getvalue() == ""


def test_the_console_has_one_plain_line_a_step_with_the_time_left(tmp_path: Path) -> None:
    out = io.StringIO()
    metrics = open_metrics(tmp_path, Console(file=out, width=40))
    take_steps(metrics, 1, 3)
    metrics.evaluation(TrainState(step=3), Evaluation({"plays": SourceLoss(4.0, 2.0, 300)}))
    metrics.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 4  # a narrow console does not cut them
    assert lines[2].startswith("step  3/10  loss 0.6667  lr 3.33e-04  grad 3.100  50 tok/s  mfu 25.0%  3 GiB  2.00 s")
    assert lines[2].endswith("14 s left")
    assert lines[3] == "step 3  held-out loss 4.0000  bits per byte: plays 2.0000"


def test_fewer_lines_when_asked_and_always_the_last(tmp_path: Path) -> None:
    out = io.StringIO()
    metrics = open_metrics(tmp_path, Console(file=out), log_every_steps=4)
    take_steps(metrics, 1, 10)
    metrics.close()
    assert [line.split()[1] for line in out.getvalue().splitlines()] == ["4/10", "8/10", "10/10"]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 10


def test_on_a_terminal_the_progress_stands_under_the_lines_and_goes_in_the_end(tmp_path: Path) -> None:
    out = io.StringIO()
    metrics = open_metrics(tmp_path, Console(file=out, force_terminal=True, width=120))
    take_steps(metrics, 1, 2)
    metrics.close()
    text = out.getvalue()
    assert "2/10 steps" in text
    assert "16 s left" in text
    assert "step  2/10  loss 1.0000" in text
    assert text.endswith("\x1b[2K")  # the progress line is erased


def test_a_step_that_was_skipped_says_so(tmp_path: Path) -> None:
    out = io.StringIO()
    metrics = open_metrics(tmp_path, Console(file=out))
    result = StepResult(nll=math.nan, grad_norm=math.nan, skipped=True)
    metrics.step(
        TrainState(step=1, skipped_steps=1),
        result,
        lr=1e-3,
        tokens=100,
        seconds=1.0,
        batch_hash="0" * 16,
        rank_seconds={},
    )
    metrics.close()
    assert "not finite" in out.getvalue()
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["skipped_steps"] == 1


@pytest.mark.parametrize(
    ("value", "base", "text"),
    [
        (0, 1000, "0"),
        (0.155, 1000, "0.155"),
        (950, 1000, "950"),
        (999.4, 1000, "999"),
        (999.6, 1000, "1k"),
        (12345, 1000, "12.3k"),
        (999_600, 1000, "1M"),
        (2.5e6, 1000, "2.5M"),
        (1.68e17, 1000, "168P"),
        (3e21, 1000, "3000E"),
        (800, 1024, "800 "),
        (1.5 * 1024**3, 1024, "1.5 Gi"),
        (1010 * 1024**2, 1024, "1010 Mi"),
    ],
)
def test_counts(value: float, base: int, text: str) -> None:
    assert format_count(value, base=base) == text
