"""Runs of seconds for tests of the `lehr` command: small shards, a small model, a config file.

shards = make_shards(tmp_path)
config = write_config(tmp_path, shards)
lehr("train", config, "run.name=a")
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from train.metrics.jsonl import read_metrics

STEPS = 12


def make_shards(folder: Path) -> Path:
    """Writes two sources over a vocabulary of 200, with words as frequent as in text, and returns their folder."""
    sys.path.append(str(Path(__file__).parent / "data"))
    from made_shards import write_source

    rng = np.random.default_rng(0)

    def document() -> list[int]:
        return [*(rng.zipf(1.3, 60) % 199 + 1).tolist(), 0]

    for name in ("alpha", "beta"):
        train, held_out = ([document() for _ in range(number)] for number in (300, 40))
        write_source(folder / "shards", name, train=[train], held_out=[held_out], vocab_size=200)
    return folder / "shards"


def write_config(folder: Path, shards: Path, **sections: dict[str, Any]) -> Path:
    """Writes a config of STEPS steps with a checkpoint every 4, all kept. Its runs go to FOLDER/runs."""
    plain: dict[str, dict[str, Any]] = {
        "run": {"name": "try", "folder": str(folder / "runs"), "seed": 1},
        "data": {"shards": str(shards)},
        "model": {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 48},
        "optim": {"name": "adamw", "lr": 3e-3},
        "schedule": {"name": "cosine", "warmup_steps": 2, "min_lr": 3e-4},
        "train": {"steps": STEPS, "seq_length": 32, "micro_batch_size": 2, "global_batch_size": 8},
        "evaluate": {"every_steps": 4, "max_windows": 8},
        "checkpoint": {"every_steps": 4, "keep_last": 9},
    }
    for name, section in sections.items():
        plain[name] = {**plain.get(name, {}), **section}
    path = folder / "config.yaml"
    path.write_text(json.dumps(plain))
    return path


def slow_data(seconds: float) -> str:
    """Returns code for `start_lehr(before=...)` with which each step waits for its data.

    Such a run hardly computes while a test waits for something, and has not ended before the test sees it.
    """
    return f"""
import time
import launcher.run.rank_main as rank_main
build_run = rank_main.build_run
def build(*arguments, **keywords):
    run = build_run(*arguments, **keywords)
    batch = run.loader.batch
    run.loader.batch = lambda number: (time.sleep({seconds}), batch(number))[1]
    return run
rank_main.build_run = build
"""


# What a step takes and how busy the machine is differ from run to run; all else must not.
_TIMES = ("tokens_per_second", "mfu", "memory_bytes", "seconds_per_step", "rank_seconds/")


def trajectory(run: Path) -> list[dict[str, Any]]:
    """Returns the results of each step and of evaluations, without times."""
    return [{k: v for k, v in line.items() if not k.startswith(_TIMES)} for line in read_metrics(run / "metrics.jsonl")]


def wait_until(condition: Callable[[], bool], *, seconds: float = 120.0, pause_seconds: float = 0.02) -> None:
    """Waits until a condition holds. Raises AssertionError after a time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(pause_seconds)


def steps_taken(run: Path) -> int:
    """Returns how many steps metrics.jsonl has; 0 if there is none yet."""
    try:
        return len(read_metrics(run / "metrics.jsonl"))
    except FileNotFoundError:
        return 0
