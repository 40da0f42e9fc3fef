"""The page about a selection that a person reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from data.shards.inspect import without_controls
from settings.data_sizes import format_size

_TITLES = {
    "highest": "Highest scores",
    "lowest": "Lowest scores",
    "last_chosen": "Chosen, next to the limit",
    "first_not_chosen": "Not chosen, next to the limit",
}
_LINE_CHARACTERS = 200


def report_page(report: dict[str, Any]) -> str:
    """Return the content of report.md."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: dict[str, Any]) -> Iterator[str]:
    method, pool, chosen = report["method"], report["pool"], report["chosen"]
    yield f"# Selection by {method['selector']['name']}"
    yield ""
    yield (
        f"Of {pool['documents']:,} documents ({format_size(pool['bytes'])}) in the pool, {chosen['documents']:,} "
        f"({format_size(chosen['bytes'])}, {chosen['tokens']:,} tokens) were chosen. "
        f"Targets: {report['targets']:,} documents."
    )
    yield ""
    yield "```json"
    yield json.dumps(method, indent=1)
    yield "```"
    for facts in report["facts"]:
        if len(facts) > 1:
            yield ""
            yield f"| {facts['selector']} | |"
            yield "|---|---|"
            for key, value in facts.items():
                if key != "selector":
                    yield f"| {key.replace('_', ' ')} | {_value(value)} |"
    yield ""
    yield "| source | pool | chosen | chosen tokens | share of its bytes | share of all chosen bytes | not selected |"
    yield "|---|---|---|---|---|---|---|"
    for name, source in report["sources"].items():
        own, taken = source["pool"], source["chosen"]
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in source["not_selected"].items() if count)
        shares = [taken["bytes"] / max(own["bytes"], 1), taken["bytes"] / max(chosen["bytes"], 1)]
        counts = f"{own['documents']:,} | {taken['documents']:,} | {taken['tokens']:,}"
        yield f"| {name} | {counts} | {shares[0]:.1%} | {shares[1]:.1%} | {reasons} |"
    yield ""
    yield "| in a sample | near duplicates of another document | bytes for each compressed byte | documents |"
    yield "|---|---|---|---|"
    for name, values in report["redundancy"].items():
        share, ratio = values["near_duplicate_share"], values["compression_ratio"]
        yield f"| {name} | {share:.2%} | {ratio:.2f} | {values['documents']:,} |"
    yield ""
    correlation = report["score_length_correlation"]
    yield (
        f"The rank correlation of score and length is {correlation['pool']:+.2f} in the pool and "
        f"{correlation['chosen']:+.2f} among the chosen documents (scores.png, lengths.png)."
    )
    for name, source in report["sources"].items():
        yield ""
        yield f"## {name}"
        for kind, examples in source["examples"].items():
            if examples:
                yield ""
                yield f"### {_TITLES[kind]}"
                yield ""
            for example in examples:
                text = " ".join(without_controls(example["text"]).split())[:_LINE_CHARACTERS].replace("`", "'")
                yield f"- {example['score']:.4g} ({example['bytes']:,} bytes, {example['hash']:016x}): `{text}`"


def _value(value: Any) -> str:
    """Return a fact for a reader; several ones by their keys, such as `1%: 0.94, 2%: 1`."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_value(one)}" for key, one in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
