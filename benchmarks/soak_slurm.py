"""Random faults of a cluster in one Slurm job, which must come to the result of an unbroken run with no human command.

    make soak-slurm                 (python benchmarks/soak_slurm.py --faults 50 --seed 0 --folder build/soak-slurm)

It starts a Slurm of four nodes (tests/slurm_cluster.py), trains a run without a fault, and submits the same run with
`lehr slurm submit`. Then, time after time, it waits until the run has taken steps, and does one of the faults drawn
from the seed: a rank is killed or stopped; a node is powered off, also the batch host; a node's daemon is killed; the
link between two nodes is cut for longer than the timeout; the notice of the time limit arrives; another job preempts.
The job must come back by itself. In the end the metrics must be those of the unbroken run, to the bit.

A fault's time to recover is that from the fault to the first step of the next start. The script may be interrupted: the
same command goes on with the faults that are left, on a new cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "data"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "launcher" / "slurm"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # before tests, whose folders have the rooms' names

from processes import lehr
from slurm_cluster import Cluster, missing, slurm_cluster
from small_runs import make_shards, trajectory, write_config
from submitted_runs import SubmittedRun

from settings.files import read_json, write_json

NODES, JOB_NODES, STEPS_PER_FAULT, SAVE_EVERY = 4, 2, 60, 20
BACK_SECONDS = 300.0
FAULT_EVERY_SECONDS = 20 * 60.0  # of the arithmetic in the record


@dataclass(frozen=True)
class Fault:
    """A fault: what it does to a node of the job, and words that the cause must have if it is named rightly."""

    do: Callable[[Cluster, SubmittedRun, str], None]
    words: tuple[str, ...]
    kind: str  # rank, node, link or none: what failed


def rank_of(cluster: Cluster, node: str) -> str:
    return cluster.run_on(node, "pgrep", "--newest", "-f", "lehr train").strip()


def kill_rank(cluster: Cluster, run: SubmittedRun, node: str) -> None:
    cluster.run_on(node, "kill", "-KILL", rank_of(cluster, node))


def stop_rank(cluster: Cluster, run: SubmittedRun, node: str) -> None:
    cluster.run_on(node, "kill", "-STOP", rank_of(cluster, node))


def power_off(cluster: Cluster, run: SubmittedRun, node: str) -> None:
    cluster.power_off(node)


def kill_daemon(cluster: Cluster, run: SubmittedRun, node: str) -> None:
    cluster.kill_slurmd(node)


def cut_link(cluster: Cluster, run: SubmittedRun, node: str) -> None:
    cluster.cut(node, "fab")


def notice(cluster: Cluster, run: SubmittedRun, node: str) -> None:
    run.notice()


def preempt(cluster: Cluster, run: SubmittedRun, node: str) -> None:
    words = ("--partition=urgent", f"--nodes={NODES}", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
    cluster.run("sbatch", *words)


FAULTS = {
    "a rank is killed": Fault(kill_rank, ("on {node}: killed",), "rank"),
    "a rank is stopped": Fault(stop_rank, ("on {node} gave no answer",), "rank"),
    "a node is powered off": Fault(power_off, ("a node has failed: {node}",), "node"),
    "a node's daemon is killed": Fault(kill_daemon, ("a node has failed: {node}",), "node"),
    "a link is cut": Fault(cut_link, ("rank ", "{node}"), "link"),
    "the notice of the time limit": Fault(notice, ("stopped early",), "none"),
    "another job preempts": Fault(preempt, ("preempted",), "none"),
}


def main() -> None:
    """Runs the faults that are left, compares the runs, and prints the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("build/soak-slurm"))
    arguments = parser.parse_args()
    if (reason := missing()) is not None:
        raise SystemExit(f"no Slurm: {reason}")
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    config, unbroken = prepare(folder, arguments.faults)
    names = random.Random(arguments.seed).choices(list(FAULTS), k=arguments.faults)
    done = folder / "faults.json"
    found: list[dict[str, object]] = read_json(done) if done.exists() else []
    run = folder / "runs" / "broken"
    with slurm_cluster(folder / f"cluster-{os.getpid()}", nodes=NODES) as cluster:
        submitted = SubmittedRun(cluster, run)
        site = {"time": "02:00:00", "ranks_per_node": 1, "interface": "fab0", "max_failures": 3}
        submitted.submit(config, "run.name=broken", site=site, nodes=str(JOB_NODES))
        submitted.wait_for_begin(1, seconds=BACK_SECONDS)
        for number, name in list(enumerate(names))[len(found) :]:
            submitted.wait_for_step((number + 1) * STEPS_PER_FAULT, seconds=BACK_SECONDS)
            found.append(one_fault(cluster, submitted, name, random.Random(f"{arguments.seed} {number}")))
            write_json(done, found)
            print(f"{number + 1}/{len(names)}  {name}: {found[-1]}", flush=True)
        submitted.wait_for_end("COMPLETED", seconds=2 * BACK_SECONDS)
    same = trajectory(run) == trajectory(unbroken)
    print(record(found))
    print(f"the trajectory is that of the unbroken run, to the bit: {same}")
    raise SystemExit(0 if same else 1)


