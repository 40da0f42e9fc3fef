"""The time to draw the initial weights of a model, by threads.

    OMP_NUM_THREADS=1 python benchmarks/bench_init.py --threads 1 2

Every parameter is drawn in full and dropped, so that a model of 7B needs no more memory than its largest parameters.
The numbers of threads take turns; the time is the fastest of `--repeats` turns.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from pathlib import Path
from sys import path

import torch
from torch import Tensor

path.insert(0, str(Path(__file__).parents[1]))

from model.config import ModelConfig
from model.init import Wanted, draw
from model.parameter import spec_of
from model.transformer import Transformer, without_values


def llama(num_layers: int) -> Transformer:
    """Returns a Llama 2 7B (32 layers; fewer are quicker), on the meta device."""
    config = ModelConfig.model_validate(
        {"num_layers": num_layers, "hidden_size": 4096, "num_heads": 32, "ffn_size": 11008, "vocab_size": 32000}
    )
    return without_values(config, seq_length=2048)


def draw_all(model: Transformer, threads: int) -> tuple[float, str]:
    """Returns the seconds of drawing every parameter, and a hash of some values of each."""
    samples: dict[str, Tensor] = {}

    def wanted(name: str) -> Wanted:
        parameter = model.get_parameter(name)

        def take(full: Tensor) -> None:
            samples[name] = full.view(-1)[:: max(1, full.numel() // 1000)].clone()

        return Wanted(name, spec_of(parameter, name), tuple(parameter.shape), take)

    names = [name for name, _ in model.named_parameters()]
    start = time.perf_counter()
    draw(map(wanted, names), model.config.init, num_layers=model.config.num_layers, seed=0, threads=threads)
    seconds = time.perf_counter() - start
    return seconds, hashlib.sha256(torch.cat([samples[name] for name in names]).numpy().tobytes()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    model = llama(arguments.layers)
    count = sum(math.prod(parameter.shape) for parameter in model.parameters())
    turns = {threads: [draw_all(model, threads)] for threads in arguments.threads}
    for _ in range(arguments.repeats - 1):
        for threads, results in turns.items():
            results.append(draw_all(model, threads))
    print(f"torch {torch.__version__}, {count / 1e9:.2f}B parameters")
    print("| threads | s | values |\n|---:|---:|---|")
    for threads, results in turns.items():
        (values,) = {values for _, values in results}
        print(f"| {threads} | {min(seconds for seconds, _ in results):.1f} | {values} |")


if __name__ == "__main__":
    main()
