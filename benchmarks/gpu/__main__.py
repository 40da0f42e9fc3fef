"""Measures lehr on a machine with one GPU, phase by phase, and writes a page of what came out.

    python -m gpu                              # core: all that counts, in at most 8 minutes
    python -m gpu parity speed-160M            # chosen phases; the record goes on
    python -m gpu --tiny                       # every phase in small shapes on a CPU
    python -m gpu --no-phase                   # only the page, from the record

Run it from the root of the tree with PYTHONPATH=benchmarks, or by `make gpu`; docs/gpu.md says more. A phase runs in a
process of its own with a time limit, and each of its rows is appended to the record as it comes: what fails late keeps
what was measured before.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from random_shards import write_random_shards

from gpu.context import ROOT, Context, Row, read_record
from gpu.phases import CORE_SECONDS, Phase, chosen_phases
from gpu.processes import TIME_LIMIT, run
from gpu.report import page, summary
from gpu.sizes import TINY_SIZE, VOCABULARY

_LEAST_SECONDS = 10.0  # a phase that has less is not begun
_TINY_PATIENCE = 4.0  # a CPU that tries the script may be busy with other things
_PROBE = """
import json, torch
card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
print(json.dumps({"card": card, "torch": torch.__version__}))
"""


def main() -> None:
    """Reads the command line, measures, and writes the page beside the record."""
    given = _arguments()
    record: Path = given.record or ROOT / ("build/gpu/tiny.jsonl" if given.tiny else "benchmarks/gpu.jsonl")
    record = record.resolve()
    record.parent.mkdir(parents=True, exist_ok=True)
    if not given.no_phase:
        if given.wheels is not None:
            _install(given.wheels)
        try:
            phases = chosen_phases(given.phases or ["core"])
        except ValueError as error:
            sys.exit(f"error: {error}")
        with tempfile.TemporaryDirectory(prefix="lehr-gpu-", dir=given.scratch) as folder:
            context = _context(given, record, Path(folder))
            measure(context, phases, seconds=given.seconds)
        print("\n".join(summary(read_record(record), context.origin)))
    record.with_suffix(".md").write_text(page(read_record(record)), encoding="utf-8")
    print(f"record: {record}; page: {record.with_suffix('.md')}")


def measure(context: Context, phases: Sequence[Phase], *, seconds: float) -> None:
    """Runs the phases one after the other for at most `seconds`, and appends to the record how each has ended."""
    end = time.monotonic() + seconds
    for phase in phases:
        left = end - time.monotonic()
        if left < _LEAST_SECONDS:
            context.append(phase.name, {"case": "end", "outcome": "left out: the time is over"})
            continue
        limit = min(phase.limit_seconds * (_TINY_PATIENCE if context.tiny else 1), left)
        in_time = dataclasses.replace(context, end=time.monotonic() + limit)
        command = [sys.executable, "-m", "gpu.run_phase", phase.name, in_time.to_json()]
        # More threads only get into each other's way.
        variables = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} if context.tiny else {}
        written = len(read_record(context.record))
        ended = run(command, context.folder / f"{phase.name}.log", limit, variables, new_group=True)
        for line in read_record(context.record)[written:]:
            print(json.dumps({key: value for key, value in line.items() if key not in context.origin}), flush=True)
        outcome = {0: "done", TIME_LIMIT: TIME_LIMIT}.get(ended.code, f"failed with exit code {ended.code}")
        row: Row = {"case": "end", "outcome": outcome, "seconds": round(ended.seconds, 1)}
        context.append(phase.name, row if outcome == "done" else {**row, "output": ended.tail()})


def _context(given: argparse.Namespace, record: Path, folder: Path) -> Context:
    probe = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True)
    if probe.returncode:
        sys.exit(f"error: this Python cannot import torch:\n{probe.stderr}")
    found = json.loads(probe.stdout.splitlines()[-1])
    if found["card"] == "CPU" and not given.tiny:
        sys.exit("error: torch finds no GPU here; --tiny runs every phase in small shapes on the CPU")
    shards = given.shards
    if shards is None:
        shards = folder / "shards"
        vocab_size, tokens = (TINY_SIZE.vocab_size, 50_000) if given.tiny else (VOCABULARY, 4_000_000)
        write_random_shards(shards, tokens=tokens, document_tokens=tokens // 10_000, vocab_size=vocab_size)
    origin = {"date": str(date.today()), **found, "revision": given.revision or _revision()}
    return Context(record=record, folder=folder, shards=shards.resolve(), tiny=given.tiny, origin=origin)


def _revision() -> str:
    """Returns the commit of the tree, or `unknown` where it is no git repository."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _install(wheels: Path) -> None:
    """Unpacks the wheels into a folder beside them, from which this process and its children import."""
    site = wheels.resolve().parent / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--upgrade"]
    subprocess.run([*command, "--target", str(site), *map(str, sorted(wheels.glob("*.whl")))], check=True)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phases", nargs="*", help="core, or names of phases")
    parser.add_argument("--record", type=Path, help="JSON lines that this call appends to (benchmarks/gpu.jsonl)")
    parser.add_argument("--seconds", type=float, default=CORE_SECONDS, help="for all phases of this call together")
    parser.add_argument("--shards", type=Path, help="shards to train on; without them random tokens are written")
    parser.add_argument("--scratch", type=Path, help="folder for runs and logs, such as /dev/shm")
    parser.add_argument(
        "--wheels", type=Path, help="folder of wheels that this machine lacks (benchmarks/gpu/wheels.py)"
    )
    parser.add_argument("--revision", help="commit of the tree, where git cannot say it")
    parser.add_argument("--tiny", action="store_true", help="small shapes on the CPU, to try the script")
    parser.add_argument("--no-phase", action="store_true", help="measure nothing, write the page")
    return parser.parse_args()


if __name__ == "__main__":
    main()
