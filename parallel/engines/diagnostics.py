"""The optimizers' diagnostics of all parameters on every rank, though each rank's optimizer has only some of them."""

from __future__ import annotations

import torch
import torch.distributed as dist

from optim.optimizer import Optimizer
from parallel.gather import gather_json


class Diagnostics:
    """One all-reduce over the world in each step, with one number per name; none if no optimizer has diagnostics."""

    def __init__(self, optimizer: Optimizer, *, reports: bool) -> None:
        """A collective of the world. `reports`: whether this rank contributes, of all that hold the same parameters."""
        self._optimizer = optimizer
        self._local_names = list(optimizer.diagnostics()) if reports else []
        names = sorted({name for names in gather_json(self._local_names) for name in names})
        self._positions = {name: position for position, name in enumerate(names)}

    def of_all_ranks(self) -> dict[str, float]:
        """Returns the diagnostics by name, the same on every rank. A collective of the world."""
        if not self._positions:
            return {}
        values = torch.zeros(len(self._positions), dtype=torch.float64)
        if self._local_names:
            local = self._optimizer.diagnostics()
            values[[self._positions[name] for name in self._local_names]] = torch.tensor(
                [local[name] for name in self._local_names], dtype=torch.float64
            )
        dist.all_reduce(values)
        return dict(zip(self._positions, values.tolist(), strict=True))
