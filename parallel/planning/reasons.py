"""The reasons, in words, for the first layout of a plan, and the changes that would put another one first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from parallel.planning.candidates import Choice
from parallel.planning.layout_plan import Plan, PlannedLayout, with_figures

_KEYS = (
    *("parallel.tensor", "parallel.sequence", "parallel.pipeline", "parallel.virtual_stages", "parallel.zero"),
    *("train.micro_batch_size", "train.recompute"),
)
_CLOSE = 1.02  # two times that differ by less are the same, for arithmetic like this
# A figure of the machine, a factor, and the words for it.
_CHANGES = (
    ("between_bandwidth", 0.5, "half the bandwidth between nodes"),
    ("between_bandwidth", 2.0, "twice the bandwidth between nodes"),
    ("inside_bandwidth", 0.5, "half the bandwidth inside a node"),
    ("memory_bytes", 0.5, "half the memory"),
    ("memory_bytes", 2.0, "twice the memory"),
)


def why_first(plan: Plan) -> list[str]:
    """Returns a line for each other layout that is the best one with another value of a key, and what it costs.

    A faster layout that does not fit has a line too.
    """
    fitting, larger = (_best_with_another_value(plan.best, layouts) for layouts in (plan.fitting, plan.too_large))
    lines = [_too_large(plan, other, keys) for other, keys in larger if other.seconds < plan.best.seconds]
    return [*lines, *(_slower(plan.best, other, keys) for other, keys in fitting)]


def what_would_change(plan: Plan) -> list[str]:
    """Returns a line for each change of the machine that makes another layout the first, and one for what does not."""
    lines, unmoved = [], []
    for figure, factor, words in _CHANGES:
        first = plan.with_machine(with_figures(plan.machine, **{figure: factor}))
        if first is None:
            lines.append(f"With {words} no layout would fit.")
        elif first.choice == plan.best.choice:
            unmoved.append(words)
        else:
            lines.append(
                f"With {words} the first would be {difference(plan.best, first)}: {first.seconds:.3g} s a step."
            )
    if unmoved:
        lines.append(f"The first stays with {_listed(unmoved)}.")
    return lines


def difference(first: PlannedLayout, other: PlannedLayout) -> str:
    """Returns the values of `other` that `first` has not, as overrides."""
    texts = first.choice.texts()
    return " ".join(f"{key}={text}" for key, text in other.choice.texts().items() if text != texts[key])


def _best_with_another_value(
    best: PlannedLayout, layouts: Iterable[PlannedLayout]
) -> list[tuple[PlannedLayout, list[str]]]:
    """Returns the fastest layout with another value of each key, with the keys that it is the fastest for."""
    values, found = best.choice.values(), dict[str, PlannedLayout]()
    for one in layouts:
        for key, value in one.choice.values().items():
            if key in _KEYS and value != values[key]:
                found.setdefault(key, one)
    grouped: dict[Choice, tuple[PlannedLayout, list[str]]] = {}
    for key, one in found.items():
        grouped.setdefault(one.choice, (one, []))[1].append(key)
    return sorted(grouped.values(), key=lambda item: item[0].seconds)


def _too_large(plan: Plan, other: PlannedLayout, keys: Sequence[str]) -> str:
    times = f"would take {other.seconds:.3g} s instead of {plan.best.seconds:.3g} s"
    sizes = f"needs {other.memory.device / 2**30:.1f} GiB of {plan.limit_bytes / 2**30:.1f}"
    return f"{_kept(plan.best, keys)}: {difference(plan.best, other)} {times}, but {sizes}."


def _slower(best: PlannedLayout, other: PlannedLayout, keys: Sequence[str]) -> str:
    said = f"{_kept(best, keys)}: the best other is {difference(best, other)}, which"
    if other.seconds < _CLOSE * best.seconds:
        return f"{said} is as fast, within 2%."
    before = best.time.parts()
    grown = {name: seconds - before[name] for name, seconds in other.time.parts().items()}
    most = max(grown, key=lambda name: grown[name])
    longer = other.seconds / best.seconds - 1
    return f"{said} takes {longer:.0%} longer, most of all for {most} (+{grown[most]:.3g} s a step)."


def _kept(best: PlannedLayout, keys: Sequence[str]) -> str:
    texts = best.choice.texts()
    return _listed([f"{key}={texts[key]}" for key in keys])


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
