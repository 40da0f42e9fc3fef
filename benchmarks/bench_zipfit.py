"""Documents per second and core of ZIP-FIT: exact, behind the prefilter, distilled, against a loop over Python's gzip.

The pool is mixed: Python's standard library, Shakespeare in modern and in folio spelling, and introductions of
Wikipedia's articles in English, French and Spanish, cut to documents of 2,000 bytes. All contenders score the same
documents in one process, in turns of a hundred, and CPU time is measured. Estimates are fitted to a sample of the pool
that is not scored afterwards. Recall and rank correlation compare with the exact scores of all documents.

    python benchmarks/bench_zipfit.py --targets maths

With --authors, exact scores are compared with those of the authors' package, `zip-fit` on PyPI. It is no dependency of
lehr, and imports brotli, lz4 and zstandard too.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib
import multiprocessing
import random
import resource
import sysconfig
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from data.selectors import Scorer
from data.selectors.compression.agreement import rank_correlation, top_recall
from data.selectors.zipfit import ZipFitConfig
from data.sources import SOURCES, RawDocument, SourceConfig

DOCUMENT_BYTES = 2000
POOL = {
    "code": SOURCES.parse("standard_library"),
    "plays": SOURCES.parse("shakespeare"),
    "folio": SOURCES.parse({"name": "shakespeare", "edition": "folio"}),
    "wiki en": SOURCES.parse({"name": "wiki_introductions", "language": "en"}),
    "wiki fr": SOURCES.parse({"name": "wiki_introductions", "language": "fr"}),
    "wiki es": SOURCES.parse({"name": "wiki_introductions", "language": "es"}),
}
MATHS = ("statistics.py", "fractions.py", "_pydecimal.py", "random.py", "colorsys.py")  # of the standard library
TOP_SHARES = (0.02, 0.1)  # what is kept

Labelled = list[tuple[str, str]]  # source, text


def documents_of(source: SourceConfig, apart: Sequence[str] = ()) -> list[str]:
    """Read a source without some texts, and cut it to documents of equal length."""
    read = (document for part in source.parts(2**28) for document in source.read(part))
    texts = [document.text for document in read if isinstance(document, RawDocument) and document.text not in apart]
    return cut("\n\n".join(texts))


def cut(text: str) -> list[str]:
    """Cut a text to documents; each is decoded from 2,000 bytes, less those of a broken character at its ends."""
    content = text.encode()
    starts = range(0, len(content) - DOCUMENT_BYTES, DOCUMENT_BYTES)
    return [content[start : start + DOCUMENT_BYTES].decode(errors="ignore") for start in starts]


def pool_and_targets(kind: str, count: int, seed: int) -> tuple[Labelled, list[str]]:
    """Return the pool in random order, and random targets that are not in it."""
    folder = Path(sysconfig.get_path("stdlib"))
    maths = [(folder / name).read_text() for name in MATHS]
    pool = [(name, text) for name, source in POOL.items() for text in documents_of(source, maths)]
    random.Random(seed).shuffle(pool)
    if kind == "maths":
        of_kind = [text for module in maths for text in cut(module)]
        return pool, random.Random(seed + 1).sample(of_kind, count)
    chosen = [number for number, (name, _) in enumerate(pool) if kind in ("mixed", name)][:count]
    taken = set(chosen)
    return [item for number, item in enumerate(pool) if number not in taken], [pool[number][1] for number in chosen]


def gzip_loop(targets: Sequence[str]) -> Callable[[Sequence[str]], np.ndarray]:
    """Return the plain scorer: Python's gzip for each pair; the sizes of the targets are kept."""
    contents = [target.encode() for target in targets]
    sizes = [len(gzip.compress(content, 6)) for content in contents]

    def score(texts: Sequence[str]) -> np.ndarray:
        scores = []
        for text in texts:
            content = text.encode()
            own = len(gzip.compress(content, 6))
            distances = [
                (len(gzip.compress(content + other, 6)) - min(own, size)) / max(own, size)
                for other, size in zip(contents, sizes, strict=True)
            ]
            scores.append(1 - sum(distances) / len(distances))
        return np.array(scores)

    return score


