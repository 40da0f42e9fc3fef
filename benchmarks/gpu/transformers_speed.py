"""The same model in transformers, as its users train it: the speed that lehr is compared with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch

from gpu.context import Context, Row
from gpu.lehr_runs import mfu
from gpu.models import model_of
from model.size import flops_per_token

_STEPS, _WARM_STEPS = 12, 5


def measure(context: Context, size_name: str) -> Iterator[Row]:
    """Yields the speed with float32 weights under autocast, as lehr's masters are, compiled by torch.compile.

    The optimizer is torch's fused AdamW; gradients are clipped; a step has two micro-batches of random tokens.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    size, device, length = context.size(size_name), context.device, context.seq_length
    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=size.num_layers,
        hidden_size=size.hidden_size,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_heads,
        intermediate_size=size.ffn_size,
        vocab_size=size.vocab_size,
        max_position_embeddings=length,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        use_cache=False,
    )
    with torch.device(device):
        model = LlamaForCausalLM(config)
    forward = model if context.tiny else torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    batches = torch.randint(size.vocab_size, (2, size.micro_batch_size, length), device=device)
    seconds = []
    for _ in range(_WARM_STEPS + 2 if context.tiny else _STEPS):
        began = time.perf_counter()
        for tokens in batches:
            with torch.autocast(device, torch.bfloat16):
                loss = forward(input_ids=tokens, labels=tokens).loss / len(batches)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        float(loss)  # waits for the device
        seconds.append(time.perf_counter() - began)
    tokens_per_second = batches.numel() / statistics.median(seconds[_WARM_STEPS:])
    yield {
        "case": f"{size_name} transformers",
        "tokens_per_second": round(tokens_per_second),
        "mfu": mfu(tokens_per_second, flops_per_token(model_of(size), length)),
        "first_step_seconds": round(seconds[0], 1),
        "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device == "cuda" else 0.0,
    }
