"""The time for which a save holds the training loop, and what writing beside it costs, against torch's async_save.

One process trains in intervals of 10 steps on random tokens; after each interval a checkpoint is saved (weights and two
moments of AdamW), by lehr and by `torch.distributed.checkpoint.async_save` in turns. Both write safetensors to the same
disk; lehr also hashes its files and flushes them to disk. "Held" is the time until the call returns to the loop. The
slowdown of a step is the median step that begins while a checkpoint is being written over the median of the others.

    python benchmarks/bench_checkpoint_hold.py --intervals 6
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import async_save

from model.config import ModelConfig
from optim.adamw import AdamWConfig
from parallel.build import ComputeConfig, TrainableModel, build
from parallel.chunk import MicroBatch
from parallel.config import ParallelConfig
from parallel.mesh import Mesh, make_mesh, start_processes
from train.checkpoint.manager import CheckpointManager
from train.checkpoint.writer_lease import WriterLease
from train.config import CheckpointConfig
from train.state import TrainState


@dataclass
class Measured:
    """The seconds measured for one way to save."""

    held: list[float] = field(default_factory=list)
    written: list[float] = field(default_factory=list)  # from the call to the complete checkpoint
    steps_while_writing: list[float] = field(default_factory=list)  # steps begun while a checkpoint was written


def make_model(args: argparse.Namespace) -> ModelConfig:
    """Returns the config of a Llama with the sizes of the arguments."""
    return ModelConfig(
        num_layers=args.layers,
        hidden_size=args.hidden,
        num_heads=args.hidden // 64,
        ffn_size=args.hidden * 11 // 4 // 16 * 16,
        vocab_size=args.vocab,
    )


def make_parts(args: argparse.Namespace) -> tuple[Mesh, TrainableModel]:
    """Builds one rank with its engine."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    start_processes(rank=0, world_size=1, gpu=0, timeout_seconds=600, store=store)
    parallel = ParallelConfig()
    mesh = make_mesh(parallel, timeout_seconds=600)
    parts = build(
        make_model(args),
        parallel,
        AdamWConfig(lr=1e-3),
        mesh,
        compute=ComputeConfig(),
        seq_length=args.seq,
        micro_batches=1,
        seed=0,
        total_steps=1,
    )
    parts.draw_weights()
    return mesh, parts


def make_step(args: argparse.Namespace, parts: TrainableModel) -> Callable[[], float]:
    """Builds a training step that returns its seconds."""
    tokens = torch.randint(args.vocab, (args.rows, args.seq + 1), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(args.seq).expand(args.rows, args.seq).contiguous()
    weights = torch.full((args.rows, args.seq), 1 / (args.rows * args.seq))
    batch = MicroBatch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), weights, positions, None)

    def step() -> float:
        start = time.perf_counter()
        parts.engine.train_step([batch], lr=1e-3)
        return time.perf_counter() - start

    return step


class Lehr:
    """Saves with lehr's CheckpointManager, as a run does."""

    def __init__(self, folder: Path, mesh: Mesh, parts: TrainableModel, model: ModelConfig) -> None:
        lease = WriterLease.take(folder / "checkpoints")
        self._checkpoints = CheckpointManager(
            folder / "checkpoints",
            mesh,
            model=model.to_plain(),
            retention=CheckpointConfig(keep_last=1),
            lease=lease,
        )
        self._engine = parts.engine

    def save(self, number: int) -> None:
        self._checkpoints.save(self._engine, TrainState(step=number))

    def done(self) -> bool:
        thread = self._checkpoints._writer._thread
        return thread is None or not thread.is_alive()

    def wait(self) -> None:
        self._checkpoints.wait()


class Torch:
    """Saves with torch's async_save and its Hugging Face writer, each time into a new folder."""

    def __init__(self, folder: Path, mesh: Mesh, parts: TrainableModel, model: ModelConfig) -> None:
        self._folder = folder / "torch"
        self._engine = parts.engine
        self._group = dist.new_group(backend="gloo")
        self._future: Any = None

    def save(self, number: int) -> None:
        self.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        tensors = {name: part.tensor.detach() for name, part in self._engine.state(saving=True).items()}
        writer = HuggingFaceStorageWriter(str(self._folder), save_distributed=True)
        self._future = async_save(tensors, storage_writer=writer, process_group=self._group)

    def done(self) -> bool:
        return self._future is None or self._future.done()

    def wait(self) -> None:
        if self._future is not None:
            self._future.result()


def measure(
    args: argparse.Namespace, step: Callable[[], float], savers: dict[str, Any]
) -> tuple[dict[str, Measured], list[float]]:
    """Returns the measurements by saver, and the seconds of steps while nothing was written."""
    found = {name: Measured() for name in savers}
    alone: list[float] = []
    for _ in range(2):
        step()
    for number in range(args.intervals):
        for name, saver in savers.items():
            start = time.perf_counter()
            saver.save(number + 1)
            held = time.perf_counter() - start
            written = None
            for _ in range(args.every):
                busy = not saver.done()
                seconds = step()
                still = not saver.done()
                (found[name].steps_while_writing if busy else alone).append(seconds)
                if written is None and not still:
                    written = time.perf_counter() - start
            waiting = time.perf_counter()
            saver.wait()
            held += time.perf_counter() - waiting if written is None else 0.0
            found[name].held.append(held)
            found[name].written.append(written or time.perf_counter() - start)
    return found, alone


def main() -> None:
    """Reads the arguments, runs the intervals and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"hidden": 512, "layers": 8, "vocab": 8192, "seq": 512, "rows": 2, "every": 10, "intervals": 6}
    for name, value in {**sizes, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", category=UserWarning)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        mesh, parts = make_parts(args)
        savers = {
            "lehr": Lehr(Path(folder), mesh, parts, make_model(args)),
            "torch async_save": Torch(Path(folder), mesh, parts, make_model(args)),
        }
        found, alone = measure(args, make_step(args, parts), savers)
        size = sum(part.tensor.nbytes for part in parts.engine.state(saving=True).values())
    interval = args.every * statistics.median(alone)
    print(f"checkpoint of {size / 1e6:.0f} MB, {args.rows * args.seq} tokens a step, {args.threads} threads")
    print(f"step {statistics.median(alone):.3f} s, interval of {args.every} steps {interval:.2f} s")
    print(f"{'':18}{'held, first':>12}{'held, later':>12}{'of interval':>12}{'written in':>12}{'slowdown':>12}")
    for name, m in found.items():
        later = statistics.median(m.held[1:] or m.held)
        during = m.steps_while_writing
        slowdown = statistics.median(during) / statistics.median(alone) if during else float("nan")
        print(
            f"{name:18}{m.held[0]:10.3f} s{later:10.3f} s{100 * later / interval:11.2f}%"
            f"{statistics.median(m.written):10.2f} s{slowdown:10.2f} x"
        )
    rivals = found["torch async_save"].held[1:], found["lehr"].held[1:]
    if all(rivals):
        ratio = statistics.median(a / b for a, b in zip(*rivals, strict=True))
        print(f"torch holds the loop {ratio:.1f} times as long (median over the intervals)")


if __name__ == "__main__":
    main()
