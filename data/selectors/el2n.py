"""Selection by the error norm (EL2N, arXiv:2107.07075) that small models have on a document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from data.selectors.base import SELECTORS
from data.selectors.model_scores import ModelScoresConfig

if TYPE_CHECKING:
    from data.selectors.base import Float64s
    from data.selectors.blocks.trajectories import Trajectory


@SELECTORS.register
class El2nConfig(ModelScoresConfig):
    """Scores a document by the mean norm of its tokens' errors, averaged over checkpoints and runs. Higher is harder.

    The highest scores are often garbage: with data.select.skip they are passed over.
    """

    name: Literal["el2n"] = "el2n"

    def score_run(self, trajectory: Trajectory) -> Float64s:
        from data.selectors.blocks.trajectories import mean_over_steps

        return mean_over_steps(trajectory, "el2n")
