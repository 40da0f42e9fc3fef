"""The records of a sweep: one JSON line for each finished run, in a file that may be committed.

A sweep goes on from this file alone: a run whose config's hash has a line is not trained again, whether or not its
folder still exists.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from launcher.sweep.points import Point
from settings import Settings, UserError, parse
from settings.files import naming, output_of_user
from settings.jsonl import append_json_line
from train.metrics.jsonl import read_metrics
from train.run_folder.folder import RunFolder
from train.run_folder.start_record import last_start, recorded_inputs

_LAST_SHARE = 0.1  # of the steps, whose training losses are averaged
LossKind = Literal["held_out", "training"]


class Record(Settings):
    """One finished run."""

    format: Literal[1] = 1
    config: str = Field(description="The hash of its config and inputs.")
    point: dict[str, str] = Field(description="The values of the grid's keys.")
    seed: int
    diverged: bool
    loss: float | None = Field(description="The final loss in nats a token; null if the run diverged.")
    loss_is: LossKind | None = Field(
        description="The held-out loss after the last step, or the mean training loss of the last tenth of the steps."
    )
    sources: dict[str, float] = Field({}, description="The final held-out loss of each source.")
    bits_per_byte: dict[str, float] = Field({}, description="The same in bits a byte, where the bytes are known.")
    curve: list[tuple[int, float]] = Field([], description="Tokens and held-out loss of each evaluation.")
    source_curves: dict[str, list[tuple[int, float]]] = Field(
        {}, description="The same of each source; empty if there is only one."
    )
    steps: int
    skipped_steps: int = Field(0, description="Steps that were skipped, since their gradients were not finite.")
    tokens: int
    seconds: float = Field(description="Seconds of all steps.")
    versions: dict[str, str | None] = Field({}, description="Of lehr, its commit and the packages.")
    registered_forecast: str = Field("", description="The hash of its forecast, if one was registered before the run.")


def read_records(path: Path) -> dict[str, Record]:
    """Returns the records of a file by their config's hash; the last line of a hash counts. Raises UserError.

    There are none if there is no file. A last line that was cut off is left out.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is no UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UserError(f"{path} cannot be read as the file of finished runs ({reason}); give another --runs") from None
    found = {}
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            plain = json.loads(line)
        except ValueError:
            if number == len(lines):
                continue
            raise UserError(f"{path}, line {number}: is no JSON; restore the file, or remove the line") from None
        record = parse(Record, plain, source=f"{path}, line {number}")
        found[record.config] = record
    return found


def add_record(path: Path, record: Record) -> None:
    """Appends a line in one write and flushes it to disk; a last line that was cut off is removed. Raises UserError."""
    with output_of_user(path), naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        append_json_line(path, record.to_plain())


def record_of(point: Point) -> Record:
    """Returns the record of a run that has ended, from its folder. Raises UserError.

    A run has diverged if it did not come to its last step, if that step was skipped, or if the loss is not finite. If
    the last step was skipped, the loss may look normal, but its weights have no finite gradient.
    """
    folder = RunFolder(point.config.run.path)
    try:
        rows = read_metrics(folder.metrics)
    except OSError as error:
        raise UserError(f"{folder.metrics} cannot be read: {error.strerror}") from None
    rows = [row for row in rows if "tokens" in row]
    if not rows:
        raise UserError(f"{folder.metrics} has no step")
    held_out = [(int(row["tokens"]), row["held_out/loss"]) for row in rows if "held_out/loss" in row]
    is_evaluated = "held_out/loss" in rows[-1]
    loss = rows[-1]["held_out/loss"] if is_evaluated else _last_training_loss(rows)
    diverged = not _is_complete(rows, point) or _last_was_skipped(rows) or not math.isfinite(loss)
    return Record(
        config=point.digest,
        point=dict(point.values),
        seed=point.seed,
        diverged=diverged,
        loss=None if diverged else loss,
        loss_is=None if diverged else "held_out" if is_evaluated else "training",
        sources={} if diverged else _source_losses(rows[-1], "loss"),
        bits_per_byte={} if diverged else _source_losses(rows[-1], "bits_per_byte"),
        curve=_finite(held_out),
        source_curves=_source_curves(rows),
        steps=rows[-1]["step"],
        skipped_steps=_skipped(rows[-1]),
        tokens=int(rows[-1]["tokens"]),
        seconds=round(sum(row["seconds_per_step"] for row in rows if "seconds_per_step" in row), 3),
        versions=_versions(folder),
        registered_forecast=recorded_inputs(folder.path).registered_forecast,
    )


def _is_complete(rows: list[dict[str, Any]], point: Point) -> bool:
    """Returns whether the last step of a run is among its metrics."""
    return bool(rows) and rows[-1]["step"] == point.config.train.steps


def _last_was_skipped(rows: list[dict[str, Any]]) -> bool:
    """Returns whether the last step of a run was skipped, since its gradients were not finite."""
    return _skipped(rows[-1]) > (_skipped(rows[-2]) if len(rows) > 1 else 0)


def _skipped(row: Mapping[str, Any]) -> int:
    """Returns how many steps were skipped up to this row."""
    return int(row.get("skipped_steps", 0))


def has_diverged(point: Point) -> bool:
    """Returns whether the run ended because too many steps in a row had no finite gradient, by its event log."""
    with contextlib.suppress(OSError, ValueError):
        last = RunFolder(point.config.run.path).events.read_text(encoding="utf-8").splitlines()[-1:]
        event = json.loads(last[0]) if last else {}
        return event.get("event") == "skipped" and event.get("in_a_row", 0) > point.config.train.max_skipped_steps
    return False


def _last_training_loss(rows: list[dict[str, Any]]) -> float:
    count = max(1, round(_LAST_SHARE * len(rows)))
    losses = [row["loss"] for row in rows[-count:] if "loss" in row]
    return sum(losses) / len(losses) if losses else math.nan


def _source_losses(row: Mapping[str, Any], kind: str) -> dict[str, float]:
    return {
        parts[1]: value
        for key, value in row.items()
        if (parts := key.split("/"))[0] == "held_out" and len(parts) == 3 and parts[2] == kind
    }


def _source_curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Returns the evaluations of each source; none if there is only one, whose losses are those of the run."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for source, loss in _source_losses(row, "loss").items():
            found.setdefault(source, []).append((int(row["tokens"]), loss))
    return {source: _finite(curve) for source, curve in found.items()} if len(found) > 1 else {}


def _finite(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(tokens, loss) for tokens, loss in curve if math.isfinite(loss)]


def _versions(folder: RunFolder) -> dict[str, str | None]:
    start = last_start(folder.path)
    return {**start.get("versions", {}), "git": start.get("git")}
