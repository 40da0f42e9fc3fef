"""Kaplan's law with its batch term: L = A N^-alpha + B S_min^-beta (arXiv 2001.08361; Unraveling, arXiv 2403.06563).

    S_min = S / (1 + B_crit / batch),   B_crit = B_star / L^(1 / alpha_B)

S steps at a batch (in tokens) below the critical one are worth fewer steps. The critical batch grows as the loss falls,
so the loss is on both sides. The papers' law has no constant; `constant` adds one.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from laws.curve import Floats
from laws.law import Coefficient, ImplicitLaw, Shape
from laws.scaling.laws import COMPUTE_LAWS, ComputeLaw, Runs, check_distinct, check_two_powers
from settings import UserError

PUBLISHED_ALPHA_B = 0.21
_LARGE_LOSS = 1e30


@COMPUTE_LAWS.register
class KaplanBatchConfig(ImplicitLaw, ComputeLaw):
    """The law over size, steps and batch."""

    name: Literal["kaplan_batch"] = "kaplan_batch"
    constant: bool = Field(False, description="Whether a constant E is fitted too; the papers have none.")

    @classmethod
    def examples(cls) -> tuple[KaplanBatchConfig, ...]:
        """Returns the law without and with a constant."""
        return (cls(), cls(constant=True))

    def coefficients(self) -> tuple[Coefficient, ...]:
        """Returns E if it is fitted, A, B."""
        constant = (Coefficient("E", 1, "the loss that is left"),) if self.constant else ()
        return (*constant, Coefficient("A", 1, "of parameters"), Coefficient("B", 1, "of steps"))

    def shapes(self) -> tuple[Shape, ...]:
        """Returns alpha, beta, B_star, alpha_B."""
        return (
            Shape("alpha", 0.0, 2.0, (0.05, 0.1, 0.2, 0.35), "of parameters"),
            Shape("beta", 0.0, 2.0, (0.2, 0.4, 0.6, 0.8), "of steps"),
            Shape("B_star", 1e4, 1e12, (1e7, 1e8, 1e9), "the critical batch at a loss of 1, in tokens", log=True),
            Shape("alpha_B", 0.05, 2.0, (0.15, 0.21, 0.3), "of the loss", prior=(PUBLISHED_ALPHA_B, 0.05)),
        )

    def check(self, runs: Runs) -> None:
        """Raises UserError where the batch is unknown or has fewer than three sizes, or what `chinchilla` refuses."""
        if runs.batch_tokens is None:
            raise UserError(f"the {self.name} law needs the tokens a step of each run: batch_tokens is missing")
        check_distinct(self.name, "batch sizes", runs.batch_tokens, 3)
        check_two_powers(self.name, runs, least=8, parameters=6)

    def features(self, runs: Runs) -> Floats:
        """Returns log N, log S, log batch."""
        if runs.batch_tokens is None:
            raise UserError(f"the {self.name} law needs the tokens a step: batch_tokens is missing")
        log_batch = np.log(runs.batch_tokens)
        return np.stack([np.log(runs.parameters), np.log(runs.tokens) - log_batch, log_batch])

    def terms_at(self, shape_mq: Floats, features: Any, loss_mn: Floats) -> tuple[Floats, Floats, Floats]:
        """Returns 1 if E is fitted, N^-alpha, S_min^-beta."""
        log_n, log_s, log_batch = features
        alpha, beta, scale, power = (shape_mq[:, index, None] for index in range(4))
        log_loss = np.log(loss_mn)
        excess = np.exp(np.minimum(np.log(scale) - log_loss / power - log_batch, 300.0))  # B_crit / batch
        log_steps = log_s - np.log1p(excess)
        constant = int(self.constant)
        phi = np.ones((*loss_mn.shape, 2 + constant))
        slope, by_loss = np.zeros((*phi.shape, 4)), np.zeros(phi.shape)
        of_n, of_s = np.exp(-alpha * log_n), np.exp(-beta * log_steps)
        phi[:, :, constant], phi[:, :, constant + 1] = of_n, of_s
        slope[:, :, constant, 0], slope[:, :, constant + 1, 1] = -of_n * log_n, -of_s * log_steps
        by_log_excess = beta * of_s * excess / (1 + excess)
        slope[:, :, constant + 1, 2] = by_log_excess / scale
        slope[:, :, constant + 1, 3] = by_log_excess * log_loss / power**2
        by_loss[:, :, constant + 1] = -by_log_excess / (power * loss_mn)
        return phi, slope, by_loss

    def least_terms(self, shape_mq: Floats, features: Any) -> Floats:
        """Returns the terms of a loss so large that every step counts in full."""
        return self.terms_at(shape_mq, features, np.full((shape_mq.shape[0], features.shape[1]), _LARGE_LOSS))[0]
