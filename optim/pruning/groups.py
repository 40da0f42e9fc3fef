"""Groups of weights that are pruned together: m consecutive ones along the input dim, of which n are kept (n-of-m).

Without a structure each weight is a group of its own, of which none is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Groups:
    """The size of the groups. Groups are numbered through the flattened tensor, whose last dim is the input dim."""

    kept: int
    size: int

    @property
    def pruned(self) -> int:
        """The weights that a pruned group loses."""
        return self.size - self.kept

    @property
    def pruned_share(self) -> float:
        """The share of its weights that a pruned group loses."""
        return self.pruned / self.size

    def dense(self, mask: Tensor) -> Tensor:
        """Returns the numbers of the groups without a pruned weight: int64 [n]."""
        return self._rows(mask).any(1).logical_not_().nonzero().squeeze(1)

    def scores(self, scores: Tensor, numbers: Tensor) -> Tensor:
        """Returns the score of each of these groups: the sum of the scores that it would lose, the lowest. [n]"""
        rows = self._rows(scores)[numbers]
        return rows.squeeze(1) if self.size == 1 else rows.sort(dim=1).values[:, : self.pruned].sum(1)

    def prune(self, mask: Tensor, scores: Tensor, numbers: Tensor) -> None:
        """Marks the lowest scores of each of these groups in `mask`, in place; of equal ones the first."""
        rows = self._rows(mask)
        lowest = self._rows(scores)[numbers].sort(stable=True, dim=1).indices[:, : self.pruned]
        rows[numbers] = rows[numbers].scatter(1, lowest, True)

    def _rows(self, x: Tensor) -> Tensor:
        """Returns a view of a contiguous tensor, perhaps an empty one: [groups, size]."""
        return x.view(x.numel() // self.size, self.size)
