"""The record of selection_proof.py: selection.md and its plot, from the lines of the finished runs and selections."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from selection_findings import Findings
from selection_page import FIXED, HEAD
from selection_plan import LONGER, LRS, MAIN, RANDOM, SEEDS, SHARES, TARGETS, Run, Selection
from selection_statistics import Difference, PairedArms

from launcher.sweep.records import Record
from laws.scaling.repetition import PUBLISHED_R_D

CONTROLS = ("classifier", "dsir", "same_sources", "length_matched", "random")


def write_report(findings: Findings, path: Path) -> None:
    """Writes the record and the plot beside it."""
    plot = path.with_suffix(".png")
    lines = [HEAD.format(date=datetime.date.today().isoformat())]
    count = f"**{len(findings.records)} of {len(findings.runs)} runs are finished.**"
    lines += [f"{count} Tables show only arms of which every seed is finished.", ""]
    lines += ["## The answer", "", *headlines(findings), ""]
    if any(findings.compared(target) for target in TARGETS):
        from selection_plot import draw  # matplotlib is slow to import

        draw(findings, plot)
        lines += [f"![differences to random, and losses by kept share]({plot.name})", ""]
    sections = (main_table(findings, target) for target in TARGETS)
    rest = (chosen_table(findings), compute_table(findings), share_table(findings), lr_table(findings))
    for section in (*sections, *rest):
        lines += section
    path.write_text("\n".join([*lines, FIXED]))


def headlines(findings: Findings) -> Iterator[str]:
    """Yields for each target what equals ZIP-FIT, which is the headline, and what differs from it."""
    for target in TARGETS:
        arms, zipfit = findings.compared(target), Selection("zipfit", MAIN, target)
        if arms is None or zipfit not in arms:
            yield f"- **{target.capitalize()}:** not finished."
            continue
        groups: dict[str, list[str]] = {"not told apart": [], "better": [], "worse": []}
        for control in CONTROLS:
            other = Selection(control, MAIN, None if control == "random" else target)
            if other in arms:
                difference = arms.difference(other, zipfit)
                words = f"`{control}`" if not difference.is_told_apart else f"`{control}` ({difference.mean:+.3f})"
                groups[difference.verdict].append(words)
        equal = ", ".join(groups["not told apart"])
        first = f"ZIP-FIT is not told apart from {equal}" if equal else "ZIP-FIT is told apart from every other arm"
        rest = [
            f"{verdict.capitalize()} than it, in nats a token: {', '.join(groups[verdict])}."
            for verdict in ("better", "worse")
            if groups[verdict]
        ]
        yield f"- **{target.capitalize()}: {first}.** " + " ".join(rest)


def main_table(findings: Findings, target: str) -> Iterator[str]:
    """Yields the table of a target."""
    arms = findings.compared(target)
    random = RANDOM
    yield from (f"## {target.capitalize()}: {MAIN}% of the pool, equal tokens", "")
    if arms is None or random not in arms:
        yield from ("Not finished.", "")
        return
    zipfit = Selection("zipfit", MAIN, target)
    yield "| arm | loss | minus random | | minus ZIP-FIT | |"
    yield "|---|---|---|---|---|---|"
    for arm in sorted((arm for arm in findings.main_arms(target) if arm in arms), key=arms.mean):
        cells = [arm.arm, f"{arms.mean(arm):.4f}", *_cells(arms, arm, random), *_cells(arms, arm, zipfit)]
        yield f"| {' | '.join(cells)} |"
    missing = [arm.arm for arm in findings.main_arms(target) if arm not in arms]
    yield ""
    yield f"Noise of a run (standard deviation, pooled over arms): {arms.noise:.4f}. Losses are means of {len(SEEDS)}"
    yield "seeds, differences have standard errors."
    if missing:
        yield f"Not finished: {', '.join(missing)}."
    yield ""


def _cells(arms: PairedArms[Selection], arm: Selection, other: Selection) -> tuple[str, str]:
    if arm == other or other not in arms:
        return "", ""
    difference = arms.difference(arm, other)
    return str(difference), difference.verdict


def chosen_table(findings: Findings) -> Iterator[str]:
    """Yields how much of each source was chosen."""
    shown = [s for s in findings.plan.selections() if s in findings.choices and s.percent == MAIN]
    if not shown:
        return
    pool = findings.choices[shown[0]].pool_bytes
    total = sum(pool.values())
    yield from (
        "## What was chosen",
        "",
        "Percent of the chosen bytes, by source; at the end, Spearman's correlation of score",
    )
    yield from ("and length in the pool.", "", f"| selection | {' | '.join(pool)} | tokens | score and length |")
    yield "|---|" + "---|" * (len(pool) + 2)
    yield f"| the pool | {' | '.join(f'{100 * own / total:.1f}' for own in pool.values())} | | |"
    for selection in shown:
        choice = findings.choices[selection]
        chosen = sum(choice.chosen_bytes.values())
        shares = [f"{100 * choice.chosen_bytes.get(source, 0) / chosen:.1f}" for source in pool]
        correlation = choice.score_length_correlation
        last = "" if correlation is None else f"{correlation:+.2f}"
        name = selection.name.removesuffix(f"-{MAIN}")
        yield f"| {name} | {' | '.join(shares)} | {choice.train_tokens / 1e3:.0f} k | {last} |"
    yield ""


def compute_table(findings: Findings) -> Iterator[str]:
    """Yields the arms against a random half of the pool that is trained for as much compute in all."""
    yield from ("## Equal compute, with that of the selection", "")
    half = Selection("random", max(SHARES))
    rate = next(
        (c.proxy_cpu_seconds_per_token for c in findings.choices.values() if c.proxy_cpu_seconds_per_token), None
    )
    base = findings.choices.get(RANDOM)
    lengths = [length for length in (1, *LONGER) if findings.losses(half, TARGETS[0], length=length)]
    tokens = findings.plan.tokens
    if rate is None or base is None or len(lengths) < 2:
        yield from ("Not finished.", "")
        return
    yield f"Training costs {1e6 * rate:.0f} CPU seconds for a million tokens. Losses of {half.name}, by tokens:"
    for target in TARGETS:
        losses = [f"{length}x: {_mean(findings.losses(half, target, length=length)):.4f}" for length in lengths]
        yield f"{target} {', '.join(losses)}."
    yield from ("", "| target | arm | CPU seconds of the selection | in runs | minus random half of equal compute |")
    yield "|---|---|---|---|---|"
    for target in TARGETS:
        line = [_mean(findings.losses(half, target, length=length)) for length in lengths]
        arms = findings.compared(target)
        for arm in findings.main_arms(target) if arms else []:
            choice = findings.choices.get(arm)
            if (
                arms is None
                or arm not in arms
                or choice is None
                or arm.arm in ("random", "same_sources", "length_matched")
            ):
                continue
            cost = max(0.0, choice.cpu_seconds - base.cpu_seconds)
            in_runs = cost / (rate * tokens)
            beyond = " (beyond the longest run: its loss is taken)" if 1 + in_runs > lengths[-1] else ""
            equal = float(np.interp(math.log(1 + in_runs), np.log(lengths), line))
            difference = Difference(arms.mean(arm) - equal, arms.noise * math.sqrt(2 / len(SEEDS)))
            yield f"| {target} | {arm.arm} | {cost:.0f} | {in_runs:.2f} | {difference}, {difference.verdict}{beyond} |"
    yield ""


def share_table(findings: Findings) -> Iterator[str]:
    """Yields the losses by kept share, and what the repetition law says of the random arm."""
    yield from ("## Kept share against epochs", "")
    rows = []
    for target in TARGETS:
        for arm in ("random", "zipfit", "classifier"):
            own = [Selection(arm, percent, None if arm == "random" else target) for percent in SHARES]
            losses = [findings.losses(selection, target) for selection in own]
            if not all(losses):
                continue
            epochs = [findings.plan.tokens / findings.choices[selection].train_tokens for selection in own]
            cells = [f"{_mean(loss):.4f} ({epoch:.1f})" for loss, epoch in zip(losses, epochs, strict=True)]
            rows.append(f"| {target} | {arm} | {' | '.join(cells)} |")
    if not rows:
        yield from ("Not finished.", "")
        return
    yield f"Loss (epochs), all at {findings.plan.tokens / 1e6:.2f} M tokens."
    yield from (
        "",
        f"| target | arm | {' | '.join(f'{percent}%' for percent in SHARES)} |",
        "|---|---|" + "---|" * len(SHARES),
    )
    yield from (*rows, "", *repetition(findings), "")


def repetition(findings: Findings) -> Iterator[str]:
    """Yields what the repetition law predicts for the random choices, from random runs of more tokens."""
    half = Selection("random", max(SHARES))
    for target in TARGETS:
        lengths = [length for length in (1, *LONGER) if findings.losses(half, target, length=length)]
        arms = findings.compared(target)
        if len(lengths) < 2 or arms is None:
            continue
        line = [_mean(findings.losses(half, target, length=length)) for length in lengths]
        slope = (line[1] - line[0]) / math.log(lengths[1] / lengths[0])
        for percent in SHARES[:-1]:
            selection = Selection("random", percent)
            if selection in arms and half in arms:
                worth = effective_tokens(findings.plan.tokens, findings.choices[selection].train_tokens)
                predicted = slope * math.log(
                    worth / effective_tokens(findings.plan.tokens, findings.choices[half].train_tokens)
                )
                found = arms.difference(selection, half)
                yield (
                    f"- {target}, random {percent}% minus {half.percent}%: the law says {predicted:+.4f} "
                    f"(the tokens are worth {worth / findings.plan.tokens:.3f} of fresh ones), found {found}, "
                    f"{found.verdict}."
                )


def effective_tokens(tokens: float, unique: float) -> float:
    """Returns what the tokens are worth in fresh ones, if `unique` of them are repeated (arXiv:2305.16264, eq. 5)."""
    repeats = max(0.0, tokens / unique - 1)
    return min(tokens, unique) * (1 + PUBLISHED_R_D * (1 - math.exp(-repeats / PUBLISHED_R_D)))


def lr_table(findings: Findings) -> Iterator[str]:
    """Yields the search of the lr."""
    records: Mapping[str, Record] = {
        lr: record for lr in LRS if (record := findings.records.get(findings.plan.normal(Run(RANDOM, SEEDS[0], lr))))
    }
    yield from ("## The lr, searched on `random` with seed 1", "")
    yield from (f"| lr | {' | '.join(records)} |", "|---|" + "---|" * len(records))
    losses: Sequence[str] = ["diverged" if record.loss is None else f"{record.loss:.4f}" for record in records.values()]
    yield from (f"| loss on both targets' held-out text | {' | '.join(losses)} |", "")
    yield from (f"The config has lr = {findings.plan.base.optim.lr:g}.", "")


def _mean(losses: Mapping[int, float] | None) -> float:
    return math.nan if losses is None else float(np.mean(list(losses.values())))
