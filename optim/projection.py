"""Optimizers that project the update of scale-invariant weights to their tangent space (arXiv:2006.08217, section 3).

The gradient of a scale-invariant vector w is orthogonal to w, but momentum is not: its radial part only grows |w|, and
so shrinks the effective step. For a vector that scale_invariance.py finds, with the update p of the underlying method,

    u = w / (|w| + eps);   p <- p - u (u . p);   weight decay is multiplied by `wd_ratio`.

AdamP and SGDP are this class with their own `unprojected_step`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from optim.chunks import ScratchBuffers, bucket_by, chunk_slices, scratch_bytes
from optim.groups import DECAY_MATRICES, ParamRule, rule_of
from optim.mixed import MixedOptimizerConfig
from optim.optimizer import Optimizer
from optim.parameters import Param, StateTensor, TensorRanks
from optim.scale_invariance import InvarianceRule, InvarianceTest, ParamState, View, row_dots, sum_over_ranks
from settings import UserError

_REDUCE_BYTES = 256 << 20  # updates held at once while one reduction over ranks serves them all


class ProjectedOptimizerConfig(MixedOptimizerConfig):
    """The settings that AdamP and SGDP share; delta and wd_ratio are as published."""

    table: tuple[InvarianceRule, ...] = Field(
        tuple(InvarianceRule(**rule.model_dump()) for rule in DECAY_MATRICES),
        description="How parameters are updated, by name; the first row whose pattern matches counts.",
    )
    eps: float = Field(1e-8, gt=0, description="Added to the denominator of the update, so that it is never 0.")
    delta: float = Field(
        0.1, ge=0, description="Largest cosine, times sqrt(size), of a scale-invariant weight; 0 projects nothing."
    )
    wd_ratio: float = Field(0.1, ge=0, description="Factor on the weight decay of what is projected.")
    nesterov: bool = Field(False, description="Whether the gradient is mixed once more into the momentum (Nesterov).")

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Also raises UserError for a row with `scale_invariant: head` whose head_size does not divide the rows."""
        super().check(shapes)
        for name, shape in shapes.items():
            rule = rule_of(self.table, name)
            if rule.scale_invariant != "head":
                continue
            if rule.head_size is None or len(shape) < 2 or shape[0] % rule.head_size:
                raise UserError(
                    f"optim.table: {name} of shape {tuple(shape)} with scale_invariant: head needs a head_size that "
                    f"divides its rows, not {rule.head_size}"
                )


class ProjectedOptimizer(Optimizer):
    """An optimizer that projects the updates of its `unprojected_step`."""

    moment_names: tuple[str, ...]

    def __init__(self, config: ProjectedOptimizerConfig, params: Sequence[Param], ranks: TensorRanks) -> None:
        self._config, self._ranks, self._scratch = config, ranks, ScratchBuffers()
        self._test = InvarianceTest(delta=config.delta, eps=config.eps, ranks=ranks, scratch=self._scratch)
        self._states: list[ParamState] = []
        self._counts = torch.zeros(len(params), 1)  # on the host, which decides what is projected
        for param, count in zip(params, self._counts, strict=True):
            moments = tuple(torch.zeros_like(param.weight.detach()) for _ in self.moment_names)
            self._states.append(ParamState(param, rule_of(config.table, param.name), moments, count))
        self._buckets = bucket_by(
            self._states, lambda s: (s.param.weight.device, s.rule.lr_multiplier, s.rule.decay(config.weight_decay))
        )

    @abstractmethod
    def unprojected_step(
        self, targets: list[Tensor], states: Sequence[ParamState], *, lr: float, weight_decay: float
    ) -> None:
        """Updates moments from gradients, then targets <- targets (1 - lr weight_decay) - lr p, all in place.

        The targets are the weights themselves, or zeros, which so become the update -lr p.
        """

    def decay(self, rule: ParamRule) -> float:
        """Returns the weight decay per unit of lr, before wd_ratio."""
        return rule.decay(self._config.weight_decay)

    @torch.no_grad()
    def step_in_buckets(self, *, lr: float) -> Iterator[Sequence[Param]]:
        views = self._test.views(self._states)
        self.step_count += 1
        for bucket in self._buckets:
            bucket_lr, decay = lr * bucket[0].rule.lr_multiplier, self.decay(bucket[0].rule)
            plain = [state for state in bucket if state.param.name not in views]
            projected = [state for state in bucket if state.param.name in views]
            for states in _chunks(projected, scratch_bytes if self._ranks.tp_size == 1 else lambda _: _REDUCE_BYTES):
                self._projected_step(states, [views[s.param.name] for s in states], bucket_lr, decay)
                yield [state.param for state in states]
            for states in _chunks(plain, scratch_bytes):
                weights = [state.param.weight for state in states]
                self.unprojected_step(weights, states, lr=bucket_lr, weight_decay=decay)
                yield [state.param for state in states]

    def state(self) -> dict[str, StateTensor]:
        tensors = {}
        for state in self._states:
            for name, moment in zip(self.moment_names, state.moments, strict=True):
                tensors[f"{state.param.name}.{name}"] = StateTensor(moment, state.param.dim, per_weight=True)
            tensors[f"{state.param.name}.projections"] = StateTensor(state.projections)
        return tensors

    def diagnostics(self) -> dict[str, float]:
        """Returns `fire_rate/NAME`: the share of steps so far in which the tested parameter was projected."""
        steps = max(self.step_count, 1)
        counts = zip(self._states, self._counts.flatten().tolist(), strict=True)
        return {f"fire_rate/{state.param.name}": count / steps for state, count in counts if state.tested}

    def _projected_step(self, states: list[ParamState], views: list[View], lr: float, decay: float) -> None:
        """w <- w (1 - lr decay wd_ratio) + projected update; the update is in scratch memory."""
        weights = [state.param.weight for state in states]
        flat = self._scratch.take("update", (sum(weight.numel() for weight in weights),), weights[0]).zero_()
        updates = [
            part.view(weight.shape)
            for part, weight in zip(torch.split(flat, [w.numel() for w in weights]), weights, strict=True)
        ]
        self.unprojected_step(updates, states, lr=lr, weight_decay=0.0)
        vectors = [
            (state.vectors(state.param.weight, view), state.vectors(update, view))
            for state, view, update in zip(states, views, updates, strict=True)
        ]
        sums = [
            torch.stack([row_dots(w, w, self._scratch), row_dots(w, update, self._scratch)]) for w, update in vectors
        ]
        sums = sum_over_ranks(
            sums, [state.sharded(view) for state, view in zip(states, views, strict=True)], self._ranks
        )
        for (w, update), (w_w, w_update) in zip(vectors, sums, strict=True):
            norm = w_w.sqrt().add_(self._config.eps)
            update.addcmul_(w, (w_update / norm.square_()).unsqueeze(1), value=-1)
        torch._foreach_mul_(weights, 1 - lr * decay * self._config.wd_ratio)
        torch._foreach_add_(weights, updates)
        for state in states:
            state.projections += 1


def _chunks(states: list[ParamState], max_bytes: Callable[[torch.device], int]) -> Iterator[list[ParamState]]:
    if states:
        sizes = [state.param.weight.nbytes for state in states]
        for chunk in chunk_slices(sizes, max_bytes(states[0].param.weight.device)):
            yield states[chunk]
