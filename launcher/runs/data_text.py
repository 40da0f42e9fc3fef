"""The data of a run's steps in a line of text, from its recorded config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schedules.stage_lengths import Mix, mixes


def describe_data(config: Mapping[str, Any], *, first_step: int, last_step: int) -> str:
    """Describes the mix of data of the steps first_step + 1 to last_step, by the weights of the sources.

    Of a run that has taken no step yet, it describes the data of the next one.
    """
    found = mixes(config)
    ends = [*(mix.first_step for mix in found[1:]), max(last_step, first_step + 1)]
    texts = [
        (mix.first_step, _text(mix))
        for mix, end in zip(found, ends, strict=True)
        if mix.first_step < max(last_step, first_step + 1) and end > first_step
    ]
    if len(texts) == 1:
        return texts[0][1]
    return "; ".join(f"from step {max(start, first_step) + 1}: {text}" for start, text in texts)


def _text(mix: Mix) -> str:
    """Returns the shares of the sources, such as `books 75%, code 25%`; without weights they go by tokens."""
    weights = {name: float(weight) for name, weight in mix.mixture.items() if weight}
    total = sum(weights.values())
    shares = ", ".join(f"{name} {100 * weight / total:.3g}%" for name, weight in weights.items())
    replay = "" if mix.replay is None else f", {100 * float(mix.replay['share']):.3g}% replay"
    return (shares or "all sources, by their tokens") + replay
