"""Step times and memory of the optimizers on the matrices of a 60M Llama, each beside a reference, in one run.

    python benchmarks/bench_optimizers.py [--repeats 7] [--only conda muon] [--threads 2]

References: torch's fused AdamW, the PyPI package `adamp`, torch's Muon (and its rule with the iteration in float32),
and Conda's published steps written as a plain loop over matrices. Contenders of a pair take turns, so that what else
the machine does meets both; the ratio is that of the fastest steps.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optim.optimizer import OPTIMIZERS, OneRank, Optimizer, Param

HIDDEN, LAYERS, FFN, VOCAB = 512, 8, 1376, 32000
TOKENS_PER_STEP = 131072
Step = Callable[[], None]


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model: d 512, 8 layers, ffn 1376, vocabulary 32000."""
    result: dict[str, tuple[int, ...]] = {"embedding.weight": (VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        at = f"layers.{layer}"
        result[f"{at}.attention_norm.weight"] = (HIDDEN,)
        result |= {f"{at}.attention.{name}.weight": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "out")}
        result[f"{at}.mlp_norm.weight"] = (HIDDEN,)
        result |= {f"{at}.mlp.{name}.weight": (FFN, HIDDEN) for name in ("gate", "up")}
        result[f"{at}.mlp.down.weight"] = (HIDDEN, FFN)
    return result | {"final_norm.weight": (HIDDEN,), "head.weight": (VOCAB, HIDDEN)}


def is_matrix(name: str) -> bool:
    """Whether Conda and Muon take it: the linear maps of the layers."""
    return name.startswith("layers.") and "norm" not in name


def fresh(names: list[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, weight, gradient), the same on every call."""
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes().items():
        weight = torch.randn(shape, generator=generator) * 0.02
        gradient = torch.randn(shape, generator=generator) * 1e-3
        if name in names:
            yield name, weight, gradient


def ours(method: str, names: list[str], **values: object) -> Step:
    """lehr's optimizer of this name."""
    params = [Param(name, weight, tuple(weight.shape), grad=gradient) for name, weight, gradient in fresh(names)]
    optimizer: Optimizer = OPTIMIZERS[method].model_validate({"lr": 1e-3, **values}).build(params, OneRank())
    return lambda: optimizer.step(lr=1e-3)


def torch_class(make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], names: list[str]) -> Step:
    """An optimizer with torch's interface."""
    params = []
    for _, weight, gradient in fresh(names):
        params.append(torch.nn.Parameter(weight))
        params[-1].grad = gradient
    optimizer = make(params)
    return lambda: optimizer.step()


def conda_loop(names: list[str], *, refresh: bool) -> Step:
    """The published steps, one parameter after the other: momentum in the original basis, three products, an SVD.

    What is no matrix of a layer gets Adam in the same loop, as in the authors' class.
    """
    b1, b2, eps, scale, lr = 0.9, 0.99, 1e-8, 0.25, 1e-3
    states = [(is_matrix(name), w, g, torch.zeros_like(w), torch.zeros_like(w)) for name, w, g in fresh(names)]
    bases = [torch.eye(min(w.shape)) if matrix else torch.empty(0) for matrix, w, _, _, _ in states]
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        for i, (matrix, w, g, m, v) in enumerate(states):
            size = lr * math.sqrt(1 - b2**count) / (1 - b1**count)
            m.mul_(b1).add_(g, alpha=1 - b1)
            if not matrix:
                v.mul_(b2).addcmul_(g, g, value=1 - b2)
                w.addcdiv_(m, v.sqrt().add_(eps), value=-size)
                continue
            tall = w.shape[0] >= w.shape[1]
            if refresh:
                u, _, vh = torch.linalg.svd(m, full_matrices=False)
                bases[i] = vh if tall else u
            basis = bases[i]
            rotated_g = g @ basis.T if tall else basis.T @ g
            rotated_m = m @ basis.T if tall else basis.T @ m
            v.mul_(b2).addcmul_(rotated_g, rotated_g, value=1 - b2)
            n = rotated_m / v.sqrt().add_(eps)
            n = (n @ basis if tall else basis @ n) * scale
            w.add_(n, alpha=-size)

    return step


def muon_loop_float32(names: list[str]) -> Step:
    """Torch's Muon with the iteration in float32, one matrix after the other."""
    lr, momentum, decay = 1e-3, 0.95, 0.1
    states = [(w, g, torch.zeros_like(w)) for _, w, g in fresh(names)]

    def step() -> None:
        for w, g, buffer in states:
            buffer.lerp_(g, 1 - momentum)
            x = g.lerp(buffer, momentum)
            tall = x.shape[0] > x.shape[1]
            x = x.T if tall else x
            x = x / x.norm().clamp(min=1e-7)
            for _ in range(5):
                gram = x @ x.T
                x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
            w.mul_(1 - lr * decay).add_(x.T if tall else x, alpha=-lr * math.sqrt(max(1, w.shape[0] / w.shape[1])))

    return step


@dataclass
class Contender:
    """What is timed: made when its turn comes, so that two at most are in memory."""

    label: str
    make: Callable[[], Step]
    slow: bool = False  # timed twice only
    seconds: list[float] = field(default_factory=list)


def comparisons() -> dict[str, tuple[str, list[Contender]]]:
    """Name -> (what is updated, lehr's contender first)."""
    import adamp

    every = list(shapes())
    matrices = [name for name in every if is_matrix(name)]
    often, never = {"refresh_interval": 1}, {"refresh_interval": 10**9}
    return {
        "adamw": ("all parameters", [
            Contender("lehr adamw", lambda: ours("adamw", every, beta2=0.999)),
            Contender("torch AdamW, fused", lambda: torch_class(lambda p: torch.optim.AdamW(p, fused=True), every)),
        ]),
        "adamp": ("all parameters", [
            Contender("lehr adamp", lambda: ours("adamp", every)),
            Contender("adamp.AdamP", lambda: torch_class(lambda p: adamp.AdamP(p, weight_decay=0.1), every)),
        ]),
        "sgdp": ("all parameters", [
            Contender("lehr sgdp", lambda: ours("sgdp", every)),
            Contender("adamp.SGDP", lambda: torch_class(
                lambda p: adamp.SGDP(p, lr=1e-3, weight_decay=0.1, momentum=0.9), every)),
        ]),
        "conda": ("matrices, between refreshes", [
            Contender("lehr conda", lambda: ours("conda", matrices, **never)),
            Contender("plain loop", lambda: conda_loop(matrices, refresh=False)),
        ]),
        "conda-model": ("all parameters, between refreshes", [
            Contender("lehr conda", lambda: ours("conda", every, **never)),
            Contender("plain loop", lambda: conda_loop(every, refresh=False)),
        ]),
        "conda-refresh": ("matrices, a step with a refresh", [
            Contender("lehr conda", lambda: ours("conda", matrices, **often), slow=True),
            Contender("plain loop", lambda: conda_loop(matrices, refresh=True), slow=True),
        ]),
        "muon-float32": ("matrices, iteration in float32", [
            Contender("lehr muon", lambda: ours("muon", matrices, precision="float32")),
            Contender("plain loop in float32", lambda: muon_loop_float32(matrices)),
        ]),
        "muon": ("matrices, as each comes on a CPU", [
            Contender("lehr muon", lambda: ours("muon", matrices)),
            Contender("torch.optim.Muon (bfloat16)", lambda: torch_class(
                lambda p: torch.optim.Muon(p, lr=1e-3, weight_decay=0.1), matrices), slow=True),
        ]),
    }  # fmt: skip


def compare(contenders: list[Contender], repeats: int) -> None:
    """Time them in turns, after a warm-up step each."""
    steps = [contender.make() for contender in contenders]
    for step in steps:
        step()
    for repeat in range(repeats):
        for contender, step in zip(contenders, steps, strict=True):
            if contender.slow and repeat >= 2:
                continue
            start = time.perf_counter()
            step()
            contender.seconds.append(time.perf_counter() - start)


def matmul_rate() -> float:
    """FLOP/s of a large float32 product: what a training step would reach at best."""
    a, b = torch.randn(2048, HIDDEN), torch.randn(HIDDEN, FFN)
    best = math.inf
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * 2048 * HIDDEN * FFN / best


def _extra_memory(method: str, results: multiprocessing.Queue[tuple[int, int]]) -> None:
    """(bytes of state, growth of the process's peak through building and three steps)."""
    data = list(fresh(list(shapes())))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    params = [Param(name, weight, tuple(weight.shape), grad=gradient) for name, weight, gradient in data]
    optimizer = OPTIMIZERS[method].model_validate({"lr": 1e-3}).build(params, OneRank())
    for _ in range(3):
        optimizer.step(lr=1e-3)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results.put((sum(value.tensor.nbytes for value in optimizer.state().values()), (after - before) * 1024))


def print_memory() -> None:
    """State and peak growth of each optimizer, each in a process of its own, and what the method's moments need."""
    elements = sum(math.prod(shape) for shape in shapes().values())
    matrices = {name: shape for name, shape in shapes().items() if is_matrix(name)}
    squares = sum(min(shape) ** 2 for shape in matrices.values())
    inside = sum(math.prod(shape) for shape in matrices.values())
    needs = {"adamw": 2 * elements, "adamp": 2 * elements, "sgdp": elements, "conda": 2 * elements + squares,
             "muon": 2 * elements - inside}  # fmt: skip
    print("\n| optimizer | method needs (MiB) | state (MiB) | growth of the peak (MiB) |\n|---|---:|---:|---:|")
    context = multiprocessing.get_context("spawn")
    for method in OPTIMIZERS.names():
        results: multiprocessing.Queue[tuple[int, int]] = context.Queue()
        process = context.Process(target=_extra_memory, args=(method, results))
        process.start()
        state, growth = results.get()
        process.join()
        needed = f"{needs[method] * 4 / 2**20:.1f}" if method in needs else ""
        print(f"| {method} | {needed} | {state / 2**20:.1f} | {growth / 2**20:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="names of comparisons, or `memory`")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rate = matmul_rate()
    print(f"torch {torch.__version__}, {arguments.threads} threads, float32 matmul {rate / 1e9:.0f} GFLOP/s\n")
    print("| what | contender | fastest (ms) | median (ms) | reference / lehr |\n|---|---|---:|---:|---:|")
    fastest: dict[str, float] = {}
    for name, (what, contenders) in comparisons().items():
        if arguments.only and name not in arguments.only:
            continue
        compare(contenders, arguments.repeats)
        fastest[name] = min(contenders[0].seconds)
        for contender in contenders:
            times = sorted(contender.seconds)
            ratio = "" if contender is contenders[0] else f"{times[0] / fastest[name]:.2f}"
            label = f"{name}: {what}" if contender is contenders[0] else ""
            median = times[len(times) // 2]
            print(f"| {label} | {contender.label} | {times[0] * 1e3:.1f} | {median * 1e3:.1f} | {ratio} |", flush=True)
    if "conda" in fastest and "conda-refresh" in fastest:
        used = sum(math.prod(s) for n, s in shapes().items() if is_matrix(n)) + VOCAB * HIDDEN
        training = 6 * used * TOKENS_PER_STEP / rate
        print(
            f"\nA training step of {TOKENS_PER_STEP} tokens is at least {training:.0f} s of matmuls here (6 N tokens). "
            f"Conda's step is {100 * fastest['conda'] / training:.2f}% of it, a refresh "
            f"{100 * fastest['conda-refresh'] / training:.2f}% (every 2000 steps)."
        )
    if not arguments.only or "memory" in arguments.only:
        print_memory()


if __name__ == "__main__":
    main()
