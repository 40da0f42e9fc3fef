"""Scores of tokens on two tensor ranks, against dense float64; of documents in layouts, against one process."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from made_shards import documents, write_source
from parallel_runs import SEQ_LENGTH, VOCABULARY, Trial, global_batches, start
from processes import run_ranks
from torch import Tensor, nn

from data.config import DataConfig
from data.score_files import DocumentScores
from data.shards.index import open_shards
from model.token_scores import TokenScores
from parallel.forward_pass import score_tokens
from train.document_scores import score_documents


def _scores_and_logits(sequence: bool) -> tuple[TokenScores, Tensor, Tensor]:
    """Returns the scores of a batch [B, T], this rank's shard of the logits [T, B, v], and the targets [B, T]."""
    _, parts = start(Trial(parallel={"tensor": 2, "sequence": sequence}))
    (chunk,) = parts.chunks
    batch = next(global_batches())
    with torch.no_grad():
        x_tBD = chunk.transformer(batch.tokens, None, batch.positions)
        return chunk.transformer.token_scores(x_tBD, batch.targets), chunk.transformer.logits(x_tBD), batch.targets


@pytest.mark.parametrize("sequence", [False, True])
def test_scores_of_two_tensor_ranks(sequence: bool) -> None:
    ranks = run_ranks(2, _scores_and_logits, sequence)
    logits_BTV = torch.cat([logits_TBv for _, logits_TBv, _ in ranks], dim=-1).transpose(0, 1).double()
    for scores, _, targets_BT in ranks:
        onehot_BTV = nn.functional.one_hot(targets_BT, logits_BTV.shape[-1])
        wanted = TokenScores(
            (logits_BTV.softmax(-1) - onehot_BTV).norm(dim=-1),
            nn.functional.cross_entropy(logits_BTV.mT, targets_BT, reduction="none"),
            (logits_BTV.argmax(-1) == targets_BT).double(),
        )
        for found_BT, wanted_BT in zip(scores, wanted, strict=True):
            torch.testing.assert_close(found_BT.double(), wanted_BT, rtol=1e-5, atol=1e-6)


def _document_scores(folder: Path, parallel: dict[str, int]) -> DocumentScores:
    mesh, parts = start(Trial(parallel=parallel))
    (shard,) = open_shards(DataConfig(shards=folder)).stream("a", "train").shards
    return score_documents(
        partial(score_tokens, parts.chunks[0], mesh),
        shard,
        seq_length=SEQ_LENGTH,
        tokens_at_once=100,
        device=mesh.device,
        data=mesh.data,
    )


@pytest.mark.slow
def test_documents_have_the_same_scores_in_any_layout(tmp_path: Path) -> None:
    made = documents(np.random.default_rng(0), tokens=600, vocab_size=VOCABULARY, longest=2 * SEQ_LENGTH)
    write_source(tmp_path, "a", train=[made], vocab_size=VOCABULARY)
    (wanted,) = run_ranks(1, _document_scores, tmp_path, {})
    assert wanted.tokens.sum() == sum(len(document) - 1 for document in made)
    for found in run_ranks(2, _document_scores, tmp_path, {"data": 2}):
        for name, values in vars(wanted).items():
            np.testing.assert_array_equal(getattr(found, name), values)
    for layout in ({"tensor": 2}, {"pipeline": 2}, {"tensor": 2, "pipeline": 2, "data": 2}):
        ranks = run_ranks(math.prod(layout.values()), _document_scores, tmp_path, layout)
        last_stage = ranks[-len(ranks) // layout.get("pipeline", 1) :]
        for found in last_stage:
            np.testing.assert_array_equal(found.tokens, wanted.tokens)
            for name in ("el2n", "loss", "accuracy"):
                np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-5, atol=1e-6)
        assert all(not found.tokens.any() for found in ranks[: -len(last_stage)])
