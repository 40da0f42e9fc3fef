"""The figures of a selection: a histogram of the scores, and the scores against the lengths of documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from data.pipeline.selection.summarize_choice import LENGTH_BINS_PER_DOUBLING


def draw_figures(folder: Path, cells: npt.NDArray[np.int64], report: dict[str, Any]) -> None:
    """Write scores.png and lengths.png, from the counts of documents, [pool and chosen, length bins, score bins]."""
    low, high = report["score_range"]
    edges = np.linspace(low, high if high > low else low + 1, cells.shape[2] + 1)
    selector = report["method"]["selector"]["name"]
    _save(folder / "scores.png", _draw_scores(cells, edges, selector))
    _save(folder / "lengths.png", _draw_lengths(cells, edges, selector))


def _draw_scores(cells: npt.NDArray[np.int64], edges: npt.NDArray[np.float64], selector: str) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for counts, label, colour in zip(cells.sum(axis=1), _labels(cells), ("0.7", "tab:blue"), strict=True):
        axes.stairs(counts, edges, fill=True, color=colour, label=label)
    axes.set(
        title="Scores of the pool and of what was chosen",
        xlabel=f"score ({selector})",
        ylabel="documents",
        yscale="symlog",
    )
    axes.legend()
    return figure


def _draw_lengths(cells: npt.NDArray[np.int64], edges: npt.NDArray[np.float64], selector: str) -> Figure:
    used = np.flatnonzero(cells[0].sum(axis=1))
    first, last = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 1)
    lengths = 2.0 ** (np.arange(first, last + 1) / LENGTH_BINS_PER_DOUBLING)
    # One norm for both halves, so that their colours mean the same. No document is white, and one is seen beside it.
    norm = LogNorm(0.3, max(int(cells.max()), 2))
    figure = Figure(figsize=(10, 4), layout="constrained")
    halves = figure.subplots(1, 2, sharey=True)
    for axes, counts, label in zip(halves, cells, _labels(cells), strict=True):
        mesh = axes.pcolormesh(lengths, edges, np.ma.masked_less(counts[first:last].T, 1), cmap="Blues", norm=norm)
        axes.set(xscale="log", xlabel="bytes of the document", title=label)
    halves[0].set_ylabel(f"score ({selector})")
    figure.colorbar(mesh, ax=halves, label="documents of this length and score")
    return figure


def _labels(cells: npt.NDArray[np.int64]) -> tuple[str, str]:
    """Return what the two halves of the counts are; documents that have no finite score are in none of them."""
    pool, chosen = (int(counts.sum()) for counts in cells)
    return f"pool: {pool:,} documents with a score", f"chosen: {chosen:,} documents with a score"


def _save(path: Path, figure: Figure) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})  # the same bytes for each build
