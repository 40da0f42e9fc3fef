"""Selection by the norm of the gradient (GraNd, arXiv:2107.07075) that a document gives small models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from data.selectors.base import SELECTORS
from data.selectors.model_scores import ModelScoresConfig
from settings import UserError

if TYPE_CHECKING:
    from data.selectors.base import Float64s
    from data.selectors.blocks.trajectories import Trajectory


@SELECTORS.register
class GrandConfig(ModelScoresConfig):
    """Scores a document by the norm of the gradient of its mean loss, averaged over checkpoints and runs.

    The files are those of `lehr score RUN SHARDS --grand`. At initialisation the score is unreliable: the published
    result was not reproduced (arXiv:2303.14753). Short documents have large norms: a mean over few tokens varies more.
    """

    name: Literal["grand"] = "grand"

    def check(self) -> None:
        from data.selectors.blocks.trajectories import origins_of

        for file, origin in origins_of(self.files()).items():
            if not origin.grand:
                raise UserError(f"data.select.selector: {file} has no norms of gradients: run lehr score with --grand")

    def score_run(self, trajectory: Trajectory) -> Float64s:
        from data.selectors.blocks.trajectories import mean_over_steps

        return mean_over_steps(trajectory, "grand")
