"""The report of optimizer_quality.jsonl: tables in Markdown, and a plot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optimizer_quality_results import Result, best_lr, end_of, final_loss, of_study, tokens_to

BASE = "adamw"
QUARTER = "adamw-99-quarter"  # Conda without its rotation: a quarter of the lr on the matrices, the same beta2
OPTIMIZERS = (BASE, "conda", "muon", "adamp")
ABLATION = ("adamw-99", QUARTER, "conda-scale-1")
INTERVALS = ("conda-interval-12", "conda", "conda-interval-2000")
NORMS = ("pre-norm", "scaled-init", "layernorm-scaling")


class Target(NamedTuple):
    """A held-out loss, and the study whose tokens to it are divided by those of another."""

    loss: float
    name: str
    base: str


def report(results: Sequence[Result], plot_path: Path) -> None:
    """Prints the tables that the results so far allow, and draws the plot."""
    compared = [study for study in (*OPTIMIZERS, *ABLATION) if of_study(results, study)]
    norms = [study for study in NORMS if of_study(results, study)]
    for studies in (compared, norms):
        _print_table(_grid(results, studies))
    _print_table(_at_best(results, compared, _targets(results)))
    _print_table(_rotation(results))
    _print_table(_at_best(results, norms, []))
    _print_table(_longer(results))
    _print_table(_intervals(results))
    _print_table(_fire_rates(results))
    diverged = [result["run"] for result in results if result["diverged"]]
    seconds = sum(result["cpu_seconds"] for result in results)
    print(f"{len(results)} runs, {seconds / 60:.0f} min of CPU; diverged: {', '.join(diverged) or 'none'}")
    print(f"commits: {', '.join(sorted({str(result['commit']) for result in results}))}")
    if compared or norms:
        plot(results, plot_path)
        print(f"plot: {plot_path}")


def best_runs(results: Sequence[Result], study: str) -> list[Result]:
    """Returns the runs of all seeds at the best lr of a study."""
    lr = best_lr(results, study)
    return [result for result in of_study(results, study) if result["lr"] == lr]


def _targets(results: Sequence[Result]) -> list[Target]:
    """Returns the losses to which tokens are counted.

    They are the last loss of AdamW (of its worst seed, so that all seeds reach it), its loss at 3/4 of the run, and the
    last loss of AdamW with a quarter of the lr on the matrices.
    """
    targets = []
    for base in (BASE, QUARTER):
        runs = [run for run in best_runs(results, base) if not run["diverged"]] if of_study(results, base) else []
        if runs:
            targets.append(Target(max(end_of(run) for run in runs), f"{base}'s last", base))
        if runs and base == BASE:
            ends = [float(np.interp(0.75 * run["tokens"][-1], run["tokens"], run["held_out"])) for run in runs]
            targets.append(Target(mean(ends), f"{base}'s at 3/4", base))
    return targets


def _grid(results: Sequence[Result], studies: Sequence[str]) -> Iterable[Sequence[str]]:
    """Yields the last held-out loss of the first seed by study and lr, the best in bold."""
    losses = {
        study: {result["lr"]: end_of(result) for result in of_study(results, study) if result["seed"] == 1}
        for study in studies
    }
    lrs = sorted({lr for of_lr in losses.values() for lr in of_lr})
    yield ["lr", *(f"{lr:g}" for lr in lrs)]
    for study, of_lr in losses.items():
        cells = [f"{of_lr[lr]:.4f}" if lr in of_lr else "" for lr in lrs]
        cells[lrs.index(min(of_lr, key=lambda lr: of_lr[lr]))] += " **best**"
        yield [study, *cells]


def _at_best(results: Sequence[Result], studies: Sequence[str], targets: Sequence[Target]) -> Iterable[Sequence[str]]:
    """Yields each study at its best lr over its seeds, with the tokens to the targets and the ratio of tokens."""
    columns = [f"ktokens to {target.loss:.4f} ({target.name}) | {target.base}'s over that" for target in targets]
    yield ["", "lr", "seeds", "last held-out loss: mean (least to largest)", *columns]
    for study in studies:
        runs = best_runs(results, study)
        ends = [end_of(run) for run in runs]
        cells = [f"{mean(ends):.4f} ({min(ends):.4f} to {max(ends):.4f})"]
        for target in targets:
            there = [tokens for run in runs if (tokens := tokens_to(run, target.loss)) is not None]
            if len(there) < len(runs):
                cells.append(f"reached by {len(there)} of {len(runs)} | ")
                continue
            base = [tokens_to(run, target.loss) for run in best_runs(results, target.base)]
            ratio = mean(tokens for tokens in base if tokens is not None) / mean(there)
            cells.append(f"{mean(there) / 1e3:.0f} ({min(there) / 1e3:.0f} to {max(there) / 1e3:.0f}) | {ratio:.2f}")
        yield [study, f"{runs[0]['lr']:g}", str(len(runs)), *cells]


def _rotation(results: Sequence[Result]) -> Iterable[Sequence[str]]:
    """Yields Conda minus AdamW at equal lrs and beta2, which is Conda with the identity as basis; first seed."""
    pairs = {}
    for run in of_study(results, "conda"):
        plain = final_loss(results, QUARTER, lr=run["lr"], seed=1)
        if run["seed"] == 1 and plain is not None:
            pairs[run["lr"]] = (plain, end_of(run))
    yield ["lr (matrices: a quarter)", *(f"{lr:g}" for lr in sorted(pairs))]
    if pairs:
        yield ["conda minus adamw-99-quarter", *(f"{pairs[lr][1] - pairs[lr][0]:+.4f}" for lr in sorted(pairs))]


def _longer(results: Sequence[Result]) -> Iterable[Sequence[str]]:
    """Yields AdamW with more tokens, each run with its own full schedule, and the tokens for another's last loss."""
    runs = sorted((run for run in results if run["run"].startswith(f"{BASE}-lr")), key=lambda run: run["length"])
    if not any(run["length"] > 1 for run in runs):
        return
    lr = best_lr(results, BASE)
    line = [(run["tokens"][-1], end_of(run)) for run in runs if (run["lr"], run["seed"]) == (lr, 1)]
    yield ["AdamW's tokens", *(f"{tokens / 1e3:.0f} k" for tokens, _ in line)]
    yield ["last held-out loss", *(f"{loss:.4f}" for _, loss in line)]
    for study in OPTIMIZERS[1:]:
        if not of_study(results, study):
            continue
        loss = next(end_of(run) for run in best_runs(results, study) if run["seed"] == 1)
        tokens, losses = np.log([tokens for tokens, _ in line]), [loss for _, loss in line]
        if losses[0] >= loss >= losses[-1]:
            needed = math.exp(np.interp(loss, losses[::-1], tokens[::-1])) / line[0][0]
            yield [f"needed for {study}'s {loss:.4f}", f"{needed:.2f} x {study}'s", *[""] * (len(line) - 1)]
        else:
            yield [f"needed for {study}'s {loss:.4f}", "outside these", *[""] * (len(line) - 1)]


