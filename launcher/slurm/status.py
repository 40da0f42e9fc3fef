"""The status of a run's job: what Slurm says, what the run's metrics say, its starts, and what its time went into."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher.slurm import scheduler
from launcher.slurm.goodput import Goodput, goodput_of
from launcher.slurm.job_folder import JobFolder
from settings import read_yaml
from settings.durations import format_duration
from settings.jsonl import read_json_lines, read_steps
from train.held_out_loss import HELD_OUT_LOSS
from train.metrics.time_ledger import read_time_ledger
from train.run_folder.folder import RunFolder

_RATE_STEPS = 20


def status_lines(run: Path, *, now: float | None = None) -> list[str]:
    """Returns the status of a run that was submitted. Raises UserError if it was not."""
    folder, files = JobFolder(run), RunFolder(run)
    submission = folder.submission()
    job = str(submission["job"])
    config = read_yaml(folder.config)
    events = folder.events(job)
    goodput = goodput_of(
        events,
        read_time_ledger(files.times),
        submitted=_seconds(submission.get("date")),
        now=time.time() if now is None else now,
    )
    return [
        f"run {run}",
        *_job_lines(job, events),
        *_step_lines(files, config),
        f"last checkpoint: {f'step {step}' if (step := folder.checkpoint_step()) else 'none yet'}",
        *_slow_lines(files),
        *_start_lines(events, goodput),
        *_goodput_lines(goodput, int(config.get("checkpoint", {}).get("every_steps", 0))),
    ]


def _job_lines(job: str, events: list[dict[str, Any]]) -> Iterator[str]:
    state = scheduler.job_state(job)
    attempts = max((int(event["attempt"]) for event in events if event.get("event") == "begin"), default=0)
    if state is None:
        yield f"job {job}: Slurm does not know it any more"
    elif state.state == "PENDING":
        start = f"; it may start at {state.start}" if state.start not in ("", "Unknown") else ""
        yield f"job {job}: waits in the queue ({state.reason}){start}"
        if state.reason.startswith("JobHeld"):
            yield f"it is held: `scontrol release {job}` lets it start"
    elif state.lives:
        yield f"job {job}: {state.state.lower()}, attempt {attempts}, on {state.nodes}, until {state.end}"
    else:
        reason = "" if state.reason == "None" else f" ({state.reason})"
        yield f"job {job}: {state.state.lower()}{reason}"


def _step_lines(files: RunFolder, config: dict[str, Any]) -> Iterator[str]:
    """Yields the last step of the run, its loss and speed, and the time left at that speed."""
    try:
        steps = read_steps(files.metrics)
    except OSError:
        steps = {}
    total = config.get("train", {}).get("steps")
    taken = [values for values in steps.values() if "loss" in values]
    if not taken:
        yield f"step 0 of {total}"
        return
    last, recent = taken[-1], taken[-_RATE_STEPS:]
    seconds = sum(values["seconds_per_step"] for values in recent) / len(recent)
    loss = "none" if last["loss"] is None else f"{last['loss']:.4f}"
    left = format_duration(seconds * (total - last["step"])) if isinstance(total, int) else "unknown"
    yield f"step {last['step']} of {total}: loss {loss}, {last['tokens_per_second']:,.0f} tokens/s, {left} left"
    evaluated = [values for values in steps.values() if HELD_OUT_LOSS in values]
    if evaluated:
        yield f"held-out loss {evaluated[-1][HELD_OUT_LOSS]:.4f} at step {evaluated[-1]['step']}"
        forecast = evaluated[-1].get("forecast/final")
        if forecast is not None:
            yield f"forecast of the final held-out loss: {forecast:.4f}"


def _slow_lines(files: RunFolder) -> Iterator[str]:
    """Yields the ranks that were slow at the last comparison that found any, with their nodes."""
    try:
        events = read_json_lines(files.events)
    except OSError:
        return
    slow = [values for _, values in events if values.get("event") == "slow_ranks"]
    if slow and slow[-1].get("ranks"):
        yield f"slow at step {slow[-1]['step']}: {'; '.join(slow[-1]['places'])}"


def _start_lines(events: list[dict[str, Any]], goodput: Goodput) -> Iterator[str]:
    """Yields a line for each start: on which nodes, what its time went into, how it ended."""
    begins = {int(event["attempt"]): event for event in events if event.get("event") == "begin"}
    ends = {int(event["attempt"]): event for event in events if event.get("event") == "end"}
    for start in goodput.starts:
        end = ends.get(start.attempt)
        spent = ", ".join(
            f"{name} {format_duration(seconds)}"
            for name, seconds in (
                ("queue", start.queue),
                ("starting", start.starting),
                ("useful", start.useful),
                ("saving", start.saving),
                ("lost", start.lost),
            )
        )
        how = "runs" if end is None else str(end.get("reason"))
        yield f"attempt {start.attempt} on {begins[start.attempt].get('nodes')}: {spent}; {how}"


def _goodput_lines(goodput: Goodput, every_steps: int) -> Iterator[str]:
    if (ratio := goodput.effective_ratio) is not None:
        recover = goodput.seconds_to_recover
        mean = "" if recover is None else f"; mean time to recover {format_duration(recover)}"
        yield f"effective training time ratio {100 * ratio:.1f}%{mean}"
    if (advice := goodput.interval_advice(every_steps)) is not None:
        yield advice


def _seconds(date: object) -> float | None:
    return datetime.datetime.fromisoformat(date).timestamp() if isinstance(date, str) else None
