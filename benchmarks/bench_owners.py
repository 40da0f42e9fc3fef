"""The time saved by sending updated weights while their owner ranks go on working, on two data ranks of ZeRO 1.

    python -W ignore benchmarks/bench_owners.py [--repeats 7] [--only conda muon] [--ranks 2]

The parameters are those of the 60M Llama of llama60m.py. Their owner ranks have one thread each and communicate over
gloo. A step is the owners' updates and the exchange of weights. Three variants take turns: messages that are sent as
soon as their parameters are done, one message of each owner after all work, and the work alone. The time of a step is
that of the slowest rank, and the fastest of the repeats counts. The script also counts the bytes that are sent while
work is left; they do not depend on the machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from llama60m import fresh, shapes
from torch import nn

from optim.optimizer import OPTIMIZERS
from optim.parameters import OneRank, Param
from parallel.engines import parameter_all_gather
from parallel.engines.flat_buffers import FlatLayout, move_into_flat_buffers, view_of
from parallel.engines.gradient_accumulation import GradientAccumulation
from parallel.engines.parameter_all_gather import ParameterAllGather
from parallel.engines.parameter_owners import assign_owners, update_order
from parallel.mesh import Axis
from parallel.parameter_shards import ParameterShard

SETTINGS: dict[str, dict[str, Any]] = {"conda": {"refresh_interval": 10**9}}
VARIANTS = ("as they are done", "after all work", "work alone")


class Counted(ParameterAllGather):
    """A ParameterAllGather that records how many batches of parameters were done when each round started."""

    batches = 0

    def gather_as_updated(self, updated: Iterable[Sequence[Param]]) -> None:
        self.batches, self.started = 0, list[tuple[int, int]]()

        def counted() -> Iterator[Sequence[Param]]:
            for params in updated:
                self.batches += 1
                yield params

        super().gather_as_updated(counted())

    def _start_round(self, number: int) -> list[dist.Work]:
        self.started.append((number, self.batches))
        return super()._start_round(number)

    def early_share(self) -> float:
        """Returns the share of this owner's bytes that were sent before its last batch was done."""
        sizes = [end - start for start, end in self._ranges[self._owner]]
        early = [number for number, batches in self.started if batches < self.batches and number < len(sizes)]
        return sum(sizes[number] for number in early) / sum(sizes)


def prepare(name: str, data: Axis) -> tuple[dict[str, Callable[[], None]], Counted, dict[str, float]]:
    """Returns a step of each variant, the first variant's messages, and the figures of the layout."""
    config = OPTIMIZERS.parse({"name": name, "lr": 1e-3, **SETTINGS.get(name, {})})
    shards, initial, gradients = [], {}, {}
    for key, weight, gradient in fresh(list(shapes())):
        shards.append(ParameterShard(key, nn.Parameter(weight.to("meta")), tuple(weight.shape), None, False, False))
        initial[key], gradients[key] = weight, gradient
    costs = [config.cost(shard.shape, shard.name) for shard in shards]
    owners = assign_owners(costs, data.size)
    order = update_order(shards, costs)
    layout = FlatLayout.of([shards[i] for i in order], [owners[i] for i in order], data.size)
    cpu = torch.device("cpu")
    weights, _ = move_into_flat_buffers(layout, torch.float32, cpu, GradientAccumulation(cpu))
    for shard in shards:
        shard.parameter.data.copy_(initial[shard.name])
    start = layout.segments[data.rank][0]
    params = [
        Param(shard.name, view_of(weights, start + offset, shard), shard.shape, grad=gradients[shard.name])
        for shard, offset in layout.owned_by(data.rank)
    ]
    optimizer = config.build(params, OneRank())
    by_size = {}
    for label, size in (("as they are done", parameter_all_gather.BUCKET_BYTES), ("after all work", 1 << 40)):
        default, parameter_all_gather.BUCKET_BYTES = parameter_all_gather.BUCKET_BYTES, size
        by_size[label] = Counted(layout, data, weights=weights, masters=None)
        parameter_all_gather.BUCKET_BYTES = default
    steps: dict[str, Callable[[], None]] = {
        label: lambda messages=messages: messages.gather_as_updated(optimizer.step_in_buckets(lr=1e-3))
        for label, messages in by_size.items()
    }
    steps["work alone"] = lambda: optimizer.step(lr=1e-3)
    by_owner = [sum(c for c, owner in zip(costs, owners, strict=True) if owner == i) for i in range(data.size)]
    state = sum(value.tensor.nbytes for value in optimizer.state().values())
    return (
        steps,
        by_size["as they are done"],
        {"balance": max(by_owner) * data.size / sum(by_owner), "state": state / 2**20},
    )


def be_a_rank(rank: int, ranks: int, folder: str, names: list[str], repeats: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", ranks), rank=rank, world_size=ranks)
    assert dist.group.WORLD is not None
    data = Axis(ranks, rank, dist.group.WORLD)
    for name in names:
        steps, messages, figures = prepare(name, data)
        seconds: dict[str, list[float]] = {label: [] for label in VARIANTS}
        for repeat in range(repeats + 1):
            for label in VARIANTS:
                dist.barrier()
                begun = time.perf_counter()
                steps[label]()
                taken = torch.tensor(time.perf_counter() - begun)
                dist.all_reduce(taken, op=dist.ReduceOp.MAX)
                if repeat:
                    seconds[label].append(float(taken))
        state, early = torch.tensor(figures["state"]), torch.tensor(messages.early_share())
        dist.all_reduce(state, op=dist.ReduceOp.MAX)
        dist.all_reduce(early, op=dist.ReduceOp.MIN)
        if rank == 0:
            sent, after, alone = (min(seconds[label]) * 1e3 for label in VARIANTS)
            print(
                f"| {name} | {sent:.0f} | {after:.0f} | {alone:.0f} | {after / sent:.2f} | {100 * float(early):.0f}% "
                f"| {figures['balance']:.3f} | {float(state):.0f} |",
                flush=True,
            )
    dist.destroy_process_group()


def main() -> None:
    """Reads the arguments, starts the ranks and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=OPTIMIZERS.names())
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {arguments.ranks} ranks of one thread, gloo\n")
    print(
        "| optimizer | as they are done (ms) | after all work (ms) | work alone (ms) | after / as done "
        "| bytes sent during work | work, max / mean | state, largest (MiB) |\n|---|---:|---:|---:|---:|---:|---:|---:|"
    )
    with tempfile.TemporaryDirectory() as folder:
        rest = (arguments.ranks, str(Path(folder)), arguments.only, arguments.repeats)
        processes.spawn(be_a_rank, rest, nprocs=arguments.ranks)


if __name__ == "__main__":
    main()
