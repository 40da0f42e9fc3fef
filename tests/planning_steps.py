"""A small step on a machine of round figures, whose costs can be worked out by hand."""

from __future__ import annotations

from typing import Any

from model.config import ModelConfig
from model.memory import LayoutSizes
from parallel.planning.machine_file import MachineConfig
from parallel.planning.shape import StepShape

MODEL = ModelConfig(
    num_layers=8, hidden_size=64, num_heads=4, num_kv_heads=2, ffn_size=160, vocab_size=256, tied_embeddings=True
)


def step_of(*, seq_length: int = 32, rows: int = 2, global_rows: int = 64, **layout: Any) -> StepShape:
    """Returns a step in bfloat16 on GPUs."""
    sizes = LayoutSizes(**{"bfloat16": True, "device_type": "cuda", "fused_loss": True, **layout})
    return StepShape(MODEL, sizes, seq_length=seq_length, micro_batch_size=rows, global_batch_size=global_rows)


def machine_of(*, efficiency: float = 1.0, **figures: float) -> MachineConfig:
    """Returns a machine with 8 GPUs a node; figures that are not given are so large that they cost nothing."""
    values = {
        **{"memory_bytes": 1e12, "memory_bandwidth": 1e30, "kernel_seconds": 1e-30, "gpus_per_node": 8},
        **{"inside_bandwidth": 1e30, "between_bandwidth": 1e30, "watts": 500, **figures},
    }
    peak = values.pop("peak", 1e30)
    plain: dict[str, Any] = {key: {"value": value, "source": "made up"} for key, value in values.items()}
    names = ("products", "attention", "memory", "inside", "between")
    return MachineConfig.model_validate(
        {
            **plain,
            "name": "made up",
            "peak_flops": {name: {"value": peak, "source": "made up"} for name in ("bfloat16", "float32")},
            "efficiency": {**dict.fromkeys(names, efficiency), "source": "made up"},
        }
    )
