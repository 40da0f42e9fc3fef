"""The report of ladder_proof.py: forecast and fact of the target, and the laws' choice against the default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ladder_plan import CHOSEN, CURVE_WITHIN, DEFAULT, DEVIATIONS, LAST_LOSS_WITHIN, LEAST_RATIO, MOST_FLOPS

from launcher.ladder.curves import ladder_curves
from launcher.ladder.ladder_file import Ladder, read_ladder
from launcher.run.register import load_forecast
from launcher.sweep.records import Record
from launcher.sweep.summary import Estimate
from settings.files import file_sha256, write_text
from train.metrics.console import format_count


@dataclass(frozen=True)
class Results:
    """The finished parts of the proof, beside the ladder."""

    ladder: Path  # its folder
    target: Record | None
    arms: Mapping[str, Sequence[Record]]  # of DEFAULT and CHOSEN at the best lr, by seed
    best_lrs: Mapping[str, str]
    tuned_with: int  # runs of each arm
    seeds: int


def write_report(results: Results, path: Path) -> None:
    """Writes the report of what is finished."""
    ladder = read_ladder(results.ladder)
    lines = [
        "# A ladder: the loss of a million parameters from runs of up to 120,000",
        "",
        "`make proof-ladder` writes this page. ladder_plan.py has the runs and what was asked, both fixed before the "
        "first run; ladder.jsonl has a line for each finished run, and ladder_register.json the registered forecast.",
        "",
        *_rungs(ladder),
        "",
        *_target(results.target, ladder),
        "",
        *_choice(results),
    ]
    write_text(path, "\n".join(lines) + "\n")


def _rungs(ladder: Ladder) -> Iterator[str]:
    curves = ladder_curves(ladder)
    largest = max(rung.flops for rung in ladder.plan.rungs)
    ratio = ladder.plan.target.flops / largest
    yield "| rung | parameters | tokens | FLOPs | lr | rows a step | last loss, seed by seed |"
    yield "|---|---|---|---|---|---|---|"
    for rung in ladder.plan.rungs:
        own = zip(curves.curves, curves.rungs, strict=True)
        losses = [f"{curve.loss[-1]:.4f}" for curve, name in own if name == rung.name]
        keys = rung.keys
        cells = [rung.name, f"{rung.parameters:,}", f"{rung.tokens:,}", format_count(rung.flops)]
        cells += [f"{keys['optim.lr']:.3g}", str(keys["train.global_batch_size"]), ", ".join(losses) or "not finished"]
        yield "| " + " | ".join(cells) + " |"
    yield ""
    yield (
        f"The target costs {ratio:.1f} times the largest rung (asked: at least {LEAST_RATIO:g}), which has "
        f"{format_count(largest)} FLOPs (asked: at most {format_count(MOST_FLOPS)})."
    )


def _target(record: Record | None, ladder: Ladder) -> Iterator[str]:
    yield "## Forecast and fact of the target"
    if record is None or record.loss is None or not ladder.register.is_file():
        yield "The target is not finished."
        return
    if record.registered_forecast != file_sha256(ladder.register):
        yield "The target was trained with another registered forecast than ladder_register.json: nothing is compared."
        return
    _, register = load_forecast(ladder.register)
    assert register is not None
    forecast = register.forecast
    error = record.loss / forecast.loss[-1] - 1
    deviation = seed_deviation(ladder)
    within = max(LAST_LOSS_WITHIN, DEVIATIONS * deviation)
    inside = forecast.low[-1] <= record.loss <= forecast.high[-1]
    per_step = record.tokens / record.steps
    steps = np.array([tokens / per_step for tokens, _ in record.curve])
    facts = np.array([loss for _, loss in record.curve])
    after = steps >= forecast.steps[0]
    curve = np.abs(facts[after] / np.interp(steps[after], forecast.steps, forecast.loss) - 1)
    yield f"Registered at {register.registered}, before the target began."
    yield ""
    yield "| | forecast | fact | error | asked | met |"
    yield "|---|---|---|---|---|---|"
    verdict = f"{_met(abs(error) <= within)}; {'inside' if inside else 'outside'} the interval"
    interval = f"{forecast.loss[-1]:.4f} ({forecast.low[-1]:.4f} to {forecast.high[-1]:.4f})"
    yield f"| last loss | {interval} | {record.loss:.4f} | {100 * error:+.2f}% | {100 * within:.2f}% | {verdict} |"
    yield (
        f"| whole curve, mean | | | {100 * curve.mean():.2f}% | {100 * CURVE_WITHIN:g}% | "
        f"{_met(float(curve.mean()) <= CURVE_WITHIN)}; at worst {100 * curve.max():.2f}% |"
    )
    yield ""
    yield f"The standard deviation of last losses over seeds is {100 * deviation:.2f}%, over all rungs."


def seed_deviation(ladder: Ladder) -> float:
    """Returns the relative standard deviation of last losses over seeds, pooled over the rungs."""
    curves = ladder_curves(ladder)
    squares, freedom = 0.0, 0
    for name in set(curves.rungs):
        own = zip(curves.curves, curves.rungs, strict=True)
        losses = np.log([curve.loss[-1] for curve, rung in own if rung == name])
        squares += float(((losses - losses.mean()) ** 2).sum())
        freedom += losses.size - 1
    return float(np.sqrt(squares / freedom)) if freedom else 0.0


def _choice(results: Results) -> Iterator[str]:
    yield "## Schedule, lr and batch: the laws' choice against the default"
    arms = results.arms
    losses = [record.loss for records in arms.values() for record in records]
    if len(losses) < 2 * results.seeds or None in losses:
        yield "Not finished."
        return
    yield "| arm | lr | losses, seed by seed |"
    yield "|---|---|---|"
    for name, records in arms.items():
        cells = ", ".join(f"{record.loss:.4f}" for record in records)
        yield f"| {name} | {results.best_lrs[name]} | {cells} |"
    pairs = zip(arms[CHOSEN], arms[DEFAULT], strict=True)
    difference = Estimate.of([float(one.loss or 0) / float(other.loss or 1) - 1 for one, other in pairs])
    yield ""
    yield (
        f"The laws' choice has a loss {100 * difference.mean:+.2f}% from the default's (95% t interval ± "
        f"{100 * difference.half_width:.2f}%, paired by seed). Both were tuned with {results.tuned_with} runs."
    )


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"
