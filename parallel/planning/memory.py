"""The memory of the fullest rank, part by part: while it is built, in training, and while it saves."""

from __future__ import annotations

from dataclasses import dataclass

from model.memory import RankBytes, logits_bytes, rank_bytes
from parallel.planning.machine_file import MachineConfig
from parallel.planning.shape import StepShape


@dataclass(frozen=True)
class RankMemory:
    """Bytes of the fullest rank. Activations and logits are those of the largest moment of a step."""

    rank: RankBytes
    logits: int
    offloaded: int  # of the optimizer's state, on the host
    on_host: bool  # the device is a CPU, whose memory holds the copies of a save too

    @property
    def training(self) -> int:
        """The most that the device holds in a step."""
        return self.rank.total + self.logits - self.offloaded

    @property
    def build(self) -> int:
        """The most that the device holds while the model and its optimizer are built."""
        return self.rank.build - self.offloaded

    @property
    def saving(self) -> int:
        """The bytes that a save copies into the memory of the host, and keeps there for the next one."""
        return self.rank.saved

    @property
    def device(self) -> int:
        """The most that the device holds at any time."""
        return max(self.build, self.training) + (self.saving if self.on_host else 0)

    def parts(self) -> dict[str, int]:
        """Returns the bytes by name, the names as a table has them."""
        return {
            "weights": self.rank.weights,
            "gradients": self.rank.gradients,
            "optimizer state": self.rank.optimizer - self.offloaded,
            "activations": self.rank.activations,
            "logits": self.logits,
        }


def rank_memory(step: StepShape, machine: MachineConfig) -> RankMemory:
    """Returns the memory of the fullest rank, for an optimizer that keeps two moments a weight."""
    rank = rank_bytes(
        step.model,
        step.layout,
        seq_length=step.seq_length,
        micro_batch_size=step.micro_batch_size,
        micro_batches=step.micro_batches,
        mask_bytes=step.mask_bytes,
    )
    return RankMemory(
        rank=rank,
        logits=logits_bytes(step.model, step.layout, tokens=step.tokens),
        offloaded=rank.optimizer if step.offload and machine.device != "cpu" else 0,
        on_host=machine.device == "cpu",
    )
