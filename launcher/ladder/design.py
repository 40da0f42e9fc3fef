"""The design of a ladder: sizes and lengths of its rungs, so that all together cost a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.ladder.ladder_file import LadderPlan, Rung
from launcher.ladder.rungs import rung_of_size, tuned_run
from launcher.run.config import RunConfig
from laws.law import FLOPS_PER_PARAMETER_TOKEN
from laws.size_rules.base import SizeRule, TunedRun
from model.config import ModelConfig
from settings import UserError

BUDGET_SHARE = 0.05  # of the target's FLOPs
_SHRINK = 0.97
_MOST_TRIES = 200


@dataclass(frozen=True)
class Sizes:
    """The sizes of a ladder: their number, the ratio of neighbours, and the lengths of each."""

    count: int = 4
    spacing: float = 2.0  # each size over the next smaller one
    lengths: tuple[float, ...] = (0.5, 1.0, 2.0)  # times the tokens a parameter of the target

    def __post_init__(self) -> None:
        if self.count < 2:
            raise UserError(f"--sizes = {self.count} must be at least 2, better 3: one size tells nothing of another")
        if self.spacing < 1.2:
            raise UserError(
                f"--spacing = {self.spacing:g} must be at least 1.2: closer sizes tell no power of the size"
            )
        if max(self.lengths) < 1.5 * min(self.lengths):
            raise UserError(
                f"--length = {', '.join(f'{length:g}' for length in self.lengths)}: a ladder needs two lengths, one "
                "1.5 times as long as another; one length tells nothing of a longer run"
            )


def design_ladder(
    config: RunConfig,
    model: ModelConfig,
    rule: SizeRule,
    *,
    target: float,
    tokens: float,
    budget: float | None = None,
    sizes: Sizes = Sizes(),
    seeds: int = 1,
    tuned: TunedRun | None = None,
) -> LadderPlan:
    """Returns the plan of the largest ladder that costs at most `budget` FLOPs (default: 5% of the target's).

    `model`: with its vocabulary. `target`, `tokens`: parameters and tokens of the target. `tuned`: the run whose recipe
    the rule scales; by default that of the config. Raises UserError if no ladder is that cheap.
    """
    start = tuned or tuned_run(config, model)
    goal = rung_of_size(config, model, rule, start, size=target, tokens=tokens, on_one_rank=False)
    # A name of its own: a run of the config itself may be there already.
    goal = goal.model_copy(update={"keys": {"run.name": f"{config.run.name}-{goal.name}", **goal.keys}})
    most = BUDGET_SHARE * goal.flops if budget is None else budget
    a_parameter = tokens / target
    shares = sum(sizes.spacing ** (-2 * step) for step in range(sizes.count)) * sum(sizes.lengths) * seeds
    largest = min((most / (FLOPS_PER_PARAMETER_TOKEN * a_parameter * shares)) ** 0.5, target / sizes.spacing)
    cheapest = most
    for _ in range(_MOST_TRIES):
        try:
            rungs = _rungs(config, model, rule, start, largest, a_parameter, sizes)
        except UserError as error:
            raise UserError(f"a ladder of {most:.3g} FLOPs is not possible: {error}; give a larger --budget") from None
        cheapest = sum(rung.flops for rung in rungs) * seeds
        if cheapest <= most:
            return LadderPlan(rule=rule, seeds=seeds, rungs=tuple(rungs), target=goal)
        largest *= _SHRINK
    raise UserError(f"a ladder of {most:.3g} FLOPs is not possible; the cheapest costs {cheapest:.3g}")


def _rungs(
    config: RunConfig,
    model: ModelConfig,
    rule: SizeRule,
    tuned: TunedRun,
    largest: float,
    a_parameter: float,
    sizes: Sizes,
) -> Sequence[Rung]:
    """Returns the rungs, the smallest size first. Raises UserError if two sizes have one model."""
    rungs: list[Rung] = []
    for step in reversed(range(sizes.count)):
        size = largest / sizes.spacing**step
        for length in sizes.lengths:
            rungs.append(rung_of_size(config, model, rule, tuned, size=size, tokens=length * a_parameter * size))
    if len({rung.parameters for rung in rungs}) < sizes.count:
        raise UserError(f"sizes {sizes.spacing:g} times apart from {largest:.3g} parameters down share a model")
    if len({rung.name for rung in rungs}) < len(rungs):
        raise UserError("two rungs have the same size and length")
    return rungs
