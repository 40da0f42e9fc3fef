"""ZeRO 2 and 3 by DeepSpeed: gradients and weights in flat parts over the data ranks, reduced in every backward pass.

DeepSpeed drives the parts; the arithmetic of an update stays lehr's own optimizer, shown to it as a torch optimizer.
Only element-wise optimizers can work on flat parts, and no pipeline fits around a reduction in every backward pass.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from optim.groups import ParamRule, rule_of
from optim.optimizer import Optimizer, OptimizerConfig, Param
from parallel.chunk import MicroBatch, PipelineChunk
from parallel.engines.engine import Slice, StepResult
from parallel.engines.zero_parts import gather, scatter
from parallel.mesh import Mesh
from parallel.parameter_shards import ParameterShard
from parallel.patches.uncompiled import without_torch_compile
from parallel.schedule import run_micro_batches


class DeepSpeedEngine:
    """One stage, ZeRO 2 or 3. `micro_batches` a step are fixed, as DeepSpeed counts them."""

    def __init__(
        self,
        stage: PipelineChunk,
        shards: Sequence[ParameterShard],
        mesh: Mesh,
        optimizer: OptimizerConfig,
        *,
        zero: int,
        offload: bool,
        dtype: torch.dtype,
        micro_batches: int,
    ) -> None:
        deepspeed = _import_deepspeed()
        self._stage = stage
        self._shards = shards
        self._mesh = mesh
        self._micro_batches = micro_batches
        self._shapes = {shard.name: tuple(shard.parameter.shape) for shard in shards}  # ZeRO 3 takes them away
        self._sum_partial_gradients_in_backward()
        self._face = _TorchFace(shards, optimizer)
        rounded = shards if dtype != torch.float32 else ()
        initial = [(shard.parameter, shard.parameter.detach().cpu()) for shard in rounded]
        with without_torch_compile():  # DeepSpeed looks at the optimizer, and imports a compiled one to compare it with
            self._engine, *_ = deepspeed.initialize(
                model=stage,
                optimizer=self._face,
                mpu=_ModelParallelUnit(mesh),
                dist_init_required=False,
                config=_deepspeed_config(
                    zero=zero, offload=offload, dtype=dtype, micro_batches=micro_batches, clip=optimizer.clip_grad_norm
                ),
            )
        # Of this step: the engine's own get_global_grad_norm still gives the last one's while the optimizer steps.
        self._face.grad_norm = lambda: self._engine.optimizer._global_grad_norm
        self._allocate_state(zero)
        for parameter, weight in initial:  # DeepSpeed's masters are made of the weights that it has rounded
            scatter(weight, parameter, None, mesh.data)
        self._loading: dict[str, Slice] = {}

    @property
    def optimizer_steps(self) -> int:
        return self._face.steps

    def train_step(self, micro_batches: Sequence[MicroBatch], *, lr: float) -> StepResult:
        assert len(micro_batches) == self._micro_batches
        # Weights are of the whole global batch: undo DeepSpeed's means over data ranks and micro-batches.
        scale = float(self._mesh.data.size * self._micro_batches)
        self._face.begin(lr)
        nll_sum = torch.zeros((), dtype=torch.float64, device=self._mesh.device)
        for batch in micro_batches:
            total, nll = self._engine(batch)
            nll_sum += nll
            self._engine.backward(total * scale)
            self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        norm = norm if norm >= 0 else math.inf  # DeepSpeed says -1 for infinite
        updated = self._face.end()
        return StepResult(self._over_data(nll_sum), norm, skipped=not updated)

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> float:
        return self._over_data(run_micro_batches([self._stage], micro_batches, backward=False).double())

    def state(self, *, saving: bool) -> dict[str, Slice]:
        slices: dict[str, Slice] = {}
        for shard in self._shards:
            for key, moment in self._keys(shard):
                if not saving:  # on the host, as there is no room on the device for all of them whole
                    slices[key] = Slice(torch.zeros(self._shapes[shard.name]), shard.dim)
                    continue
                value = gather(shard.parameter, moment)
                if self._mesh.data.rank == 0:
                    slices[key] = Slice(value.cpu(), shard.dim)
                del value  # before the next is gathered
        if not saving:
            self._loading = slices
        return slices

    def loaded(self, *, optimizer_steps: int) -> None:
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        for shard in self._shards:
            for key, moment in self._keys(shard):
                scatter(self._loading[key].tensor, shard.parameter, moment, self._mesh.data)
            # DeepSpeed writes the master only; what forward uses follows it at a step, or here.
            with torch.no_grad(), GatheredParameters([shard.parameter], modifier_rank=0):
                shard.parameter.copy_(self._loading[f"model.{shard.name}"].tensor)
        self._loading = {}
        self._face.steps = optimizer_steps

    def _keys(self, shard: ParameterShard) -> list[tuple[str, str | None]]:
        """Of a parameter's master and moments in a checkpoint, each with the moment's name."""
        moments = [(f"optimizer.{shard.name}.{moment}", moment) for moment in self._face.moments]
        return [(f"model.{shard.name}", None), *moments]

    def _allocate_state(self, zero: int) -> None:
        """So that it can be loaded before the first step, in which DeepSpeed itself would allocate it."""
        inner = self._engine.optimizer
        if zero == 2:
            for group in self._face.param_groups:
                self._face.allocate(group["params"], group["rule"])
            inner._lazy_init_hp_params_optimizer_state()
        else:
            for index, part in enumerate(inner.fp32_partitioned_groups_flat):
                group = self._face.param_groups[inner.sub_group_to_group_id[index]]
                self._face.allocate([part], group["rule"])

    def _sum_partial_gradients_in_backward(self) -> None:
        """What tensor ranks hold in parts is summed before DeepSpeed's hooks take it away."""
        group = self._mesh.tensor.group

        def summed(gradient: Tensor) -> Tensor:
            total = gradient.contiguous().clone()
            dist.all_reduce(total, group=group)
            return total

        for shard in self._shards:
            if shard.partial:
                shard.parameter.register_hook(summed)

    def _over_data(self, nll: Tensor) -> float:
        dist.all_reduce(nll, group=self._mesh.data.group)
        return float(nll)


