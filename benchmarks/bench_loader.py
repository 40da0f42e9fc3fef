"""Rows per second of lehr's loader against Megatron-core's GPTDataset on the same shards, and memory by shard size.

Both read 1024-token rows in random order from the same file in the same process, in turns (A B C A B C ...), and give
int64 tokens and targets, loss mask and positions in batches. Megatron's rows are also timed without being stacked into
batches. Memory is private (anonymous) memory, without the page cache, of a fresh process for each size.

    python benchmarks/bench_loader.py --megabytes 50 500 --rounds 7
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from random_shards import write_random_shards

from data.batches.loader import Loader
from data.config import DataConfig

SEQ_LENGTH = 1024
VOCAB_SIZE = 50_000


def megatron(shard: Path) -> Any:
    """Builds Megatron's training dataset over one epoch of the same bytes."""
    warnings.simplefilter("ignore")
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import _IndexWriter

    class Tokenizer:
        vocab_size, eod, pad, bos = VOCAB_SIZE, 0, 999_999, None
        unique_identifiers: dict[str, str] = {}  # noqa: RUF012 (Megatron reads it from the class)

    prefix = shard.parent / "megatron"
    prefix.with_suffix(".bin").symlink_to(shard)
    lengths = np.diff(np.fromfile(f"{shard}.index", np.uint64), prepend=np.uint64(0))
    with _IndexWriter(str(prefix.with_suffix(".idx")), np.uint16) as writer:
        writer.write(lengths.astype(np.int32).tolist(), None, list(range(len(lengths) + 1)))
    config = GPTDatasetConfig(
        random_seed=1,
        sequence_length=SEQ_LENGTH,
        blend=([str(prefix)], None),
        split="1,0,0",
        tokenizer=Tokenizer(),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    return BlendedMegatronDatasetBuilder(GPTDataset, [None, 0, 0], lambda: True, config).build()[0]


def speed(arguments: argparse.Namespace) -> None:
    """Prints the median rows/s of each contender, and its median ratio to the faster of Megatron's two."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shard = write_random_shards(
            folder,
            tokens=arguments.megabytes[0] * 500_000,
            document_tokens=arguments.document_tokens,
            vocab_size=VOCAB_SIZE,
        )
        dataset = megatron(shard)
        batch, batches = arguments.batch, arguments.rows // arguments.batch
        position = 0

        def megatron_rows() -> list[dict[str, Any]]:
            nonlocal position
            rows = [dataset[(position + i) % len(dataset)] for i in range(batch)]
            position += batch
            return rows

        def stacked() -> object:
            rows = megatron_rows()
            return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}

        def lehr(**config: Any) -> tuple[Loader, Callable[[], object]]:
            loader = Loader(
                DataConfig(shards=folder, **config), seed=1, seq_length=SEQ_LENGTH, rows_per_step_global=batch
            )
            steps = iter(range(10**9))
            return loader, lambda: loader.batch(next(steps))

        plain_loader, plain = lehr(document_masking=False)
        masked_loader, masked = lehr(document_masking=True)
        contenders = {
            "lehr": plain,
            "lehr, document masks": masked,
            "Megatron GPTDataset": megatron_rows,
            "Megatron GPTDataset, stacked": stacked,
        }
        rates: dict[str, list[float]] = {key: [] for key in contenders}
        for round_number in range(arguments.rounds + 1):
            for key, make in contenders.items():
                start = time.perf_counter()
                for _ in range(batches):
                    make()
                rate = batches * batch / (time.perf_counter() - start)
                if round_number:  # the first warms the page cache and the buffers
                    rates[key].append(rate)
        plain_loader.close()
        masked_loader.close()
    fastest = [max(pair) for pair in zip(*list(rates.values())[2:], strict=True)]
    print(f"{SEQ_LENGTH} tokens a row, {batch} rows a batch, {arguments.megabytes[0]} MB of shards")
    for key, values in rates.items():
        ratio = statistics.median(value / best for value, best in zip(values, fastest, strict=True))
        print(f"{key:30s} {statistics.median(values):10,.0f} rows/s   {ratio:6.2f} x Megatron's faster")


def memory(arguments: argparse.Namespace) -> None:
    """Prints the memory of a fresh process that reads all rows, for each size of shards."""
    for megabytes in arguments.megabytes:
        with tempfile.TemporaryDirectory() as name:
            write_random_shards(
                Path(name),
                tokens=megabytes * 500_000,
                document_tokens=arguments.document_tokens,
                vocab_size=VOCAB_SIZE,
            )
            command = [sys.executable, __file__, "--read", name, "--batch", str(arguments.batch)]
            subprocess.run(command, check=True)


def read(arguments: argparse.Namespace) -> None:
    """Reads an epoch and prints the memory of this process. `memory` runs it as a command."""
    before = psutil.Process().memory_info()
    with Loader(DataConfig(shards=arguments.read), seed=1, seq_length=SEQ_LENGTH, rows_per_step_global=64) as loader:
        tokens = loader.shards.split("random", "train").tokens
        largest = 0
        for step in range(tokens // SEQ_LENGTH // 64):
            loader.batch(step)
            now = psutil.Process().memory_info()
            largest = max(largest, now.rss - now.shared)
        print(
            f"{2 * tokens / 1e6:6.0f} MB of shards: private memory {(before.rss - before.shared) / 1e6:.1f} MB before, "
            f"at most {largest / 1e6:.1f} MB while reading an epoch; page cache mapped {now.shared / 1e6:.0f} MB"
        )


def main() -> None:
    """Reads the arguments, then measures speed and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--megabytes", type=int, nargs="+", default=[50, 500], help="sizes of shards; speed is measured on the first"
    )
    parser.add_argument("--document-tokens", type=int, default=700, help="mean length of a document")
    parser.add_argument("--batch", type=int, default=64, help="rows a batch")
    parser.add_argument("--rows", type=int, default=8192, help="rows a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read(arguments)
    else:
        speed(arguments)
        memory(arguments)


if __name__ == "__main__":
    main()
