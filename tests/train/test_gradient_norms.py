"""GraNd in windows and batches, compared with plain autograd of one document at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from made_shards import EOS
from test_document_scores import ONE_RANK, SEQ_LENGTH, VOCABULARY, shard_of, small_model
from torch import nn

from model.transformer import Transformer
from train.gradient_norms import gradient_norms


def plain_norm(model: Transformer, document: list[int], mask: list[bool]) -> float:
    """The norm of the gradient of the mean cross-entropy of all tokens that count, from full logits."""
    losses = []
    for start in range(0, len(document) - 1, SEQ_LENGTH):
        targets = torch.tensor(document[start + 1 : start + SEQ_LENGTH + 1])
        tokens = torch.tensor([document[start : start + len(targets)]])
        logits = model.logits(model(tokens, None, torch.arange(len(targets))[None]))[:, 0]
        nll = nn.functional.cross_entropy(logits, targets, reduction="none")
        losses.append(nll[torch.tensor(mask[start + 1 : start + 1 + len(targets)])])
    counted = torch.cat(losses) if losses else torch.empty(0)
    if not len(counted):
        return float("nan")
    gradients = torch.autograd.grad(counted.mean(), list(model.parameters()))
    return float(torch.cat([gradient.flatten().double() for gradient in gradients]).norm())


def test_norms_are_those_of_plain_autograd(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = [1, 2, SEQ_LENGTH + 1, SEQ_LENGTH + 2, 5 * SEQ_LENGTH + 3, 40, *rng.integers(20, 90, 10).tolist()]
    documents = [[*rng.integers(1, VOCABULARY, length - 1).tolist(), EOS] for length in lengths]
    masks = [(rng.random(length) > 0.3).tolist() for length in lengths]
    masks[1], masks[5] = [True] * 2, [False] * 40
    model = small_model()
    shard = shard_of(tmp_path, documents, masks)
    wanted = [plain_norm(model, *each) for each in zip(documents, masks, strict=True)]
    assert np.isnan(wanted).tolist() == [number in (0, 5) for number in range(len(documents))]
    for tokens_at_once in (1, 64, 8192):
        found = gradient_norms(
            model,
            shard,
            seq_length=SEQ_LENGTH,
            tokens_at_once=tokens_at_once,
            device=torch.device("cpu"),
            data=ONE_RANK,
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())
