"""Makes the missing files of scores, one checkpoint after the other, as one rank of a layout."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypedDict

import torch

from data.score_files import DocumentScores, write_scores
from data.shards.dataset_json import TokenizerInfo
from launcher.console import ProgressLine
from launcher.run.saved_run import chosen_checkpoint, describe_checkpoint, load_chunk, read_run_config
from launcher.scoring.plan import PlannedFile
from parallel.agree import agree, from_first_rank
from parallel.config import ParallelConfig
from parallel.forward_pass import score_tokens
from parallel.mesh import Axis, Mesh
from settings.durations import format_duration
from settings.files import output_of_user
from train.document_scores import score_documents
from train.gradient_norms import gradient_norms
from train.run_folder.folder import RunFolder

_LEAST_TOKENS_AT_ONCE = 8192  # of a batch: without gradients, more fit than in a step of training
_MIN_SHARE_DONE = 0.02  # before that, an estimate of the remaining time would be a guess


class _Reading(TypedDict):
    """The settings by which both kinds of scores read documents."""

    seq_length: int
    tokens_at_once: int
    device: torch.device
    data: Axis
    add_progress: Callable[[int], object]


def score_shards(
    missing: Sequence[PlannedFile], tokenizer: TokenizerInfo, parallel: ParallelConfig, mesh: Mesh
) -> None:
    """Scores each shard by its checkpoint and writes its file, complete or not at all. A collective of all ranks.

    The files of a checkpoint must follow each other. Raises UserError on all ranks if a checkpoint is incomplete or if
    the output cannot be written.
    """
    writes = mesh.is_last_stage and mesh.data.rank == 0 and mesh.tensor.rank == 0
    progress = _Progress(missing, shows=mesh.rank == 0, data_ranks=mesh.data.size)
    for (run, step), files in itertools.groupby(missing, key=lambda file: (file.run, file.origin.step)):
        folder, config = read_run_config(run)
        path = Path(from_first_rank(partial(_checked_checkpoint, folder, step)))
        checkpoint = describe_checkpoint(config, path, tokenizer)
        (chunk,), train = load_chunk(checkpoint, parallel, mesh).chunks, config.train
        for file in files:
            reading: _Reading = {
                "seq_length": train.seq_length,
                "tokens_at_once": max(train.micro_batch_size * train.seq_length, _LEAST_TOKENS_AT_ONCE),
                "device": mesh.device,
                "data": mesh.data,
                "add_progress": partial(progress.add, file),
            }
            scores = score_documents(partial(score_tokens, chunk, mesh), file.shard, **reading)
            if file.origin.grand:
                scores = replace(scores, grand=gradient_norms(chunk.transformer, file.shard, **reading))
            agree(partial(_write, file, scores if writes else None))
            progress.complete(file)
    progress.end()


def _checked_checkpoint(folder: RunFolder, step: int) -> str:
    return str(chosen_checkpoint(folder, step))


def _write(file: PlannedFile, scores: DocumentScores | None) -> None:
    if scores is not None:
        with output_of_user(file.path):
            write_scores(file.path, file.origin, file.shard.document_hashes, scores)


class _Progress:
    """One line on the console: the share of all tokens that is scored, and the remaining time."""

    def __init__(self, files: Sequence[PlannedFile], *, shows: bool, data_ranks: int) -> None:
        self._line, self._shows, self._data_ranks = ProgressLine(), shows, data_ranks
        self._all, self._complete, self._of_file = max(sum(map(_tokens_to_read, files)), 1), 0, 0
        self._began = time.monotonic()

    def add(self, file: PlannedFile, tokens: int) -> None:
        """Adds a batch of this rank. The other data ranks score about as much meanwhile."""
        self._of_file = min(self._of_file + tokens * self._data_ranks, _tokens_to_read(file))
        if self._shows:
            self._show(file)

    def complete(self, file: PlannedFile) -> None:
        """Notes that all tokens of a file are scored."""
        self._complete, self._of_file = self._complete + _tokens_to_read(file), 0

    def end(self) -> None:
        """Leaves the line."""
        if self._shows:
            self._line.end()

    def _show(self, file: PlannedFile) -> None:
        done = self._complete + self._of_file
        share, seconds = done / self._all, time.monotonic() - self._began
        left = f", {format_duration(seconds * (1 - share) / share)} left" if share > _MIN_SHARE_DONE else ""
        origin = file.origin
        self._line.show(
            f"{origin.run}, step {origin.step}, {origin.source}: {share:.0%} of all, "
            f"{done / max(seconds, 1e-9):,.0f} tokens/s{left}"
        )


def _tokens_to_read(file: PlannedFile) -> int:
    """Returns how many tokens are predicted for a file, once more for gradients: all but the first of each document."""
    return (file.shard.file.tokens - file.shard.file.documents) * (1 + file.origin.grand)
