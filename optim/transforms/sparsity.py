"""Pruning in pretraining (The Journey Matters, arXiv:2501.12486): weights become zero while the model learns.

Sparsity, the share of the prunable weights that are pruned, follows a ramp (optim/pruning/ramp.py). Every
`interval_steps` steps of the rise, and at its end, the weights of the lowest scores (optim/pruning/criteria/) are
pruned, so that exactly round(sparsity x prunable weights) are. A pruned weight stays zero: its gradient is zeroed
before the optimizer reads it, its moments when it is pruned, and the weight after each update. The gradient norm, by
which gradients are clipped, is that before the zeroing.

Of groups of m weights along the input dim (`structure: n-of-m`), those are pruned first whose m - n lowest scores have
the smallest sum, so that each group is dense or has n weights left.

The paper verifies the start and the end (25% and 75% of compute). The cubic rise, the global threshold and the interval
are choices of this implementation.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from optim.parameters import Param, StateTensor, positions_in_full
from optim.pruning.criteria.base import CRITERIA, CriterionConfig
from optim.pruning.criteria.magnitude import MagnitudeConfig
from optim.pruning.groups import Groups
from optim.pruning.ramp import Ramp, ramp_by_compute, ramp_by_steps
from optim.pruning.selection import Candidates, select_smallest
from optim.transforms.base import TRANSFORMS, RunPlan, TransformConfig, TransformInputs, UpdateTransform
from settings import UserError

_LINEAR_MAPS = r"layers\..*\.(attention|mlp)\..*weight"


@TRANSFORMS.register
class SparsityConfig(TransformConfig):
    """Prunes weights to a target sparsity while the model trains (arXiv 2501.12486)."""

    bytes_per_weight: ClassVar[int] = 1

    name: Literal["sparsity"] = "sparsity"
    target: float = Field(ge=0, lt=1, description="Share of the prunable weights that are zero at the end.")
    start: float = Field(0.25, ge=0, lt=1, description="Share of the run after which the first weights are pruned.")
    end: float = Field(0.75, gt=0, le=1, description="Share of the run after which the target is reached.")
    unit: Literal["compute", "steps"] = Field(
        "compute",
        description="What start and end are shares of: the FLOPs of the run, where pruned weights cost none, or its "
        "steps.",
    )
    shape: Literal["cubic", "linear"] = Field(
        "cubic", description="How sparsity rises: quickly at first (cubic), or evenly (linear)."
    )
    interval_steps: int = Field(100, ge=1, description="Steps from one pruning to the next.")
    criterion: Annotated[CriterionConfig, CRITERIA.field] = Field(
        MagnitudeConfig(), description="The score of a weight; the lowest scores are pruned first."
    )
    scope: Literal["global", "matrix"] = Field(
        "global",
        description="Where scores are compared: over all prunable weights, or within each matrix, all of which then "
        "have the same sparsity.",
    )
    structure: str = Field(
        "unstructured",
        pattern=r"^(unstructured|\d+-of-\d+)$",
        description="Which weights may be pruned: any (unstructured), or m - n in each group of m along the input dim "
        '(n-of-m, for example "2-of-4", the 2:4 of GPUs).',
    )
    parameters: str = Field(
        _LINEAR_MAPS,
        description="Regular expression that the whole name of a prunable parameter matches.",
    )

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        plain = {"target": 0.5, "interval_steps": 2, "start": 0.2, "end": 0.8}
        return (
            cls.model_validate(plain),
            cls.model_validate({**plain, "structure": "2-of-4", "scope": "matrix", "shape": "linear", "unit": "steps"}),
            cls.model_validate({**plain, "criterion": "gradient_weighted"}),
        )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"start = {self.start:g} must be less than end = {self.end:g}")
        try:
            re.compile(self.parameters)
        except re.error as error:
            raise ValueError(f'parameters = "{self.parameters}" is no regular expression ({error})') from None
        if self.groups.kept >= self.groups.size:
            raise ValueError(f'structure = "{self.structure}" must keep fewer weights than a group has, as 2-of-4 does')
        share = self.groups.pruned_share
        if self.structure != "unstructured" and self.target not in (0, share):
            raise ValueError(f'structure = "{self.structure}" prunes {share:g} of the weights, not {self.target:g}')
        return self

    @property
    def groups(self) -> Groups:
        """The groups of weights that are pruned together."""
        if self.structure == "unstructured":
            return Groups(kept=0, size=1)
        kept, size = map(int, self.structure.split("-of-"))
        return Groups(kept=kept, size=size)

    def prunable(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """Returns the number of weights of each prunable parameter, in the model's order."""
        return {name: math.prod(shape) for name, shape in shapes.items() if re.fullmatch(self.parameters, name)}

    def ramp(self, plan: RunPlan) -> Ramp:
        """Returns the rise of sparsity over the steps of the run."""
        if self.unit == "steps":
            return ramp_by_steps(self.target, self.start, self.end, steps=plan.steps, shape=self.shape)
        return ramp_by_compute(
            self.target,
            self.start,
            self.end,
            steps=plan.steps,
            shape=self.shape,
            prunable=sum(self.prunable(plan.shapes).values()),
            flops_per_token=plan.flops_per_token,
        )

    def check(self, plan: RunPlan, *, tensor: int) -> None:
        sizes = self.prunable(plan.shapes)
        if not sizes:
            raise UserError(
                f'{self._key}.parameters = "{self.parameters}" matches no parameter of the model; '
                f"their names are like {', '.join(itertools.islice(plan.shapes, 3))}"
            )
        ramp = self.ramp(plan)
        if ramp.start >= ramp.end:
            raise UserError(
                f"{self._key}: in a run of {plan.steps} steps, start = {self.start:g} and end = {self.end:g} are both "
                f"step {ramp.end}; make the run longer, or end later"
            )
        if self.target and self.interval_steps > ramp.end - ramp.start:
            raise UserError(
                f"{self._key}.interval_steps = {self.interval_steps} is longer than the rise of sparsity, which takes "
                f"{ramp.end - ramp.start} steps (from step {ramp.start} to {ramp.end}): all weights would be pruned at "
                f"once; set interval_steps to at most {ramp.end - ramp.start}"
            )
        size = self.groups.size
        for name in sizes:
            shape = plan.shapes[name]
            if size > 1 and (len(shape) != 2 or shape[1] % (size * tensor)):
                raise UserError(
                    f'{self._key}.structure = "{self.structure}" needs matrices whose input dim is a multiple of '
                    f"{size * tensor}, so that no group is cut (parallel.tensor = {tensor}): {name} is {list(shape)}; "
                    f"exclude it in {self._key}.parameters, or change the model"
                )

    def notes(self, plan: RunPlan) -> list[str]:
        ramp, sizes = self.ramp(plan), self.prunable(plan.shapes)
        lines = [
            f"sparsity: {sum(sizes.values()):,} weights are prunable; their sparsity rises from 0 at step {ramp.start} "
            f"to {self.target:.1%} at step {ramp.end}. Zeros are multiplied like other numbers: the run is not faster."
        ]
        if self.structure == "2-of-4":
            lines.append(
                "sparsity: GPUs with sparse tensor cores (NVIDIA Ampere and later) run a product with 2:4 weights up "
                "to twice as fast once the trained weights are converted for them."
            )
        return lines

    def reads_gradients(self) -> bool:
        return self.criterion.uses_gradient

    def needs_full_matrices(self) -> str | None:
        if self.reads_gradients():
            return f"criterion = {self.criterion.name}"
        return None if self.groups.size == 1 else f"structure = {self.structure}"

    def build(self, inputs: TransformInputs) -> Sparsity:
        return Sparsity(self, inputs)

    @property
    def _key(self) -> str:
        return f"optim.transforms ({self.name})"


