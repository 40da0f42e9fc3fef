"""The report on scores: means by checkpoint, and how runs and scores agree in the order of documents (Spearman)."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from data.score_files import Float64s
from data.selectors.blocks.trajectories import Trajectory, mean_over_runs, origins_of, read_trajectories
from data.selectors.compression.agreement import rank_correlation
from data.selectors.el2n import El2nConfig
from data.selectors.grand import GrandConfig
from data.selectors.lim import LimConfig
from data.selectors.loss import LossConfig
from data.selectors.model_scores import ModelScoresConfig

ADDS_NOTHING = 0.95  # a score that ranks documents like the loss, to more than this, adds nothing to it
_SATURATED_LOSS = 5.0  # nats a token; above, all error norms are close to 1


def make_report(files: Sequence[Path]) -> dict[str, Any]:
    """Returns the report on files of scores, as JSON can hold it. A correlation without a value is None."""
    trajectories = read_trajectories(files)
    paths = tuple(map(str, files))
    selectors: list[ModelScoresConfig] = [LossConfig(paths=paths), El2nConfig(paths=paths)]
    if all(len(trajectory.files) > 1 for trajectory in trajectories):
        selectors.append(LimConfig(paths=paths))
    origins = origins_of(files)
    if all(origin.grand for origin in origins.values()):
        selectors.append(GrandConfig(paths=paths))
    by_run = {selector.name: [selector.score_run(trajectory) for trajectory in trajectories] for selector in selectors}
    means = {name: mean_over_runs(trajectories, scores)[1] for name, scores in by_run.items()}
    scores = {
        name: {
            "spearman_between_runs": _between_runs(trajectories, by_run[name]),
            "spearman_with_loss": None if name == "loss" else _known(rank_correlation(means[name], means["loss"])),
        }
        for name in by_run
    }
    return {"documents": len(means["loss"]), "checkpoints": _checkpoints(files), "scores": scores}


def report_lines(report: dict[str, Any]) -> list[str]:
    """Formats what the report says of each score, and warnings, for the console."""
    lines = []
    for name, facts in report["scores"].items():
        between = list(facts["spearman_between_runs"].values())
        words = []
        if between:
            lowest = min((value for value in between if value is not None), default=None)
            words.append(f"Spearman between runs {_shown(lowest)}" + (" at least" if len(between) > 1 else ""))
        if (with_loss := facts["spearman_with_loss"]) is not None:
            words.append(f"with the loss {_shown(with_loss)}")
            if abs(with_loss) > ADDS_NOTHING:
                words.append("it adds nothing to the loss")
        if words:
            lines.append(f"{name}: {', '.join(words)}")
    for row in report["checkpoints"]:
        if row["loss"] is not None and row["loss"] > _SATURATED_LOSS:
            lines.append(
                f"{row['run']}, step {row['step']}: the loss is {row['loss']:.2f}, above {_SATURATED_LOSS:g}: "
                "the error norms of all documents are close to 1; score later checkpoints"
            )
    return lines


def _between_runs(trajectories: Sequence[Trajectory], scores_by_run: Sequence[Float64s]) -> dict[str, float | None]:
    """Returns the correlation of each pair of runs, over the documents that both scored."""
    found = {}
    for (one, scores), (other, other_scores) in itertools.combinations(
        zip(trajectories, scores_by_run, strict=True), 2
    ):
        _, places, other_places = np.intersect1d(one.hashes, other.hashes, assume_unique=True, return_indices=True)
        found[f"{one.run}, {other.run}"] = _known(rank_correlation(scores[places], other_scores[other_places]))
    return found


def _checkpoints(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Returns a row for each checkpoint: its documents, their predicted tokens, and the means over documents."""
    by_checkpoint: dict[tuple[str, int], list[Path]] = defaultdict(list)
    for file, origin in origins_of(files).items():
        by_checkpoint[origin.run, origin.step].append(file)
    rows = []
    for (run, step), paths in sorted(by_checkpoint.items()):
        columns = [pq.read_table(path, columns=["tokens", "loss", "el2n", "accuracy"]) for path in paths]
        joined = {name: np.concatenate([each[name].to_numpy() for each in columns]) for name in columns[0].column_names}
        scored = joined["tokens"] > 0
        means = {
            name: float(joined[name][scored].mean()) if scored.any() else None for name in ("loss", "el2n", "accuracy")
        }
        tokens = int(joined["tokens"].sum())
        rows.append({"run": run, "step": step, "documents": int(scored.sum()), "tokens": tokens, **means})
    return rows


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
