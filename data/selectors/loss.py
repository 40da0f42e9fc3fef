"""Selection by the loss that small models have on a document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from data.selectors.base import SELECTORS
from data.selectors.model_scores import ModelScoresConfig

if TYPE_CHECKING:
    from data.selectors.base import Float64s
    from data.selectors.blocks.trajectories import Trajectory


@SELECTORS.register
class LossConfig(ModelScoresConfig):
    """Scores a document by its loss in nats a token, averaged over checkpoints and runs. Higher is harder."""

    name: Literal["loss"] = "loss"

    def score_run(self, trajectory: Trajectory) -> Float64s:
        from data.selectors.blocks.trajectories import mean_over_steps

        return mean_over_steps(trajectory, "loss")
