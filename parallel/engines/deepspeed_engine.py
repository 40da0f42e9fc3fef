"""The engine of ZeRO 2 and 3, by DeepSpeed: gradients and weights in flat partitions over the data ranks.

DeepSpeed partitions, reduces and clips; the weights are updated by lehr's own optimizer (torch_optimizer_adapter.py).
Only element-wise optimizers can update flat partitions. And there is no pipeline: DeepSpeed reduces gradients in every
backward pass, of which a pipeline schedule has many at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from optim.parameters import Param
from optim.transforms.base import TransformInputs
from optim.transforms.chain import TransformChain
from parallel.chunk import MicroBatch
from parallel.engines import gradient_clipping
from parallel.engines.deepspeed_setup import (
    ModelParallelUnit,
    allocate_weights,
    deepspeed_config,
    import_deepspeed,
)
from parallel.engines.engine import EngineInputs, HeldBytes, StepResult, held_bytes
from parallel.engines.slices import FlatSlice, Slice
from parallel.engines.tensor_ranks import TensorAxisRanks, sum_over_world
from parallel.engines.torch_optimizer_adapter import TorchOptimizerAdapter
from parallel.engines.zero_partitions import ZeroPartitions
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
        config, unit = deepspeed_config(inputs), ModelParallelUnit(inputs.mesh)
        with without_torch_compile():  # DeepSpeed imports optimizers of its own, to compare the given one with them
            allocate_weights(inputs, config, unit)
            self._sum_partial_gradients_in_backward()
            self._optimizer = TorchOptimizerAdapter(inputs.shards, inputs.optimizer)
            self._engine, *_ = deepspeed.initialize(
                model=self._chunk, optimizer=self._optimizer, mpu=unit, dist_init_required=False, config=config
            )
        self._optimizer.grad_norm = lambda: gradient_clipping.deepspeed_norm_within_step(self._engine)
        self._zero = inputs.zero
        self._allocate_state()
        self._partitions = ZeroPartitions(
            {shard.name: shard.parameter for shard in inputs.shards},
            [math.prod(shape) for shape in self._shapes.values()],
            inputs.mesh,
        )
        self._transforms = self._build_transforms(inputs)

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
        norm = gradient_clipping.deepspeed_norm(self._engine)
        updated = self._optimizer.end_train_step()
        return StepResult(
            self._sum_over_data(nll_sum),
            norm,
            skipped=not updated,
            diagnostics=self._transforms.metrics(),
            zeroed_weights=self._transforms.zeroed_weights,
        )

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> float:
        return self._sum_over_data(run_micro_batches([self._chunk], micro_batches, backward=False).double())

    def state(self, *, saving: bool) -> dict[str, Slice]:
        slices: dict[str, Slice] = {}
        of_transforms: dict[str, dict[str, Tensor]] = {}  # by parameter
        for key, value in self._transforms.state().items():
            of_transforms.setdefault(key.rpartition(".")[0], {})[f"optimizer.{key}"] = value.tensor
        for shard in self._shards:
            shape = self._shapes[shard.name]
            for key, part in {**self._parts(shard), **of_transforms.get(shard.name, {})}.items():
                if not saving:
                    if len(part):
                        slices[key] = FlatSlice(part, shard.dim, self._partitions.start_of(shard.name), shape)
                elif (full := self._partitions.gather(shard.name, part)) is not None:
                    # On the host: the device has no room for all of them.
                    slices[key] = Slice(full.view(shape).cpu(), shard.dim)
                    del full  # before the next one is gathered
        return slices

    def loaded(self, *, optimizer_steps: int) -> None:
        # The masters have been written. DeepSpeed copies them to the weights of forward only after a step.
        inner = self._engine.optimizer
        if self._zero == 2:
            inner.update_lp_params()
        else:
            for parameter in inner.persistent_parameters:  # small ones, which are held in full too
                parameter.partition()
            for sub_group in range(len(inner.fp32_partitioned_groups_flat)):
                inner._reassign_or_swap_out_partitioned_parameters(sub_group)
        self._optimizer.steps = optimizer_steps

    def replicated_weights(self) -> dict[str, Tensor]:
        # ZeRO 3 shards all weights but small ones, which it calls persistent.
        whole = [shard for shard in self._shards if getattr(shard.parameter, "ds_persist", True)]
        return {shard.name: shard.parameter.data for shard in whole}

    def held_bytes(self) -> HeldBytes:
        inner, moments = self._engine.optimizer, self._optimizer.state
        # Under ZeRO 3 this rank's part of a weight is beside the parameter, which is empty between uses. One buffer has
        # all gradients, another one those that are being reduced. Under ZeRO 2 both are freed after the step.
        flat_gradients = getattr(inner, "grad_partitions_flat_buffer", None)
        parts = inner.averaged_gradients.values() if flat_gradients is None else [[flat_gradients]]
        reduced = [bucket.buffer for bucket in inner.ipg_buckets.values() if isinstance(bucket.buffer, Tensor)]
        return held_bytes(
            self._mesh.device,
            weights=[getattr(shard.parameter, "ds_tensor", shard.parameter) for shard in self._shards],
            gradients=[*reduced, *(gradient for part in parts if part is not None for gradient in part)],
            optimizer=[*moments, *(moment for of_master in moments.values() for moment in of_master.values())],
        )

    def _parts(self, shard: ParameterShard) -> dict[str, Tensor]:
        """Returns this rank's range of a parameter's master and of its moments, by checkpoint name."""
        view, name = self._partitions.view, shard.name
        moments = {f"optimizer.{name}.{moment}": view(name, moment) for moment in self._optimizer.moments}
        return {f"model.{name}": view(name, None), **moments}

    def _build_transforms(self, inputs: EngineInputs) -> TransformChain:
        """Builds the transforms of this rank's ranges; a range may be empty, so that all ranks have the same state."""
        view = self._partitions.view
        ranges = [
            Param(
                name=shard.name,
                weight=view(shard.name, None),
                shape=shard.shape,
                dim=shard.dim,
                counted=gradient_clipping.is_counted(shard, self._mesh, sharded_over_data=True),
                start=self._partitions.start_of(shard.name),
            )
            for shard in inputs.shards
        ]
        transforms = TransformChain.build(
            inputs.optimizer.transforms,
            TransformInputs(
                params=ranges,
                moments={
                    shard.name: [view(shard.name, moment) for moment in self._optimizer.moments]
                    for shard in inputs.shards
                },
                tensor_ranks=TensorAxisRanks(self._mesh.tensor),
                sum_over_ranks=sum_over_world(self._mesh),
                plan=inputs.plan,
            ),
        )
        self._optimizer.transform(transforms, ranges if inputs.optimizer.transforms else ())
        return transforms

    def _allocate_state(self) -> None:
        """Allocates optimizer state, so that it can be loaded before the first step, when DeepSpeed would do it."""
        inner = self._engine.optimizer
        if self._zero == 2:
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
