"""The error and the time of the gradient norm and of a dot product on a CPU: torch's of one tensor, and optim.sums.

    python benchmarks/bench_gradient_norm.py

Normal numbers, against float64. The contenders take turns; the time is the fastest of `--repeats` turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from sys import path

import torch
from torch import Tensor

path.insert(0, str(Path(__file__).parents[1]))

from optim.sums import dot, sum_of_squares

SIZES = (1_500_000, 12_000_000, 39_000_000)
CPU = torch.device("cpu")


def contenders(a: Tensor, b: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Returns what is measured, by name: norms of `a` and dot products of `a` and `b`."""
    return {
        "norm, torch": lambda: torch.stack(torch._foreach_norm([a])).double(),
        "norm, lehr": lambda: sum_of_squares([a], CPU).sqrt(),
        "dot, torch": lambda: torch.dot(a, b),
        "dot, lehr": lambda: dot(a, b),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("| elements | what | error | ms |\n|---:|---|---:|---:|")
    for size in SIZES:
        generator = torch.Generator().manual_seed(0)
        a = torch.randn(size, generator=generator)
        b = a + torch.randn(size, generator=generator)
        exact = {"norm": float(a.double().norm()), "dot": float((a.double() * b.double()).sum())}
        compared = contenders(a, b)
        fastest = dict.fromkeys(compared, float("inf"))
        for _ in range(repeats):
            for name, run in compared.items():
                start = time.perf_counter()
                run()
                fastest[name] = min(fastest[name], time.perf_counter() - start)
        for name, run in compared.items():
            error = float(run()) / exact[name.split(",")[0]] - 1
            print(f"| {size:,} | {name} | {error:.1e} | {1000 * fastest[name]:.2f} |")


if __name__ == "__main__":
    main()