class Contender:
    """A way to score, with the CPU time that it took and the scores that it gave."""

    def __init__(self, name: str, score: Callable[[Sequence[str]], np.ndarray], fit_seconds: float = 0.0) -> None:
        self.name, self.score, self.fit_seconds = name, score, fit_seconds
        self.seconds: list[float] = []
        self.scores: list[np.ndarray] = []

    def turn(self, texts: Sequence[str]) -> None:
        start = time.process_time()
        self.scores.append(self.score(texts))
        self.seconds.append((time.process_time() - start) / len(texts))

    @property
    def rate(self) -> float:
        """Documents per second."""
        return len(self.seconds) / sum(self.seconds)


def contender(name: str, config: ZipFitConfig, targets: Sequence[str], sample: Sequence[str]) -> Contender:
    """Fit a selector to the sample, if it needs one."""
    start = time.process_time()
    fitted = config.fit(targets, sample if config.pool_sample_bytes else ())
    fit_seconds = time.process_time() - start
    scorer = config.prepare(targets, fitted)
    return Contender(name, lambda texts: score_with(scorer, texts), fit_seconds)


def score_with(scorer: Scorer, texts: Sequence[str]) -> np.ndarray:
    return scorer.score(texts, np.zeros(len(texts), dtype=np.uint64))


def compare(arguments: argparse.Namespace) -> None:
    """Print the rates, and how well the cheap scores agree with the exact ones."""
    pool, targets = pool_and_targets(arguments.targets, arguments.num_targets, arguments.seed)
    sample = [text for _, text in pool[: arguments.sample]]
    tested = pool[arguments.sample :][: arguments.documents or None]
    texts = [text for _, text in tested]
    sources = np.array([name for name, _ in tested])
    names, counts = np.unique(sources, return_counts=True)
    of_sources = ", ".join(f"{count:,} {name}" for name, count in zip(names, counts, strict=True))
    print(f"targets: {arguments.targets}, {len(targets)}; sample {len(sample):,}; scored {len(texts):,}: {of_sources}")
    plain = Contender("loop over gzip", gzip_loop(targets))
    exact = contender("exact", ZipFitConfig(), targets, sample)
    filtered = {
        kept: contender(f"prefilter {kept:.0%}", ZipFitConfig(mode="prefilter", top_share=kept), targets, sample)
        for kept in TOP_SHARES
    }
    distilled = contender("distilled", ZipFitConfig(mode="distilled"), targets, sample)
    lz4 = contender("exact, lz4", ZipFitConfig(compressor="lz4"), targets, sample)
    for number, start in enumerate(range(0, len(texts), arguments.turn)):
        own = texts[start : start + arguments.turn]
        for each in (exact, *filtered.values(), distilled, *((plain, lz4) if number % 4 == 0 else ())):
            each.turn(own)
    for each in (plain, lz4, exact, *filtered.values(), distilled):
        own = each.seconds if each in (plain, lz4) else each.seconds[::4]  # the turns of the loop
        fit = f"  fit {each.fit_seconds:.0f} s" if each.fit_seconds > 1 else ""
        print(
            f"{each.name:18s} {each.rate:9,.0f} documents/s  {sum(plain.seconds) / sum(own):6.2f} x the loop  "
            f"{sum(exact.seconds[::4]) / sum(own):6.2f} x exact{fit}"
        )
    scores = np.concatenate(exact.scores)
    some = np.concatenate(exact.scores[::4])
    same = (
        np.argsort(some, kind="stable").tolist()
        == np.argsort(np.round(np.concatenate(plain.scores), 12), kind="stable").tolist()
    )
    print(
        f"exact: ranking {'equal to' if same else 'NOT that of'} the loop's; largest difference of a score "
        f"{np.abs(some - np.concatenate(plain.scores)).max():.1e}"
    )
    ends = [np.mean(exact.seconds[part]) for part in (slice(None, 10), slice(-10, None))]
    print(f"exact: {1e3 * ends[0]:.2f} ms a document in the first ten turns, {1e3 * ends[1]:.2f} ms in the last ten")
    for kept, each in filtered.items():
        found = np.concatenate(each.scores)
        passes = found > -1
        print(
            f"{each.name}: recall of the top {kept:.0%} {top_recall(scores, found, kept):.4f}; {passes.mean():.1%} "
            f"scored exactly, all equal: {np.array_equal(found[passes], scores[passes])}"
        )
    estimates = np.concatenate(distilled.scores)
    within = {name: rank_correlation(scores[sources == name], estimates[sources == name]) for name in names}
    print(
        f"distilled: Spearman {rank_correlation(scores, estimates):.4f}; within a source: "
        + ", ".join(f"{name} {value:.2f}" for name, value in within.items())
    )
    print(f"lz4: Spearman to gzip {rank_correlation(some, np.concatenate(lz4.scores)):.4f}")


