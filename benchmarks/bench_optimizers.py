"""Step times and memory of the optimizers on the parameters of a 60M Llama, each against a reference implementation.

    python benchmarks/bench_optimizers.py [--repeats 7] [--only conda muon] [--threads 2]

The references are torch's fused AdamW, the PyPI package `adamp`, torch's Muon (and its rule with the iteration in
float32), and Conda's published steps written as a plain loop over matrices. Contenders of a comparison take turns, so
that other work on the machine slows both. The ratios are those of the fastest steps, by the clock and by the CPU time
of this process. On a busy machine the CPU time means more; with one thread it contains no waiting.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from llama60m import FFN, HIDDEN, VOCAB, fresh, is_matrix, shapes
from optimizer_loops import Step, conda_as_written, conda_loop, muon_loop_float32

from optim.optimizer import OPTIMIZERS, Optimizer
from optim.parameters import OneRank, Param

TOKENS_PER_STEP = 131072


def lehr(method: str, names: list[str], **values: object) -> Step:
    """Builds a step of lehr's optimizer of this name."""
    params = [Param(name, weight, tuple(weight.shape), grad=gradient) for name, weight, gradient in fresh(names)]
    optimizer: Optimizer = OPTIMIZERS[method].model_validate({"lr": 1e-3, **values}).build(params, OneRank())
    return lambda: optimizer.step(lr=1e-3)


def torch_class(make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], names: list[str]) -> Step:
    """Builds a step of an optimizer with torch's interface."""
    params = []
    for _, weight, gradient in fresh(names):
        params.append(torch.nn.Parameter(weight))
        params[-1].grad = gradient
    optimizer = make(params)
    return lambda: optimizer.step()


@dataclass
class Contender:
    """An optimizer that is timed. It is built when its comparison begins, so that few are in memory."""

    label: str
    make: Callable[[], Step]
    slow: bool = False  # timed twice only
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)


def comparisons() -> dict[str, tuple[str, list[Contender]]]:
    """Returns (the updated parameters, the contenders, lehr's first) by the name of the comparison."""
    import adamp

    every = list(shapes())
    matrices = [name for name in every if is_matrix(name)]
    often, never = {"refresh_interval": 1}, {"refresh_interval": 10**9}
    return {
        "adamw": ("all parameters", [
            Contender("lehr adamw", lambda: lehr("adamw", every, beta2=0.999)),
            Contender("torch AdamW, fused", lambda: torch_class(lambda p: torch.optim.AdamW(p, fused=True), every)),
        ]),
        "adamp": ("all parameters", [
            Contender("lehr adamp", lambda: lehr("adamp", every)),
            Contender("adamp.AdamP", lambda: torch_class(lambda p: adamp.AdamP(p, weight_decay=0.1), every)),
        ]),
        "sgdp": ("all parameters", [
            Contender("lehr sgdp", lambda: lehr("sgdp", every)),
            Contender("adamp.SGDP", lambda: torch_class(
                lambda p: adamp.SGDP(p, lr=1e-3, weight_decay=0.1, momentum=0.9), every)),
        ]),
        "conda": ("matrices, between refreshes", [
            Contender("lehr conda", lambda: lehr("conda", matrices, **never)),
            Contender("loop, in place", lambda: conda_loop(matrices, refresh=False)),
            Contender("loop, as written", lambda: conda_as_written(matrices)),
        ]),
        "conda-model": ("all parameters, between refreshes", [
            Contender("lehr conda", lambda: lehr("conda", every, **never)),
            Contender("loop, in place", lambda: conda_loop(every, refresh=False)),
            Contender("loop, as written", lambda: conda_as_written(every)),
        ]),
        "conda-refresh": ("matrices, a step with a refresh", [
            Contender("lehr conda", lambda: lehr("conda", matrices, **often), slow=True),
            Contender("loop, in place", lambda: conda_loop(matrices, refresh=True), slow=True),
        ]),
        "muon-float32": ("matrices, iteration in float32", [
            Contender("lehr muon", lambda: lehr("muon", matrices, precision="float32")),
            Contender("plain loop in float32", lambda: muon_loop_float32(matrices)),
        ]),
        "muon": ("matrices, as each comes on a CPU", [
            Contender("lehr muon", lambda: lehr("muon", matrices)),
            Contender("torch.optim.Muon (bfloat16)", lambda: torch_class(
                lambda p: torch.optim.Muon(p, lr=1e-3, weight_decay=0.1), matrices), slow=True),
        ]),
    }  # fmt: skip


def compare(contenders: list[Contender], repeats: int) -> None:
    """Times the contenders in turns, after one warm-up step of each."""
    steps = [contender.make() for contender in contenders]
    for step in steps:
        step()
    for repeat in range(repeats):
        for contender, step in zip(contenders, steps, strict=True):
            if contender.slow and repeat >= 2:
                continue
            start, cpu_start = time.perf_counter(), time.process_time()
            step()
            contender.seconds.append(time.perf_counter() - start)
            contender.cpu_seconds.append(time.process_time() - cpu_start)


def print_row(label: str, contender: Contender, base: Contender) -> None:
    """Prints a line of the table, with the ratios to lehr's contender, `base`."""
    clock, cpu = min(contender.seconds), min(contender.cpu_seconds)
    median = sorted(contender.seconds)[len(contender.seconds) // 2]
    if contender is base:
        ratios = ("", "")
    else:
        label, ratios = "", (f"{clock / min(base.seconds):.2f}", f"{cpu / min(base.cpu_seconds):.2f}")
    print(
        f"| {label} | {contender.label} | {clock * 1e3:.1f} | {median * 1e3:.1f} | {ratios[0]} "
        f"| {cpu * 1e3:.1f} | {ratios[1]} |",
        flush=True,
    )


def matmul_rate() -> float:
    """Returns the FLOP/s of a large float32 product by CPU time, which a training step would reach at best."""
    a, b = torch.randn(2048, HIDDEN), torch.randn(HIDDEN, FFN)
    best = math.inf
    for _ in range(20):
        start = time.process_time()
        torch.mm(a, b)
        best = min(best, (time.process_time() - start) / torch.get_num_threads())
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
    """Reads the arguments, runs the comparisons and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="names of comparisons, or `memory`")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rate = matmul_rate()
    print(f"torch {torch.__version__}, {arguments.threads} threads, float32 matmul {rate / 1e9:.0f} GFLOP/s\n")
    print("| what | contender | fastest (ms) | median (ms) | reference / lehr | processor (ms) | reference / lehr |")
    print("|---|---|---:|---:|---:|---:|---:|")
    fastest: dict[str, float] = {}
    for name, (what, contenders) in comparisons().items():
        if arguments.only and name not in arguments.only:
            continue
        compare(contenders, arguments.repeats)
        fastest[name] = min(contenders[0].cpu_seconds) / arguments.threads
        for contender in contenders:
            print_row(f"{name}: {what}", contender, contenders[0])
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
