"""The sums of the soak on Slurm as Markdown: times to recover, causes that were named, effective training time."""

from __future__ import annotations

import statistics
from typing import Any

from soak_slurm_faults import FAULTS

PERIOD_SECONDS = 20 * 60.0  # of the arithmetic: one fault in this time


def faults_of(record: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the lines of a record that are faults."""
    return [line for line in record if "fault" in line]


def page(record: list[dict[str, Any]]) -> str:
    """Returns the sums of a record as Markdown: times by fault, causes that were named, and the arithmetic."""
    faults, ends = faults_of(record), [line for line in record if "same_to_the_bit" in line]
    lines = [
        "| fault | times | median seconds | most | starts | cause named |",
        "|---|---|---|---|---|---|",
    ]
    for name in FAULTS:
        own = [line for line in faults if line["fault"] == name]
        if own:
            seconds, starts = [line["seconds"] for line in own], sum(line["starts"] for line in own)
            named = [line["named"] for line in own if line["named"] is not None]
            text = f"{sum(named)} of {len(named)}" if named else "nothing to name"
            row = (name, len(own), f"{statistics.median(seconds):.0f}", f"{max(seconds):.0f}", starts, text)
            lines.append(f"| {' | '.join(map(str, row))} |")
    named = [line["named"] for line in faults if line["named"] is not None]
    lines += ["", f"Causes named rightly: {sum(named)} of {len(named)}." if named else ""]
    if ends:
        lines += [
            f"After {ends[-1]['step']} steps the run is the unbroken one, to the bit.",
            "",
            *arithmetic(faults, ends[-1]),
        ]
    return "\n".join(lines)


def arithmetic(faults: list[dict[str, Any]], end: dict[str, Any]) -> list[str]:
    """Returns the lines by which the effective training time follows from the times to recover."""
    step_seconds = end["steps"] / end["steps_taken"]
    save_share = end["saving"] / (end["steps"] + end["saving"])
    lines = [
        f"A step takes {1000 * step_seconds:.0f} ms, and saves hold the loop for {100 * save_share:.1f}% of its time.",
    ]
    groups = {"a rank": ["rank"], "a node": ["node"], "a rank or a node": ["rank", "node"]}
    for name, kinds in groups.items():
        own = [line for line in faults if line["kind"] in kinds]
        if own:
            back = statistics.mean(line["seconds"] for line in own)
            again = statistics.mean(line["lost_steps"] for line in own) * step_seconds
            effective = (1 - (back + again) / PERIOD_SECONDS) * (1 - save_share)
            lines.append(
                f"- {name} lost every {PERIOD_SECONDS:.0f} s: {back:.0f} s until the run trains again, {again:.1f} s "
                f"for the steps since the last checkpoint: (1 - ({back:.0f} + {again:.1f}) / {PERIOD_SECONDS:.0f}) x "
                f"(1 - {save_share:.3f}) = **{100 * effective:.1f}%** effective training time"
            )
    return lines
