"""Random faults of a cluster in one Slurm job, which must come to the result of an unbroken run with no human command.

    make soak-slurm                 (python benchmarks/soak_slurm.py --faults 50 --seed 0 --minutes 40)

The script starts a Slurm of four nodes (tests/slurm_cluster.py) and submits a run on two of them with
`lehr slurm submit`. Then, time after time, it waits until the run has taken steps, and inflicts a fault that is drawn
from the seed (benchmarks/soak_slurm_faults.py). The job must come back by itself; then what was broken is mended, as a
technician would. When all faults are over, or the time is, the run is led to its end, and trained once more without a
fault: the metrics of every step and the weights must be the same, to the bit.

Each fault is a line of the record, benchmarks/soak_slurm.jsonl. A soak that was interrupted goes on with the same
command, on a new cluster. The page benchmarks/soak_slurm.md has the sums, which `--page` prints from the record.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # rounding must not depend on the number of cores
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "launcher" / "slurm"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "data"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # before tests, whose folders have the rooms' names

from slurm_cluster import Cluster, missing, slurm_cluster
from small_runs import make_shards, wait_until, write_config
from soak_compare import compare
from soak_slurm_faults import FAULTS, Fault, Victim, mended_after, victims
from soak_slurm_page import faults_of, page
from submitted_runs import LEHR, SubmittedRun

from settings.jsonl import append_json_line, read_json_lines, read_last_lines

_ROOT = Path(__file__).resolve().parent.parent
NODES, JOB_NODES, STEPS_PER_FAULT, SAVE_EVERY = 4, 2, 60, 20
BACK_SECONDS = 900.0  # on a busy machine; the job must have come back by then
SITE = {"time": "24:00:00", "ranks_per_node": 1, "interface": "fab0", "max_failures": 3}


def main() -> None:
    """Inflicts the faults that are left, leads the run to its end, compares, and prints the sums."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=40.0, help="after which no further fault is inflicted")
    parser.add_argument("--kinds", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="the kinds of faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=_ROOT / "build" / "soak-slurm")
    parser.add_argument("--record", type=Path, default=_ROOT / "benchmarks" / "soak_slurm.jsonl")
    parser.add_argument("--page", action="store_true", help="print the sums of the record, and do nothing else")
    options = parser.parse_args()
    if options.page:
        print(page([values for _, values in read_json_lines(options.record)]))
        return
    if (reason := missing()) is not None:
        raise SystemExit(f"no Slurm: {reason}")
    soak = Soak(options.folder.absolute(), options.record.absolute(), seed=options.seed)
    soak.inflict(plan(options.faults, options.kinds, options.seed), until=time.monotonic() + 60 * options.minutes)
    print(page(soak.record()))


def plan(faults: int, kinds: list[str], seed: int) -> list[str]:
    """Returns the kinds of faults in random order, each about equally often; a longer plan begins as a shorter one."""
    rng, drawn = random.Random(seed), list[str]()
    while len(drawn) < faults:
        drawn += rng.sample(kinds, len(kinds))
    return drawn[:faults]


class Soak:
    """A run under faults, which this process or an earlier one has begun."""

    def __init__(self, folder: Path, record: Path, *, seed: int) -> None:
        self._folder, self._record, self._seed = folder, record, seed
        self._run = folder / "runs" / "broken"
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / "soak.json"
        if not own.exists():
            own.write_text(json.dumps({"soak": uuid.uuid4().hex}))
        name = json.loads(own.read_text())["soak"]
        if not record.exists() or not (lines := read_json_lines(record)) or lines[0][1].get("soak") != name:
            record.write_text("")
            header = {"soak": name, "seed": seed, "date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count()}
            append_json_line(record, {"step": 0, **header})
        self._config = folder / "config.yaml"
        if not self._config.exists():
            path = write_config(
                folder,
                make_shards(folder),
                train={"steps": 1_000_000, "timeout_seconds": 60, "hang_seconds": 10},
                checkpoint={"every_steps": SAVE_EVERY, "keep_last": 2},
                evaluate={"every_steps": 0},
            )
            plain = json.loads(path.read_text())
            plain["schedule"] = {"name": "constant", "warmup_steps": 2}  # the number of steps is known at the end only
            path.write_text(json.dumps(plain))

    def record(self) -> list[dict[str, Any]]:
        """Reads the lines of the record."""
        return [values for _, values in read_json_lines(self._record)]

    def inflict(self, names: list[str], *, until: float) -> None:
        """Inflicts those faults that are left, until the time is over; then ends the run, and compares it."""
        cluster_folder = self._folder / f"cluster-{os.getpid()}"
        first_job = 1 + int(time.time()) % 1_000_000  # the run has had jobs of other clusters, with other numbers
        with slurm_cluster(cluster_folder, nodes=NODES, node_timeout_seconds=10, first_job=first_job) as cluster:
            run = SubmittedRun(cluster, self._run)
            run.submit(self._config, "run.name=broken", site=SITE, nodes=str(JOB_NODES))
            self._wait(run, lambda: self._trains(run, after_attempt=0))
            while (number := len(faults_of(self.record()))) < len(names) and time.monotonic() < until:
                self._wait_for_steps(run, STEPS_PER_FAULT)
                line = self._one_fault(cluster, run, names[number], random.Random(f"{self._seed} {number}"))
                append_json_line(self._record, {"step": self._step(), **line})
                print(f"{number + 1}/{len(names)}: {line}", flush=True)
            run.lehr("cancel", run.path)
            run.wait_for_end("CANCELLED", seconds=BACK_SECONDS)
            steps = (self._step() // SAVE_EVERY + 2) * SAVE_EVERY
            run.submit(self._config, "run.name=broken", f"train.steps={steps}", site=SITE, nodes=str(JOB_NODES))
            run.wait_for_end("COMPLETED", seconds=BACK_SECONDS)
        self._compare(steps)

    def _one_fault(self, cluster: Cluster, run: SubmittedRun, name: str, rng: random.Random) -> dict[str, Any]:
        """Inflicts a fault, waits until the run trains again, and mends what was broken."""
        fault, attempt, before = FAULTS[name], self._attempt(run), len(self._events(run))
        among = victims(run, attempt)
        assert len(among) == JOB_NODES, among
        victim = rng.choice(among[1:] if fault.spares_batch_host else among)
        time.sleep(rng.uniform(0, 2))
        with mended_after(cluster, self._run):
            step, began = self._step(), time.monotonic()
            fault.strike(cluster, run, victim)
            if fault.named is None:
                self._wait_for_steps(run, 2)
            else:
                self._wait(run, lambda: self._trains(run, after_attempt=attempt))
            seconds = time.monotonic() - began
        self._wait(run, lambda: spare_nodes(cluster) >= 1)
        events = self._events(run)[before:]
        reasons = [event["reason"].replace(f"{self._folder}/", "") for event in events if event["event"] == "end"]
        begins = [event for event in events if event["event"] == "begin"]
        return {
            "fault": name,
            "kind": fault.kind,
            "rank": victim.rank,
            "node": victim.node,
            "seconds": round(seconds, 1),
            "starts": len(begins),
            "lost_steps": max(0, step - begins[-1]["step"]) if begins else 0,
            "named": is_named(fault, victim, reasons),
            "reasons": reasons,
            "load": round(os.getloadavg()[0], 1),
        }

    def _compare(self, steps: int) -> None:
        """Trains the run without a fault, and adds to the record that both are the same. Raises AssertionError."""
        words = ["train", str(self._config), "run.name=unbroken", f"parallel.data={JOB_NODES}", f"train.steps={steps}"]
        done = subprocess.run([LEHR, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        compare(self._folder / "runs" / "unbroken", self._run, exact=True)
        spent = [values for _, values in read_json_lines(self._run / "time.jsonl")]
        last = [a for a, b in zip(spent, [*spent[1:], {"began": None}], strict=True) if a["began"] != b["began"]]
        sums = {key: sum(line[key] for line in last) for key in ("steps", "saving", "saves", "steps_taken")}
        append_json_line(self._record, {"step": steps, "same_to_the_bit": True, **sums})

    def _trains(self, run: SubmittedRun, *, after_attempt: int) -> bool:
        """Returns whether an attempt after the given one has taken a step."""
        attempt = self._attempt(run)
        log = run.path / "logs" / f"job-{run.job}-attempt-{attempt}" / "rank-00000.log"
        return attempt > after_attempt and log.exists() and "  loss " in log.read_text(errors="replace")

    def _attempt(self, run: SubmittedRun) -> int:
        """Returns the number of the newest attempt; 0 before the first."""
        return max((int(event["attempt"]) for event in self._events(run) if event["event"] == "begin"), default=0)

    def _events(self, run: SubmittedRun) -> list[dict[str, Any]]:
        path = run.path / "slurm" / "attempts.jsonl"
        lines = read_json_lines(path) if path.exists() else []
        return [values for _, values in lines if values["job"] == run.job]

    def _wait_for_steps(self, run: SubmittedRun, count: int) -> None:
        until = self._step() + count
        self._wait(run, lambda: self._step() >= until)

    def _step(self) -> int:
        """Returns the last step of the run."""
        try:
            lines = read_last_lines(self._run / "metrics.jsonl", 1 << 14)
        except OSError:
            return 0
        return int(lines[-1][1]["step"]) if lines else 0

    def _wait(self, run: SubmittedRun, condition: Callable[[], bool]) -> None:
        try:
            wait_until(condition, seconds=BACK_SECONDS, pause_seconds=0.1)
        except AssertionError:
            state = run.cluster.job(run.job)
            raise SystemExit(f"the run has not come back: {state}\n{run.output()[-6000:]}") from None


def spare_nodes(cluster: Cluster) -> int:
    """Returns how many nodes wait for work."""
    return cluster.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T").stdout.split().count("idle")


def is_named(fault: Fault, victim: Victim, reasons: list[str]) -> bool | None:
    """Returns whether the recorded reasons name the cause; None if nothing had to be noticed, and nothing was."""
    if fault.named is None:
        return False if reasons else None
    text = "\n".join(reasons)
    return all(re.search(words.format(rank=victim.rank, node=victim.node), text) for words in fault.named)


if __name__ == "__main__":
    main()
