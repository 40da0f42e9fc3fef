"""The Skaling law: L = E + (A N^-alpha + B D^-beta)^k (arXiv 2608.07222).

With k < 1 the gain from more parameters grows with the tokens, and k = 1 is the Chinchilla law. The best split of a
budget does not depend on k.

It is fitted as E + S ((N / N0)^-alpha + w (D / D0)^-beta)^k, N0 and D0 the middle of the runs: linear in S.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from pydantic import Field

from laws.curve import Floats, geometric_mean
from laws.law import Coefficient, Shape
from laws.scaling.laws import COMPUTE_LAWS, ComputeLaw, Runs, check_two_powers


@COMPUTE_LAWS.register
class SkalingConfig(ComputeLaw):
    """L = E + (A N^-alpha + B D^-beta)^k."""

    name: Literal["skaling"] = "skaling"
    reference_parameters: float = Field(1e9, gt=0, description="N0; a fit takes the middle of its runs")
    reference_tokens: float = Field(2e10, gt=0, description="D0; a fit takes the middle of its runs")

    def suited(self, runs: Runs) -> Self:
        """Returns the law with the middle of the runs as the reference."""
        return self.model_copy(
            update={
                "reference_parameters": geometric_mean(runs.parameters),
                "reference_tokens": geometric_mean(runs.tokens),
            }
        )

    def coefficients(self) -> tuple[Coefficient, ...]:
        """Returns E, S."""
        return (Coefficient("E", 1, "the loss that is left"), Coefficient("S", 1, "of the sum to the power k"))

    def shapes(self) -> tuple[Shape, ...]:
        """Returns alpha, beta, k, w."""
        powers = (0.2, 0.35, 0.5)
        return (
            Shape("alpha", 0.0, 2.0, powers, "of parameters"),
            Shape("beta", 0.0, 2.0, powers, "of tokens"),
            Shape("k", 0.05, 3.0, (0.4, 0.8, 1.2), "of the sum"),
            Shape("w", 1e-3, 1e3, (0.3, 1.0, 3.0), "tokens over parameters, at N0 and D0", log=True),
        )

    def check(self, runs: Runs) -> None:
        """Raises UserError for what cannot identify the Chinchilla law, and for fewer than 8 runs."""
        check_two_powers(self.name, runs, least=8, parameters=6)

    def features(self, runs: Runs) -> Floats:
        """Returns log (N / N0), log (D / D0)."""
        scales = (self.reference_parameters, self.reference_tokens)
        return np.log(np.stack([runs.parameters / scales[0], runs.tokens / scales[1]]))

    def terms(self, shape_mq: Floats, features: Any) -> tuple[Floats, Floats]:
        """Returns 1, ((N / N0)^-alpha + w (D / D0)^-beta)^k."""
        log_n, log_d = features
        alpha, beta, k, w = (shape_mq[:, index, None] for index in range(4))
        of_n, of_d = np.exp(-alpha * log_n), w * np.exp(-beta * log_d)
        both = of_n + of_d
        phi, slope = np.ones((*both.shape, 2)), np.zeros((*both.shape, 2, 4))
        phi[:, :, 1] = both**k
        by_both = k * phi[:, :, 1] / both
        slope[:, :, 1, 0], slope[:, :, 1, 1] = -by_both * of_n * log_n, -by_both * of_d * log_d
        slope[:, :, 1, 2], slope[:, :, 1, 3] = phi[:, :, 1] * np.log(both), by_both * of_d / w
        return phi, slope

    def published(self, values: dict[str, float]) -> dict[str, float]:
        """Returns E, A, B, alpha, beta, k of the paper's form from the fitted values."""
        alpha, beta, k = values["alpha"], values["beta"], values["k"]
        root = values["S"] ** (1 / k)
        a = root * self.reference_parameters**alpha
        return {
            "E": values["E"],
            "A": a,
            "B": root * values["w"] * self.reference_tokens**beta,
            "alpha": alpha,
            "beta": beta,
            "k": k,
        }

    def of_published(self, values: dict[str, float]) -> dict[str, float]:
        """Returns the values of this form from E, A, B, alpha, beta, k."""
        alpha, beta, k = values["alpha"], values["beta"], values["k"]
        of_n = values["A"] * self.reference_parameters**-alpha
        w = values["B"] * self.reference_tokens**-beta / of_n
        return {"E": values["E"], "S": of_n**k, "alpha": alpha, "beta": beta, "k": k, "w": w}
