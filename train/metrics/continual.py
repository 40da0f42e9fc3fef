"""Forgetting and adaptation: what a run on new data does to the held-out losses of old and new sources.

    forgetting/SOURCE   the held-out loss of an old source above the lowest that it has had, nats a token: at least 0
    adaptation/SOURCE   how far the held-out loss of a new source has fallen since its data began, nats a token

A run has parts, one for each stage, and a new one where it branches from another run. A source is old in a part if an
earlier part was trained on it; it is new if this part is the first. metrics.jsonl of a branch begins with its parent's
lines, so the lowest loss is that of the whole line of runs. Losses on other held-out sequences do not count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from train.held_out_loss import are_comparable_of_source, source_loss_key
from train.state import TrainState


@dataclass(frozen=True)
class Part:
    """The steps from `first_step` on, counted from 0, up to the next part; and the sources that they are trained on."""

    first_step: int
    sources: frozenset[str]
    replayed: frozenset[str] = frozenset()  # sources of an earlier run


class ContinualMetrics:
    """Forgetting and adaptation of one run, on the rank that writes."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """`parts`: all of the run, ascending; the first begins at step 0."""
        self._parts = parts
        self._losses: dict[str, dict[int, float]] = {}  # of each source, by step

    def recall(self, rows: Iterable[Mapping[str, Any]], *, state: TrainState, sequences: Mapping[str, Any]) -> None:
        """Restores the losses from the rows of metrics.jsonl that are of the same held-out sequences as from now on.

        `sequences`: their identity (`HeldOutLoader.identity`).
        """
        since = {
            name: state.source_evaluated_since(name)
            for name in sequences.get("sources", {})
            if are_comparable_of_source(name, sequences, state.held_out_on)
        }
        for row in rows:
            if row["step"] > state.step:
                break
            for name, first in since.items():
                if row["step"] >= first and source_loss_key(name) in row:
                    self._note(row["step"], name, row[source_loss_key(name)])

    def evaluation(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Notes the held-out losses after a step, by their keys in metrics.jsonl. Returns the metrics at that step."""
        for losses in self._losses.values():  # a rollback takes steps anew
            for later in [one for one in losses if one > step]:
                del losses[later]
        names = [key.split("/")[1] for key in values if key.startswith("held_out/") and key.endswith("/loss")]
        for name in names:
            if source_loss_key(name) in values:
                self._note(step, name, values[source_loss_key(name)])
        old, new, first_step = self._old_and_new(step)
        metrics = {f"forgetting/{name}": self._forgetting(name, step) for name in names if name in old}
        for name in names:
            before = self._losses.get(name, {}).get(first_step)
            if name in new and before is not None and step > first_step:
                metrics[f"adaptation/{name}"] = before - values[source_loss_key(name)]
        return {key: value for key, value in metrics.items() if math.isfinite(value)}

    def _note(self, step: int, name: str, loss: float) -> None:
        self._losses.setdefault(name, {})[step] = loss

    def _forgetting(self, name: str, step: int) -> float:
        losses = self._losses.get(name, {})
        if step not in losses:
            return math.nan
        return losses[step] - min((loss for loss in losses.values() if not math.isnan(loss)), default=math.nan)

    def _old_and_new(self, step: int) -> tuple[set[str], set[str], int]:
        """Returns the old and the new sources after `step` steps, and the step after which their part began.

        At the joint of two parts the part that ends is still the one that counts.
        """
        begun = [part for part in self._parts if part.first_step < max(step, 1)]
        part = begun[-1]
        old = {name for earlier in begun[:-1] for name in earlier.sources | earlier.replayed} | part.replayed
        return old, set(part.sources) - old, part.first_step


def continual_text(values: Mapping[str, float]) -> str | None:
    """Returns the forgetting and the adaptation among metrics as text for the console; None if there is neither."""
    words = [
        f"{kind} " + ", ".join(f"{key.split('/', 1)[1]} {value:.4f}" for key, value in found.items())
        for kind in ("forgetting", "adaptation")
        if (found := {key: value for key, value in values.items() if key.startswith(f"{kind}/")})
    ]
    return "  ".join(words) or None
