"""Standard deviations of initial weights."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from settings import Registry, Settings


class InitConfig(Settings):
    """The contract of an initialisation."""

    name: str = Field(description="Name of the initialisation.")
    std: float = Field(0.02, gt=0, description="Standard deviation of the initial matrices.")

    def residual_output_std(self, num_layers: int) -> float:
        """Returns the standard deviation of the matrices whose output is added to the residual stream."""
        return self.std


INITS = Registry("init", room="model", base=InitConfig)


@INITS.register
class NormalConfig(InitConfig):
    """Every matrix is drawn from N(0, std²)."""

    name: Literal["normal"] = "normal"


@INITS.register
class ScaledConfig(InitConfig):
    """Normal, but with std / sqrt(2 · num_layers) for the matrices whose output is added to the residual (GPT-2)."""

    name: Literal["scaled"] = "scaled"

    def residual_output_std(self, num_layers: int) -> float:
        return self.std / math.sqrt(2 * num_layers)
