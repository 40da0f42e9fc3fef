"""The record as a page: for each machine, day and commit a section with a table for each kind of phase."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gpu.context import Row

_TITLE = """# Measured on one GPU

`make gpu` writes this page from gpu.jsonl, which has every number; docs/gpu.md says how to run it. Sequence 2048,
vocabulary 50,304 tied, bfloat16, two micro-batches a step, unless a row says otherwise. MFU is a percentage of 989
TFLOP/s, by the FLOPs that lehr counts.
"""
_ORIGIN = ("date", "card", "torch", "revision")
# The columns of each kind of phase; a phase belongs to the first kind with which its name begins.
_COLUMNS: dict[str, tuple[str, ...]] = {
    "environment": ("product_tflops", "copy_gb_per_second", "cores", "python", "cuda", "triton", "transformers"),
    "speed": (
        "compiled", "attention_kernel", "cross_entropy_kernel", "tokens_per_second", "goal", "mfu",
        "first_step_seconds", "memory_gib", "estimated_gib", "kernels", "host_reads", "busy_ms", "idle_percent",
    ),
    "documents": ("tokens_per_second", "mfu", "first_step_seconds", "memory_gib", "kernels", "busy_ms", "idle_percent"),
    "transformers": ("tokens_per_second", "mfu", "first_step_seconds", "memory_gib"),
    "parity": ("against", "largest_difference", "equal", "loss"),
    "kernels": ("kernel", "error", "plain_error", "ms", "peak_mib", "launches", "longest"),
    "checkpoints": (
        "held_seconds", "written_seconds", "gib", "killed_after_step", "deterministic", "largest_difference", "equal",
    ),
    "faults": ("as_expected", "code", "seconds", "message"),
    "optimizers": ("ms", "peak_mib", "launches", "train_step_ratio"),
    "tests": ("result",),
}  # fmt: skip
_HEADINGS = {"environment": "Machine", "speed": "Speed of a step", "documents": "With document masks",
             "transformers": "transformers, compiled, autocast", "parity": "Losses of a small model",
             "kernels": "Kernels against float64", "checkpoints": "Checkpoints", "faults": "Injected faults",
             "optimizers": "Optimizers", "tests": "Tests"}  # fmt: skip


def page(rows: Sequence[Row]) -> str:
    """Returns the whole page, the newest section first."""
    origins = list(dict.fromkeys(_origin(row) for row in rows))
    newest_first = sorted(origins, key=lambda origin: origin[0], reverse=True)
    return "\n".join([_TITLE, *(line for origin in newest_first for line in _section(rows, origin))]).rstrip() + "\n"


def summary(rows: Sequence[Row], origin: Row) -> list[str]:
    """Returns the table of the goals, and what has failed, of the machine and commit of `origin`."""
    mine = latest(row for row in rows if _origin(row) == _origin(origin))
    return [*_goals(mine), "", *(_failures(mine) or ["nothing has failed"])]


def latest(rows: Iterable[Row]) -> list[Row]:
    """Returns the last row of each phase and case: a phase that was measured again counts once."""
    return list({(row["phase"], row.get("case")): row for row in rows}.values())


def _section(rows: Sequence[Row], origin: tuple[str, ...]) -> list[str]:
    mine = latest(row for row in rows if _origin(row) == origin)
    date, card, torch, revision = origin
    lines = [f"## {card}, {date}, lehr {revision}, torch {torch}", "", *_goals(mine), ""]
    for kind, columns in _COLUMNS.items():
        of_kind = [row for row in mine if _kind(row) == kind and row.get("case") != "end"]
        if of_kind:
            lines += [f"### {_HEADINGS[kind]}", "", *_table(of_kind, columns), ""]
            lines += _longest(of_kind)
    if notes := [row["note"] for row in mine if "note" in row]:
        lines += ["### Notes", "", *(f"- {note}" for note in notes), ""]
    if failures := _failures(mine):
        lines += ["### What failed or was not reached", "", *failures, ""]
    return lines


def _goals(rows: Sequence[Row]) -> list[str]:
    """Returns a line for each size with a goal: the speed, and its ratio to the goal and to transformers."""
    peers = {row["case"]: row["tokens_per_second"] for row in rows if _kind(row) == "transformers" and _has_speed(row)}
    lines = ["| | tokens/s | goal | of the goal | against transformers compiled |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        if row.get("goal") and _has_speed(row):
            speed, goal, peer = (
                row["tokens_per_second"],
                row["goal"],
                peers.get(f"{row['case'].split()[0]} transformers"),
            )
            against = f"{speed / peer:.2f} x" if peer else ""
            lines.append(f"| {row['case']} | {speed:,} | {goal:,} | {speed / goal:.2f} | {against} |")
    return lines if len(lines) > 2 else []


def _has_speed(row: Row) -> bool:
    return "tokens_per_second" in row


def _failures(rows: Sequence[Row]) -> list[str]:
    found = []
    for row in rows:
        outcome = row.get("outcome", "done")
        wrong = row.get("as_expected") is False
        if outcome != "done" or wrong:
            reason = outcome if outcome != "done" else f"not as expected, code {row.get('code')}"
            output = " ".join(row.get("output", "").split())[-300:]
            found.append(f"- {row['phase']}, {row.get('case')}: {reason}" + (f": `{output}`" if output else ""))
    return found


def _longest(rows: Sequence[Row]) -> list[str]:
    """Returns the longest kernels of each profiled step."""
    lines = []
    for row in rows:
        if longest := row.get("profile", {}).get("longest"):
            lines += [f"Longest kernels of a step, {row['case']}: ms, launches.", ""]
            lines += ["| kernel | ms | launches |", "|---|---:|---:|"]
            lines += [f"| `{_cell(name)}` | {ms} | {launches} |" for name, ms, launches in longest]
            lines.append("")
    return lines


def _table(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    flat = [{**row, **row.get("profile", {})} for row in rows]
    if all("profile" in row for row in rows):
        columns = [column for column in columns if column != "longest"]
    used = [column for column in columns if any(column in row for row in flat)]
    lines = ["| | " + " | ".join(column.replace("_", " ") for column in used) + " |", "|---|" + "---|" * len(used)]
    for row in flat:
        lines.append(f"| {row.get('case')} | " + " | ".join(_cell(row.get(column)) for column in used) + " |")
    return lines


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "\\|")


def _kind(row: Row) -> str:
    return next((kind for kind in _COLUMNS if row["phase"].startswith(kind)), "")


def _origin(row: Row) -> tuple[str, ...]:
    return tuple(str(row.get(key, "unknown")) for key in _ORIGIN)
