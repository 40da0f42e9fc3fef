"""The record of a selection in SHARDS/selection: report.json, report.md for readers, figures, and the scores."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from data.config import SELECTION_FOLDER, DataConfig
from data.pipeline.plan import Plan
from data.pipeline.selection.figures import draw_figures
from data.pipeline.selection.report_page import report_page
from data.pipeline.selection.score_documents import score_columns
from data.pipeline.selection.summarize_choice import EXAMPLES, SAMPLE_DOCUMENTS
from data.pipeline.selection.targets import read_targets
from data.pipeline.steps.hashing import sample_key
from data.pipeline.work_folder import WorkFolder, read_report
from data.select_config import SelectConfig
from data.shards.dataset_json import Amount, SelectionInfo
from data.sources.files import printable
from settings.files import write_json, write_text


def write_selection_record(
    work: WorkFolder, config: DataConfig, plan: Plan, inputs: dict[str, str]
) -> dict[str, SelectionInfo]:
    """Write the record, and return what the dataset.json of each source says of it."""
    select = config.select
    assert select is not None
    summaries = [read_report(work.report("record", rank)) for rank in range(len(plan.tasks))]
    sources = {name: _source(work, plan.tasks_of(name), summaries, select.order) for name in config.sources}
    hashes = [hash_ for hash_, _ in read_targets(work)]
    shared: dict[str, Any] = {
        "method": select.to_plain(),
        "targets": len(hashes),
        "targets_sha256": hashlib.sha256(np.array(hashes, dtype="<u8").tobytes()).hexdigest(),
        "inputs": _own_inputs(select, inputs),
    }
    cells = sum(np.load(work.score_cells(rank)) for rank in range(len(plan.tasks)))
    choice = read_report(work.report("choice", 0))
    described = read_report(work.report("described", 0))
    columns = score_columns(select.selector)
    report = {
        **shared,
        "target_counts": read_report(work.report("targets", 0)),
        "pool": _add(source["pool"] for source in sources.values()),
        "chosen": _add(source["chosen"] for source in sources.values()),
        "facts": [{"selector": c.name, **facts} for c, facts in zip(columns, described, strict=True)],
        "score_range": [choice["lowest"], choice["highest"]],
        "score_length_correlation": {
            "pool": _rank_correlation(cells[0]),
            "chosen": _rank_correlation(cells[1]),
        },
        "redundancy": {
            "pool": _redundancy(summary["samples"][0] for summary in summaries),
            "chosen": _redundancy(summary["samples"][1] for summary in summaries),
        },
        "sources": sources,
    }
    folder = work.shards / SELECTION_FOLDER
    write_json(folder / "report.json", report)
    write_text(folder / "report.md", report_page(report))
    draw_figures(folder, cells, report)
    return {
        name: SelectionInfo(
            **shared,
            pool=Amount(**source["pool"]),
            chosen=Amount(documents=source["chosen"]["documents"], bytes=source["chosen"]["bytes"]),
        )
        for name, source in sources.items()
    }


def _own_inputs(select: SelectConfig, inputs: dict[str, str]) -> dict[str, str]:
    """Return the fingerprints of the files of targets and of stored scores."""
    files = [file for source in select.input_sources().values() for file in source.files()]
    paths = [printable(str(file)) for file in (*files, *select.selector.files())]
    return {path: inputs[path] for path in paths if path in inputs}


def _source(work: WorkFolder, ranks: list[int], all_summaries: list[dict[str, Any]], order: str) -> dict[str, Any]:
    summaries = [all_summaries[rank] for rank in ranks]
    left: Counter[str] = Counter()
    for rank in ranks:
        left.update(read_report(work.report("not_selected", rank)))
    ascending = {"highest": False, "lowest": True, "last_chosen": order == "highest"}
    ascending["first_not_chosen"] = not ascending["last_chosen"]
    examples = {}
    for kind in summaries[0]["examples"]:
        found = [example for summary in summaries for example in summary["examples"][kind]]
        sign = 1 if ascending[kind] else -1
        ordered = sorted(found, key=lambda example: (sign * example["score"], example["hash"]))
        examples[kind] = ordered[: EXAMPLES if kind in ("highest", "lowest") else EXAMPLES // 2]
    return {
        "pool": _add(summary["pool"] for summary in summaries),
        "chosen": {**_add(summary["chosen"] for summary in summaries), "tokens": _tokens(work, ranks)},
        "not_selected": dict(sorted(left.items())),
        "examples": examples,
    }


def _tokens(work: WorkFolder, ranks: list[int]) -> int:
    """Return the tokens of the training split, which is what was chosen, with those that end the documents."""
    shards = [read_report(work.report("tokens", rank))["train"] for rank in ranks]
    return sum(shard["file"]["tokens"] for shard in shards if shard)


def _add(amounts: Iterable[dict[str, int]]) -> dict[str, int]:
    total = Counter({"documents": 0, "bytes": 0})
    for amount in amounts:
        total.update(amount)
    return dict(total)


def _redundancy(samples: Iterable[list[dict[str, Any]]]) -> dict[str, float]:
    """Return the share of a sample's documents that have a near duplicate in it, and its bytes by compressed bytes."""
    documents = sorted((document for sample in samples for document in sample), key=lambda d: sample_key(d["hash"]))
    documents = documents[:SAMPLE_DOCUMENTS]
    seen = Counter((bucket, hash_) for document in documents for bucket, hash_ in enumerate(document["buckets"]))
    near = sum(any(seen[key] > 1 for key in enumerate(document["buckets"])) for document in documents)
    compressed = sum(document["compressed"] for document in documents)
    return {
        "documents": len(documents),
        "near_duplicate_share": near / max(len(documents), 1),
        "compression_ratio": sum(document["bytes"] for document in documents) / max(compressed, 1),
    }


def _rank_correlation(cells: npt.NDArray[np.int64]) -> float:
    """Return Spearman's correlation of length and score, from the counts [length bins, score bins]; 0 for one bin."""
    total = max(int(cells.sum()), 1)
    deviations = []
    for axis in (1, 0):
        counts = cells.sum(axis=axis)
        deviations.append(np.cumsum(counts) - counts / 2 - total / 2)  # the mean rank of a bin, less that of all
    lengths, scores = deviations
    covariance = float(lengths @ cells @ scores)
    variances = float(cells.sum(axis=1) @ lengths**2) * float(cells.sum(axis=0) @ scores**2)
    return covariance / variances**0.5 if variances > 0 else 0.0
