"""The `parallel` section of a config."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from settings import Settings

_MOST_RANKS = 2**20  # a larger number is a typing error


class ParallelConfig(Settings):
    """How many ranks share each part of a run. Data parallelism takes the remaining ranks."""

    tensor: int = Field(1, ge=1, description="ranks that share each matrix")
    pipeline: int = Field(1, ge=1, description="stages the layers are cut into")
    virtual_stages: int = Field(1, ge=1, description="chunks of layers per stage (interleaved 1F1B where more than 1)")
    sequence: bool = Field(
        False, description="cut activations between matrices along the sequence, over the tensor ranks"
    )
    data: int = Field(1, ge=1, description="data ranks that `lehr train` starts; torchrun and srun say it themselves")
    zero: Literal[0, 1, 2, 3] = Field(1, description="what data ranks share: 1 optimizer state, 2 gradients, 3 weights")
    offload: Literal["none", "optimizer"] = Field("none", description="where optimizer state lives: device or host")

    @model_validator(mode="after")
    def _machine_exists(self) -> ParallelConfig:
        if self.ranks > _MOST_RANKS:
            raise ValueError(f"tensor x pipeline x data = {self.ranks} must be at most {_MOST_RANKS} ranks")
        return self

    @property
    def ranks(self) -> int:
        """The number of processes that `lehr train` starts."""
        return self.tensor * self.pipeline * self.data