def _intervals(results: Sequence[Result]) -> Iterable[Sequence[str]]:
    """Yields the loss for each refresh interval of Conda, at one lr and seed."""
    if not all(of_study(results, study) for study in INTERVALS):
        return
    lr = of_study(results, INTERVALS[0])[0]["lr"]
    yield ["", "last held-out loss"]
    for study in INTERVALS:
        run = next(run for run in of_study(results, study) if (run["lr"], run["seed"]) == (lr, 1))
        yield [study, f"{end_of(run):.4f}"]


def _fire_rates(results: Sequence[Result]) -> Iterable[Sequence[str]]:
    """Yields the share of steps in which AdamP found a tensor scale-invariant, mean over the tensors."""
    runs = sorted((run for run in of_study(results, "adamp") if run["seed"] == 1), key=lambda run: run["lr"])
    yield ["AdamP's lr", *(f"{run['lr']:g}" for run in runs)]
    if runs:
        yield ["projected", *(f"{run['fire_rate'] or 0:.1%}" for run in runs)]


def _print_table(rows: Iterable[Sequence[str]]) -> None:
    """Prints a table in Markdown. The first row is its header; a header without rows is not printed."""
    lines = list(rows)
    for number, row in enumerate(lines if len(lines) > 1 else []):
        line = f"| {' | '.join(row)} |"
        print(line)
        if number == 0:
            print("|" + "---|" * (line.count("|") - 1))
    if len(lines) > 1:
        print()


def plot(results: Sequence[Result], path: Path) -> None:
    """Draws the curves at the best lr (mean of the seeds) and the last losses over lr, optimizers above norms."""
    groups = [[name for name in group if of_study(results, name)] for group in ((*OPTIMIZERS, QUARTER), NORMS)]
    groups = [group for group in groups if group]
    figure = Figure(figsize=(11, 4.2 * len(groups)), layout="constrained")
    for (curves, grid), group in zip(figure.subplots(len(groups), 2, squeeze=False), groups, strict=True):
        for number, study in enumerate(group):
            _draw(curves, grid, results, study, f"C{number}")
        ends = [end_of(run) for study in group for run in best_runs(results, study) if not run["diverged"]]
        if ends:
            curves.set_ylim(min(ends) - 0.05, max(ends) + 0.8)
            grid.set_ylim(min(ends) - 0.05, max(ends) + 0.4)
        curves.set(xlabel="training tokens", ylabel="held-out loss")
        grid.set(xlabel="peak lr", ylabel="last held-out loss", xscale="log")
        grid.legend()
    figure.savefig(path, dpi=110, format="png", metadata={"Software": None})


def _draw(curves: Axes, grid: Axes, results: Sequence[Result], study: str, colour: str) -> None:
    runs = [run for run in best_runs(results, study) if not run["diverged"]]
    if runs:
        losses = np.array([run["held_out"] for run in runs])
        curves.plot(runs[0]["tokens"], losses.mean(0), color=colour, linewidth=1)
        curves.fill_between(runs[0]["tokens"], losses.min(0), losses.max(0), color=colour, alpha=0.2)
    points = sorted((run["lr"], end_of(run)) for run in of_study(results, study) if run["seed"] == 1)
    grid.plot(*zip(*points, strict=True), ".-", color=colour, label=study)
