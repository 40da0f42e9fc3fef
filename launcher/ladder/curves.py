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
from laws.curve import LossCurve
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
    digests: dict[str, str]  # of each run's config, by the name of its curve
    notes: tuple[str, ...]

    def with_runs(self, folders: Sequence[Path]) -> LadderCurves:
        """Returns these curves, and those of run folders that are no part of the ladder. Raises UserError."""
        added = [curve_of_folder(folder) for folder in folders]
        return replace(
            self,
            curves=(*self.curves, *added),
            sources={} if added else self.sources,
            rungs=(*self.rungs, *(curve.name for curve in added)),
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
        raise UserError(f"{ladder.folder}: no run of the ladder is finished; lehr ladder run {ladder.folder}")
    names = sorted(set.intersection(*(set(record.source_curves) for _, record in found)))
    return LadderCurves(
        curves=tuple(_curve(point, record, record.curve) for point, record in found),
        sources={
            name: tuple(_curve(point, record, record.source_curves[name], source=name) for point, record in found)
            for name in names
        },
        rungs=tuple(point.values[RUNG] for point, _ in found),
        digests={_name(point): point.digest for point, _ in found},
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
        provenance=provenance_of(config, DEFAULT_LOSS),
    )


def provenance_of(config: RunConfig, loss: str) -> dict[str, object]:
    """Returns what must agree between the runs of a ladder."""
    return {**config_provenance(config.to_plain(), loss=loss), COUNTED: ALL_PARAMETERS}


def _curve(
    point: Point, record: Record, losses: Sequence[tuple[int, float]], *, source: str | None = None
) -> LossCurve:
    """Returns a curve of tokens and losses. A run trains on about equal tokens a step, so tokens tell the steps."""
    per_step = record.tokens / record.steps
    steps = [max(1, round(tokens / per_step)) for tokens, _ in losses]
    keep = np.diff(np.array(steps), prepend=0) > 0
    return LossCurve(
        planned_curve(point.config),
        np.array(steps, dtype=np.int64)[keep],
        loss=np.array([loss for _, loss in losses])[keep],
        name=_name(point),
        parameters=_parameters(point.config),
        batch_tokens=_batch_tokens(point.config),
        provenance=provenance_of(point.config, DEFAULT_LOSS if source is None else f"held_out/{source}/loss"),
    )


def _name(point: Point) -> str:
    return f"{point.values[RUNG]} seed {point.seed}"


def _parameters(config: RunConfig) -> float:
    return float(parameters(model_with_vocabulary(config), seq_length=config.train.seq_length))


def _batch_tokens(config: RunConfig) -> float:
    return float(config.train.global_batch_size * config.train.seq_length)
