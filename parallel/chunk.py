"""A pipeline chunk: consecutive layers as Megatron's schedules see them, and the micro-batch that they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import parallel.patches.before_megatron  # noqa: F401

# isort: split
from megatron.core.enums import ModelType
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig

from model.attention import Attend, AttentionMask
from model.config import ModelConfig
from model.layers import Layers, TorchLayers
from model.loss_kernels import LossKernel, torch_loss
from model.recompute import Recompute
from model.size import layers_per_chunk
from model.transformer import Transformer
from parallel.compute_timer import ComputeTimer
from parallel.config import ParallelConfig
from parallel.layers import MegatronLayers
from parallel.mesh import Mesh
from parallel.spans import MegatronTimers


@dataclass(frozen=True)
class MicroBatch:
    """B rows of T tokens. `weights_BT` is 1 / (unmasked tokens of the global batch), or 0 where masked."""

    tokens_BT: Tensor
    targets_BT: Tensor
    weights_BT: Tensor
    positions_BT: Tensor
    attention_mask: AttentionMask | None


class PipelineChunk(nn.Module):
    """Consecutive layers on one pipeline rank, which has one chunk, or `parallel.virtual_stages` under interleaving.

    The last chunk returns its micro-batch's part of the loss, the others return the residual stream.
    """

    def __init__(
        self,
        transformer: Transformer,
        config: TransformerConfig,
        groups: ProcessGroupCollection,
        compute_timer: ComputeTimer,
        *,
        last: bool,
        vp_stage: int | None,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.groups = groups
        self.compute_timer = compute_timer
        self.last = last
        # Attributes that Megatron's schedules look for:
        self.config = config
        self.model_type = ModelType.encoder_or_decoder
        self.vp_stage = vp_stage
        self._received: Tensor | None = None

    def set_input_tensor(self, tensor: Tensor | list[Tensor | None] | None) -> None:
        """Takes what the previous chunk sent, or None on the first. The schedule calls it."""
        self._received = tensor[0] if isinstance(tensor, list) else tensor

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor | None]:
        """Returns (weighted loss, summed nll of unmasked tokens) on the last chunk, else (x_tBD, None)."""
        with self.compute_timer.measured():
            x_tBD = self.transformer(batch.tokens_BT, batch.attention_mask, batch.positions_BT, self._received)
            if not self.last:
                return x_tBD, None
            sums = self.transformer.loss(x_tBD, batch.targets_BT, batch.weights_BT)
            return sums.total, sums.nll


def pipeline_chunks(
    model: ModelConfig,
    parallel: ParallelConfig,
    mesh: Mesh,
    *,
    seq_length: int,
    attend: Attend,
    recompute: Recompute,
    dtype: torch.dtype,
    loss_kernel: LossKernel = torch_loss,
) -> list[PipelineChunk]:
    """Builds this rank's chunks on the meta device. `dtype` is that of activations between stages."""
    compute_timer = ComputeTimer(mesh.device)
    config, groups = megatron_config(model, parallel, dtype, compute_timer), megatron_groups(mesh)
    layers = layers_of(model, parallel, mesh, dtype=dtype)
    ranges = layers_per_chunk(model.num_layers, parallel.pipeline * parallel.virtual_stages)
    chunks = []
    for virtual in range(parallel.virtual_stages):
        position = virtual * parallel.pipeline + mesh.pipeline.rank
        last = position == len(ranges) - 1
        with torch.device("meta"):
            transformer = Transformer(
                model,
                seq_length=seq_length,
                layers=layers,
                attend=attend,
                loss_kernel=loss_kernel,
                layer_range=ranges[position],
                first=position == 0,
                last=last,
                recompute=recompute,
            )
        assert not [*transformer.buffers()], "a buffer would have no values: compute it in the forward pass"
        vp_stage = virtual if parallel.virtual_stages > 1 else None
        chunks.append(PipelineChunk(transformer, config, groups, compute_timer, last=last, vp_stage=vp_stage))
    return chunks


class _OneRank:
    """An axis that this mesh does not have, as Megatron's schedules see it: they ask for the size only."""

    def size(self) -> int:
        return 1


def megatron_groups(mesh: Mesh) -> ProcessGroupCollection:
    """Returns the process groups that Megatron's schedules ask for. Embeddings and gradients are the engines' task."""
    return ProcessGroupCollection(
        tp=mesh.tensor.group, pp=mesh.pipeline.group, cp=_OneRank(), embd=None, pos_embd=None, dp_cp=mesh.data.group
    )


def layers_of(model: ModelConfig, parallel: ParallelConfig, mesh: Mesh, *, dtype: torch.dtype) -> Layers:
    """Returns the layers from which this rank's part of the model is built."""
    if parallel.tensor == 1:
        return TorchLayers()
    return MegatronLayers(megatron_config(model, parallel, dtype, ComputeTimer(mesh.device)), mesh.tensor)


def megatron_config(
    model: ModelConfig, parallel: ParallelConfig, dtype: torch.dtype, compute_timer: ComputeTimer
) -> TransformerConfig:
    """Returns what Megatron's layers and schedules read: sizes, the layout, the dtype of activations between stages."""
    interleaved = parallel.virtual_stages > 1
    options: dict[str, Any] = {"virtual_pipeline_model_parallel_size": parallel.virtual_stages} if interleaved else {}
    return TransformerConfig(
        # One per chunk: Megatron requires a multiple of the chunks, for its own model, which is not built here.
        num_layers=parallel.pipeline * parallel.virtual_stages,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_heads,
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        sequence_parallel=parallel.sequence and parallel.tensor > 1,
        use_cpu_initialization=True,  # no device is named then, so that they are built on the meta device
        perform_initialization=False,
        params_dtype=torch.float32,  # the engines round the weights, and keep float32 masters
        pipeline_dtype=dtype,
        gradient_accumulation_fusion=False,
        cuda_graph_scope=[],
        # The loss is weighted by its caller, so that every unmasked token of the global batch counts the same.
        calculate_per_token_loss=True,
        # With two stages, each is both the next and the previous one: batched messages would be confused.
        batch_p2p_comm=not interleaved,
        timers=MegatronTimers(compute_timer),
        **options,
    )
