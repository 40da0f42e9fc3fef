"""The `parallel` section of a config."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from settings import Settings


class ParallelConfig(Settings):
    """How many ranks share what. Data parallelism is what remains of the ranks."""

    tensor: int = Field(1, ge=1, description="ranks that share each matrix")
    pipeline: int = Field(1, ge=1, description="stages the layers are cut into")
    virtual_stages: int = Field(1, ge=1, description="chunks of layers per stage (interleaved 1F1B where more than 1)")
    sequence: bool = Field(
        False, description="cut activations between matrices along the sequence, over the tensor ranks"
    )
    data: int = Field(1, ge=1, description="data ranks that `lehr train` starts; torchrun and srun say it themselves")
    zero: Literal[0, 1, 2, 3] = Field(1, description="what data ranks share: 1 optimizer state, 2 gradients, 3 weights")
    offload: Literal["none", "optimizer"] = Field("none", description="where optimizer state lives: device or host")

    @property
    def ranks(self) -> int:
        """How many processes `lehr train` starts."""
        return self.tensor * self.pipeline * self.data