def prepare(folder: Path, faults: int) -> tuple[Path, Path]:
    """Writes shards and config, and trains the run without a fault, unless an earlier call has."""
    config, unbroken = folder / "config.yaml", folder / "runs" / "unbroken"
    if not config.exists():
        train = {"steps": (faults + 1) * STEPS_PER_FAULT, "timeout_seconds": 25, "hang_seconds": 6}
        checkpoint = {"every_steps": SAVE_EVERY, "keep_last": 2}
        write_config(folder, make_shards(folder), train=train, checkpoint=checkpoint, evaluate={"every_steps": 0})
    done = lehr("train", config, "run.name=unbroken", f"parallel.data={JOB_NODES}", timeout=1800)
    assert done.returncode == 0, done.stderr
    return config, unbroken


def one_fault(cluster: Cluster, run: SubmittedRun, name: str, rng: random.Random) -> dict[str, object]:
    """Does a fault, waits until the next attempt has taken a step, and mends what was broken."""
    fault, attempt = FAULTS[name], int(cluster.job(run.job)["Restarts"]) + 1
    nodes = cluster.run("scontrol", "show", "hostnames", cluster.job(run.job)["NodeList"]).stdout.split()
    node, before, began = rng.choice(nodes), len(run.ends()), time.monotonic()
    fault.do(cluster, run, node)
    run.wait_for_begin(attempt + 1, seconds=BACK_SECONDS)
    seconds = time.monotonic() - began
    cluster.mend_all()
    lines = (run.path / "slurm" / "attempts.jsonl").read_text().splitlines()
    reasons = [plain["reason"] for plain in map(json.loads, lines) if plain["event"] == "end"][before:]
    named = all(words.format(node=node) in " ".join(reasons) for words in fault.words)
    return {"fault": name, "kind": fault.kind, "node": node, "seconds": seconds, "named": named, "reasons": reasons}


def record(found: list[dict[str, object]]) -> str:
    """Returns the record: times by fault, the share of causes named rightly, and the arithmetic of the goodput."""
    lines = []
    for name in FAULTS:
        own = [one for one in found if one["fault"] == name]
        if own:
            times = [float(str(one["seconds"])) for one in own]
            named = sum(bool(one["named"]) for one in own)
            lines.append(
                f"{name}: {len(own)}, median {statistics.median(times):.0f} s, most {max(times):.0f} s, {named} named"
            )
    for kind in ("rank", "node"):
        times = [float(str(one["seconds"])) for one in found if one["kind"] == kind]
        if times:
            mean = statistics.mean(times)
            ratio = FAULT_EVERY_SECONDS / (FAULT_EVERY_SECONDS + mean)
            lines.append(
                f"mean time to recover from the loss of a {kind}: {mean:.0f} s; with one fault per 20 minutes, "
                f"1200 / (1200 + {mean:.0f}) = {100 * ratio:.1f}% of the time trains, less what a checkpoint loses"
            )
    named = sum(bool(one["named"]) for one in found)
    return "\n".join([*lines, f"causes named rightly: {named} of {len(found)}"])


if __name__ == "__main__":
    main()
