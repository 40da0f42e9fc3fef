"""The published ladder of models as loss curves: sizes, horizons and columns (benchmarks/ladder_laws_protocol.md)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from laws.curve import LossCurve
from laws.reading.csv_file import lr_from_rows

PARAMETERS = {"190M": 190354176, "370M": 371262464, "760M": 758220288}  # without embeddings; their tokens: the warm-up
SHORT = ("0.5xC", "1xC", "1xC-rerun", "2xC")
LONG = ("5xC", "10xC")
COLUMNS = ("c4_en", "pile", "dolma_common_crawl", "dolma_stack", "wikitext_103")

Ladder = dict[tuple[str, str, str], LossCurve]  # by size, horizon, column


def read_ladder(folder: Path) -> Ladder:
    """Reads every curve after its warm-up."""
    found: Ladder = {}
    for size, parameters in PARAMETERS.items():
        for horizon in (*SHORT, *LONG):
            rows = np.genfromtxt(folder / f"{size}-{horizon}.csv", delimiter=",", names=True)
            steps, batch = rows["step"].astype(np.int64), float(rows["batch_tokens"][0])
            warmup = round(parameters / batch)
            schedule = lr_from_rows(steps, rows["lr"], total_steps=int(steps[-1]), warmup_steps=warmup)
            for column in COLUMNS:
                keep = np.isfinite(rows[column])
                curve = LossCurve(
                    schedule,
                    steps[keep],
                    loss=rows[column][keep],
                    name=f"{size}-{horizon}",
                    parameters=float(parameters),
                    batch_tokens=batch,
                )
                found[size, horizon, column] = replace(curve.after_warmup(), provenance={"loss": column})
    return found
