"""Fits the efficiencies of the machine files on one half of the published rows, and checks the other half.

    python benchmarks/plan_fit.py            # prints the efficiencies and the tables of plan.md

plan_protocol.md says what is fitted and checked. The machine files are not written: they hold the values of this fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from sys import path

import numpy as np
from scipy.optimize import least_squares

path.insert(0, str(Path(__file__).parents[1]))

from plan_rows import GIB, PublishedRow, read_rows

from parallel.planning.machine_file import Efficiencies
from parallel.planning.memory import rank_memory

NAMES = ("products", "attention", "memory", "inside", "between")
FAMILIES = {"A100": ("a100", "a100-40gb"), "H100": ("h100",)}
MOST_POINTS, MOST_MEMORY = 5.0, 0.1
MOST_LEHR_TIME, MOST_LEHR_MEMORY = 0.1, 0.05
_USUAL, _PULL = 0.7, 0.01


def fit(rows: Sequence[PublishedRow]) -> Efficiencies:
    """Fits the five efficiencies; each source has the same weight."""
    counts = Counter(row.source for row in rows)
    weights = np.sqrt([len(rows) / (len(counts) * counts[row.source]) for row in rows])

    def residuals(log_efficiency: np.ndarray) -> np.ndarray:
        efficiency = _efficiencies(log_efficiency)
        errors = [np.log(row.predicted_seconds(efficiency) / row.seconds) for row in rows]
        return np.concatenate([weights * errors, np.sqrt(_PULL) * (log_efficiency - np.log(_USUAL))])

    start = np.full(len(NAMES), np.log(_USUAL))
    found = least_squares(residuals, start, bounds=(np.log(0.02), 0.0))
    return _efficiencies(found.x)


def _efficiencies(log_efficiency: np.ndarray) -> Efficiencies:
    values = dict(zip(NAMES, np.exp(log_efficiency).tolist(), strict=True))
    return Efficiencies(**{name: min(value, 1.0) for name, value in values.items()}, source="plan_fit.py")


def main() -> None:
    """Prints the fits and the checks."""
    rows = read_rows()
    timed = [row for row in rows if row.tokens_per_second_per_gpu is not None]
    fitted = {}
    for family, gpus in FAMILIES.items():
        own = [row for row in timed if row.gpu in gpus and row.source != "lehr"]
        half = [row for row in own if row.is_of_the_fit]
        found = fit(half)
        print(f"\n## {family}: fitted on {len(half)} rows, checked on {len(own) - len(half)}")
        print(", ".join(f"{name} {getattr(found, name):.3f}" for name in NAMES))
        for part, chosen in (("of the fit", half), ("held out", [row for row in own if not row.is_of_the_fit])):
            _report(part, chosen, found)
        fitted[family] = found
    _report_lehr([row for row in timed if row.source == "lehr"], fitted["H100"])
    _report_memory([row for row in rows if row.memory_bytes is not None])


def _report(part: str, rows: Sequence[PublishedRow], efficiency: Efficiencies) -> None:
    errors = {row: row.mfu(row.predicted_seconds(efficiency)) - row.mfu(row.seconds) for row in rows}
    for source in sorted({row.source for row in rows}):
        of_source = np.array([error for row, error in errors.items() if row.source == source])
        within = np.mean(np.abs(of_source) <= MOST_POINTS)
        print(
            f"| {part} | {source} | {of_source.size} | {100 * within:.0f}% | {np.median(np.abs(of_source)):.1f} | "
            f"{of_source[np.argmax(np.abs(of_source))]:+.1f} |"
        )
    if part == "held out":
        for row, error in sorted(errors.items(), key=lambda item: -abs(item[1])):
            if abs(error) > MOST_POINTS:
                print(
                    f"| {row.name} | {row.mfu(row.seconds):.1f} | {row.mfu(row.seconds) + error:.1f} | {error:+.1f} |"
                )


def _report_lehr(rows: Sequence[PublishedRow], h100: Efficiencies) -> None:
    print("\n## lehr on one H200: measured, by the efficiencies of H100, by those of the machine file")
    for row in rows:
        cells = [f"{1000 * row.seconds:.0f} ms"]
        for predicted in (row.predicted_seconds(h100), row.predicted_seconds()):
            cells.append(f"{1000 * predicted:.0f} ms ({predicted / row.seconds - 1:+.1%})")
        print(f"| {row.name} | {' | '.join(cells)} |")


def _report_memory(rows: Sequence[PublishedRow]) -> None:
    print("\n## memory")
    for row in rows:
        assert row.memory_bytes is not None
        predicted = rank_memory(row.step, row.machine()).training
        sizes = f"{row.memory_bytes / GIB:.2f} | {predicted / GIB:.2f} | {predicted / row.memory_bytes - 1:+.1%}"
        print(f"| {row.name} | {sizes} |")


if __name__ == "__main__":
    main()
