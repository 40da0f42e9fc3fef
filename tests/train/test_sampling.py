"""One sampled token: the distribution is softmax(logits / temperature), cut at top-p."""

from __future__ import annotations

import pytest
import torch

from train.sampling import sample_next

LOGITS = torch.tensor([2.0, 0.0, 3.0, 1.0, -1.0])
DRAWS = 3_000


def frequencies(*, temperature: float, top_p: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = [sample_next(LOGITS, temperature=temperature, top_p=top_p, generator=generator) for _ in range(DRAWS)]
    return torch.bincount(torch.tensor(drawn), minlength=len(LOGITS)) / DRAWS


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_come_as_often_as_softmax_says(temperature: float) -> None:
    wanted = torch.softmax(LOGITS / temperature, 0)
    deviation = (wanted * (1 - wanted) / DRAWS).sqrt()
    assert ((frequencies(temperature=temperature, top_p=1.0) - wanted).abs() < 4 * deviation + 1e-9).all()


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    """Probabilities, sorted: 0.636, 0.234, 0.086, 0.032, 0.012."""
    for top_p, kept in ((0.0, {2}), (0.6, {2}), (0.7, {2, 0}), (0.88, {2, 0, 3}), (1.0, {0, 1, 2, 3, 4})):
        found = frequencies(temperature=1.0, top_p=top_p)
        assert set(found.nonzero().flatten().tolist()) == kept, top_p
        wanted = torch.softmax(LOGITS, 0)[sorted(kept)]
        assert torch.allclose(found[sorted(kept)], wanted / wanted.sum(), atol=0.05)


def test_temperature_0_is_the_likeliest() -> None:
    generator = torch.Generator().manual_seed(0)
    assert sample_next(LOGITS, temperature=0.0, top_p=0.5, generator=generator) == 2
