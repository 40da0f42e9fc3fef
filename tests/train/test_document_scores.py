"""The scores of documents in batches, compared with those of one document at a time, and what they tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from made_shards import EOS, write_source
from torch import Tensor, nn

from data.config import DataConfig
from data.score_files import DocumentScores
from data.shards.index import open_shards
from data.shards.mapped_shard import MappedShard
from model.attention import KERNELS
from model.config import ModelConfig
from model.init import initialise
from model.layers import TorchLayers
from model.token_scores import TokenScores
from model.transformer import Transformer
from parallel.mesh import Axis
from train.document_scores import score_documents

SEQ_LENGTH, VOCABULARY = 32, 64
ONE_RANK = Axis(size=1, rank=0, group=cast(dist.ProcessGroup, None))


def small_model() -> Transformer:
    config = ModelConfig(num_layers=2, hidden_size=32, num_heads=4, ffn_size=64, vocab_size=VOCABULARY)
    model = Transformer(config, seq_length=SEQ_LENGTH, layers=TorchLayers(), attend=KERNELS["sdpa"])
    initialise(model.named_parameters(), config.init, num_layers=2, seed=0)
    return model


def shard_of(folder: Path, documents: list[list[int]], masks: list[list[bool]] | None = None) -> MappedShard:
    loss = None if masks is None else {0: masks}
    write_source(folder, "a", train=[documents], loss=loss, vocab_size=VOCABULARY)
    (shard,) = open_shards(DataConfig(shards=folder)).stream("a", "train").shards
    return shard


def scores_of(model: Transformer, shard: MappedShard, *, tokens_at_once: int = 256) -> DocumentScores:
    @torch.no_grad()
    def score_tokens(tokens_BT: Tensor, targets_BT: Tensor) -> TokenScores:
        positions_BT = torch.arange(tokens_BT.shape[1]).expand_as(tokens_BT)
        return model.token_scores(model(tokens_BT, None, positions_BT), targets_BT)

    return score_documents(
        score_tokens,
        shard,
        seq_length=SEQ_LENGTH,
        tokens_at_once=tokens_at_once,
        device=torch.device("cpu"),
        data=ONE_RANK,
    )


@torch.no_grad()
def plain_scores(model: Transformer, document: list[int], mask: list[bool]) -> tuple[int, float, float, float]:
    """Scores one document, a window after the other, from all probabilities in float64."""
    rows = []
    for start in range(0, len(document) - 1, SEQ_LENGTH):
        targets = torch.tensor(document[start + 1 : start + SEQ_LENGTH + 1])
        tokens = torch.tensor([document[start : start + len(targets)]])
        logits = model.logits(model(tokens, None, torch.arange(len(targets))[None]))[:, 0].double()
        onehot = nn.functional.one_hot(targets, VOCABULARY)
        nll = nn.functional.cross_entropy(logits, targets, reduction="none")
        row = torch.stack([(logits.softmax(1) - onehot).norm(dim=1), nll, (logits.argmax(1) == targets).double()], 1)
        rows.append(row[torch.tensor(mask[start + 1 : start + 1 + len(targets)])])
    joined = torch.cat(rows) if rows else torch.empty(0, 3)
    el2n, loss, accuracy = joined.mean(0).tolist()
    return len(joined), el2n, loss, accuracy


def test_batches_give_the_scores_of_one_document_at_a_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = [1, 2, SEQ_LENGTH, SEQ_LENGTH + 1, SEQ_LENGTH + 2, 5 * SEQ_LENGTH + 3, *rng.integers(1, 90, 40).tolist()]
    documents = [[*rng.integers(1, VOCABULARY, length - 1).tolist(), EOS] for length in lengths]
    masks = [(rng.random(length) > 0.3).tolist() for length in lengths]
    masks[6] = [False] * lengths[6]
    model = small_model()
    shard = shard_of(tmp_path, documents, masks)
    wanted = np.array([plain_scores(model, *each) for each in zip(documents, masks, strict=True)])
    assert np.isnan(wanted[[0, 6], 1]).all()
    for tokens_at_once in (1, 100, 8192):
        found = scores_of(model, shard, tokens_at_once=tokens_at_once)
        np.testing.assert_array_equal(found.tokens, wanted[:, 0])
        for column, scores in enumerate((found.el2n, found.loss, found.accuracy), start=1):
            np.testing.assert_allclose(scores, wanted[:, column], rtol=1e-5, atol=1e-5)


def test_memorised_ordinary_and_random_documents_are_told_apart(tmp_path: Path) -> None:
    """The model learns one document by heart, and the two successors that each token has in an ordinary one."""
    rng = np.random.default_rng(1)
    successors = rng.integers(1, VOCABULARY, (VOCABULARY, 2))

    def ordinary() -> list[int]:
        tokens = [int(rng.integers(1, VOCABULARY))]
        while len(tokens) < SEQ_LENGTH:
            tokens.append(int(successors[tokens[-1], rng.integers(2)]))
        return [*tokens, EOS]

    memorised = [*rng.integers(1, VOCABULARY, SEQ_LENGTH).tolist(), EOS]
    randoms = [[*rng.integers(1, VOCABULARY, SEQ_LENGTH).tolist(), EOS] for _ in range(5)]
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    positions = torch.arange(SEQ_LENGTH).expand(8, -1)
    for _ in range(120):
        rows = torch.tensor([memorised, *(ordinary() for _ in range(7))])
        weights = torch.full((8, SEQ_LENGTH), 1 / (8 * SEQ_LENGTH))
        optimizer.zero_grad()
        model.loss(model(rows[:, :-1], None, positions), rows[:, 1:], weights).total.backward()
        optimizer.step()
    scores = scores_of(model, shard_of(tmp_path, [memorised, *(ordinary() for _ in range(5)), *randoms]))
    assert scores.el2n[0] < 0.1
    assert scores.accuracy[0] > 0.95
    assert 0.3 < scores.el2n[1:6].min() < scores.el2n[1:6].max() < 0.9 < scores.el2n[6:].min()
    assert scores.loss[0] < scores.loss[1:6].min() < scores.loss[1:6].max() < scores.loss[6:].min()
