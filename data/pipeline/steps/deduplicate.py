"""Exact and MinHash deduplication over all sources, which keeps the first document of each cluster.

Every document gets one 64-bit hash in each bucket: in bucket 0 that of its text, in the others those of datatrove's
MinHash signature (Broder 1997; buckets as in Leskovec et al., Mining of Massive Datasets, section 3.4). Documents that
share a hash in any bucket are duplicates, and a cluster is everything that such pairs connect. Exact and near
duplicates are clustered together: in separate clusterings, each could keep a document that the other drops, and no
document of a cluster would be left. A copy of a text that another source holds out is dropped beforehand, so that the
held-out one stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.config import DeduplicateConfig
from data.drop_reasons import EXACT_DUPLICATE, HELD_OUT_ELSEWHERE, NEAR_DUPLICATE
from data.pipeline.steps.held_out_copies import copies_of_held_out
from data.pipeline.steps.minhash import Hashes, MinHash
from data.pipeline.work_folder import Counts, WorkFolder

EXACT_BUCKET = 0  # of the hashes of full texts
_RECORD = np.dtype([("hash", "<u8"), ("document", "<u8")])
_TASK_SHIFT = 32  # a document's number is (rank of its task << 32) + its number in the task


def buckets(config: DeduplicateConfig) -> list[int]:
    """Return the numbers of the buckets that this deduplication compares."""
    return [EXACT_BUCKET] * config.exact + list(range(1, 1 + config.buckets)) * config.minhash


class ComputeSignatures(PipelineStep):  # type: ignore[misc]
    """Passes documents on, and writes their hashes in each bucket; in the first alone if they are not deduplicated."""

    type = "dedup"
    name = "signatures"

    def __init__(self, work: WorkFolder, config: DeduplicateConfig, *, tasks: Collection[int]) -> None:
        """Take the ranks of the tasks whose documents are deduplicated."""
        super().__init__()
        self.work, self.config, self.tasks = work, config, tasks
        self.minhash = MinHash(config) if config.minhash else None

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield every document."""
        minhash = self.minhash if rank in self.tasks else None
        exact: list[int] = []
        signed: list[int] = []
        signatures: list[Hashes] = []
        for number, document in enumerate(data):
            exact.append(document.metadata["hash"])
            if minhash:
                bucket_hashes = minhash.bucket_hashes(document.text)
                if bucket_hashes.size:
                    signed.append(number)
                    signatures.append(bucket_hashes)
            yield document
        self._write(EXACT_BUCKET, rank, np.array(exact, dtype=np.uint64), np.arange(len(exact)))
        if minhash:
            hashes = np.array(signatures, dtype=np.uint64).reshape(-1, self.config.buckets)
            for column in range(self.config.buckets):
                self._write(1 + column, rank, hashes[:, column], np.array(signed, dtype=np.int64))

    def _write(self, bucket: int, rank: int, hashes: Hashes, numbers: npt.NDArray[np.int64]) -> None:
        records = np.empty(len(hashes), dtype=_RECORD)
        records["hash"] = hashes
        records["document"] = _global_numbers(numbers, rank)
        np.save(self.work.signatures(bucket, rank), records)


