"""The width of the target's forecast before any run of the ladder."""

from __future__ import annotations

import math

from launcher.ladder.ladder_file import Ladder
from launcher.run.preflight import model_with_vocabulary
from launcher.run.register import run_points
from laws.curve import last_step
from laws.fitting.expected import expected_fit
from laws.loss_curves.joint import JointConfig

_POINTS = 40


def expected_half_width(ladder: Ladder) -> float:
    """Returns the relative half-width of the 90% interval of the target's last loss, if the runs follow the law."""
    law = JointConfig()
    configs = [ladder.config_of(rung) for rung in (*ladder.plan.rungs, ladder.plan.target)]
    *runs, target = [run_points(config, model_with_vocabulary(config), law, most=_POINTS) for config in configs]
    fit = expected_fit(runs * ladder.plan.seeds)
    end = last_step(target.schedule, parameters=target.parameters, batch_tokens=target.batch_tokens)
    (low,), (high,) = fit.band(end)
    return math.log(high / low) / 2
