"""The samples of a step, for messages and events.jsonl: their numbers by source, so that each can be looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data.batches.loader import Loader

_MOST_SHOWN = 6  # of each source, on the console; events.jsonl has all


def sample_numbers(loader: Loader, batch: int) -> dict[str, list[int]]:
    """Returns the sample numbers of the global batch number `batch`, by the names of their sources."""
    sources, samples = loader.sample_numbers(batch)
    names = loader.shards.names
    return {names[number]: samples[sources == number].tolist() for number in np.unique(sources).tolist()}


def format_samples(samples: Mapping[str, Sequence[int]]) -> str:
    """Formats the first few of each source: `python 4 8 15, wiki 3`."""
    parts = []
    for source, numbers in samples.items():
        more = f" and {len(numbers) - _MOST_SHOWN} more" if len(numbers) > _MOST_SHOWN else ""
        parts.append(f"{source} {' '.join(map(str, numbers[:_MOST_SHOWN]))}{more}")
    return ", ".join(parts)
