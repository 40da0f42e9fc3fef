"""Documents and tokens per second of `lehr score` against plain forward passes of the same model.

The plain passes read as many tokens in full rows of seq_length, as training packs them, and compute the loss.
Scoring reads each document from its own first token, so it has batches to fill up, and more to compute of each token.
All run on one process with one thread, in turns, and CPU time is measured.

    python benchmarks/bench_score.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from random_shards import write_random_shards
from torch import Tensor

from data.config import DataConfig
from data.shards.index import open_shards
from model.attention import KERNELS
from model.config import ModelConfig
from model.init import initialise
from model.layers import TorchLayers
from model.token_scores import TokenScores
from model.transformer import Transformer
from parallel.mesh import Axis
from train.document_scores import score_documents
from train.gradient_norms import gradient_norms

SEQ_LENGTH = 512
TOKENS_AT_ONCE = 8192  # as lehr score takes
ONE_RANK = Axis(size=1, rank=0, group=cast(dist.ProcessGroup, None))


def made_model() -> Transformer:
    """Makes the model of configs/demo.yaml, with random weights."""
    config = ModelConfig(num_layers=4, hidden_size=192, num_heads=6, num_kv_heads=2, ffn_size=512, vocab_size=8192)
    model = Transformer(config, seq_length=SEQ_LENGTH, layers=TorchLayers(), attend=KERNELS["sdpa"])
    initialise(model.named_parameters(), config.init, num_layers=config.num_layers, seed=0)
    return model


def main() -> None:
    """Reads the arguments, measures, and prints the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--document-tokens", type=int, default=400, help="mean length of a document")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = made_model()
    with tempfile.TemporaryDirectory() as name:
        write_random_shards(
            Path(name), tokens=arguments.tokens, document_tokens=arguments.document_tokens, vocab_size=8192
        )
        (shard,) = open_shards(DataConfig(shards=Path(name))).stream("random", "train").shards
        tokens = torch.from_numpy(shard.tokens.astype("int64"))
        rows = tokens[: (len(tokens) - 1) // SEQ_LENGTH * SEQ_LENGTH + 1]

        @torch.no_grad()
        def forward() -> None:
            for batch in rows[:-1].view(-1, SEQ_LENGTH).split(TOKENS_AT_ONCE // SEQ_LENGTH):
                positions = torch.arange(SEQ_LENGTH).expand_as(batch)
                weights = torch.full(batch.shape, 1 / batch.numel())
                model.loss(model(batch, None, positions), batch, weights)

        @torch.no_grad()
        def score_tokens(tokens_BT: Tensor, targets_BT: Tensor) -> TokenScores:
            positions_BT = torch.arange(tokens_BT.shape[1]).expand_as(tokens_BT)
            return model.token_scores(model(tokens_BT, None, positions_BT), targets_BT)

        def score() -> None:
            score_documents(
                score_tokens,
                shard,
                seq_length=SEQ_LENGTH,
                tokens_at_once=TOKENS_AT_ONCE,
                device=torch.device("cpu"),
                data=ONE_RANK,
            )

        def grand() -> None:
            gradient_norms(
                model,
                shard,
                seq_length=SEQ_LENGTH,
                tokens_at_once=TOKENS_AT_ONCE,
                device=torch.device("cpu"),
                data=ONE_RANK,
            )

        contenders: dict[str, Callable[[], None]] = {"plain forward": forward, "scores": score, "with GraNd": grand}
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(arguments.rounds):
            for contender, run in contenders.items():
                start = time.process_time()
                run()
                seconds[contender].append(time.process_time() - start)
        seconds["with GraNd"] = [sum(pair) for pair in zip(seconds["scores"], seconds["with GraNd"], strict=True)]
        print(f"{len(tokens):,} tokens in {shard.file.documents:,} documents, windows of {SEQ_LENGTH}")
        for contender, own in seconds.items():
            ratio = statistics.median(plain / each for plain, each in zip(seconds["plain forward"], own, strict=True))
            read = len(rows) - 1 if contender == "plain forward" else len(tokens) - shard.file.documents
            ratio *= read / (len(rows) - 1)
            median = statistics.median(own)
            documents = "" if contender == "plain forward" else f"{shard.file.documents / median:8.1f} documents/s"
            print(f"{contender:14s} {read / median:9,.0f} tokens/s  {ratio:5.2f} x {documents}")


if __name__ == "__main__":
    main()
