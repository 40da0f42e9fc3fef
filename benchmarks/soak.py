"""Random faults in one run, which must end as the same run without a fault.

    make soak                                   (python benchmarks/soak.py --faults 100 --layout-faults 40 --seed 0)

The script first trains a run without a fault. It then trains the same run with faults drawn from a seed: ranks and
whole launches are killed (also while they save), stopped by a signal, paused, made to hang; the disk is filled; the
newest checkpoint is truncated, altered or loses a file. After each fault the same command starts the run again. On some
steps of both runs the gradient is made not finite. In the end every step must be in metrics.jsonl once, with the same
batch hash, and with the same loss, gradient norm and evaluation to the bit. The weights must be the same bits too. A
second part changes the layout at every start; its losses must agree to 1e-5.

The runs are on a small tmpfs of their own, which this process mounts where no other process sees it.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Rounding must not depend on the number of cores, and a process that forks must have one thread.
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "data"))

import numpy as np
from made_shards import write_source
from soak_compare import compare
from soak_faults import FAULTS, Expected, assert_none_left
from soak_launch import Launch, last_step, spoil

SAVE_EVERY, EVALUATE_EVERY, STEPS_PER_FAULT, TMPFS_BYTES = 4, 10, 5, 48 << 20
START_SECONDS, END_SECONDS = 180.0, 60.0
BASE = ("parallel.data=2", "parallel.zero=1")
LAYOUTS = {
    "one process": (),
    "TP 2, sequence": ("parallel.tensor=2", "parallel.sequence=true"),
    "PP 2": ("parallel.pipeline=2",),
    "PP 2, interleaved": ("parallel.pipeline=2", "parallel.virtual_stages=2", "train.micro_batch_size=2"),
    "DP 2, ZeRO 0": ("parallel.data=2", "parallel.zero=0"),
    "DP 2, ZeRO 1": BASE,
    "DP 2, ZeRO 2": ("parallel.data=2", "parallel.zero=2"),
    "DP 2, ZeRO 3": ("parallel.data=2", "parallel.zero=3"),
    "TP 2, DP 2, ZeRO 1": ("parallel.tensor=2", "parallel.data=2", "parallel.zero=1"),
}


@dataclass
class Soak:
    """A run that is started again and again, under faults."""

    name: str
    config: Path
    folder: Path  # of runs
    rng: random.Random
    layouts: dict[str, tuple[str, ...]]
    done: collections.Counter[str] = field(default_factory=collections.Counter)
    starts: int = 0
    layout: str = ""
    layout_changes: int = 0
    next_texts: tuple[str, ...] = ("",)

    def start(self) -> Launch:
        """Starts the same command again, in another layout if there are several."""
        layout = self.rng.choice([name for name in self.layouts if name != self.layout] or list(self.layouts))
        self.layout_changes += bool(self.layout) and layout != self.layout
        self.layout = layout
        self.starts += 1
        arguments = [str(self.config), f"run.name={self.name}", *self.layouts[layout]]
        return Launch(arguments, self.folder / self.name, self.folder.parent / f"{self.name}.txt")

    def inflict(self, kind: str, step: int) -> None:
        """Starts the run, waits for `step`, inflicts the fault, and checks what follows."""
        launch = self.start()
        begun = last_step(self.folder / self.name)
        reached = launch.wait_step(max(step, begun + 1), START_SECONDS)
        assert reached, f"{kind}: the run ended by itself with {launch.code}:\n{launch.text()[-4000:]}"
        self._check(kind, Expected((), self.next_texts), launch)
        expected = FAULTS[kind](launch, self.rng)
        launch.wait_end(END_SECONDS)
        self._check(kind, expected, launch)
        assert_none_left(self.folder)
        self.next_texts = expected.next_texts
        self.done[kind] += 1

    def finish(self) -> None:
        """Trains the run to its end."""
        launch = self.start()
        assert launch.wait_end(10 * START_SECONDS) == 0, launch.text()[-4000:]
        self._check("the end", Expected((0,), self.next_texts), launch)

    def _check(self, kind: str, expected: Expected, launch: Launch) -> None:
        text = launch.text()
        shown = f"{kind} in {self.layout}: exit code {launch.code}, expected {expected}:\n{text[-4000:]}"
        assert not expected.codes or launch.code in expected.codes, shown
        assert any(part in text for part in expected.texts), shown


def write_config(folder: Path, *, steps: int, seed: int) -> Path:
    """Writes the config of a small model on two small sources, with a little of everything that a run has."""
    rng = np.random.default_rng(seed)
    documents = lambda number: [[*(rng.zipf(1.3, 60) % 199 + 1).tolist(), 0] for _ in range(number)]  # noqa: E731
    for name in ("alpha", "beta"):
        write_source(folder / "shards", name, train=[documents(500)], held_out=[documents(30)], vocab_size=200)
    config = {
        "run": {"name": "unbroken", "folder": str(folder / "runs"), "seed": seed},
        "data": {"shards": str(folder / "shards"), "mixture": {"alpha": 0.7, "beta": 0.3}},
        "model": {"num_layers": 4, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 48},
        "optim": {"name": "adamw", "lr": 5e-4},
        "schedule": {"name": "cosine", "warmup_steps": 2, "min_lr": 1e-4},
        "train": {
            "steps": steps,
            "seq_length": 32,
            "micro_batch_size": 1,
            "global_batch_size": 8,
            "hang_seconds": 6,
            "timeout_seconds": 3600,
        },
        "evaluate": {"every_steps": EVALUATE_EVERY, "max_windows": 4},
        "checkpoint": {"every_steps": SAVE_EVERY, "keep_last": 4},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))
    return path


def plan(faults: int, rng: random.Random, *, kinds: list[str], tmpfs: bool) -> list[str]:
    """Returns the kinds of faults in random order, each about equally often."""
    kinds = [kind for kind in kinds if tmpfs or kind != "full_disk"]
    rng.shuffle(kinds)
    repeated = [kinds[number % len(kinds)] for number in range(faults)]
    rng.shuffle(repeated)
    return repeated


def soak(
    folder: Path, *, faults: int, seed: int, layouts: dict[str, tuple[str, ...]], kinds: list[str], tmpfs: bool
) -> dict[str, Any]:
    """Trains the unbroken run and the run under faults, compares them, and returns the figures."""
    began = time.monotonic()
    rng = random.Random(seed)
    steps = STEPS_PER_FAULT * faults + SAVE_EVERY
    config = write_config(folder, steps=steps, seed=seed)
    not_finite = frozenset(rng.sample(range(steps), max(1, faults // 10)))
    spoil(not_finite)
    unbroken = Soak("unbroken", config, folder / "runs", rng, dict([next(iter(layouts.items()))]))
    unbroken.finish()
    broken = Soak("broken", config, folder / "runs", rng, layouts)
    for number, kind in enumerate(plan(faults - len(not_finite), rng, kinds=kinds, tmpfs=tmpfs)):
        broken.inflict(kind, STEPS_PER_FAULT * number + rng.randint(1, STEPS_PER_FAULT))
        print(f"{number + 1}: {kind} in {broken.layout}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    broken.finish()
    worst = compare(folder / "runs" / "unbroken", folder / "runs" / "broken", exact=len(layouts) == 1)
    broken.done["gradient not finite"] = len(not_finite)
    if len(layouts) > 1:
        broken.done["layout changed"] = broken.layout_changes
    return {
        "faults": dict(sorted(broken.done.items())),
        "starts": broken.starts,
        "steps": steps,
        "largest relative difference of a loss": worst,
        "seconds": round(time.monotonic() - began),
    }


def isolated(arguments: list[str]) -> None:
    """Runs the script again in a mount namespace of its own, if the system allows it. Its mounts end with it."""
    if shutil.which("unshare"):
        os.execvp("unshare", ["unshare", "--mount", "--map-root-user", sys.executable, *arguments, "--isolated"])


def main() -> None:
    """Reads the arguments, soaks in one layout and in changing ones, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faults", type=int, default=100, help="faults in one layout, compared to the bit")
    parser.add_argument("--layout-faults", type=int, default=40, help="faults with another layout at each start")
    parser.add_argument("--kinds", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="the kinds of faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--isolated", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.isolated:
        isolated(sys.argv)
    parts = {
        "one layout (DP 2, ZeRO 1): to the bit": (options.faults, {"DP 2, ZeRO 1": BASE}),
        "another layout at every start: losses to 1e-5": (options.layout_faults, LAYOUTS),
    }
    print(f"seed {options.seed}")
    for number, (name, (faults, layouts)) in enumerate(parts.items()):
        if not faults:
            continue
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            tmpfs = os.system(f"mount -t tmpfs -o size={TMPFS_BYTES} soak {folder} 2>/dev/null") == 0
            try:
                result = soak(
                    Path(folder),
                    faults=faults,
                    seed=options.seed + number,
                    layouts=layouts,
                    kinds=options.kinds,
                    tmpfs=tmpfs,
                )
            finally:
                if tmpfs:
                    os.system(f"umount {folder}")
        print(f"{name}\n  " + "\n  ".join(f"{key}: {value}" for key, value in result.items()))
        if not tmpfs:
            print("  no small tmpfs could be mounted, so the disk was never full")


if __name__ == "__main__":
    main()
