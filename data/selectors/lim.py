"""Selection by learning impact (LIM, arXiv:2502.11886): the documents that are learned as the mean document is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from data.selectors.base import SELECTORS
from data.selectors.model_scores import ModelScoresConfig
from settings import UserError

if TYPE_CHECKING:
    from data.selectors.base import Float64s
    from data.selectors.blocks.trajectories import Trajectory


@SELECTORS.register
class LimConfig(ModelScoresConfig):
    """Scores a document by how closely its reward follows the mean reward over a run's checkpoints; at most 1.

    Documents that are always predicted score 0. Those that are never learned score low once the mean is high.
    """

    name: Literal["lim"] = "lim"
    reward: Literal["accuracy", "probability"] = Field(
        "accuracy",
        description="The reward of a document, from 0 to 1: the share of its tokens that have the highest probability, "
        "or the geometric mean of its tokens' probabilities, exp(-loss).",
    )
    per_source: bool = Field(False, description="Whether a document is compared with the mean of its source alone.")

    def score_run(self, trajectory: Trajectory) -> Float64s:
        import numpy as np

        from data.selectors.blocks.learning_impact import learning_impact

        if len(trajectory.files) < 2:
            raise UserError(
                f"data.select.selector: lim needs several checkpoints of a run, but the scores of {trajectory.run} are "
                f"of step {next(iter(trajectory.files))} alone: score more with `lehr score --steps all`"
            )
        if self.reward == "accuracy":
            rewards = trajectory.scores("accuracy")
        else:
            rewards = (np.exp(-loss) for loss in trajectory.scores("loss"))
        groups = trajectory.sources if self.per_source else np.zeros_like(trajectory.sources)
        return learning_impact(rewards, groups)
