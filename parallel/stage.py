"""A chunk of the model as Megatron's pipeline schedules see it, and the micro-batch it is fed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import parallel.patches.before_megatron  # noqa: F401

# isort: split
from megatron.core.enums import ModelType
from megatron.core.transformer import TransformerConfig

from model.attention import Attend, AttentionMask
from model.config import ModelConfig
from model.layers import Layers, TorchLayers
from model.recompute import Recompute
from model.size import layers_per_chunk
from model.transformer import Transformer
from parallel.config import ParallelConfig
from parallel.layers import MegatronLayers
from parallel.mesh import Mesh


@dataclass(frozen=True)
class MicroBatch:
    """B rows of T tokens. `weights_BT` is 1 / (unmasked tokens of the whole global batch), or 0 where masked."""

    tokens_BT: Tensor
    targets_BT: Tensor
    weights_BT: Tensor
    positions_BT: Tensor
    documents: AttentionMask | None


class Stage(nn.Module):
    """One chunk of layers. The last chunk's output is its micro-batch's part of the loss, the others' the residual."""

    def __init__(
        self, transformer: Transformer, config: TransformerConfig, *, last: bool, vp_stage: int | None
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.last = last
        # What Megatron's schedules look for:
        self.config = config
        self.model_type = ModelType.encoder_or_decoder
        self.vp_stage = vp_stage
        self._received: Tensor | None = None

    def set_input_tensor(self, tensor: Tensor | list[Tensor | None] | None) -> None:
        """Called by the schedule with what the previous stage sent, None on the first."""
        self._received = tensor[0] if isinstance(tensor, list) else tensor

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor | None]:
        """(output, nll): on the last chunk (weighted loss, summed nll of unmasked tokens), else (x_tBD, None)."""
        x_tBD = self.transformer(batch.tokens_BT, batch.documents, batch.positions_BT, self._received)
        if not self.last:
            return x_tBD, None
        sums = self.transformer.loss(x_tBD, batch.targets_BT, batch.weights_BT)
        return sums.total, sums.nll


def build_stages(
    model: ModelConfig,
    parallel: ParallelConfig,
    mesh: Mesh,
    *,
    seq_length: int,
    attend: Attend,
    recompute: Recompute,
    dtype: torch.dtype,
) -> list[Stage]:
    """This rank's chunks in float32, without initial values. `dtype` is that of what stages send each other."""
    config = megatron_config(model, parallel, dtype)
    layers: Layers = MegatronLayers(config, mesh.tensor) if parallel.tensor > 1 else TorchLayers()
    ranges = layers_per_chunk(model.num_layers, parallel.pipeline * parallel.virtual_stages)
    stages = []
    for virtual in range(parallel.virtual_stages):
        chunk = virtual * parallel.pipeline + mesh.pipeline.rank
        last = chunk == len(ranges) - 1
        transformer = Transformer(
            model,
            seq_length=seq_length,
            layers=layers,
            attend=attend,
            layer_range=ranges[chunk],
            first=chunk == 0,
            last=last,
            recompute=recompute,
        ).to(mesh.device)
        vp_stage = virtual if parallel.virtual_stages > 1 else None
        stages.append(Stage(transformer, config, last=last, vp_stage=vp_stage))
    return stages


def megatron_config(model: ModelConfig, parallel: ParallelConfig, dtype: torch.dtype) -> TransformerConfig:
    """What Megatron's layers and schedules read: sizes, the layout, the type of what stages send each other."""
    interleaved = parallel.virtual_stages > 1
    options: dict[str, Any] = {"virtual_pipeline_model_parallel_size": parallel.virtual_stages} if interleaved else {}
    return TransformerConfig(
        # One a chunk: Megatron wants it divisible, for a model of its own that is not built here.
        num_layers=parallel.pipeline * parallel.virtual_stages,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_heads,
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        sequence_parallel=parallel.sequence and parallel.tensor > 1,
        use_cpu_initialization=not torch.cuda.is_available(),
        perform_initialization=False,
        params_dtype=torch.float32,  # the engines round, and keep what they have rounded
        pipeline_dtype=dtype,
        gradient_accumulation_fusion=False,
        cuda_graph_scope=[],
        # The loss is weighted by its caller, so that every unmasked token of the global batch counts the same.
        calculate_per_token_loss=True,
        # Where two stages are each other's next and previous, batched messages would be taken for one another.
        batch_p2p_comm=not interleaved,
        **options,
    )
