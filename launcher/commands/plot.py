"""`lehr plot`: draws the curves of one run or several in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[dict[str, Any]]  # the lines of metrics.jsonl

_SMOOTHING = 0.02  # the span of the running mean of the training loss, as a share of the run


def plot_runs(
    runs: Annotated[list[Path], typer.Argument(help="run folders, such as runs/demo", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A PNG, PDF or SVG file; by default curves.png in the first run's folder."),
    ] = None,
) -> None:
    """Draw training loss, held-out loss, forecast, gradient norm and lr over tokens.

    A run that began from another one, or that has stages, has its forgetting and its adaptation drawn too.

    For a single run the held-out loss is drawn for each source. If the run's shards still exist, so is the loss of a
    model that knows only the frequency of each token.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    from launcher.commands.figures import check_picture_path, save_picture

    rows = {run: _rows(run) for run in runs}
    out = runs[0] / "curves.png" if out is None else out
    check_picture_path(out, option="--out")
    continual = {run: _continual_keys(rows[run]) for run in runs}
    panels = [5, 1, 1, *([2] if any(continual.values()) else [])]
    figure = Figure(figsize=(9, 7 + sum(panels[3:])), layout="constrained")
    losses, norms, lrs, *more = figure.subplots(len(panels), 1, sharex=True, height_ratios=panels)
    names = {run: run.name.encode(errors="backslashreplace").decode() for run in runs}  # fonts have no other bytes
    for index, run in enumerate(runs):
        colour = f"C{index}"
        _draw(losses, rows[run], "loss", label=f"{names[run]}: training", color=colour, alpha=0.25, smooth=True)
        _draw(norms, rows[run], "grad_norm", color=colour, linewidth=0.7)
        _draw(lrs, rows[run], "lr", color=colour)
        if len(runs) > 1:
            _draw(losses, rows[run], "held_out/loss", label=f"{names[run]}: held out", color=colour, marker="o")
        _draw_forecast(losses, rows[run], color=colour)
    if len(runs) == 1:
        _draw_sources(losses, runs[0], rows[runs[0]])
    losses.set(ylabel="loss, nats a token", title=", ".join(names[run] for run in runs))
    losses.legend(fontsize="small", ncols=2)
    norms.set(ylabel="grad norm", yscale="log")
    lrs.set(ylabel="lr")
    for axes in more:
        _draw_continual(axes, [(names[run] if len(runs) > 1 else "", rows[run], continual[run]) for run in runs])
    (more or [lrs])[-1].set(xlabel="tokens")
    save_picture(figure, out)
    print(f"drawn: {out}")


def _rows(run: Path) -> Rows:
    from settings import UserError
    from train.metrics.jsonl import read_metrics
    from train.run_folder.folder import RunFolder

    path = RunFolder(run).metrics
    if not path.is_file():
        raise UserError(f"{run} is no run folder: it has no {path.name}; runs are in the folder that run.folder names")
    rows = [row for row in read_metrics(path) if "tokens" in row]
    if not rows:
        raise UserError(f"{path} has no step yet")
    return rows


def _draw(axes: Axes, rows: Rows, key: str, *, smooth: bool = False, **style: Any) -> None:
    """Draws one metric over tokens; `smooth` adds its running mean, in full colour."""
    import numpy as np

    points = np.array([(row["tokens"], row[key]) for row in rows if key in row], dtype=float).reshape(-1, 2)
    if not len(points):
        return
    if smooth:
        label = style.pop("label")
        axes.plot(*points.T, linewidth=0.7, **style)
        span = max(1, round(_SMOOTHING * len(points)))
        mean = np.convolve(points[:, 1], np.full(span, 1 / span), mode="valid")
        axes.plot(points[span - 1 :, 0], mean, label=label, color=style["color"])
        return
    axes.plot(*points.T, markersize=4, **style)


def _draw_sources(axes: Axes, run: Path, rows: Rows) -> None:
    """Draws the held-out loss of each source, and its unigram loss as a dashed line."""
    names = [key.split("/")[1] for key in _keys(rows) if key.startswith("held_out/") and key.count("/") == 2]
    for index, name in enumerate(dict.fromkeys(names)):
        colour = f"C{index + 1}"
        _draw(axes, rows, f"held_out/{name}/loss", label=f"held out: {name}", color=colour, marker="o")
        unigram = _unigram_loss(run, name)
        if unigram is not None:
            axes.axhline(unigram, color=colour, linestyle="--", linewidth=0.8, label=f"token frequencies: {name}")


def _continual_keys(rows: Rows) -> list[str]:
    """Returns the metrics of forgetting and adaptation, which a run with a parent or with stages has."""
    return [key for key in dict.fromkeys(_keys(rows)) if key.startswith(("forgetting/", "adaptation/"))]


def _draw_continual(axes: Axes, parts: Sequence[tuple[str, Rows, list[str]]]) -> None:
    """Draws the forgetting of each old source, and as dashed lines the adaptation to each new one."""
    number = 0
    for name, rows, keys in parts:
        for key in keys:
            style = "-" if key.startswith("forgetting/") else "--"
            label = " ".join([*([f"{name}:"] if name else []), *key.split("/", 1)])
            _draw(axes, rows, key, label=label, color=f"C{number}", linestyle=style, marker="o")
            number += 1
    axes.axhline(0, color="grey", linewidth=0.6)
    axes.set(ylabel="nats a token")
    axes.legend(fontsize="small", ncols=2)


def _draw_forecast(axes: Axes, rows: Rows, **style: Any) -> None:
    """Draws each evaluation's forecast of the final held-out loss, with its interval."""
    forecasts = [row for row in rows if "forecast/final" in row]
    if forecasts:
        low, high = ([row[f"forecast/final_{bound}"] for row in forecasts] for bound in ("low", "high"))
        axes.fill_between([row["tokens"] for row in forecasts], low, high, alpha=0.15, linewidth=0, **style)
        _draw(axes, rows, "forecast/final", label="forecast of the final held-out loss", linestyle=":", **style)
        _draw(axes, rows, "held_out/loss", label="held out", marker="o", **style)


def _unigram_loss(run: Path, source: str) -> float | None:
    """Returns the unigram loss of a source; None if the run's shards no longer exist."""
    from data.shards.index import open_shards
    from data.shards.unigram import unigram_loss
    from launcher.run.config import RunConfig
    from launcher.run.stages import training_data
    from settings import UserError, compose
    from train.run_folder.folder import RunFolder

    try:
        config = compose(RunConfig, RunFolder(run).config, [])
        return unigram_loss(open_shards(training_data(config)), source)
    except UserError:
        return None


def _keys(rows: Rows) -> list[str]:
    return [key for row in rows for key in row]
