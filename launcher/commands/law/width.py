"""`lehr law width`: compares two trained models of different widths by the singular values of their matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from laws.scaling.hyperparameters import singular_value_scale
from laws.scaling.singular_values import Matrix, match_widths, mean_ratio
from settings import UserError, read_yaml


def width_command(
    tuned: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder of the width that was tuned.")],
    other: Annotated[Path, typer.Argument(metavar="RUN", help="A run of another width, as deep.")],
) -> None:
    """Compare the top singular values of two models of different widths: if equal, lr and weight decay fit both."""
    console = Console()
    matches = match_widths(_matrices(tuned), _matrices(other))
    table = Table("matrix", tuned.name, other.name, "ratio", title="top singular values (arXiv 2510.15262)")
    for match in matches:
        table.add_row(match.name, f"{match.tuned:.4g}", f"{match.other:.4g}", f"{match.ratio:.3f}")
    console.print(table)
    console.print(f"geometric mean of the ratios: {mean_ratio(matches):.3f} (1: matched)", highlight=False)
    scales = [_scale(run) for run in (tuned, other)]
    if scales[0] and scales[1]:
        expected = f"{scales[1] / scales[0]:.3f}"
        console.print(f"by sqrt(lr / weight_decay) width^0.75 of the configs: {expected}", highlight=False)


def _matrices(run: Path) -> dict[str, Matrix]:
    """Returns the full matrices of the layers in the newest complete checkpoint, whatever layout wrote them."""
    from train.checkpoint.discovery import latest_checkpoint
    from train.checkpoint.manifest import read_manifest
    from train.checkpoint.weights_only import Weights
    from train.run_folder.folder import RunFolder

    latest = latest_checkpoint(RunFolder(run).checkpoints)
    if latest is None:
        raise UserError(f"{run} has no checkpoint: it is no run folder, or no checkpoint has been saved yet")
    weights = Weights(latest, read_manifest(latest))
    return {
        name: weights.read(name).numpy()
        for name, shape in weights.shapes.items()
        if name.startswith("layers.") and len(shape) == 2
    }


def _scale(run: Path) -> float | None:
    """Returns the scale of the singular values that the run's config predicts; None without weight decay."""
    config = read_yaml(run / "config.yaml")
    lr, decay = config["optim"]["lr"], config["optim"].get("weight_decay", 0.0)
    width = config["model"]["hidden_size"]
    return singular_value_scale(lr=lr, weight_decay=decay, width=width) if decay > 0 else None
