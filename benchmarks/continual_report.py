"""The report of continual_proof.py: a table of the arms, the paired differences, and forgetting against adaptation."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import matplotlib
from continual_plan import ARMS, NEW_STEPS, OLD, OLD_STEPS, PEAK_REPLAY_PERCENT, SEEDS, STRONG, Arm
from matplotlib.figure import Figure

from launcher.sweep.records import Record
from settings.files import write_text

matplotlib.use("Agg")
Finished = Mapping[tuple[str, int], Record]
NOT_TOLD_APART = 2.0  # standard errors
# Each question is a difference of two arms, in old or new held-out bits per byte; both were fixed beforehand.
QUESTIONS = (
    ("does replay of 25% lower the loss on the old data, after a strong shift?", "rewarm-25", "rewarm-0", "old"),
    ("what does replay of 25% cost on the new data?", "rewarm-25", "rewarm-0", "new"),
    ("does re-warming help the new data, without replay?", "rewarm-0", "flat-0", "new"),
    ("does re-warming help the new data, with replay?", "rewarm-25", "flat-25", "new"),
    (
        "is the infinite schedule better than re-warming on the old data?",
        "infinite-25",
        "rewarm-25",
        "old",
    ),
    ("is it better on the new data, with replay?", "infinite-25", "rewarm-25", "new"),
    ("does replay of 5% lower the loss on the old data, after a weak shift?", "weak-5", "weak-0", "old"),
    ("is re-warming with 25% replay as good as the union on the old data?", "rewarm-25", "union", "old"),
    ("is it as good on the new data?", "rewarm-25", "union", "new"),
    ("does replay on top help a scarce target itself (arXiv:2603.04964), at 20%?", "scarce-20", "scarce-0", "new"),
    ("does it at 50%?", "scarce-50", "scarce-0", "new"),
)


def write_report(finished: Finished, arms: Sequence[Arm], record: Path, plot: Path) -> None:
    """Writes the report and the plot. Arms without a finished run have empty cells."""
    lines = [
        "# Continual pretraining",
        "",
        "`make proof-continual` writes this page from continual.jsonl. continual_plan.py has the arms and "
        "continual_report.py the questions: both were fixed before the arms were trained.",
        "",
        f"A model of 0.23M parameters is trained on English prose for {OLD_STEPS} steps, and then on new data for "
        f"{NEW_STEPS}: a strong shift to French, or a weak one to English introductions of Wikipedia. Every arm of a "
        f"seed begins from the same checkpoint; the seeds are {', '.join(map(str, SEEDS))}. All arms end at the same "
        "lr. Values are held-out bits per byte, the mean over the seeds that are finished.",
        "",
        "| arm | what it is | seeds | old | forgetting | new |",
        "|---|---|---|---|---|---|",
        *(_row(finished, arm) for arm in arms),
        "",
        "`forgetting` is the old bits per byte above those of the trunk with the cosine schedule, of the same seed.",
        "",
        "## Questions",
        "Each answer is the mean difference over paired seeds, first arm minus second, with its standard error. A "
        f"difference under {NOT_TOLD_APART:g} standard errors is not told apart; three seeds are few.",
        "",
        *(f"- {text} {_answer(finished, one, other, which)}" for text, one, other, which in QUESTIONS),
        "",
        f"![forgetting against adaptation]({os.path.relpath(plot, record.parent)})",
        "",
    ]
    record.parent.mkdir(parents=True, exist_ok=True)
    write_text(record, "\n".join(lines))
    if any(name in {arm.name for arm in arms} for name, _ in finished):
        _draw(finished, [arm for arm in arms if arm.new == STRONG], plot)


def bits(finished: Finished, name: str, seed: int, source: str) -> float:
    """Returns the final held-out bits per byte of a source in one run; NaN if it is not finished or diverged."""
    record = finished.get((name, seed))
    return math.nan if record is None else record.bits_per_byte.get(source, math.nan)


def paired(finished: Finished, one: str, other: str, sources: tuple[str, str]) -> list[float]:
    """Returns the difference of two arms, each on its source, for every seed that both have finished."""
    pairs = [(bits(finished, one, seed, sources[0]), bits(finished, other, seed, sources[1])) for seed in SEEDS]
    return [a - b for a, b in pairs if math.isfinite(a) and math.isfinite(b)]


def _row(finished: Finished, arm: Arm) -> str:
    count = sum((arm.name, seed) in finished for seed in arm.seeds)
    old = [bits(finished, arm.name, seed, OLD) for seed in arm.seeds]
    new = [bits(finished, arm.name, seed, arm.new) for seed in arm.seeds]
    forgetting = paired(finished, arm.name, "trunk-cosine", (OLD, OLD))
    percent = f", {arm.replay_percent}% replay" if arm.replay_percent else ""
    peak = f", peak x {arm.peak:g}" if arm.peak != 1 else ""
    cells = [arm.name, f"{arm.group}{percent}{peak}", f"{count} of {len(arm.seeds)}", _mean(old), _mean(forgetting)]
    return "| " + " | ".join([*cells, "" if arm.new == OLD else _mean(new)]) + " |"


def _mean(values: Sequence[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return f"{mean(finite):.4f}" if finite else ""


def _answer(finished: Finished, one: str, other: str, which: str) -> str:
    new = {arm.name: arm.new for arm in ARMS}
    differences = paired(finished, one, other, (OLD, OLD) if which == "old" else (new[one], new[other]))
    if len(differences) < 2:
        return f"({one} against {other}, {which}) not measured yet."
    center = mean(differences)
    spread = sum((value - center) ** 2 for value in differences) / (len(differences) - 1)
    error = math.sqrt(spread / len(differences))
    told = abs(center) >= NOT_TOLD_APART * error
    verdict = ("lower" if center < 0 else "higher") if told else "not told apart"
    seeds = len(differences)
    return f"({one} against {other}, {which}) {center:+.4f} ± {error:.4f} bits per byte, {seeds} seeds: {verdict}."


def _draw(finished: Finished, arms: Sequence[Arm], path: Path) -> None:
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for number, group in enumerate(dict.fromkeys(arm.group for arm in arms)):
        points = []
        for arm in arms:
            old = paired(finished, arm.name, "trunk-cosine", (OLD, OLD))
            new = [bits(finished, arm.name, seed, arm.new) for seed in arm.seeds]
            if arm.group == group and old and all(map(math.isfinite, new)):
                points.append((mean(new), mean(old), arm))
        group = f"{group}, {PEAK_REPLAY_PERCENT}% replay" if group == "peak" else group
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o-", color=f"C{number}", label=group)
        for x, y, arm in points:
            label = f"peak x {arm.peak:g}" if arm.peak != 1 else f"{arm.replay_percent}%"
            axes.annotate(label, (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7)
    axes.set(
        xlabel=f"held-out bits per byte of the new data ({STRONG}); left is better adapted",
        ylabel=f"forgetting: bits per byte of the old data ({OLD}) above the trunk",
        title="Forgetting against adaptation; labels are the share of replay",
    )
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
