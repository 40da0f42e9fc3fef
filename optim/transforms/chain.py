"""The transforms of a run on one rank, called one after the other in the order of `optim.transforms`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from optim.parameters import Param, StateTensor
from optim.transforms.base import TransformConfig, TransformInputs, UpdateTransform


class TransformChain:
    """A list of transforms, which may be empty."""

    def __init__(self, transforms: Sequence[UpdateTransform]) -> None:
        self._transforms = transforms

    @classmethod
    def build(cls, configs: Sequence[TransformConfig], inputs: TransformInputs) -> TransformChain:
        """Builds the transforms of this rank's parameters."""
        return cls([config.build(inputs) for config in configs])

    def begin_step(self, step: int) -> None:
        """See UpdateTransform.begin_step."""
        for transform in self._transforms:
            transform.begin_step(step)

    def before_update(self, params: Sequence[Param]) -> None:
        """See UpdateTransform.before_update."""
        for transform in self._transforms:
            transform.before_update(params)

    def after_update(self, params: Sequence[Param]) -> None:
        """See UpdateTransform.after_update."""
        for transform in self._transforms:
            transform.after_update(params)

    def state(self) -> dict[str, StateTensor]:
        """Returns the state of all transforms by key."""
        tensors: dict[str, StateTensor] = {}
        for transform in self._transforms:
            state = transform.state()
            assert not state.keys() & tensors.keys(), f"two transforms have the state {state.keys() & tensors.keys()}"
            tensors |= state
        return tensors

    def metrics(self) -> dict[str, float]:
        """Returns the scalars that the transforms log, the same on every rank."""
        return {name: value for transform in self._transforms for name, value in transform.metrics().items()}

    @property
    def zeroed_weights(self) -> int:
        """The weights of the full model that the transforms hold at zero."""
        return sum(transform.zeroed_weights for transform in self._transforms)


def moments_by_parameter(state: Mapping[str, StateTensor]) -> dict[str, list[Tensor]]:
    """Returns the optimizer's state tensors that have one element per weight, by the name of the parameter."""
    moments: dict[str, list[Tensor]] = {}
    for key, value in state.items():
        if value.per_weight:
            moments.setdefault(key.rpartition(".")[0], []).append(value.tensor)
    return moments