def authors(arguments: argparse.Namespace) -> None:
    """Print the speed and the ranking of exact scores against those of the authors' package, by CPU time.

    The package has processes of its own, so their CPU time is counted.
    """
    zip_fit = importlib.import_module("zip_fit")
    pool, targets = pool_and_targets(arguments.targets, arguments.num_targets, arguments.seed)
    texts = [text for _, text in pool[: arguments.documents or 1000]]
    for compressor, level in (("gzip", 6), ("lz4", 0)):
        package = zip_fit.ZIPFIT("", "", k=len(texts), compression_algorithm=compressor, compress_level=level)
        with contextlib.redirect_stdout(None):
            start = cpu_seconds()
            ranked = package.rank_sequences_by_alignment(texts, targets)
            theirs = cpu_seconds() - start
        exact = contender("exact", ZipFitConfig.model_validate({"compressor": compressor}), targets, ())
        exact.turn(texts)
        ours = exact.seconds[0] * len(texts)
        scores = dict(zip(texts, exact.scores[0].tolist(), strict=True))
        difference = max(abs(scores[text] - score) for text, score in ranked)
        in_order = [round(scores[text], 9) for text, _ in ranked]
        same = in_order == sorted(in_order, reverse=True)
        print(
            f"{compressor}, {len(texts):,} documents: {len(texts) / ours:,.0f} documents/s and core, the package "
            f"{len(texts) / theirs:,.0f}: {theirs / ours:.2f} x; ranking {'equal' if same else 'NOT equal'}, largest "
            f"difference of a score {difference:.1e}"
        )


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def run_task(connection: Connection, targets: Sequence[str]) -> None:
    """Scores each list of texts that it receives, and answers with its CPU time; an empty list ends it."""
    start = time.process_time()
    scorer = ZipFitConfig().prepare(targets, {})
    connection.send(time.process_time() - start)
    while texts := connection.recv():
        start = time.process_time()
        score_with(scorer, texts)
        connection.send(time.process_time() - start)


def tasks(arguments: argparse.Namespace) -> None:
    """Print the speed of two tasks against that of one, in turns, in CPU time: other work would spoil the clock's."""
    pool, targets = pool_and_targets(arguments.targets, arguments.num_targets, arguments.seed)
    texts = [text for _, text in pool[: 40 * arguments.turn]]
    context = multiprocessing.get_context("spawn")
    connections = []
    for _ in range(2):
        ours, theirs = context.Pipe()
        context.Process(target=run_task, args=(theirs, targets), daemon=True).start()
        connections.append(ours)
    prepared = [connection.recv() for connection in connections]
    alone, together = 0.0, np.zeros(2)
    for number, start in enumerate(range(0, len(texts), arguments.turn)):
        own = texts[start : start + arguments.turn]
        halves = [own[::2], own[1::2]]
        for used in ([number % 2], [0, 1])[:: 1 if number % 4 < 2 else -1]:
            for task in used:
                connections[task].send(own if len(used) == 1 else halves[task])
            costs = [connections[task].recv() for task in used]
            if len(used) == 1:
                alone += costs[0]
            else:
                together += costs
    for connection in connections:
        connection.send([])
    print(
        f"two tasks: {alone / together.max():.2f} x one, over {len(texts):,} documents; a task takes "
        f"{np.mean(prepared):.3f} s for the sizes of the targets, and {1e3 * alone / len(texts):.2f} ms a document"
    )


def main() -> None:
    """Reads the arguments, then measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", choices=["maths", "mixed", *POOL], default="maths", help="kind of the targets")
    parser.add_argument("--num-targets", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="decides the sample, the targets and the order")
    parser.add_argument("--sample", type=int, default=2000, help="documents to which estimates are fitted")
    parser.add_argument("--documents", type=int, default=0, help="documents that are scored; 0 means all others")
    parser.add_argument("--turn", type=int, default=100, help="documents that each contender scores in a turn")
    parser.add_argument("--tasks", action="store_true", help="measure two tasks against one instead")
    parser.add_argument("--authors", action="store_true", help="measure against the authors' package instead")
    arguments = parser.parse_args()
    if arguments.authors:
        authors(arguments)
    elif arguments.tasks:
        tasks(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
