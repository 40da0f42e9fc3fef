"""The numbers of one training step that its cost depends on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from model.config import ModelConfig
from model.memory import LayoutSizes
from model.recompute import Recompute
from parallel.config import ParallelConfig


@dataclass(frozen=True)
class StepShape:
    """A model, a layout, and the rows of a step."""

    model: ModelConfig
    layout: LayoutSizes
    seq_length: int
    micro_batch_size: int
    global_batch_size: int
    compiled: bool = True  # whether torch.compile fuses what lies between the products
    mask_bytes: int = 0  # a weight, of transforms of the update
    offload: bool = False  # masters and optimizer state are on the host

    @property
    def ranks(self) -> int:
        """The number of all ranks."""
        return self.layout.tensor * self.layout.pipeline * self.layout.data

    @property
    def micro_batches(self) -> int:
        """The micro-batches of a data rank in a step."""
        return self.global_batch_size // (self.micro_batch_size * self.layout.data)

    @property
    def tokens(self) -> int:
        """The tokens of a micro-batch."""
        return self.micro_batch_size * self.seq_length

    @property
    def global_tokens(self) -> int:
        """The tokens of the global batch."""
        return self.global_batch_size * self.seq_length

    def with_layout(self, parallel: ParallelConfig, *, micro_batch_size: int, recompute: Recompute) -> StepShape:
        """Returns the step in another layout. lehr does not compile under ZeRO 3."""
        layout = replace(
            self.layout,
            tensor=parallel.tensor,
            pipeline=parallel.pipeline,
            virtual_stages=parallel.virtual_stages,
            data=parallel.data,
            zero=parallel.zero,
            sequence=parallel.sequence,
            recompute=recompute,
        )
        compiled = self.compiled and parallel.zero < 3
        return replace(self, layout=layout, micro_batch_size=micro_batch_size, compiled=compiled)
