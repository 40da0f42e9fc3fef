"""Training tokens/s of `lehr train` in several layouts on the same cores, which shows what splitting a model costs.

Each layout trains the same steps of the same run through the command itself, in turns (A B C A B C ...), one process
with as many threads as there are cores, or as many ranks. The script reports the median seconds of a step after the
first two, and the median over rounds of the ratio to one process.

    python benchmarks/bench_layout_speed.py --shards shards/demo
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WARM_STEPS = 2
SHAPE = {
    "model.num_layers": 8,
    "model.hidden_size": 256,
    "model.num_heads": 4,
    "model.num_kv_heads": 4,
    "model.ffn_size": 704,
    "model.tied_embeddings": "false",
    "train.seq_length": 512,
    "train.global_batch_size": 8,
}
# One process and tensor ranks get the largest micro-batch; a pipeline needs many small ones.
LAYOUTS = {
    "one process": {"parallel.tensor": 1, "parallel.sequence": "false", "train.micro_batch_size": 4},
    "one process, compiled": {
        "parallel.tensor": 1,
        "parallel.sequence": "false",
        "train.micro_batch_size": 4,
        "train.compile": "true",
    },
    "tensor 2": {"parallel.tensor": 2, "parallel.sequence": "false", "train.micro_batch_size": 4},
    "pipeline 2": {
        "parallel.tensor": 1,
        "parallel.sequence": "false",
        "parallel.pipeline": 2,
        "train.micro_batch_size": 1,
    },
}


def seconds_per_step(layout: str, *, shards: Path, steps: int, folder: Path) -> float:
    """Trains `steps` steps in a folder of their own; returns the median seconds of the steps after the first two."""
    settings = {
        **SHAPE,
        **LAYOUTS[layout],
        "data.shards": shards,
        "train.steps": steps,
        "schedule.warmup_steps": 1,
        "schedule.decay_steps": 1,
        "evaluate.every_steps": 0,
        "evaluate.max_windows": 1,
        "checkpoint.every_steps": 0,
        "run.folder": folder,
        "run.name": "timed",
    }
    command = [sys.executable, "-m", "launcher", "train", str(ROOT / "configs" / "demo.yaml")]
    overrides = [f"{key}={value}" for key, value in settings.items()]
    done = subprocess.run([*command, *overrides], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{layout}: exit code {done.returncode}\n{done.stderr}")
    lines = [json.loads(line) for line in (folder / "timed" / "metrics.jsonl").read_text().splitlines()]
    return statistics.median([line["seconds_per_step"] for line in lines if "seconds_per_step" in line][WARM_STEPS:])


def main() -> None:
    """Reads the arguments, runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shards", type=Path, default=ROOT / "shards" / "demo", help="the shards that `make run` builds"
    )
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    for _ in range(args.rounds):
        for layout in LAYOUTS:
            with tempfile.TemporaryDirectory() as folder:
                taken = seconds_per_step(layout, shards=args.shards.resolve(), steps=args.steps, folder=Path(folder))
            seconds[layout].append(taken)
            print(f"{layout}: {taken:.3f} s/step", flush=True)
    tokens = SHAPE["train.seq_length"] * SHAPE["train.global_batch_size"]  # type: ignore[operator]
    print(f"{'':22}{'s/step':>10}{'tokens/s':>10}{'vs one process':>16}")
    for layout, each in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(seconds["one process"], each, strict=True))
        median = statistics.median(each)
        print(f"{layout:22}{median:10.3f}{tokens / median:10.0f}{ratio:16.3f}")


if __name__ == "__main__":
    main()
