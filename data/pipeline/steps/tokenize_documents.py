"""The tokenization of a build: trains a tokenizer if the config names none, and writes the shards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.tokens.tokenizer import TokenizedFile
from datatrove.utils.batching import batched

from data.config import DataConfig
from data.pipeline.plan import Task
from data.pipeline.steps.document_files import read_sample
from data.pipeline.steps.encoder import Encoder
from data.pipeline.steps.hashing import is_held_out
from data.pipeline.task_progress import TaskProgress
from data.pipeline.work_folder import WorkFolder, write_report
from data.shards.dataset_json import SPLITS, ShardFile, Split
from data.tokenizer import train_tokenizer
from settings.files import file_sha256

STAGE = "tokens"
_DOCUMENTS_PER_BATCH = 128
_TEXTS_PER_BATCH = 256


class TrainTokenizer(PipelineStep):  # type: ignore[misc]
    """Trains a tokenizer on the samples of all tasks."""

    type = "tokenizer"
    name = "training"

    def __init__(self, work: WorkFolder, config: DataConfig, *, tasks: int) -> None:
        super().__init__()
        self.work, self.config, self.tasks = work, config, tasks

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Save the trained tokenizer; yield nothing."""
        tokenizer = train_tokenizer(
            batched(self.texts(), _TEXTS_PER_BATCH),
            size=self.config.tokenizer.vocab_size,
            end_of_text=self.config.tokenizer.end_of_text,
        )
        tokenizer.save(str(self.work.tokenizer))
        yield from ()

    def texts(self) -> Iterator[str]:
        """Yield the texts to train on, at most `train_bytes` of UTF-8: the same share of each task's sample.

        The samples may hold more than that, because the size of the input was only estimated when they were drawn.
        """
        progress = TaskProgress(self.work.progress("tokenizer", 0))
        max_bytes = self.config.tokenizer.train_bytes
        sizes = [sum(len(text.encode()) for text in self._sample(task)) for task in range(self.tasks)]
        total = sum(sizes)
        for task, size in enumerate(sizes):
            remaining = size if total <= max_bytes else max_bytes * size // total
            for text in self._sample(task):
                content = text.encode()[:remaining]
                if not content:
                    break
                remaining -= len(content)
                progress.add(len(content))
                yield content.decode(errors="ignore")  # the last one may end within a character

    def _sample(self, task: int) -> Iterator[str]:
        return read_sample(self.work, task, compared=self.config.compares_documents)


class _ShardWriter:
    """Collects the documents of one shard and writes its files. A shard without documents has no files."""

    def __init__(self, folder: Path, number: int, encoder: Encoder, end: bytes) -> None:
        self.name = f"{number:05d}.ds"
        self.folder, self._encoder, self._end = folder, encoder, end
        self._tokens: list[bytes] = []
        self._hashes: list[int] = []
        self.text_bytes = 0

    def add(self, tokens: bytes, *, hash_: int, text_bytes: int) -> None:
        self._tokens.append(tokens + self._end)
        self._hashes.append(hash_)
        self.text_bytes += text_bytes

    def write(self, order: np.random.Generator | None) -> dict[str, object] | None:
        """Write datatrove's files with documents in a random order, and return the entry for the task's report.

        Without a generator `order`, documents stay in input order. Returns None if there is no document.
        """
        if not self._tokens:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        file = TokenizedFile(
            str(self.folder),
            self.name,
            tokenizer_name_or_path="tokenizer.json",
            save_final_metadata=True,  # without it, datatrove's tools assume 2-byte tokens
            token_size=self._encoder.token_bytes,
        )
        count = len(self._tokens)
        documents = order.permutation(count) if order else np.arange(count)
        for document in documents:
            file.write_bytes(self._tokens[document])
        file.close()
        path = self.folder / self.name
        beside = {suffix: path.with_name(self.name + suffix) for suffix in (".index", ".metadata", ".hashes")}
        np.array(self._hashes, dtype="<u8")[documents].tofile(beside[".hashes"])
        for written in (path, *beside.values()):
            with written.open("rb") as stream:
                os.fsync(stream.fileno())
        shard = ShardFile(
            path=f"{self.folder.name}/{self.name}",
            tokens=len(file),
            documents=count,
            sha256=file_sha256(path),
            index_sha256=file_sha256(beside[".index"]),
            document_hashes_sha256=file_sha256(beside[".hashes"]),
        )
        return {"file": shard.to_plain(), "text_bytes": self.text_bytes}


class TokenizeDocuments(PipelineStep):  # type: ignore[misc]
    """Encodes a task's documents into a shard of each split."""

    type = "tokenizer"
    name = "shards"

    def __init__(self, work: WorkFolder, config: DataConfig, tasks: tuple[Task, ...]) -> None:
        super().__init__()
        self.work, self.config, self.tasks = work, config, tasks

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write the shards; yield nothing."""
        os.putenv("TOKENIZERS_PARALLELISM", "false")  # the tasks run in parallel instead
        task = self.tasks[rank]
        encoder = Encoder(self.work.tokenizer, self.config.tokenizer.end_of_text)
        folder = self.work.shards / task.source
        shards = {
            split: _ShardWriter(folder / split, task.number, encoder, encoder.pack([encoder.end_id]))
            for split in SPLITS
        }
        fraction = self.config.held_out_fraction_of(task.source)
        progress = TaskProgress(self.work.progress(STAGE, rank))
        for batch in batched(data, _DOCUMENTS_PER_BATCH):
            for document, tokens in zip(batch, encoder.encode([d.text for d in batch]), strict=True):
                hash_, text_bytes = document.metadata["hash"], len(document.text.encode())
                split: Split = "held_out" if is_held_out(hash_, fraction) else "train"
                shards[split].add(tokens, hash_=hash_, text_bytes=text_bytes)
                progress.add(text_bytes)
        progress.write()
        shuffle = self.config.shuffle_documents
        report = {}
        for part, split in enumerate(SPLITS):
            order = np.random.default_rng([self.config.shuffle_seed, rank, part]) if shuffle else None
            report[split] = shards[split].write(order)
        write_report(self.work.report(STAGE, rank), report)
        yield from ()
