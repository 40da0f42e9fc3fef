"""What optimizers say of their last step, of all parameters on every rank: owners and stages see only their own."""

from __future__ import annotations

import torch
import torch.distributed as dist

from optim.optimizer import Optimizer
from parallel.gather import gather_json


class Diagnostics:
    """One sum over the world a step, of one number a name; none where no optimizer has anything to say."""

    def __init__(self, optimizer: Optimizer, *, reports: bool) -> None:
        """`reports`: whether this rank speaks for its parameters, which others may hold too.

        Every rank of the world makes one at the same time.
        """
        self._optimizer = optimizer
        self._own = list(optimizer.diagnostics()) if reports else []
        names = sorted({name for names in gather_json(self._own) for name in names})
        self._places = {name: place for place, name in enumerate(names)}

    def of_all_ranks(self) -> dict[str, float]:
        """By name, the same on every rank."""
        if not self._places:
            return {}
        values = torch.zeros(len(self._places), dtype=torch.float64)
        if self._own:
            found = self._optimizer.diagnostics()
            values[[self._places[name] for name in self._own]] = torch.tensor(
                [found[name] for name in self._own], dtype=torch.float64
            )
        dist.all_reduce(values)
        return dict(zip(self._places, values.tolist(), strict=True))
