"""The `parallel` section of a config."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from settings import Settings, may_change

_MOST_RANKS = 2**20  # a larger number is a typing error


class ParallelConfig(Settings):
    """How many ranks share each part of a run. Data parallelism takes the remaining ranks."""

    model_config = ConfigDict(json_schema_extra=may_change("any layout gives the same run"))

    tensor: int = Field(1, ge=1, description="Ranks that share each matrix (tensor parallelism).")
    pipeline: int = Field(1, ge=1, description="Stages that the layers are divided into (pipeline parallelism).")
    virtual_stages: int = Field(
        1, ge=1, description="Chunks of layers of each stage; more than 1 means the interleaved 1F1B schedule."
    )
    sequence: bool = Field(
        False,
        description="Whether the activations between matrices are sharded along the sequence, over the tensor ranks "
        "(sequence parallelism).",
    )
    data: int = Field(
        1,
        ge=1,
        description="Data ranks that `lehr train` starts; under torchrun and srun it follows from their number of "
        "processes.",
    )
    zero: Literal[0, 1, 2, 3] = Field(
        1,
        description="What is sharded over the data ranks: 0 nothing, 1 the optimizer state, 2 also the gradients, "
        "3 also the weights.",
    )
    offload: Literal["none", "optimizer"] = Field(
        "none",
        description="What is held in the memory of the host: nothing (none), or the optimizer state (optimizer).",
    )

    @model_validator(mode="after")
    def _machine_exists(self) -> ParallelConfig:
        if self.ranks > _MOST_RANKS:
            raise ValueError(f"tensor x pipeline x data = {self.ranks} must be at most {_MOST_RANKS} ranks")
        return self

    @property
    def ranks(self) -> int:
        """The number of processes that `lehr train` starts."""
        return self.tensor * self.pipeline * self.data

    @property
    def can_drop_step(self) -> bool:
        """Says whether a step can be dropped between two micro-batches.

        Under a pipeline several micro-batches are always in flight. Under ZeRO 2 and 3 DeepSpeed reduces gradients in
        every backward pass, and counts the micro-batches of a step.
        """
        return self.pipeline == 1 and self.zero < 2
