"""Text generation: one token after the other, sampled from the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from model.transformer import Transformer


def sample_next(logits_V: Tensor, *, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Samples a token from softmax(logits / temperature), among the fewest tokens whose probabilities sum to `top_p`.

    Temperature 0 takes the likeliest token. Nucleus sampling is of arXiv:1904.09751, section 3.1.
    """
    if temperature == 0:
        return int(logits_V.argmax())
    probabilities_V, tokens_V = torch.softmax(logits_V.float() / temperature, dim=-1).sort(descending=True)
    before_V = probabilities_V.cumsum(-1) - probabilities_V  # of likelier tokens
    beyond_V = before_V >= top_p
    beyond_V[0] = False
    kept_V = probabilities_V.masked_fill(beyond_V, 0.0)
    return int(tokens_V[torch.multinomial(kept_V, 1, generator=generator)])


@torch.no_grad()
def generate(
    model: Transformer,
    prompt: Sequence[int],
    *,
    seq_length: int,
    entries: int,
    tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    end: int | None = None,
) -> Iterator[int]:
    """Yields up to `tokens` tokens after the prompt, until `end`; the model reads the last `seq_length` tokens.

    `entries` counts the tokenizer's entries: the vocabulary beyond them is padding and never sampled. The full model
    must be on this process.
    """
    generator = torch.Generator().manual_seed(seed)
    context = list(prompt)
    for _ in range(tokens):
        seen_BT = torch.tensor([context[-seq_length:]])
        positions_BT = torch.arange(seen_BT.shape[1])[None]
        device = next(model.parameters()).device
        hidden_TBD = model(seen_BT.to(device), None, positions_BT.to(device))
        logits_V = model.logits(hidden_TBD[-1:])[0, 0, :entries].cpu()
        token = sample_next(logits_V, temperature=temperature, top_p=top_p, generator=generator)
        if token == end:
            return
        context.append(token)
        yield token
