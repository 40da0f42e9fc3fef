"""The pruning schedule: sparsity rises from 0 to its target between two points of the run.

With tau from 0 at the start to 1 at the end, sparsity is s_f (1 - (1 - tau)^3) (cubic, Zhu and Gupta,
arXiv:1710.01878) or s_f tau (linear). Start and end are shares of the run's steps, or of its compute (arXiv:2501.12486:
25% and 75% of compute is near the best). A step costs F - 6 P s FLOPs a token, where F is the dense model's cost, P the
number of prunable weights and s the sparsity, so with q = 6 P s_f / F and c the mean of the rise (3/4 or 1/2), in units
of a dense step:

    steps before the start    f_1 C
    steps of the rise         (f_2 - f_1) C / (1 - q c)
    steps after the end       (1 - f_2) C / (1 - q)

These add up to the steps of the run, which gives C, the compute of the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Shape = Literal["cubic", "linear"]

_MEAN = {"cubic": 3 / 4, "linear": 1 / 2}  # of the rise from 0 to 1
_FLOPS_PER_WEIGHT = 6  # of a token: 2 forward, 4 backward


@dataclass(frozen=True)
class Ramp:
    """The rise of sparsity. Steps count from 1; at `end` and later, sparsity is the target."""

    target: float
    start: int  # the last step of sparsity 0
    end: int
    shape: Shape

    def sparsity(self, step: int) -> float:
        """Returns the sparsity after a step."""
        if step <= self.start:
            return 0.0
        if step >= self.end:
            return self.target
        tau = (step - self.start) / (self.end - self.start)
        return self.target * (1 - (1 - tau) ** 3 if self.shape == "cubic" else tau)


def ramp_by_steps(target: float, first: float, last: float, *, steps: int, shape: Shape) -> Ramp:
    """Returns the rise between two shares of the run's steps."""
    return Ramp(target, round(first * steps), round(last * steps), shape)


def ramp_by_compute(
    target: float,
    first: float,
    last: float,
    *,
    steps: int,
    shape: Shape,
    prunable: int,
    flops_per_token: float,
) -> Ramp:
    """Returns the rise between two shares of the run's compute; `prunable` weights, dense `flops_per_token`."""
    saved = _FLOPS_PER_WEIGHT * prunable * target / flops_per_token
    rise = (last - first) / (1 - saved * _MEAN[shape])
    compute = steps / (first + rise + (1 - last) / (1 - saved))
    start = first * compute
    return Ramp(target, round(start), round(start + rise * compute), shape)
