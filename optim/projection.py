"""Projection of updates to the tangent of scale-invariant weights (arXiv 2006.08217), shared by AdamP and SGDP.

Where a loss does not change when a vector w of weights is scaled, its gradient is orthogonal to w, but momentum is not:
the radial part only grows |w|. A weight matrix is seen as vectors: its rows, its heads (groups of rows), or one layer.
As published (`auto`) a view counts as invariant in a step if every vector has |cos(g, w)| < delta / sqrt(size), rows
first, then the layer. For what passes, p <- p - w^ (w^ . p) with w^ = w / (|w| + eps), and decay is times `wd_ratio`.

Under tensor parallelism the sums behind the cosines run over all ranks, in one reduction for all parameters of a step,
and the decision is taken on the reduced values: the same on every rank.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from optim.batches import Scratch, grouped, runs, scratch_bytes
from optim.groups import DECAY_MATRICES, ParamRule, rule_of
from optim.mixed import MixedOptimizerConfig
from optim.optimizer import Optimizer, Param, StateTensor, TensorRanks
from settings import UserError

View = Literal["row", "head", "layer"]
_PRODUCT_BYTES = 1 << 20
_REDUCE_BYTES = 256 << 20  # updates held at once while one reduction serves them all


class InvarianceRule(ParamRule):
    """A row of the table that also says which vectors of the weights are scale-invariant."""

    scale_invariant: Literal["auto", "row", "head", "layer", "none"] = Field(
        "auto",
        description="Which vectors of a weight can be scaled without changing the loss: auto tests rows and the layer "
        "in each step; the others hold in every step.",
    )
    head_size: int | None = Field(
        None, ge=1, description="Rows of a head; needed with `scale_invariant: head`, null otherwise."
    )


class ProjectedConfig(MixedOptimizerConfig):
    """What AdamP and SGDP have in common; delta and wd_ratio as published."""

    table: tuple[InvarianceRule, ...] = Field(
        tuple(InvarianceRule(**rule.model_dump()) for rule in DECAY_MATRICES),
        description="How parameters are updated, by name; the first row whose pattern matches counts.",
    )
    eps: float = Field(1e-8, gt=0, description="Added to the denominator of the update, so that it is never 0.")
    delta: float = Field(
        0.1, ge=0, description="Largest cosine, times sqrt(size), of a scale-invariant weight; 0 projects nothing."
    )
    wd_ratio: float = Field(0.1, ge=0, description="Factor on the weight decay of what is projected.")

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
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


@dataclass
class Member:
    """A parameter with its row of the table and its moments."""

    param: Param
    rule: InvarianceRule
    moments: tuple[Tensor, ...]
    fired: Tensor  # [1]: in how many steps it was projected

    @property
    def tested(self) -> bool:
        return self.param.weight.ndim > 1 and self.rule.scale_invariant == "auto"

    def vectors(self, x: Tensor, view: View) -> Tensor:
        """This rank's part of each vector of a view, as rows: [vectors, size here]."""
        if view == "layer":
            return x.reshape(1, -1)
        if view == "head":
            assert self.rule.head_size is not None
            return x.reshape(x.shape[0] // self.rule.head_size, -1)
        return x.reshape(x.shape[0], -1)

    def cut(self, view: View) -> bool:
        """Whether vectors of the view lie on several ranks."""
        return self.param.dim is not None and (view == "layer" or self.param.dim != 0)

    def threshold(self, delta: float, view: View) -> float:
        shape = self.param.shape
        return delta / math.sqrt(math.prod(shape) if view == "layer" else math.prod(shape[1:]))


class Projected(Optimizer):
    """An optimizer whose updates are projected: `descend` is its own rule, applied to weights or to a zero buffer."""

    moment_names: tuple[str, ...]

    def __init__(self, config: ProjectedConfig, params: Sequence[Param], ranks: TensorRanks) -> None:
        self._config, self._ranks, self._scratch = config, ranks, Scratch()
        self._members: list[Member] = []
        self._counts = torch.zeros(len(params), 1, device=params[0].weight.device if params else None)
        for param, count in zip(params, self._counts, strict=True):
            moments = tuple(torch.zeros_like(param.weight.detach()) for _ in self.moment_names)
            self._members.append(Member(param, rule_of(config.table, param.name), moments, count))
        self._buckets = grouped(
            self._members, lambda m: (m.param.weight.device, m.rule.lr_multiplier, m.rule.decay(config.weight_decay))
        )

    @abstractmethod
    def descend(self, targets: list[Tensor], members: Sequence[Member], *, lr: float, weight_decay: float) -> None:
        """Update the members' moments from their gradients; then targets <- targets (1 - lr decay) - lr direction."""

    def decay(self, rule: ParamRule) -> float:
        """Weight decay per unit of lr, before wd_ratio."""
        return rule.decay(self._config.weight_decay)

    @torch.no_grad()
    def updates(self, *, lr: float) -> Iterator[Sequence[Param]]:
        views = self._views()
        self.step_count += 1
        for bucket in self._buckets:
            bucket_lr, decay = lr * bucket[0].rule.lr_multiplier, self.decay(bucket[0].rule)
            plain = [member for member in bucket if member.param.name not in views]
            projected = [member for member in bucket if member.param.name in views]
            for members in self._runs(
                projected, scratch_bytes if self._ranks.tp_size == 1 else lambda _: _REDUCE_BYTES
            ):
                self._step_projected(members, [views[m.param.name] for m in members], bucket_lr, decay)
                yield [member.param for member in members]
            for members in self._runs(plain, scratch_bytes):
                weights = [member.param.weight for member in members]
                self.descend(weights, members, lr=bucket_lr, weight_decay=decay)
                yield [member.param for member in members]

    def state(self) -> dict[str, StateTensor]:
        state = {}
        for member in self._members:
            for name, moment in zip(self.moment_names, member.moments, strict=True):
                state[f"{member.param.name}.{name}"] = StateTensor(moment, member.param.dim)
            state[f"{member.param.name}.projections"] = StateTensor(member.fired)
        return state

    def diagnostics(self) -> dict[str, float]:
        """`fire_rate/NAME`: in which share of the steps so far the tensor was taken for scale-invariant."""
        steps = max(self.step_count, 1)
        counts = zip(self._members, self._counts.flatten().tolist(), strict=True)
        return {f"fire_rate/{member.param.name}": count / steps for member, count in counts if member.tested}

    def _runs(self, members: list[Member], budget: Callable[[torch.device], int]) -> Iterator[list[Member]]:
        if members:
            sizes = [member.param.weight.nbytes for member in members]
            for run in runs(sizes, budget(members[0].param.weight.device)):
                yield members[run]

    def _step_projected(self, members: list[Member], views: list[View], lr: float, decay: float) -> None:
        """w <- w (1 - lr decay ratio) + projected update, the update in scratch memory."""
        weights = [member.param.weight for member in members]
        flat = self._scratch.take("update", (sum(weight.numel() for weight in weights),), weights[0]).zero_()
        updates = [
            part.view(weight.shape)
            for part, weight in zip(torch.split(flat, [w.numel() for w in weights]), weights, strict=True)
        ]
        self.descend(updates, members, lr=lr, weight_decay=0.0)
        vectors = [
            (member.vectors(member.param.weight, view), member.vectors(update, view))
            for member, view, update in zip(members, views, updates, strict=True)
        ]
        sums = [torch.stack([self._dots(w, w), self._dots(w, update)]) for w, update in vectors]
        sums = self._summed(sums, [member.cut(view) for member, view in zip(members, views, strict=True)])
        for (w, update), (w_w, w_update) in zip(vectors, sums, strict=True):
            norm = w_w.sqrt().add_(self._config.eps)
            update.addcmul_(w, (w_update / norm.square_()).unsqueeze(1), value=-1)
        torch._foreach_mul_(weights, 1 - lr * decay * self._config.wd_ratio)
        torch._foreach_add_(weights, updates)
        for member in members:
            member.fired += 1

    def _views(self) -> dict[str, View]:
        """What is projected in this step, by parameter: the known views, and those that the test finds."""
        views: dict[str, View] = {}
        for member in self._members:
            if member.param.weight.ndim > 1 and member.rule.scale_invariant in ("row", "head", "layer"):
                views[member.param.name] = member.rule.scale_invariant
        tested = [member for member in self._members if member.tested]
        if not tested:
            return views
        sums, whole_rows = [], []
        for member in tested:
            rows = self._row_sums(member)
            whole_rows.append(not member.cut("row"))
            sums.append(self._outcome(member, rows) if whole_rows[-1] else rows)
        sums = self._summed(sums, [member.param.dim is not None for member in tested])
        outcomes = torch.stack(
            [
                total if whole else self._outcome(member, total)
                for member, total, whole in zip(tested, sums, whole_rows, strict=True)
            ]
        )
        failed, layer = outcomes[:, 0].tolist(), _cosine(outcomes[:, 1:].T, self._config.eps).tolist()
        for member, failed_rows, cosine in zip(tested, failed, layer, strict=True):
            if failed_rows == 0:
                views[member.param.name] = "row"
            elif cosine < member.threshold(self._config.delta, "layer"):
                views[member.param.name] = "layer"
        return views

    def _row_sums(self, member: Member) -> Tensor:
        """[3, rows]: g.w, g.g, w.w of each row, over the columns that are here."""
        assert member.param.grad is not None, f"{member.param.name} has no gradient"
        g, w = member.vectors(member.param.grad, "row"), member.vectors(member.param.weight, "row")
        return torch.stack([self._dots(g, w), self._dots(g, g), self._dots(w, w)])

    def _outcome(self, member: Member, row_sums: Tensor) -> Tensor:
        """[4]: how many of the rows fail the test (nan fails), and the layer's g.w, g.g, w.w from these rows.

        A count in place of the largest cosine: so one sum over the ranks serves all four.
        """
        passed = _cosine(row_sums, self._config.eps) < member.threshold(self._config.delta, "row")
        return torch.cat([(~passed).sum(dtype=row_sums.dtype).view(1), row_sums.sum(1)])

    def _summed(self, parts: list[Tensor], over_ranks: list[bool]) -> list[Tensor]:
        """The parts, those of cut parameters summed over the ranks, in one message."""
        chosen = [part for part, flag in zip(parts, over_ranks, strict=True) if flag]
        if self._ranks.tp_size == 1 or not chosen:
            return parts
        total = self._ranks.sum(torch.cat([part.flatten() for part in chosen]))
        pieces = iter(torch.split(total, [part.numel() for part in chosen]))
        return [next(pieces).view_as(part) if flag else part for part, flag in zip(parts, over_ranks, strict=True)]

    def _dots(self, a: Tensor, b: Tensor) -> Tensor:
        """Row-wise dot products of [rows, columns], in blocks: a product as large as the weights is never stored."""
        if len(a) == 1:
            return torch.dot(a[0], b[0]).view(1)
        if a is b:
            norms: Tensor = torch.linalg.vector_norm(a, dim=1)
            return norms.square_()
        out = torch.empty(len(a), device=a.device, dtype=a.dtype)
        rows = max(_PRODUCT_BYTES // max(a[0].nbytes, 1), 1)
        for a_rows, b_rows, out_rows in zip(*(torch.split(x, rows) for x in (a, b, out)), strict=True):
            product = self._scratch.take("product", a_rows.shape, a)
            torch.sum(torch.mul(a_rows, b_rows, out=product), 1, out=out_rows)
        return out


def _cosine(sums: Tensor, eps: float) -> Tensor:
    """[3, vectors] of g.w, g.g, w.w -> |cos| as torch's cosine_similarity has it: each norm is at least eps."""
    g_w, g_g, w_w = sums.unbind()
    return g_w.abs() / (g_g.sqrt().clamp_min_(eps) * w_w.sqrt().clamp_min_(eps))
