"""Makes the missing files of scores, one checkpoint after the other."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from functools import partial

from data.score_files import write_scores
from data.shards.dataset_json import TokenizerInfo
from launcher.console import ProgressLine
from launcher.run.saved_run import load_model, open_checkpoint, start_one_process
from launcher.scoring.plan import PlannedFile
from settings.durations import format_duration
from settings.files import output_of_user
from train.document_scores import score_documents

_LEAST_TOKENS_AT_ONCE = 8192  # of a batch: without gradients, more fit than in a step of training
_MIN_SHARE_DONE = 0.02  # before that, an estimate of the remaining time would be a guess


def score_shards(missing: Sequence[PlannedFile], tokenizer: TokenizerInfo) -> None:
    """Scores each shard by its checkpoint and writes its file, complete or not at all.

    The files of a checkpoint must follow each other. Raises UserError if a checkpoint is incomplete or if the output
    cannot be written.
    """
    # The first token of a document is not predicted.
    tokens = sum(file.shard.file.tokens - file.shard.file.documents for file in missing)
    progress, mesh = _Progress(max(tokens, 1)), None
    for (run, step), files in itertools.groupby(missing, key=lambda file: (file.run, file.origin.step)):
        checkpoint = open_checkpoint(run, step=step, tokenizer=tokenizer)
        mesh = mesh or start_one_process(checkpoint.config.train.timeout_seconds)
        saved, train = load_model(checkpoint, mesh), checkpoint.config.train
        for file in files:
            scores = score_documents(
                saved.transformer,
                file.shard,
                seq_length=train.seq_length,
                tokens_at_once=max(train.micro_batch_size * train.seq_length, _LEAST_TOKENS_AT_ONCE),
                device=mesh.device,
                add_progress=partial(progress.add, file),
            )
            with output_of_user(file.path):
                write_scores(file.path, file.origin, file.shard.document_hashes, scores)
    progress.end()


class _Progress:
    """One line on the console: the share of all tokens that is scored, and the remaining time."""

    def __init__(self, tokens: int) -> None:
        self._line = ProgressLine()
        self._tokens, self._done, self._began = tokens, 0, time.monotonic()

    def add(self, file: PlannedFile, tokens: int) -> None:
        self._done += tokens
        share, seconds = self._done / self._tokens, time.monotonic() - self._began
        left = f", {format_duration(seconds * (1 - share) / share)} left" if share > _MIN_SHARE_DONE else ""
        origin = file.origin
        self._line.show(
            f"{origin.run}, step {origin.step}, {origin.source}: {share:.0%} of all, "
            f"{self._done / max(seconds, 1e-9):,.0f} tokens/s{left}"
        )

    def end(self) -> None:
        self._line.end()
