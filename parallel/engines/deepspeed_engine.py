"""The engine of ZeRO 2 and 3, by DeepSpeed: gradients and weights in flat partitions over the data ranks.

DeepSpeed partitions, reduces and clips; the weights are updated by lehr's own optimizer (torch_optimizer_adapter.py).
Only element-wise optimizers can update flat partitions. And there is no pipeline: DeepSpeed reduces gradients in every
backward pass, of which a pipeline schedule has many at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from parallel.chunk import MicroBatch
from parallel.engines.deepspeed_setup import ModelParallelUnit, deepspeed_config, import_deepspeed
from parallel.engines.engine import EngineInputs, HeldBytes, Slice, StepResult, held_bytes
from parallel.engines.gradient_clipping import deepspeed_norm, deepspeed_norm_within_step
from parallel.engines.torch_optimizer_adapter import TorchOptimizerAdapter
from parallel.engines.zero_partitions import gather_partitions, write_partition
from parallel.parameter_shards import ParameterShard
from parallel.patches.uncompiled import without_torch_compile
from parallel.schedule import run_micro_batches
from parallel.spans import span


class DeepSpeedEngine:
    """A DeepSpeed engine of one stage. The number of micro-batches of a step is fixed, since DeepSpeed counts them."""

    def __init__(self, inputs: EngineInputs) -> None:
        deepspeed = import_deepspeed()
        (self._chunk,) = inputs.chunks
        self._shards, self._mesh = inputs.shards, inputs.mesh
        self._micro_batches = inputs.micro_batches
        self._shapes = {shard.name: tuple(shard.parameter.shape) for shard in inputs.shards}  # lost under ZeRO 3
        self._sum_partial_gradients_in_backward()
        self._optimizer = TorchOptimizerAdapter(inputs.shards, inputs.optimizer)
        rounded = inputs.shards if inputs.dtype != torch.float32 else ()
        initial = [(shard.parameter, shard.parameter.detach().cpu()) for shard in rounded]
        with without_torch_compile():  # DeepSpeed imports optimizers of its own, to compare the given one with them
            self._engine, *_ = deepspeed.initialize(
                model=self._chunk,
                optimizer=self._optimizer,
                mpu=ModelParallelUnit(inputs.mesh),
                dist_init_required=False,
                config=deepspeed_config(inputs),
            )
        self._optimizer.grad_norm = lambda: deepspeed_norm_within_step(self._engine)
        self._allocate_state(inputs.zero)
        for parameter, weight in initial:  # DeepSpeed makes its float32 masters from weights that it has rounded
            write_partition(weight, parameter, None, inputs.mesh.data)
        self._loading: dict[str, Slice] = {}

    @property
    def optimizer_steps(self) -> int:
        return self._optimizer.steps

    def train_step(self, micro_batches: Sequence[MicroBatch], *, lr: float) -> StepResult:
        assert len(micro_batches) == self._micro_batches
        # The loss is weighted by the tokens of the global batch. DeepSpeed takes means over data ranks and
        # micro-batches; this factor turns them into sums.
        scale = float(self._mesh.data.size * self._micro_batches)
        self._optimizer.begin_train_step(lr)
        nll_sum = torch.zeros((), dtype=torch.float64, device=self._mesh.device)
        for batch in micro_batches:
            with span("forward"):
                total, nll = self._engine(batch)
                nll_sum += nll
            with span("backward"):  # DeepSpeed reduces gradients within
                self._engine.backward(total * scale)
            with span("update"):  # after the last micro-batch; before it, DeepSpeed only counts
                self._engine.step()
        norm = deepspeed_norm(self._engine)
        updated = self._optimizer.end_train_step()
        return StepResult(self._sum_over_data(nll_sum), norm, skipped=not updated)

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> float:
        return self._sum_over_data(run_micro_batches([self._chunk], micro_batches, backward=False).double())

    def state(self, *, saving: bool) -> dict[str, Slice]:
        slices: dict[str, Slice] = {}
        for shard in self._shards:
            for key, moment in self._keys(shard):
                if not saving:  # on the host: the device has no room for all of them in full
                    slices[key] = Slice(torch.zeros(self._shapes[shard.name]), shard.dim)
                    continue
                value = gather_partitions(shard.parameter, moment)
                if self._mesh.data.rank == 0:
                    slices[key] = Slice(value.cpu(), shard.dim)
                del value  # before the next one is gathered
        if not saving:
            self._loading = slices
        return slices

    def loaded(self, *, optimizer_steps: int) -> None:
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        for shard in self._shards:
            for key, moment in self._keys(shard):
                write_partition(self._loading[key].tensor, shard.parameter, moment, self._mesh.data)
            # This has written the masters. DeepSpeed copies them to the weights of forward only after a step.
            with torch.no_grad(), GatheredParameters([shard.parameter], modifier_rank=0):
                shard.parameter.copy_(self._loading[f"model.{shard.name}"].tensor)
        self._loading = {}
        self._optimizer.steps = optimizer_steps

    def replicated_weights(self) -> dict[str, Tensor]:
        # ZeRO 3 shards all weights but small ones, which it calls persistent.
        whole = [shard for shard in self._shards if getattr(shard.parameter, "ds_persist", True)]
        return {shard.name: shard.parameter.data for shard in whole}

    def held_bytes(self) -> HeldBytes:
        inner, moments = self._engine.optimizer, self._optimizer.state
        # Under ZeRO 3 this rank's part of a weight is beside the parameter, which is empty between uses, and one buffer
        # has all gradients. Under ZeRO 2 the sums of each group are a list, which is freed after the step.
        flat_gradients = getattr(inner, "grad_partitions_flat_buffer", None)
        parts = inner.averaged_gradients.values() if flat_gradients is None else [[flat_gradients]]
        return held_bytes(
            self._mesh.device,
            weights=[getattr(shard.parameter, "ds_tensor", shard.parameter) for shard in self._shards],
            gradients=[gradient for part in parts if part is not None for gradient in part],
            optimizer=[*moments, *(moment for of_master in moments.values() for moment in of_master.values())],
        )

    def _keys(self, shard: ParameterShard) -> list[tuple[str, str | None]]:
        """Returns (checkpoint name, moment) of a parameter's master, whose moment is None, and of its moments."""
        moments = [(f"optimizer.{shard.name}.{moment}", moment) for moment in self._optimizer.moments]
        return [(f"model.{shard.name}", None), *moments]

    def _allocate_state(self, zero: int) -> None:
        """Allocates optimizer state, so that it can be loaded before the first step, when DeepSpeed would do it."""
        inner = self._engine.optimizer
        if zero == 2:
            for group in self._optimizer.param_groups:
                self._optimizer.allocate(group["params"], group["rule"])
            inner._lazy_init_hp_params_optimizer_state()
        else:
            for index, flat_shard in enumerate(inner.fp32_partitioned_groups_flat):
                group = self._optimizer.param_groups[inner.sub_group_to_group_id[index]]
                self._optimizer.allocate([flat_shard], group["rule"])

    def _sum_partial_gradients_in_backward(self) -> None:
        """Sums gradients of which each tensor rank holds a part, before DeepSpeed's hooks take them."""
        group = self._mesh.tensor.group

        def summed(gradient: Tensor) -> Tensor:
            total = gradient.contiguous().clone()
            dist.all_reduce(total, group=group)
            return total

        for shard in self._shards:
            if shard.partial:
                shard.parameter.register_hook(summed)

    def _sum_over_data(self, nll: Tensor) -> float:
        with span("reduction"):
            dist.all_reduce(nll, group=self._mesh.data.group)
        return float(nll)
