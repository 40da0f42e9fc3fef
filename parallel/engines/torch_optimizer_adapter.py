"""A lehr optimizer of flat shards as a torch.optim.Optimizer, which is what DeepSpeed drives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from optim.groups import ParamRule, rule_of
from optim.optimizer import Optimizer, OptimizerConfig
from optim.parameters import Param
from optim.transforms.chain import TransformChain
from parallel.engines.gradient_clipping import is_finite
from parallel.parameter_shards import ParameterShard


class TorchOptimizerAdapter(torch.optim.Optimizer):
    """Parameter groups of one lr and decay each, with one lehr optimizer for each flat shard.

    ZeRO 3 calls `step` once for every sub-group of a training step, each time with other tensors in the groups.
    """

    # torch.optim marks this method for its compiler to skip; calling it so marked imports the compiler, which takes
    # seconds. `unwrap` is the method itself.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)

    def __init__(self, shards: Sequence[ParameterShard], config: OptimizerConfig) -> None:
        self._config = config
        self.grad_norm: Callable[[], float] = lambda: 0.0  # of the present step; the engine sets it
        self.steps = 0
        self.moments: tuple[str, ...] = ()  # names of the optimizer's state tensors: "exp_avg" and so on
        self._lr = 0.0
        self._begun = self._updated = False  # in this training step
        self._transforms = TransformChain(())
        self._ranges: Sequence[Param] = ()
        self._optimizers: dict[int, tuple[Optimizer, Param]] = {}  # by id of the flat shard
        groups: dict[tuple[float, float], dict[str, Any]] = {}
        for shard in shards:
            rule = rule_of(config.table, shard.name)
            key = (rule.lr_multiplier, rule.decay(config.weight_decay))
            groups.setdefault(key, {"params": [], "rule": rule})["params"].append(shard.parameter)
        super().__init__(list(groups.values()), {"lr": 0.0})

    def begin_train_step(self, lr: float) -> None:
        """Begins a training step, to which the next calls of `step` belong."""
        self._lr = lr
        self._begun = self._updated = False

    def end_train_step(self) -> bool:
        """Counts the training step if it has changed weights, and returns whether it has."""
        self.steps += self._updated
        return self._updated

    def allocate(self, flat_shards: Sequence[Tensor], rule: ParamRule) -> None:
        """Allocates the state of flat shards under one rule."""
        for flat_shard in flat_shards:
            self._optimizer_of(flat_shard, rule)

    def transform(self, transforms: TransformChain, ranges: Sequence[Param]) -> None:
        """Applies transforms around the updates of `ranges`: views of flat shards, one for each parameter in them."""
        self._transforms, self._ranges = transforms, ranges

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates the flat shards that have a gradient, unless the gradient norm is not finite."""
        if not is_finite(self.grad_norm()):
            return
        if not self._begun:
            self._transforms.begin_step(self.steps + 1)
            self._begun = True
        for group in self.param_groups:
            for flat_shard in group["params"]:
                if flat_shard.grad is None:
                    continue
                optimizer, param = self._optimizer_of(flat_shard, group["rule"])
                param.weight, param.grad = flat_shard.data, flat_shard.grad
                optimizer.step_count = self.steps
                ranges = self._ranges_in(flat_shard)
                self._transforms.before_update(ranges)
                optimizer.step(lr=self._lr)
                self._transforms.after_update(ranges)
                self._updated = True

    def _ranges_in(self, flat_shard: Tensor) -> list[Param]:
        """Returns the ranges that are views of a flat shard, with their gradients."""
        flat, gradient = flat_shard.data, flat_shard.grad
        assert gradient is not None
        found = []
        for param in self._ranges:
            first = param.weight.storage_offset() - flat.storage_offset()
            same_memory = param.weight.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
            if same_memory and first >= 0 and first + param.weight.numel() <= flat.numel():
                param.grad = gradient[first : first + param.weight.numel()]
                found.append(param)
        return found

    def _optimizer_of(self, flat_shard: Tensor, rule: ParamRule) -> tuple[Optimizer, Param]:
        if id(flat_shard) not in self._optimizers:
            param = Param(name="flat_shard", weight=flat_shard.data, shape=tuple(flat_shard.shape))
            optimizer = self._config.build_elementwise([param], [rule])
            self._optimizers[id(flat_shard)] = (optimizer, param)
            state = {key.removeprefix("flat_shard."): value.tensor for key, value in optimizer.state().items()}
            self.moments = tuple(state)
            self.state[flat_shard] = state
        return self._optimizers[id(flat_shard)]
