"""The test of which weights are scale-invariant in a step (AdamP, arXiv:2006.08217, section 3).

Where a loss does not change when a vector w of weights is scaled, its gradient g is orthogonal to w. A weight matrix is
seen as vectors in one of three views: its rows, its heads (groups of rows), or the layer as one vector. As published
(`auto`), a view counts as scale-invariant in a step if every vector of n elements has

    |cos(g, w)| < delta / sqrt(n);   rows are tested first, then the layer.

Under tensor parallelism the dot products behind the cosines are summed over the tensor ranks, for all parameters in one
reduction a step. The decision is taken on the sums, so every rank takes the same one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from optim.chunks import ScratchBuffers
from optim.groups import ParamRule
from optim.parameters import Param, TensorRanks
from optim.sums import dot, squared_norms

View = Literal["row", "head", "layer"]
_PRODUCT_BYTES = 1 << 20


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


@dataclass
class ParamState:
    """A parameter with its row of the table, its moments, and the count of steps in which it was projected."""

    param: Param
    rule: InvarianceRule
    moments: tuple[Tensor, ...]
    projections: Tensor  # [1]

    @property
    def tested(self) -> bool:
        """Whether the test decides if the parameter is projected."""
        return self.param.weight.ndim > 1 and self.rule.scale_invariant == "auto"

    def vectors(self, x: Tensor, view: View) -> Tensor:
        """Returns this rank's shard of each vector of a view, as rows: [vectors, elements here]."""
        if view == "layer":
            return x.reshape(1, -1)
        if view == "head":
            assert self.rule.head_size is not None
            return x.reshape(x.shape[0] // self.rule.head_size, -1)
        return x.reshape(x.shape[0], -1)

    def sharded(self, view: View) -> bool:
        """Returns whether each vector of the view is spread over several tensor ranks."""
        return self.param.dim is not None and (view == "layer" or self.param.dim != 0)

    def threshold(self, delta: float, view: View) -> float:
        """Returns delta / sqrt(n) for the vectors of n elements of a view."""
        shape = self.param.shape
        return delta / math.sqrt(math.prod(shape) if view == "layer" else math.prod(shape[1:]))


class InvarianceTest:
    """Finds the view in which each parameter is scale-invariant in the present step."""

    def __init__(self, *, delta: float, eps: float, ranks: TensorRanks, scratch: ScratchBuffers) -> None:
        self._delta, self._eps, self._ranks, self._scratch = delta, eps, ranks, scratch

    def views(self, states: Sequence[ParamState]) -> dict[str, View]:
        """Returns the view to project in, by parameter name; parameters that are not projected are left out."""
        views: dict[str, View] = {}
        for state in states:
            if state.param.weight.ndim > 1 and state.rule.scale_invariant in ("row", "head", "layer"):
                views[state.param.name] = state.rule.scale_invariant
        tested = [state for state in states if state.tested]
        if not tested:
            return views
        sums, full_rows = [], []
        for state in tested:
            rows = self._row_sums(state)
            full_rows.append(not state.sharded("row"))
            sums.append(self._outcome(state, rows) if full_rows[-1] else rows)
        sums = sum_over_ranks(sums, [state.param.dim is not None for state in tested], self._ranks)
        outcomes = torch.stack(
            [
                total if full else self._outcome(state, total)
                for state, total, full in zip(tested, sums, full_rows, strict=True)
            ]
        )
        # The host reads both at once: it waits for the device only once.
        failed, layer = torch.stack([outcomes[:, 0], _cosine(outcomes[:, 1:].T, self._eps)]).tolist()
        for state, failed_rows, cosine in zip(tested, failed, layer, strict=True):
            if failed_rows == 0:
                views[state.param.name] = "row"
            elif cosine < state.threshold(self._delta, "layer"):
                views[state.param.name] = "layer"
        return views

    def _row_sums(self, state: ParamState) -> Tensor:
        """Returns [3, rows]: g.w, g.g and w.w of each row, over the columns of this rank."""
        assert state.param.grad is not None, f"{state.param.name} has no gradient"
        g, w = state.vectors(state.param.grad, "row"), state.vectors(state.param.weight, "row")
        return torch.stack(
            [row_dots(g, w, self._scratch), row_dots(g, g, self._scratch), row_dots(w, w, self._scratch)]
        )

    def _outcome(self, state: ParamState, row_sums: Tensor) -> Tensor:
        """Returns [4]: the number of rows that fail the test (NaN fails), and the layer's g.w, g.g and w.w.

        The number of failures, unlike the largest cosine, can be summed over ranks together with the other three.
        """
        passed = _cosine(row_sums, self._eps) < state.threshold(self._delta, "row")
        return torch.cat([(~passed).sum(dtype=row_sums.dtype).view(1), row_sums.sum(1)])


def row_dots(a: Tensor, b: Tensor, scratch: ScratchBuffers) -> Tensor:
    """Returns the dot products of the rows of two [rows, columns].

    It works in blocks of rows, so that a product as large as the weights is never stored.
    """
    if a is b:
        return squared_norms(a).to(a.dtype)
    if len(a) == 1:
        return dot(a[0], b[0]).to(a.dtype).view(1)
    out = torch.empty(len(a), device=a.device, dtype=a.dtype)
    rows = max(_PRODUCT_BYTES // max(a[0].nbytes, 1), 1)
    for a_rows, b_rows, out_rows in zip(*(torch.split(x, rows) for x in (a, b, out)), strict=True):
        product = scratch.take("product", a_rows.shape, a)
        torch.sum(torch.mul(a_rows, b_rows, out=product), 1, out=out_rows)
    return out


def sum_over_ranks(parts: list[Tensor], sharded: list[bool], ranks: TensorRanks) -> list[Tensor]:
    """Returns the tensors, those marked `sharded` summed over the tensor ranks in one all-reduce."""
    chosen = [part for part, flag in zip(parts, sharded, strict=True) if flag]
    if ranks.tp_size == 1 or not chosen:
        return parts
    total = ranks.sum(torch.cat([part.flatten() for part in chosen]))
    pieces = iter(torch.split(total, [part.numel() for part in chosen]))
    return [next(pieces).view_as(part) if flag else part for part, flag in zip(parts, sharded, strict=True)]


def _cosine(sums: Tensor, eps: float) -> Tensor:
    """Returns |cos| from [3, vectors] of g.w, g.g, w.w, with each norm at least eps as in torch's cosine_similarity."""
    g_w, g_g, w_w = sums.unbind()
    return g_w.abs() / (g_g.sqrt().clamp_min_(eps) * w_w.sqrt().clamp_min_(eps))
