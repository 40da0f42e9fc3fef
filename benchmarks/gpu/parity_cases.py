"""The cases whose losses are compared: each is a short run of one small model, the same on every device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from model.config import ModelConfig
from optim.optimizer import OPTIMIZERS

ROWS, MICRO_BATCH, VOCABULARY = 8, 4, 1024


@dataclass(frozen=True)
class Sizes:
    """The model of all cases, and their rows and steps."""

    hidden_size: int = 192
    seq_length: int = 256
    steps: int = 8

    def model(self) -> ModelConfig:
        """Returns a model of four layers with grouped queries."""
        return ModelConfig(
            num_layers=4,
            hidden_size=self.hidden_size,
            num_heads=6,
            num_kv_heads=2,
            ffn_size=self.hidden_size * 8 // 3,
            vocab_size=VOCABULARY,
            tied_embeddings=True,
        )


SIZES = {"full": Sizes(), "tiny": Sizes(hidden_size=48, seq_length=48, steps=2)}


@dataclass(frozen=True)
class Case:
    """A run, and what its losses are compared with on a GPU: the same case on the CPU, or another case."""

    compute: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "adamw"
    parallel: dict[str, Any] = field(default_factory=dict)
    documents: bool = True
    against: str = "CPU"

    @property
    def compiled(self) -> bool:
        """Returns whether the tiny form leaves the case out: a CPU compiles for half a minute."""
        return bool(self.compute.get("compile"))


_BFLOAT16 = {"precision": "bfloat16"}
CASES = {
    "float32": Case(),
    "float32 again": Case(against="float32"),
    "float32 compiled": Case({"compile": True}, against="float32"),
    "bfloat16": Case(_BFLOAT16),
    "bfloat16 again": Case(_BFLOAT16, against="bfloat16"),
    "bfloat16 compiled": Case({**_BFLOAT16, "compile": True}, against="bfloat16"),
    "bfloat16 cross-entropy of torch": Case({**_BFLOAT16, "cross_entropy": "torch"}, against="bfloat16"),
    "bfloat16 without documents": Case(_BFLOAT16, documents=False),
    "bfloat16 recompute selective": Case({**_BFLOAT16, "recompute": "selective"}, against="bfloat16"),
    "bfloat16 recompute full": Case({**_BFLOAT16, "recompute": "full"}, against="bfloat16"),
    **{f"float32 {name}": Case(optimizer=name) for name in OPTIMIZERS.names() if name != "adamw"},
    **{f"float32 ZeRO {zero}": Case(parallel={"zero": zero}, against="float32") for zero in (0, 2, 3)},
    "float32 offload": Case(parallel={"offload": "optimizer"}, against="float32"),
}