class FindDuplicates(PipelineStep):  # type: ignore[misc]
    """Pairs the first document of each hash in a bucket with each later one. A task takes some of the buckets."""

    type = "dedup"
    name = "pairs"

    def __init__(self, work: WorkFolder, config: DeduplicateConfig, *, tasks: Sequence[int]) -> None:
        """Take the ranks of the tasks whose documents are deduplicated."""
        super().__init__()
        self.work, self.buckets, self.tasks = work, buckets(config), tasks

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write the pairs of each bucket; yield nothing. One bucket takes 16 bytes of memory for each document."""
        for bucket in self.buckets[rank::world_size]:
            records = np.concatenate([np.load(self.work.signatures(bucket, task)) for task in self.tasks])
            order = np.argsort(records["hash"], kind="stable")  # stable: documents of one hash stay in input order
            hashes, documents = records["hash"][order], records["document"][order]
            starts = np.flatnonzero(np.concatenate(([True], hashes[1:] != hashes[:-1]))[: len(hashes)])
            first = np.repeat(documents[starts], np.diff(np.append(starts, len(hashes))))
            pairs = np.stack((first, documents), axis=1)
            np.save(self.work.pairs(bucket), pairs[first != documents])
        yield from ()


class ClusterDuplicates(PipelineStep):  # type: ignore[misc]
    """Joins the pairs of all buckets to clusters, and lists each task's documents that are dropped.

    These are the documents that are not first in their cluster, and those to train on that another source holds out.
    """

    type = "dedup"
    name = "clusters"

    def __init__(self, work: WorkFolder, buckets: Sequence[int], *, fractions: Sequence[float]) -> None:
        """Take the buckets whose pairs were found, and the held-out fraction of each task's source."""
        super().__init__()
        self.work, self.buckets, self.fractions = work, buckets, fractions

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write the numbers and the counts of each task's dropped documents; yield nothing."""
        assert world_size == 1, "clusters span all tasks"
        copies = self._copies_of_held_out()
        excluded = np.concatenate([_global_numbers(own, task) for task, own in enumerate(copies)])
        pairs = [np.load(self.work.pairs(bucket)) for bucket in self.buckets]
        duplicates = _duplicates(np.concatenate([np.empty((0, 2), dtype=np.uint64), *pairs]), excluded)
        has_exact = EXACT_BUCKET in self.buckets
        exact = set(np.load(self.work.pairs(EXACT_BUCKET))[:, 1].tolist()) if has_exact else set[int]()
        tasks = duplicates >> np.uint64(_TASK_SHIFT)
        for task, held_out in enumerate(copies):
            own = duplicates[tasks == task]
            numbers = own & np.uint64((1 << _TASK_SHIFT) - 1)
            np.save(self.work.dropped(task), np.concatenate((numbers, held_out)).astype(np.uint32))
            equal = len(exact.intersection(own.tolist()))
            counts = Counts({EXACT_DUPLICATE: equal, NEAR_DUPLICATE: len(own) - equal} if self.buckets else {})
            if self._fractions_differ:
                counts[HELD_OUT_ELSEWHERE] = len(held_out)
            counts.write(self.work.report("duplicates", task))
        yield from ()

    @property
    def _fractions_differ(self) -> bool:
        return len(set(self.fractions)) > 1

    def _copies_of_held_out(self) -> list[npt.NDArray[np.int64]]:
        if not self._fractions_differ:
            return [np.empty(0, dtype=np.int64) for _ in self.fractions]
        records = (np.load(self.work.signatures(EXACT_BUCKET, task)) for task in range(len(self.fractions)))
        return copies_of_held_out([own["hash"] for own in records], self.fractions)


def _global_numbers(numbers: npt.NDArray[np.int64], task: int) -> Hashes:
    """Return the numbers by which a task's documents are known among those of all tasks."""
    return numbers.astype(np.uint64) + np.uint64(task << _TASK_SHIFT)


def _duplicates(pairs: Hashes, excluded: Hashes) -> Hashes:
    """Return every document but the earliest of each cluster that the pairs connect, sorted.

    Excluded documents connect others, but are neither first nor returned.
    """
    documents, ends = np.unique(pairs, return_inverse=True)
    if not documents.size:
        return documents
    ends = ends.reshape(-1, 2)
    links = coo_array((np.ones(len(ends), dtype=np.int8), (ends[:, 0], ends[:, 1])), shape=(len(documents),) * 2)
    _, cluster = connected_components(links, directed=False)
    stays = ~np.isin(documents, excluded)
    documents = documents[stays]
    _, firsts = np.unique(cluster[stays], return_index=True)  # documents are sorted, so the first index is the earliest
    return np.delete(documents, firsts)
