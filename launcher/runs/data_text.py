"""The data of a run's steps in a line of text, from its recorded config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def describe_data(config: Mapping[str, Any], *, first_step: int, last_step: int) -> str:
    """Describes the mix of data of the steps first_step + 1 to last_step, by the weights of the sources."""
    data = config.get("data")
    mixture = data.get("mixture") if isinstance(data, Mapping) else None
    return weights_text(mixture) if isinstance(mixture, Mapping) else ""


def weights_text(mixture: Mapping[str, Any]) -> str:
    """Returns the shares of the sources, such as `books 75%, code 25%`; without weights they go by tokens."""
    weights = {name: float(weight) for name, weight in mixture.items() if weight}
    total = sum(weights.values())
    if not total:
        return "all sources, by their tokens"
    return ", ".join(f"{name} {100 * weight / total:.3g}%" for name, weight in weights.items())
