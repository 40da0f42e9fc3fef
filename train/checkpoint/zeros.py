"""The zeros of a checkpoint whose run prunes weights, against its masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from settings import UserError
from train.checkpoint.manifest import Manifest
from train.checkpoint.resharding import TensorFiles

_MASK, _WEIGHT = ("optimizer.", ".pruned"), "model."


@dataclass(frozen=True)
class Zeros:
    """The weights that have a mask, and how many of them are zero."""

    weights: int
    zeros: int

    @property
    def share(self) -> float:
        """The sparsity of these weights; 0 if there are none."""
        return self.zeros / max(self.weights, 1)


def count_zeros(path: Path, manifest: Manifest) -> Zeros:
    """Counts the zeros of the weights that have a mask, one tensor at a time.

    Raises UserError if a weight that is pruned by its mask is not zero.
    """
    before, after = _MASK
    names = [name.removeprefix(before).removesuffix(after) for name in manifest.tensors if name.endswith(after)]
    weights = zeros = 0
    files = TensorFiles(manifest.tensor_files(path)) if names else None
    for name in names:
        assert files is not None
        weight, mask = files.read(_WEIGHT + name), files.read(before + name + after)
        alive = int((weight[mask] != 0).sum())
        if alive:
            raise UserError(f"checkpoint {path}: {alive:,} weights of {name} are pruned by its mask, and are not zero")
        weights += weight.numel()
        zeros += int((weight == 0).sum())
    return Zeros(weights, zeros)
