"""The error of a law grows for runs that are unlike those of its fit: longer ones, and other schedules.

    miss = law_error sqrt(1 + (h log(step / longest fitted step))^2 + (s log(N / nearest size))^2 + (6 distance)^2)

The constants law_error, h and s are those of the law. The second and third term are 0 within the fit. The last is
there for a fit of one curve only: then progress and the effect of the lr are known in one combination alone. `distance`
is the root mean square difference between the two schedules, each over its peak and up to the step at hand.
docs/laws.md says how the factors were chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from laws.curve import EvaluationPoints, Floats, LrCurve

LONE_SHAPE = 6.0
_SHARES = (np.arange(32) + 0.5) / 32


def lr_shape(schedule: LrCurve, step: int) -> Floats:
    """Returns the lr over its peak at 32 evenly spaced shares of the first `step` steps [32]."""
    lr = schedule.lr[:step]
    shape: Floats = lr[(_SHARES * step).astype(np.int64)] / max(float(lr.max()), 1e-300)
    return shape


def law_error_growth(
    points: EvaluationPoints,
    *,
    fitted_steps: Sequence[int],
    fitted_shapes: Sequence[Sequence[float]],
    fitted_sizes: Sequence[float] = (),
    by_horizon: float,
    by_size: float = 0.0,
) -> Floats:
    """Returns how many times `law_error` a law may miss the loss at each point [k], at least 1.

    `fitted_steps` and `fitted_shapes`: the last step of each fitted curve, and its `lr_shape` up to there. Unknown
    shapes (empty) widen nothing. `fitted_sizes`: the parameters of the models, where they are known.
    """
    square_k = np.ones(points.steps.size)
    if fitted_steps:
        beyond_k = np.maximum(np.log(points.steps / max(fitted_steps)), 0)
        square_k += (by_horizon * beyond_k) ** 2
    if fitted_sizes and points.parameters is not None:
        low, high = np.log(points.parameters / max(fitted_sizes)), np.log(min(fitted_sizes) / points.parameters)
        square_k += (by_size * max(low, high, 0.0)) ** 2
    if len(fitted_shapes) == 1 and len(fitted_shapes[0]):
        lone = np.asarray(fitted_shapes[0])
        shape_kx = np.stack([lr_shape(points.schedule, int(step)) for step in points.steps])
        square_k += LONE_SHAPE**2 * ((shape_kx - lone) ** 2).mean(axis=1)
    growth: Floats = np.sqrt(square_k)
    return growth
