"""Farseer's law: L = exp(a3 N^g3 + b3) + exp(a2 N^g2 + b2) D^-exp(a1 N^g1 + b1) (arXiv 2506.10972).

The gain from tokens has an exponent that changes with size. There is no constant: what is left falls with N for ever.
N counts parameters without embeddings. Nine parameters are hard to identify: a fit describes runs within its range.

It is fitted with (N / N0)^g in place of N^g, N0 the middle of the runs: a (N / N0)^g = (a N0^-g) N^g.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from pydantic import Field

from laws.curve import Floats, geometric_mean
from laws.law import Coefficient, Shape
from laws.scaling.laws import COMPUTE_LAWS, ComputeLaw, Runs, check_two_powers


@COMPUTE_LAWS.register
class FarseerConfig(ComputeLaw):
    """The law of nine parameters; exp(b3) and exp(b2) are the coefficients."""

    name: Literal["farseer"] = "farseer"
    reference_parameters: float = Field(1e9, gt=0, description="N0; a fit takes the middle of its runs")

    def suited(self, runs: Runs) -> Self:
        """Returns the law with the middle of the runs as the reference."""
        return self.model_copy(update={"reference_parameters": geometric_mean(runs.parameters)})

    def coefficients(self) -> tuple[Coefficient, ...]:
        """Returns exp(b3), exp(b2)."""
        return (Coefficient("exp_b3", 1, "what tokens cannot lower"), Coefficient("exp_b2", 1, "of tokens"))

    def shapes(self) -> tuple[Shape, ...]:
        """Returns a3, g3, a2, g2, a1, g1, b1."""
        return (
            Shape("a3", -10.0, 0.0, (-1.0, -0.5, -0.1), "how what is left falls with N"),
            Shape("g3", 0.01, 1.0, (0.1, 0.3), "the same, its power"),
            Shape("a2", 0.0, 50.0, (2.0, 6.0, 12.0), "how the gain from tokens falls with N"),
            Shape("g2", -1.0, -0.01, (-0.3, -0.1), "the same, its power"),
            Shape("a1", -10.0, 10.0, (-1.5, -0.3, 0.3), "how the exponent of tokens changes with N"),
            Shape("g1", 0.01, 1.0, (0.1, 0.3), "the same, its power"),
            Shape("b1", -8.0, 8.0, (-1.3, -0.5, 0.4), "the logarithm of the exponent of tokens, without a1"),
        )

    def check(self, runs: Runs) -> None:
        """Raises UserError for what cannot identify the Chinchilla law, and for fewer than 12 runs."""
        check_two_powers(self.name, runs, least=12, parameters=9)

    def features(self, runs: Runs) -> Floats:
        """Returns log (N / N0), log D."""
        return np.log(np.stack([runs.parameters / self.reference_parameters, runs.tokens]))

    def terms(self, shape_mq: Floats, features: Any) -> tuple[Floats, Floats]:
        """Returns exp(a3 N^g3), exp(a2 N^g2) D^-exp(a1 N^g1 + b1), with N over N0."""
        log_n, log_d = features
        a3, g3, a2, g2, a1, g1, b1 = (shape_mq[:, index, None] for index in range(7))
        n3, n2, n1 = (np.exp(g * log_n) for g in (g3, g2, g1))
        exponent = np.exp(np.minimum(a1 * n1 + b1, 5.0))
        phi, slope = np.empty((*n3.shape, 2)), np.zeros((*n3.shape, 2, 7))
        phi[:, :, 0] = np.exp(a3 * n3)
        phi[:, :, 1] = np.exp(np.clip(a2 * n2 - exponent * log_d, -300, 300))
        slope[:, :, 0, 0], slope[:, :, 0, 1] = phi[:, :, 0] * n3, phi[:, :, 0] * a3 * n3 * log_n
        slope[:, :, 1, 2], slope[:, :, 1, 3] = phi[:, :, 1] * n2, phi[:, :, 1] * a2 * n2 * log_n
        by_b1 = -phi[:, :, 1] * exponent * log_d
        slope[:, :, 1, 4], slope[:, :, 1, 5], slope[:, :, 1, 6] = by_b1 * n1, by_b1 * a1 * n1 * log_n, by_b1
        return phi, slope