class Sparsity(UpdateTransform):
    """The masks of this rank's prunable parameters, and the step at which each is to grow."""

    def __init__(self, config: SparsityConfig, inputs: TransformInputs) -> None:
        self._config, self._inputs = config, inputs
        self._ramp = config.ramp(inputs.plan)
        self._sizes = config.prunable(inputs.plan.shapes)
        self._numbers = {name: number for number, name in enumerate(self._sizes)}
        self._params = [param for param in inputs.params if param.name in self._sizes]
        self._pruned = {param.name: torch.zeros_like(param.weight.detach(), dtype=torch.bool) for param in self._params}
        self._counts = torch.zeros(
            len(self._sizes), dtype=torch.int64
        )  # pruned weights by parameter, of the full model
        self._counted_step = 0  # the step whose masks these are

    @property
    def zeroed_weights(self) -> int:
        return int(self._counts.sum())

    def begin_step(self, step: int) -> None:
        if step != self._counted_step + 1:  # a checkpoint was loaded
            self._count()
        self._counted_step = step
        if self._is_due(step) and self._prune(self._ramp.sparsity(step)):
            self._count()

    def before_update(self, params: Sequence[Param]) -> None:
        for param in params:
            if (pruned := self._pruned.get(param.name)) is not None and param.grad is not None:
                param.grad.masked_fill_(pruned, 0)

    def after_update(self, params: Sequence[Param]) -> None:
        for param in params:
            if (pruned := self._pruned.get(param.name)) is not None:
                param.weight.masked_fill_(pruned, 0)

    def state(self) -> dict[str, StateTensor]:
        return {
            f"{param.name}.pruned": StateTensor(self._pruned[param.name], param.dim, per_weight=True)
            for param in self._params
        }

    def metrics(self) -> dict[str, float]:
        shares = {
            f"sparsity/{name}": int(count) / size
            for (name, size), count in zip(self._sizes.items(), self._counts, strict=True)
        }
        return {"sparsity": self.zeroed_weights / sum(self._sizes.values()), **shares}

    def _is_due(self, step: int) -> bool:
        """Returns whether weights are pruned in this step: at each interval of the rise, and from its end on."""
        if step >= self._ramp.end:
            return True
        return step > self._ramp.start and (step - self._ramp.start) % self._config.interval_steps == 0

    def _count(self) -> None:
        """Counts the pruned weights of each parameter of the full model. A collective."""
        counts = torch.zeros_like(self._counts)
        for param in self._params:
            if param.counted:
                counts[self._numbers[param.name]] += self._pruned[param.name].sum().cpu()
        self._counts = self._inputs.sum_over_ranks(counts)

    def _prune(self, sparsity: float) -> bool:
        """Prunes weights until the sparsity is reached. A collective, unless it is reached already: returns False."""
        config, groups = self._config, self._config.groups
        in_all = config.scope == "global"
        total = torch.tensor(list(self._sizes.values())) // groups.size
        pruned = self._counts // groups.pruned
        if in_all:
            total, pruned = total.sum(0, keepdim=True), pruned.sum(0, keepdim=True)
        wanted = (total * (sparsity / groups.pruned_share)).round().long() - pruned
        wanted.clamp_(min=0)  # a run that was made longer may have more already
        if not wanted.any():
            return False
        dense = [groups.dense(self._pruned[param.name]) for param in self._params]
        chosen = select_smallest(
            [
                Candidates(
                    parameter=self._numbers[param.name],
                    group=0 if in_all else self._numbers[param.name],
                    counted=param.counted,
                    scores=partial(self._group_scores, param, numbers),
                    positions=partial(positions_in_full, param, numbers * groups.size, self._inputs.tensor_ranks),
                )
                for param, numbers in zip(self._params, dense, strict=True)
            ],
            wanted,
            parameters=len(self._sizes),
            largest=max(self._sizes.values()),
            total=self._inputs.sum_over_ranks,
        )
        for param, numbers, choice in zip(self._params, dense, chosen, strict=True):
            self._add(param, numbers[choice])
        return True

    def _group_scores(self, param: Param, numbers: Tensor) -> Tensor:
        return self._config.groups.scores(self._scores(param), numbers)

    def _scores(self, param: Param) -> Tensor:
        return self._config.criterion.scores(param.weight.detach(), param.grad)

    def _add(self, param: Param, numbers: Tensor) -> None:
        """Prunes these groups: mask, weight and moments."""
        mask = self._pruned[param.name]
        self._config.groups.prune(mask, self._scores(param), numbers)
        param.weight.masked_fill_(mask, 0)
        for moment in self._inputs.moments.get(param.name, ()):
            moment.masked_fill_(mask, 0)
