"""The plot of a sweep: the loss over the first key of the grid, a line for each combination of the other keys."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from launcher.sweep.grid import Axis
from launcher.sweep.summary import CONFIDENCE, Combination, as_number

_LEAST_RATIO = 4.0  # of the largest number to the smallest, from which the axis is logarithmic


def draw_sweep(combinations: Sequence[Combination], axes: Sequence[Axis], *, title: str) -> Figure:
    """Returns the figure: the mean over seeds with its t interval, and the loss of each seed as a dot."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    plot = figure.subplots()
    along = axes[0] if axes else None
    positions = _positions(along)
    lines: dict[str, list[Combination]] = {}
    for one in combinations:
        others = {key: value for key, value in one.values.items() if along is None or key != along.key}
        lines.setdefault(", ".join(f"{key}={value}" for key, value in others.items()), []).append(one)
    for number, (label, members) in enumerate(lines.items()):
        shown = sorted((one for one in members if one.losses), key=lambda one: positions[_value(one, along)])
        xs = [positions[_value(one, along)] for one in shown]
        errors = [0.0 if len(one.losses) < 2 else one.estimate.half_width for one in shown]
        means = [one.estimate.mean for one in shown]
        plot.errorbar(xs, means, errors, color=f"C{number}", marker="o", capsize=4, label=label or None)
        for x, one in zip(xs, shown, strict=True):
            plot.plot([x] * len(one.losses), list(one.losses.values()), ".", color=f"C{number}", alpha=0.4)
    numbers = [number for number in map(as_number, along.values) if number is not None] if along else []
    if along is None or len(numbers) < len(along.values):
        plot.set_xticks(list(positions.values()), list(positions), rotation=20 if len(positions) > 3 else 0)
    else:
        if min(numbers) > 0 and max(numbers) >= _LEAST_RATIO * min(numbers):
            plot.set_xscale("log")
        plot.set_xticks(numbers, list(along.values))
        plot.minorticks_off()
    bars = any(len(one.losses) > 1 for one in combinations)
    label = "final loss, nats a token" + (f"\nbars: {CONFIDENCE:.0%} t interval of the mean" if bars else "")
    plot.set(xlabel=along.key if along else "", ylabel=label, title=title)
    if any(lines):
        plot.legend(fontsize="small")
    return figure


def _value(one: Combination, along: Axis | None) -> str:
    return one.values[along.key] if along else one.label


def _positions(along: Axis | None) -> dict[str, float]:
    """Returns where each value of the first key lies: at its number, or one after the other if some are no numbers."""
    if along is None:
        return {"the config": 0.0}
    numbers = {value: as_number(value) for value in along.values}
    if None in numbers.values():
        return {value: float(place) for place, value in enumerate(along.values)}
    return {value: number for value, number in numbers.items() if number is not None}
