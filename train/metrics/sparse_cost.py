"""What a run with zeroed weights counts as: parameters now and on average, and FLOPs (arXiv:2501.12486).

The average-parameter law says that such a run ends with the loss of a dense model that has the average number of
parameters, N_avg = (1/T) sum_t N_t, and trains on the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from parallel.engines.engine import StepResult
from train.metrics.console import format_count
from train.state import TrainState


@dataclass(frozen=True)
class SparseCost:
    """The dense model's numbers, from which those of the pruned one follow."""

    parameters: int  # of the dense model, a tied head once
    flops_per_step: Callable[[float], float]  # by the number of zeroed weights, which cost none

    def metrics(self, state: TrainState, result: StepResult) -> dict[str, float]:
        """Returns N_t, N_avg and the FLOPs of all steps so far, which `state` counts already."""
        return {
            "parameters": self.parameters - result.zeroed_weights,
            "average_parameters": self.average_parameters(state),
            "flops": self.flops(state),
        }

    def average_parameters(self, state: TrainState) -> float:
        """Returns N_avg over the steps so far."""
        return self.parameters - state.zeroed_weight_steps / max(state.step, 1)

    def flops(self, state: TrainState) -> float:
        """Returns the FLOPs of all steps so far; the cost of a step is linear in the zeroed weights."""
        return state.step * self.flops_per_step(state.zeroed_weight_steps / max(state.step, 1))

    def closing_line(self, state: TrainState) -> str:
        """Returns the average-parameter law's numbers at the end of a run."""
        share = self.flops(state) / (max(state.step, 1) * self.flops_per_step(0))
        average = format_count(self.average_parameters(state))
        return (
            f"{average} parameters on average over the run (N_avg), of {format_count(self.parameters)}: the "
            f"average-parameter law expects the loss of a dense model of {average} parameters on the same tokens; "
            f"without the products with zeros the run would have taken {100 * share:.1f}% of the dense FLOPs"
        )
