"""The contract of a size rule: the lr, batch and weight decay of a run, from those that were tuned at another size."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

from settings import Registry, Settings, UserError


@dataclass(frozen=True)
class TunedRun:
    """A run whose lr, batch and weight decay suit its size and length."""

    parameters: float  # of the model
    tokens: float  # of the run
    lr: float  # its peak
    batch_tokens: float  # of a step
    weight_decay: float = 0.0  # 0: there is none, at any size

    def __post_init__(self) -> None:
        for name in ("parameters", "tokens", "lr", "batch_tokens"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise UserError(f"{name} = {value:g} of a tuned run must be above 0 and finite")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay = {self.weight_decay:g} of a tuned run must be at least 0 and finite")


class SizeRule(Settings):
    """A rule by which lr, batch and weight decay follow from parameters and tokens."""

    name: str

    def run(self, tuned: TunedRun, *, parameters: float, tokens: float) -> TunedRun:
        """Returns the run of another size and length. Raises UserError unless both are above 0 and finite."""
        raise AssertionError(f"{type(self).__name__} has no run")

    def refitted(self, tuned: Sequence[TunedRun], *, of: Collection[str] = ("lr", "batch_tokens")) -> Self:
        """Returns the rule with its constants from runs that were tuned at several sizes or lengths.

        `of`: what was tuned in each of them; the constants of all else stay as they are. Raises UserError if these runs
        cannot tell them.
        """
        raise AssertionError(f"{type(self).__name__} has no refitted")


SIZE_RULES = Registry("size rule", room="laws.size_rules", base=SizeRule)
