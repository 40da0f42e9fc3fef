"""The hashes of held-out documents, by which their copies and near copies are found in the pool and in the targets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from data.config import DataConfig
from data.pipeline.plan import Task
from data.pipeline.steps.deduplicate import EXACT_BUCKET
from data.pipeline.steps.hashing import is_held_out
from data.pipeline.steps.minhash import Hashes, MinHash
from data.pipeline.work_folder import WorkFolder, read_numbers


class SignHeldOut(PipelineStep):  # type: ignore[misc]
    """Passes documents on, and writes the hashes of held-out ones: of the text, then of each MinHash bucket."""

    type = "selection"
    name = "held-out signatures"

    def __init__(self, work: WorkFolder, tasks: tuple[Task, ...], config: DataConfig) -> None:
        super().__init__()
        self.work, self.tasks, self.config = work, tasks, config
        self.minhash = MinHash(config.deduplicate)

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield every document."""
        fraction = self.config.held_out_fraction_of(self.tasks[rank].source)
        records = []
        for number, document in enumerate(data):
            hash_ = document.metadata["hash"]
            if is_held_out(hash_, fraction):
                bucket_hashes = self.minhash.bucket_hashes(document.text)
                records.append((number, hash_, bool(bucket_hashes.size), bucket_hashes if bucket_hashes.size else 0))
            yield document
        buckets = ("buckets", "<u8", (self.config.deduplicate.buckets,))
        dtype = np.dtype([("number", "<u4"), ("hash", "<u8"), ("signed", "?"), buckets])
        np.save(self.work.held_out_signatures(rank), np.array(records, dtype=dtype))


def write_evaluation_hashes(work: WorkFolder, config: DataConfig, *, tasks: int) -> None:
    """Join the hashes of the tasks' held-out documents that deduplication keeps, one file for each bucket."""
    for bucket in range(1 + config.deduplicate.buckets):
        found: list[Hashes] = [np.empty(0, dtype=np.uint64)]
        for task in range(tasks):
            records = np.load(work.held_out_signatures(task))
            if config.compares_documents:
                dropped = read_numbers(work.dropped(task))
                records = records[[number not in dropped for number in records["number"].tolist()]]
            signed = records[records["signed"]]
            found.append(records["hash"] if bucket == EXACT_BUCKET else signed["buckets"][:, bucket - 1])
        np.save(work.evaluation_hashes(bucket), np.unique(np.concatenate(found)))


class EvaluationCopies:
    """Finds copies and near copies of held-out documents. The hashes of these are mapped into memory."""

    def __init__(self, work: WorkFolder, config: DataConfig) -> None:
        self._minhash = MinHash(config.deduplicate)
        self._hashes = [
            np.load(work.evaluation_hashes(bucket), mmap_mode="r") for bucket in range(1 + config.deduplicate.buckets)
        ]

    def has_copy(self, hash_: int) -> bool:
        """Return whether a held-out document has the text of this hash."""
        return _contains(self._hashes[EXACT_BUCKET], np.uint64(hash_))

    def has_near_copy(self, text: str) -> bool:
        """Return whether a held-out document agrees with the text in all hashes of some bucket."""
        bucket_hashes = self._minhash.bucket_hashes(text)
        return any(_contains(known, own) for known, own in zip(self._hashes[1:], bucket_hashes, strict=False))


def _contains(hashes: Hashes, wanted: np.uint64) -> bool:
    place = int(np.searchsorted(hashes, wanted))
    return place < len(hashes) and bool(hashes[place] == wanted)
