"""The page about a selection: whole sentences and tables, without values as Python writes them."""

from __future__ import annotations

from typing import Any

from data.pipeline.selection.report_page import report_page

AMOUNTS = {"pool": {"documents": 200, "bytes": 31_400}, "chosen": {"documents": 20, "bytes": 3_140, "tokens": 1_200}}
REDUNDANCY = {"documents": 20, "near_duplicate_share": 0.1, "compression_ratio": 2.0}
FACTS: dict[str, Any] = {
    "selector": "zipfit",
    "targets": 12,
    "recall_of_exact_top": {"1%": 0.9375, "2%": 1.0},
    "spearman_of_exact_score": {"estimate": 0.96789, "bytes": -0.25},
}


def test_the_facts_of_a_selector_are_a_table() -> None:
    page = report_page(
        {
            "method": {"selector": {"name": "zipfit"}, "choose": "share", "amount": 0.1},
            "targets": 12,
            "facts": [FACTS, {"selector": "random"}],
            "score_length_correlation": {"pool": 0.5, "chosen": -0.5},
            "redundancy": {"pool": REDUNDANCY, "chosen": REDUNDANCY},
            "sources": {"made": {**AMOUNTS, "not_selected": {"not_chosen": 180}, "examples": {}}},
            **AMOUNTS,
        }
    )
    lines = page.splitlines()
    assert (
        lines[2]
        == "Of 200 documents (31.4 kB) in the pool, 20 (3.1 kB, 1,200 tokens) were chosen. Targets: 12 documents."
    )
    assert "| made | 200 | 20 | 1,200 | 10.0% | 100.0% | not_chosen 180 |" in lines
    start = lines.index("| zipfit | |")
    assert lines[start - 1] == ""
    assert lines[start + 1 : start + 6] == [
        "|---|---|",
        "| targets | 12 |",
        "| recall of exact top | 1%: 0.9375, 2%: 1 |",
        "| spearman of exact score | estimate: 0.9679, bytes: -0.25 |",
        "",
    ]
    assert "random" not in page
