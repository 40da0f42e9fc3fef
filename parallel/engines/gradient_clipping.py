"""Gradient clipping by the global norm (arXiv:1211.5063, section 3.2): g <- g min(1, max_norm / |g|).

|g| is the L2 norm of the gradient of the full model: over all parameters, tensor ranks and pipeline stages. A parameter
of which several ranks hold replicas is counted once (`is_counted`): tensor ranks hold replicas of what is not sharded,
data ranks under ZeRO 0 of everything, and the last stage of a tied embedding.

With ZeRO 0 and 1 the engine adds up |g|^2 (optim.sums.sum_of_squares) over all ranks, and the factor is computed here.
With ZeRO 2 and 3 DeepSpeed computes both in its own step, since it frees the gradients there: the norms of its tensors
in float64, and the factor min(1, max_norm / (|g| + 1e-6)). What the engine needs for that, the config key and the norm,
is here too.

In both, `max_norm` = 0 turns clipping off, and a norm that is not finite skips the step (`is_finite`).
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from parallel.mesh import Mesh
from parallel.parameter_shards import ParameterShard


def is_counted(shard: ParameterShard, mesh: Mesh, *, sharded_over_data: bool) -> bool:
    """Returns whether this rank counts the gradient of a shard that it owns: one rank does of all that hold a replica.

    `sharded_over_data`: each data rank owns other parameters (ZeRO 1); otherwise all data ranks hold replicas.
    """
    if shard.copy:
        return False
    return (shard.dim is not None or mesh.tensor.rank == 0) and (sharded_over_data or mesh.data.rank == 0)


def norm_of(squared: float) -> float:
    """Returns |g| from |g|^2; NaN from what is no square."""
    return math.sqrt(squared) if squared >= 0 else math.nan


def clip(gradients: Tensor, norm: float, max_norm: float) -> None:
    """Multiplies the gradients, in place, by the clipping factor min(1, max_norm / norm)."""
    if max_norm and norm > max_norm:
        gradients.mul_(max_norm / norm)


def is_finite(norm: float) -> bool:
    """Returns whether a step with this gradient norm may be taken. DeepSpeed says -1 for a norm that is not finite."""
    return math.isfinite(norm) and norm >= 0


def deepspeed_clipping(max_norm: float) -> dict[str, float]:
    """Returns the entry of DeepSpeed's config that makes it clip."""
    return {"gradient_clipping": max_norm}


def deepspeed_norm(engine: Any) -> float:
    """Returns |g|, before clipping, of the step that a DeepSpeed engine has finished; infinite if it was not finite."""
    norm = float(engine.get_global_grad_norm())
    return norm if norm >= 0 else math.inf


def deepspeed_norm_within_step(engine: Any) -> float:
    """Returns |g|, before clipping, while DeepSpeed steps its optimizer; -1 or NaN if it is not finite.

    DeepSpeed's public get_global_grad_norm still returns the last step's norm at that time.
    """
    return float(engine.optimizer._global_grad_norm or 0.0)
