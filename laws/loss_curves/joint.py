"""The joint law of size, horizon, schedule and batch: L(N, D, S, lr) = skaling(N, D) + early steps + noise.

    L(t) = E + S0 (N^-alpha + w D^-beta)^k + F S^-gamma + noise

The compute law is Skaling's (arXiv 2608.07222; k = 1 is Chinchilla's), and the other terms are those of `horizon`. N
and D are in units of the middle of the fitted runs.

The batch: S steps at a batch b are worth D = S b / (1 + b / B_crit) tokens at a small one (arXiv 2001.08361).
Around the critical batch, where runs are usually trained, that is a power of the batch: D ~ S b^(1 - mu), mu = b / (b +
B_crit) = 1/2 at the critical batch itself. mu is no parameter of the fit, since batch and size move together in a
ladder: 0 counts tokens (small batches), 1 counts steps (large ones). The first steps cost steps.

Two sizes cannot tell alpha and k from S0, so these are then the priors', and the fit says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from laws.curve import EvaluationPoints, Floats, LossCurve
from laws.law import LAWS, Coefficient, LawConfig, Shape, check_annealed
from laws.loss_curves.horizon import REFIT_BETA, HeldUpLaw, check_comparable, check_horizons
from settings import UserError

REFIT_ALPHA = 0.348  # of Chinchilla, Epoch AI 2024
SKALING_ALPHA, SKALING_BETA, SKALING_K = 0.424, 0.430, 0.774  # of the same runs, with k free


@LAWS.register
class JointConfig(HeldUpLaw):
    """The law over sizes; its curves need the parameters and the tokens a step of each run."""

    name: Literal["joint"] = "joint"
    spans_sizes: ClassVar[bool] = True
    spans_batches: ClassVar[bool] = True
    law_error: ClassVar[float] = 0.0013  # benchmarks/ladder_laws.md, as the two below
    error_by_horizon: ClassVar[float] = 2.0
    error_by_size: ClassVar[float] = 2.5
    interaction: bool = Field(True, description="Whether k is fitted; else it is 1 (Chinchilla's law).")
    alpha_prior_width: float = Field(0.02, gt=0, description="of the exponent of parameters")
    beta_prior_width: float = Field(0.02, gt=0, description="of the exponent of tokens")
    batch_power: float = Field(
        0.5, ge=0, le=1, description="mu: 0 counts tokens, 1 steps, 0.5 holds at the critical batch"
    )

    @classmethod
    def examples(cls) -> tuple[LawConfig, ...]:
        """Returns k fitted, and 1."""
        return (cls(), cls(interaction=False))

    def check(self, curves: Sequence[LossCurve]) -> None:
        """Raises UserError for one size or one length, an unknown size or batch, or losses that are not comparable."""
        check_annealed(curves)
        check_comparable(self.name, curves)
        for what, known in (
            ("parameters", [c.parameters for c in curves]),
            ("batch_tokens", [c.batch_tokens for c in curves]),
        ):
            unknown = [curve.name for curve, value in zip(curves, known, strict=True) if value is None]
            if unknown:
                raise UserError(f"the {self.name} law needs the {what} of every run; missing for {', '.join(unknown)}")
        sizes = {curve.parameters for curve in curves}
        if len(sizes) < 2:
            raise UserError(
                f"the {self.name} law needs runs of at least two model sizes, better three; these have one: add runs "
                "of another size, or use --law horizon for one"
            )
        check_horizons(self.name, curves, [float(curve.steps[-1]) for curve in curves])

    def notes(self, curves: Sequence[LossCurve]) -> tuple[str, ...]:
        """Says that two sizes cannot tell alpha."""
        if len({curve.parameters for curve in curves}) > 2:
            return ()
        return (
            "the runs are of two model sizes, which cannot tell the exponent alpha: forecasts of other sizes rest on "
            f"its prior, {self.progress_shapes()[0].prior}; add runs of a third size",
        )

    def size_of(self, at: EvaluationPoints) -> float:
        """Returns the parameters of the model. Raises UserError if they are unknown."""
        if at.parameters is None:
            raise UserError(f"the {self.name} law needs the number of parameters of every model")
        return at.parameters

    def step_worth(self, batch_tokens: float | None) -> float:
        """Returns what a step adds to D."""
        return float(super().step_worth(batch_tokens) ** (1 - self.batch_power))

    def progress_coefficients(self) -> tuple[Coefficient, ...]:
        """Returns E, S0."""
        return (Coefficient("E", 1, "the loss that is left"), Coefficient("S0", 1, "of parameters and tokens"))

    def progress_shapes(self) -> tuple[Shape, ...]:
        """Returns alpha, beta, w, and k if it is fitted."""
        alpha, beta = (SKALING_ALPHA, SKALING_BETA) if self.interaction else (REFIT_ALPHA, REFIT_BETA)
        k = Shape("k", 0.05, 3.0, (0.4, 0.8, 1.1), "of the sum", prior=(SKALING_K, 0.2))
        return (
            Shape("alpha", 0.01, 2.0, (0.25, alpha), "of parameters", prior=(alpha, self.alpha_prior_width)),
            Shape("beta", 0.01, 2.0, (0.3, beta), "of tokens", prior=(beta, self.beta_prior_width)),
            Shape("w", 1e-3, 1e3, (0.3, 1.0, 3.0), "tokens over parameters, in the middle of the runs", log=True),
            *((k,) if self.interaction else ()),
        )

    def progress(self, shape_mq: Floats, log_size_n: Floats, log_tokens_n: Floats) -> tuple[Floats, Floats, Floats]:
        """Returns (N^-alpha + w D^-beta)^k and its slopes."""
        alpha, beta, w = (shape_mq[:, index, None] for index in range(3))
        k = shape_mq[:, 3, None] if self.interaction else np.ones_like(alpha)
        of_size, of_tokens = np.exp(-alpha * log_size_n), w * np.exp(-beta * log_tokens_n)
        both = of_size + of_tokens
        term = both**k
        by_both = k * term / both
        slopes = [-by_both * of_size * log_size_n, -by_both * of_tokens * log_tokens_n, by_both * of_tokens / w]
        if self.interaction:
            slopes.append(term * np.log(both))
        return term, np.stack(slopes, axis=-1), -by_both * of_tokens * beta
