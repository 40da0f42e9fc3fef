"""The CPU time of rehearsals by part: `python benchmarks/rehearse.py [RANKS ...]` (benchmarks/rehearse.md).

The run is a Llama of 8 billion parameters on shards of made-up tokens. Each part's time is the sum over all ranks, in
user and in kernel mode. It hardly depends on what else the machine does, so half of it is the time on two free cores.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from random_shards import write_random_shards

from launcher.processes.environment import hide_gpus, one_openmp_thread

LAYOUTS = {
    16: {"tensor": 2, "pipeline": 2, "data": 4},
    32: {"tensor": 4, "pipeline": 4, "data": 2},
    64: {"tensor": 8, "pipeline": 4, "data": 2},
}
RUN: dict[str, Any] = {
    "run": {"name": "llama-8b", "seed": 1},
    "model": {
        "num_layers": 32,
        "hidden_size": 4096,
        "num_heads": 32,
        "num_kv_heads": 8,
        "ffn_size": 14336,
        "vocab_size": 50304,
    },
    "optim": {"name": "adamw", "lr": 3e-4},
    "schedule": {"name": "cosine", "warmup_steps": 200, "min_lr": 3e-5},
    "train": {
        "steps": 20000,
        "seq_length": 4096,
        "micro_batch_size": 1,
        "global_batch_size": 64,
        "precision": "bfloat16",
        "attention": "flash",
        "recompute": "selective",
    },
}
# The functions that a rank calls, whose times are shown; what a function spends in an inner one counts there.
PARTS = {
    "launcher.run.rank_main._connect": "process groups",
    "launcher.run.rank_main._open_run": "run folder",
    "launcher.run.build_run._build_checkpoints": "process group of checkpoints",
    "launcher.run.build_run._build_engine": "model and engine",
    "launcher.run.build_run._load_state": "weights",
    "launcher.run.rank_main.build_run": "the rest of the build",
    "train.loop._take_step": "steps",
    "train.loop._save": "saving",
    "train.loop.evaluate": "evaluation",
    "launcher.run.rank_main.run_rank": "the rest",
}


class PartTimes:
    """The CPU time of this process by part. Parts nest: an inner part's time is not counted in the outer one."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._open: list[str] = ["before the first part"]
        self._since = 0.0

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function, whose time is counted as that of a part."""

        @wraps(function)
        def measured(*args: object, **kwargs: object) -> Any:
            self._count()
            self._open.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._count()
                self._open.pop()

        return measured

    def _count(self) -> None:
        now = time.process_time()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now


def measure_parts(folder: Path) -> None:
    """Lets the ranks that this process will fork write the times of their parts into a file each."""
    times = PartTimes()
    for name, part in PARTS.items():
        module_name, _, attribute = name.rpartition(".")
        module = importlib.import_module(module_name)
        setattr(module, attribute, times.timed(part, getattr(module, attribute)))
    rank_main = importlib.import_module("launcher.run.rank_main")
    run_rank = rank_main.run_rank

    def run_and_write(*args: object, **kwargs: object) -> Any:
        code = run_rank(*args, **kwargs)
        (folder / f"{os.getpid()}.json").write_text(json.dumps(times.seconds))
        return code

    rank_main.run_rank = run_and_write


def rehearse(ranks: int, folder: Path) -> None:
    """Rehearses the run on so many ranks, and prints the CPU time of each phase and part."""
    from launcher.rehearsal.phases import train
    from launcher.rehearsal.plan import check_for_cluster, plan_rehearsal
    from settings import parse

    with one_openmp_thread():
        from launcher.run.config import RunConfig

        plain = {**RUN, "data": {"shards": str(folder / "shards")}, "parallel": {**LAYOUTS[ranks], "zero": 1}}
        config = parse(RunConfig, plain, source="this benchmark")
        check_for_cluster(config)
        (folder / "rehearsal").mkdir()
        plan = plan_rehearsal(config, folder / "rehearsal", most_ranks=64)
        parts = folder / "parts"
        parts.mkdir()
        measure_parts(parts)  # it imports what the ranks need
    print(f"{ranks} ranks: imports and checks of the parent take {time.process_time():.1f} s of CPU time")
    for name, phase in (("first layout", plan.first), ("second layout", plan.second)):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        assert train(phase) == 0
        after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        layout = ", ".join(f"{key} {getattr(phase.parallel, key)}" for key in ("tensor", "pipeline", "data"))
        print(f"\n{name}, {layout}: user {user:.1f} s, system {system:.1f} s, on the clock {seconds:.1f} s")
        total: Counter[str] = Counter()
        for file in parts.iterdir():
            total.update(json.loads(file.read_text()))
            file.unlink()
        total["forks and ends of the ranks"] = user + system - sum(total.values())
        for part, cpu in total.most_common():
            print(f"  {part:<30}{cpu:7.1f} s  {cpu / phase.parallel.ranks * 1000:6.0f} ms a rank")


def main() -> None:
    hide_gpus()
    for ranks in [int(argument) for argument in sys.argv[1:]] or sorted(LAYOUTS):
        with tempfile.TemporaryDirectory() as folder:
            write_shards(Path(folder) / "shards")
            pid = os.fork()
            if not pid:
                rehearse(ranks, Path(folder))
                sys.stdout.flush()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0


def write_shards(folder: Path) -> None:
    """Writes two million random tokens to train on, and the same as held-out text."""
    write_random_shards(folder, tokens=2_000_000, document_tokens=700, vocab_size=50_000)
    source = folder / "random"
    info = json.loads((source / "dataset.json").read_text())
    text = json.dumps(info["splits"]["train"]).replace("train/", "held_out/")
    info["splits"]["held_out"] = json.loads(text)
    (source / "dataset.json").write_text(json.dumps(info))
    (source / "held_out").symlink_to("train")


if __name__ == "__main__":
    main()
