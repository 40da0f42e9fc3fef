"""An optimizer with the transforms of `optim.transforms` around its update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optim.optimizer import Optimizer
from optim.parameters import Param, StateTensor
from optim.transforms.chain import TransformChain


class TransformedOptimizer(Optimizer):
    """An optimizer whose gradients are transformed before its update, and each bucket of weights after it."""

    def __init__(self, optimizer: Optimizer, transforms: TransformChain, params: Sequence[Param]) -> None:
        self._optimizer = optimizer
        self._transforms = transforms
        self._params = params

    def step_in_buckets(self, *, lr: float) -> Iterator[Sequence[Param]]:
        self._transforms.begin_step(self.step_count + 1)
        self._transforms.before_update(self._params)
        self._optimizer.step_count = self.step_count
        for bucket in self._optimizer.step_in_buckets(lr=lr):
            self._transforms.after_update(bucket)
            yield bucket
        self.step_count = self._optimizer.step_count

    def state(self) -> dict[str, StateTensor]:
        return {**self._optimizer.state(), **self._transforms.state()}

    def diagnostics(self) -> dict[str, float]:
        self._optimizer.step_count = self.step_count
        return self._optimizer.diagnostics()
