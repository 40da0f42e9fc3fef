"""Published training speeds as steps that `lehr plan` can estimate: plan_rows.csv, and its division into two halves."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from model.config import ModelConfig
from model.memory import LayoutSizes
from model.size import non_embedding_parameters
from parallel.planning.machine_file import Efficiencies, MachineConfig, load_machine
from parallel.planning.shape import StepShape
from parallel.planning.step_time import step_time

ROWS = Path(__file__).with_name("plan_rows.csv")
GIB = 2**30
_MPT = {
    **{"125m": (12, 768, 12), "350m": (24, 1024, 16), "760m": (24, 1536, 12), "1b": (24, 2048, 16)},
    **{"3b": (32, 2560, 20), "7b": (32, 4096, 32), "13b": (40, 5120, 40), "30b": (48, 7168, 56), "70b": (80, 8192, 64)},
}
_MEGATRON_2021 = {
    **{"1.7B": (24, 2304, 24), "3.6B": (30, 3072, 32), "7.5B": (36, 4096, 32), "18.4B": (40, 6144, 48)},
    **{"39.1B": (48, 8192, 64), "76.1B": (60, 10240, 80), "145.6B": (80, 12288, 96), "310.1B": (96, 16384, 128)},
    **{"529.6B": (105, 20480, 128), "1008.0B": (128, 25600, 160)},
}
_MEGATRON_2022 = {"22B": (48, 6144, 64), "175B": (96, 12288, 96), "530B": (105, 20480, 128), "1T": (128, 25600, 160)}
_LLAMA: dict[str, tuple[int, int, int, int, int, int]] = {  # layers, hidden, heads, kv heads, FFN, vocabulary
    "llama2-7b": (32, 4096, 32, 32, 11008, 32000),
    "llama2-13b": (40, 5120, 40, 40, 13824, 32000),
    "llama2-34b": (48, 8192, 64, 8, 22016, 32000),
    "llama2-70b": (80, 8192, 64, 8, 28672, 32000),
    "llama3-70b": (80, 8192, 64, 8, 28672, 128256),
}
_LEHR = {"160M": (12, 768, 12, 2048), "410M": (24, 1024, 16, 2816), "1.3B": (24, 2048, 16, 5632)}


@dataclass(frozen=True)
class PublishedRow:
    """One published configuration, with its speed and memory where they are published."""

    name: str
    source: str
    gpu: str
    step: StepShape
    tokens_per_second_per_gpu: float | None
    between_bytes_per_second: float
    memory_bytes: float | None

    @property
    def is_of_the_fit(self) -> bool:
        """True if the efficiencies are fitted on this row. The rows of lehr are in neither half."""
        return self.source != "lehr" and hashlib.sha256(self.name.encode()).digest()[0] % 2 == 0

    @property
    def seconds(self) -> float:
        """The published time of a step."""
        assert self.tokens_per_second_per_gpu is not None
        return self.step.global_tokens / (self.tokens_per_second_per_gpu * self.step.ranks)

    def machine(self, efficiency: Efficiencies | None = None) -> MachineConfig:
        """Returns the machine with this row's link between nodes, and other efficiencies if they are given."""
        machine = _machine(self.gpu)
        link = machine.between_bandwidth.model_copy(update={"value": self.between_bytes_per_second})
        changes: dict[str, Any] = {"between_bandwidth": link}
        return machine.model_copy(update=changes | ({} if efficiency is None else {"efficiency": efficiency}))

    def predicted_seconds(self, efficiency: Efficiencies | None = None) -> float:
        """Returns the time of a step by the plan's arithmetic."""
        return step_time(self.step, self.machine(efficiency)).total

    def mfu(self, seconds: float) -> float:
        """Returns the MFU of a step in percent, with attention in full, as the sources count it."""
        model, step = self.step.model, self.step
        attention = 12 * model.num_layers * model.hidden_size * step.seq_length
        flops = step.global_tokens * (6 * matrix_parameters(model) + attention)
        return 100 * flops / (seconds * step.ranks * _machine(self.gpu).peak("bfloat16"))


@cache
def _machine(gpu: str) -> MachineConfig:
    return load_machine(gpu)


def matrix_parameters(model: ModelConfig) -> int:
    """Counts what a token is multiplied with: the matrices of the blocks, and the head."""
    return non_embedding_parameters(model) + model.vocabulary * model.hidden_size


def read_rows() -> list[PublishedRow]:
    """Reads plan_rows.csv."""
    with ROWS.open(encoding="utf-8", newline="") as file:
        return [_row(plain) for plain in csv.DictReader(file)]


def model_named(name: str) -> ModelConfig:
    """Returns the config of a published model."""
    family, _, size = name.partition("-")
    if family in ("mpt", "megatron"):
        layers, hidden, heads = (
            _MPT[size] if family == "mpt" else (_MEGATRON_2021 | _MEGATRON_2022)[size.partition("-")[2]]
        )
        plain = {
            **{"num_layers": layers, "hidden_size": hidden, "num_heads": heads, "ffn_size": 4 * hidden},
            **{"norm": "layernorm", "mlp": "gelu", "position": "learned", "bias": True, "tied_embeddings": True},
            "vocab_size": 50368 if family == "mpt" else 51200,
        }
    elif family == "lehr":
        layers, hidden, heads, ffn = _LEHR[size]
        plain = {
            **{"num_layers": layers, "hidden_size": hidden, "num_heads": heads, "ffn_size": ffn},
            **{"vocab_size": 50304, "tied_embeddings": True},
        }
    else:
        keys = ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "ffn_size", "vocab_size")
        plain = dict(zip(keys, _LLAMA[name], strict=True))
    return ModelConfig.model_validate(plain)


def _row(plain: dict[str, str]) -> PublishedRow:
    numbers = {key: int(plain[key]) for key in ("tensor", "pipeline", "virtual_stages", "zero")}
    gpus, recompute = int(plain["gpus"]), plain["recompute"]
    assert recompute in ("none", "full")
    layout = LayoutSizes(
        **numbers,
        data=gpus // (numbers["tensor"] * numbers["pipeline"]),
        sequence=plain["sequence"] == "true",
        bfloat16=True,
        device_type="cuda",
        fused_loss=False,  # no source says that it had one
    )
    step = StepShape(
        model=model_named(plain["model"]),
        layout=replace(layout, recompute="full" if recompute == "full" else "none"),
        seq_length=int(plain["seq_length"]),
        micro_batch_size=int(plain["micro_batch_size"]),
        global_batch_size=int(plain["global_batch_size"]),
    )
    speed, memory = plain["tokens_per_second_per_gpu"], plain["memory_gib"]
    return PublishedRow(
        name=plain["name"],
        source=plain["source"],
        gpu=plain["gpu"],
        step=step,
        tokens_per_second_per_gpu=float(speed) if speed else None,
        between_bytes_per_second=float(plain["between_bytes_per_second"]),
        memory_bytes=float(memory) * GIB if memory else None,
    )
