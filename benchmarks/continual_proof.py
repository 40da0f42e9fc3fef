"""Continual pretraining: re-warming, replay, the infinite schedule, on a strong and a weak shift.

    python benchmarks/continual_proof.py [CONFIG] [--jobs N] [--report] [key=value ...]

1. `lehr data build` makes the shards.
2. `lehr sweep` trains the trunks (old data alone), and from each the arms of its seed (continual_plan.py).
3. continual.md, and the plot in docs/, are written from the lines of the finished runs.

Every finished run is a line of continual.jsonl. The same command goes on from these lines and trains nothing twice; a
trunk is trained again only if its checkpoint is gone and an arm that needs it is missing. Ctrl-C or SIGTERM stops it
with exit code 75.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from continual_plan import ARMS, SEEDS, UNION, Arm, Plan, arm_of
from lehr_commands import LehrCommands

from launcher.sweep.grid import Axis
from launcher.sweep.points import plan_sweep
from launcher.sweep.records import Record, read_records
from settings import UserError
from settings.durations import format_duration
from train.checkpoint.manifest import folder_name
from train.run_folder.folder import RunFolder

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
_FIRST_GUESS = 4e-5  # seconds a token, before a run has ended


class Proof:
    """The plan at work: what is finished, and the commands that do the rest."""

    def __init__(self, plan: Plan, *, runs: Path, jobs: int) -> None:
        self.plan, self.runs_file, self.jobs = plan, runs, jobs
        self._commands = LehrCommands()

    def finished(self) -> dict[tuple[str, int], Record]:
        """Returns the records by arm and seed; a trunk has the name of its schedule."""
        found: dict[tuple[str, int], Record] = {}
        for record in read_records(self.runs_file).values():
            found[arm_of(record.point) or f"trunk-{record.point.get('schedule.name', '')}", record.seed] = record
        return found

    def work(self) -> None:
        """Builds and trains what is missing. Exits with code 75 on a stop, and with 1 if a command fails."""
        with self._commands:
            self._build()
            for seed in SEEDS:
                for trunk in dict.fromkeys(arm.trunk for arm in self.plan.arms):
                    missing = self._missing(trunk, seed)
                    if missing:
                        parent = None if trunk == UNION else self._trunk(trunk, seed)
                        self._sweep_arms(trunk, seed, parent, missing)

    def progress(self) -> str:
        """Returns how many arms are finished, and about how long the others will take."""
        arms = [(arm, seed) for arm in self.plan.arms for seed in arm.seeds]
        finished = self.finished()
        seconds = sum(record.seconds for record in finished.values())
        steps = sum(record.steps for record in finished.values())
        train = self.plan.base.train
        per_step = seconds / steps if steps else _FIRST_GUESS * train.global_batch_size * train.seq_length
        left = sum(self.plan.sizes.steps(arm.steps) for arm, seed in arms if (arm.name, seed) not in finished)
        count = sum((arm.name, seed) in finished for arm, seed in arms)
        return f"{count} of {len(arms)} arms are finished, about {format_duration(left * per_step / self.jobs)} left"

    def _build(self) -> None:
        """Builds the shards; where they are, the command only checks that they are those of the config."""
        self._run(["data", "build", str(self.plan.config), *self.plan.overrides], what="the shards")

    def _missing(self, trunk: str, seed: int) -> list[Arm]:
        finished = self.finished()
        arms = [arm for arm in self.plan.arms if arm.trunk == trunk and seed in arm.seeds]
        return [arm for arm in arms if (arm.name, seed) not in finished]

    def _trunk(self, trunk: str, seed: int) -> Path:
        """Trains a trunk unless its last checkpoint is there, and returns its run folder."""
        overrides = self.plan.trunk_overrides(trunk, seed)
        axis = Axis("schedule.name", (trunk,))
        (point,) = plan_sweep(self.plan.config, overrides, [axis], seeds=1).points
        folder = RunFolder(point.config.run.path)
        if not (folder.checkpoints / folder_name(self.plan.old_steps)).is_dir():
            runs = self.runs_file
            if point.digest in read_records(runs):  # trained before, and its checkpoint is gone
                runs = self.plan.folder / f"again-{trunk}-{seed}.jsonl"
                runs.unlink(missing_ok=True)
            self._sweep(overrides, f"{axis.key}={axis.values[0]}", runs, what=f"trunk {trunk}, seed {seed}")
        return folder.path

    def _sweep_arms(self, trunk: str, seed: int, parent: Path | None, arms: Sequence[Arm]) -> None:
        stages = ",".join(self.plan.stages(arm) for arm in arms)
        overrides = self.plan.arm_overrides(trunk, seed, parent)
        self._sweep(overrides, f"stages={stages}", self.runs_file, what=f"arms of trunk {trunk}, seed {seed}")

    def _sweep(self, overrides: Sequence[str], grid: str, runs: Path, *, what: str) -> None:
        arguments = ["sweep", str(self.plan.config), *overrides, "--grid", grid]
        self._run([*arguments, "--jobs", str(self.jobs), "--runs", str(runs)], what=what)

    def _run(self, arguments: Sequence[str], *, what: str) -> None:
        """Runs a lehr command. Exits with 75 if it was stopped, and with 1 if it failed."""
        print(f"[{self.progress()}] lehr {arguments[0]}: {what}", flush=True)
        self._commands.run(arguments).check()


def main() -> None:
    """Does what is missing and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", type=Path, default=HERE / "continual.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the config")
    parser.add_argument("--folder", type=Path, default=Path("build/continual"), help="folder of the run folders")
    parser.add_argument("--runs", type=Path, default=HERE / "continual.jsonl", help="the file of finished runs")
    parser.add_argument("--record", type=Path, default=HERE / "continual.md", help="the report")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs/continual.png", help="forgetting against adaptation")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with one thread")
    parser.add_argument("--report", action="store_true", help="only write the report, from the lines of finished runs")
    arguments = parser.parse_args()
    try:
        _main(arguments)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")


def _main(arguments: argparse.Namespace) -> None:
    plan = Plan(arguments.config, tuple(arguments.overrides), arguments.folder)
    proof = Proof(plan, runs=arguments.runs, jobs=arguments.jobs)
    try:
        if not arguments.report:
            proof.work()
    finally:
        from continual_report import write_report  # matplotlib is slow to import

        print(proof.progress())
        write_report(proof.finished(), ARMS, arguments.record, arguments.plot)
        print(f"report: {arguments.record}")


if __name__ == "__main__":
    main()