class _TorchFace(torch.optim.Optimizer):
    """A lehr optimizer of flat parts as DeepSpeed knows optimizers: groups of one rule, state by tensor, a step.

    ZeRO 3 calls `step` once for every sub-group of a real step, each time with other tensors in the groups.
    """

    # As torch hides it from its compiler: a call of the hidden one imports the compiler, which takes seconds.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)

    def __init__(self, shards: Sequence[ParameterShard], config: OptimizerConfig) -> None:
        self._config = config
        self.grad_norm: Callable[[], Any] = lambda: 0.0
        self.steps = 0
        self._lr = 0.0
        self._updated = False
        self._inner: dict[int, tuple[Optimizer, Param]] = {}
        self.moments: tuple[str, ...] = ()
        groups: dict[tuple[float, float], dict[str, Any]] = {}
        for shard in shards:
            rule = rule_of(config.table, shard.name)
            key = (rule.lr_multiplier, rule.decay(config.weight_decay))
            groups.setdefault(key, {"params": [], "rule": rule})["params"].append(shard.parameter)
        super().__init__(list(groups.values()), {"lr": 0.0})

    def begin(self, lr: float) -> None:
        """Of one real step: the next calls of `step` belong to it."""
        self._lr = lr
        self._updated = False

    def end(self) -> bool:
        """Whether weights were changed since `begin`."""
        self.steps += self._updated
        return self._updated

    def allocate(self, parts: Sequence[Tensor], rule: ParamRule) -> None:
        """State for flat parts of one rule."""
        for part in parts:
            self._optimizer_of(part, rule)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        norm = float(self.grad_norm() or 0.0)
        if not math.isfinite(norm) or norm < 0:
            return
        for group in self.param_groups:
            for part in group["params"]:
                if part.grad is None:
                    continue
                optimizer, param = self._optimizer_of(part, group["rule"])
                param.weight, param.grad = part.data, part.grad
                optimizer.step_count = self.steps
                optimizer.step(lr=self._lr)
                self._updated = True

    def _optimizer_of(self, part: Tensor, rule: ParamRule) -> tuple[Optimizer, Param]:
        if id(part) not in self._inner:
            param = Param(name="part", weight=part.data, shape=tuple(part.shape))
            optimizer = self._config.build_flat([param], [rule])
            self._inner[id(part)] = (optimizer, param)
            state = {key.removeprefix("part."): value.tensor for key, value in optimizer.state().items()}
            self.moments = tuple(state)
            self.state[part] = state
        return self._inner[id(part)]


class _ModelParallelUnit:
    """The `mpu` DeepSpeed asks for. Without a pipeline, "model parallel" is the tensor axis."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        return self._mesh.tensor.group

    def get_model_parallel_rank(self) -> int:
        return self._mesh.tensor.rank

    def get_model_parallel_world_size(self) -> int:
        return self._mesh.tensor.size

    get_tensor_model_parallel_group = get_model_parallel_group
    get_tensor_model_parallel_rank = get_model_parallel_rank
    get_tensor_model_parallel_world_size = get_model_parallel_world_size

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        return self._mesh.data.group

    def get_data_parallel_rank(self) -> int:
        return self._mesh.data.rank

    def get_data_parallel_world_size(self) -> int:
        return self._mesh.data.size


def _import_deepspeed() -> ModuleType:
    """Here, since it takes seconds and only ZeRO 2 and 3 need it."""
    import deepspeed
    from deepspeed.ops import __compatible_ops__
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    # Its sums through shared memory are for inference. To build them takes a compiler and half a minute at the first
    # start on a machine, and a rank that is killed within leaves a lock behind, for which every later run would wait.
    __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed  # type: ignore[no-any-return]


def _deepspeed_config(
    *, zero: int, offload: bool, dtype: torch.dtype, micro_batches: int, clip: float
) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # rows are lehr's affair; DeepSpeed only counts micro-batches
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": clip,
        "zero_optimization": {"stage": zero},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 10**9,
    }
    if offload:
        settings["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    if dtype == torch.bfloat16:
        settings["bf16"] = {"enabled": True}
    return settings
