"""The loss curves of a ladder's finished runs, from their lines in the file of finished runs alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from launcher.ladder.ladder_file import RUNG, Ladder
from launcher.run.config import RunConfig
from launcher.run.planned_schedule import planned_curve
from launcher.run.preflight import model_with_vocabulary
from launcher.run.provenance import config_provenance
from launcher.run.saved_run import read_run_config
from launcher.sweep.points import Point
from launcher.sweep.records import Record, read_records
from laws.curve import Floats, Ints, LossCurve
from laws.loss_curves.horizon import COUNTED
from laws.reading.run_folder import DEFAULT_LOSS, read_run
from model.size import parameters
from settings import UserError

ALL_PARAMETERS = "all, with embedding and head"  # how lehr counts


@dataclass(frozen=True)
class LadderCurves:
    """The curves of the finished runs."""

    curves: tuple[LossCurve, ...]  # of all sources together
    sources: dict[str, tuple[LossCurve, ...]]  # of each source by itself, if there are several
    rungs: tuple[str, ...]  # of each curve; runs of one rung share it
    notes: tuple[str, ...]

    def with_runs(self, folders: Sequence[Path]) -> LadderCurves:
        """Returns these curves, and those of run folders that are no part of the ladder. Raises UserError."""
        if not folders:
            return self
        added = [curve_of_folder(folder) for folder in folders]
        note = "no source is forecast by itself, because a run is fitted that is no part of the ladder"
        return replace(
            self,
            curves=(*self.curves, *added),
            sources={},
            rungs=(*self.rungs, *(curve.name for curve in added)),
            notes=(*self.notes, note) if self.sources else self.notes,
        )


def ladder_curves(ladder: Ladder) -> LadderCurves:
    """Reads the curves of all finished runs. Raises UserError if none is finished."""
    records = read_records(ladder.records)
    found: list[tuple[Point, Record]] = []
    notes = []
    missing, diverged = [], []
    for point in ladder.sweep().points:
        record = records.get(point.digest)
        if record is None:
            missing.append(point.label)
        elif record.loss is None or record.loss_is != "held_out":
            diverged.append(point.label)
        else:
            found.append((point, record))
            if record.skipped_steps:
                notes.append(f"{point.label}: {record.skipped_steps} skipped steps are counted as steps")
    if missing:
        notes.append(f"not finished, so not fitted: {'; '.join(missing)} (lehr ladder run {ladder.folder})")
    if diverged:
        notes.append(f"diverged or never evaluated, so not fitted: {'; '.join(diverged)}")
    if not found:
        why = notes[-1] if diverged else "no run of the ladder is finished"
        raise UserError(f"{ladder.folder}: {why}; lehr ladder run {ladder.folder}")
    curves = tuple(_curve(point, record) for point, record in found)
    names = sorted(set.intersection(*(set(record.source_curves) for _, record in found)))
    return LadderCurves(
        curves=curves,
        sources={
            name: tuple(_of_source(curve, record, name) for curve, (_, record) in zip(curves, found, strict=True))
            for name in names
        },
        rungs=tuple(point.values[RUNG] for point, _ in found),
        notes=tuple(notes),
    )


def curve_of_folder(folder: Path) -> LossCurve:
    """Returns the curve of a run folder, with its size, and the provenance of its loss. Raises UserError."""
    _, config = read_run_config(folder)
    curve = read_run(folder).curve
    return replace(
        curve,
        parameters=_parameters(config),
        batch_tokens=_batch_tokens(config),
        provenance=_provenance(config),
    )


def _curve(point: Point, record: Record) -> LossCurve:
    """Returns the curve of a finished run."""
    steps, loss = _steps_and_losses(record, record.curve)
    return LossCurve(
        planned_curve(point.config),
        steps,
        loss=loss,
        name=f"{point.values[RUNG]} seed {point.seed}",
        parameters=_parameters(point.config),
        batch_tokens=_batch_tokens(point.config),
        provenance=_provenance(point.config),
        digest=point.digest,
    )


def _of_source(curve: LossCurve, record: Record, source: str) -> LossCurve:
    """Returns a run's curve with the losses of one source."""
    steps, loss = _steps_and_losses(record, record.source_curves[source])
    return replace(curve, steps=steps, loss=loss, provenance={**curve.provenance, "loss": f"held_out/{source}/loss"})


def _steps_and_losses(record: Record, losses: Sequence[tuple[int, float]]) -> tuple[Ints, Floats]:
    """Returns the steps and the losses of a curve. A run trains on about equal tokens a step, so tokens tell steps."""
    per_step = record.tokens / record.steps
    steps = np.array([max(1, round(tokens / per_step)) for tokens, _ in losses], dtype=np.int64)
    keep = np.diff(steps, prepend=0) > 0
    return steps[keep], np.array([loss for _, loss in losses])[keep]


def _provenance(config: RunConfig) -> dict[str, object]:
    """Returns what must agree between the runs of a ladder."""
    return {**config_provenance(config.to_plain(), loss=DEFAULT_LOSS), COUNTED: ALL_PARAMETERS}


def _parameters(config: RunConfig) -> float:
    return float(parameters(model_with_vocabulary(config), seq_length=config.train.seq_length))


def _batch_tokens(config: RunConfig) -> float:
    return float(config.train.global_batch_size * config.train.seq_length)
