"""Writes files of model scores for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.score_files import DocumentScores, ScoreOrigin, write_scores


def write_score_file(
    folder: Path,
    run: str,
    step: int,
    hashes: np.ndarray,
    *,
    el2n: np.ndarray,
    loss: np.ndarray,
    accuracy: np.ndarray,
    source: str = "a",
    checkpoint: str = "",
    grand: np.ndarray | None = None,
) -> Path:
    """Writes a file where `lehr score` would; a document whose loss is NaN has no token that counts."""
    origin = ScoreOrigin(
        run=run,
        step=step,
        source=source,
        checkpoint_sha256=checkpoint or f"{run}{step}",
        shard_sha256={"train/00000.ds": source},
        seq_length=8,
        precision="float32",
        grand=grand is not None,
    )
    path = folder / run / f"step-{step:08d}" / source / "00000.parquet"
    write_scores(path, origin, hashes, DocumentScores(np.where(np.isnan(loss), 0, 7), el2n, loss, accuracy, grand))
    return path
