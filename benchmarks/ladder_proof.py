"""The loss of a model of a million parameters, forecast and registered from runs of up to 120,000.

    python benchmarks/ladder_proof.py [CONFIG] [--jobs N] [--report] [key=value ...]

1. `lehr data build` makes the shards; `lehr sweep` tunes the lr at two sizes.
2. `lehr ladder plan`, `run`, `fit` and `register` make the forecast of the target, before it is trained.
3. The target is trained, and compares itself with the register.
4. `lehr sweep` trains the default and the laws' choice of schedule, lr and batch at the size of the config.
5. ladder.md is written. ladder_plan.py has all runs and what was asked, both fixed before.

Every finished run is a line of ladder.jsonl. The same command goes on from these lines and trains nothing twice. Ctrl-C
or SIGTERM stops it with exit code 75.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from ladder_plan import CHOSEN, DEFAULT, MOST_SWEEPS, Arm, Plan, chosen_arm, default_arm
from ladder_report import Results, write_report
from lehr_commands import LehrCommands

from launcher.ladder.ladder_file import read_ladder
from launcher.ladder.tuning import tuned_runs
from launcher.run.config import load_run_config
from launcher.run.register import load_forecast
from launcher.sweep.points import plan_sweep
from launcher.sweep.records import Record, read_records
from settings import UserError
from settings.files import write_text

HERE = Path(__file__).resolve().parent


class Proof:
    """The plan at work: the commands that do what is missing, and the records of what is finished."""

    def __init__(self, plan: Plan, *, runs: Path, register: Path, jobs: int) -> None:
        """`runs`: the file of finished runs. `register`: where the registered forecast is kept, to be committed."""
        self.plan, self.runs_file, self.register, self.jobs = plan, runs, register, jobs
        self._commands = LehrCommands()

    def work(self) -> None:
        """Does what is missing. Exits with code 75 on a stop, and with 1 if a command fails."""
        with self._commands:
            self._build()
            self._tune(self.plan.sweep("small", *self.plan.small))
            self._tune(self.plan.sweep("base"))
            self._make_ladder()
            self._sweep(["sweep", str(self.plan.ladder / "target.yaml"), "run.name=target"], jobs=1)
            for name in (DEFAULT, CHOSEN):
                words, lrs = self._arm(name)
                self._sweep(words, *_grid(lrs))
                self._sweep([*words, f"optim.lr={self._best_lr(words, lrs)}"], "--seeds", str(self.plan.seeds))

    def target_record(self) -> Record | None:
        """Returns the finished target; None before."""
        path = self.plan.ladder / "target.yaml"
        if not path.is_file():
            return None
        (point,) = plan_sweep(path, ["run.name=target"], [], seeds=1).points
        return read_records(self.runs_file).get(point.digest)

    def results(self) -> Results:
        """Returns what is finished. Raises UserError before the ladder is planned."""
        started = self.register.is_file()
        arms = {name: self._arm(name) for name in (DEFAULT, CHOSEN)} if started else {}
        best = {name: self._best_lr(words, lrs) for name, (words, lrs) in arms.items()}
        return Results(
            ladder=self.plan.ladder,
            target=self.target_record(),
            arms={name: self._records(arms[name][0], lr, seeds=self.plan.seeds) for name, lr in best.items()},
            best_lrs=best,
            tuned_with=len(self.plan.factors),
            seeds=self.plan.seeds,
        )

    def _build(self) -> None:
        """Builds the shards; where they are, the command only checks that they are those of the config."""
        self._run(["data", "build", str(self.plan.config), *self.plan.overrides])

    def _tune(self, words: Sequence[str]) -> None:
        """Sweeps the lr. As long as the best one lies at the edge of the sweep, it is widened by a value there."""
        lrs = [f"{lr:g}" for lr in self.plan.lrs]
        for _ in range(MOST_SWEEPS):
            self._sweep(words, *_grid(lrs))
            best = lrs.index(self._best_lr(words, lrs))
            if best == 0:
                lrs.insert(0, f"{float(lrs[0]) ** 2 / float(lrs[1]):g}")
            elif best == len(lrs) - 1:
                lrs.append(f"{float(lrs[-1]) ** 2 / float(lrs[-2]):g}")
            else:
                return

    def _records(self, words: Sequence[str], lr: str, *, seeds: int = 1) -> list[Record]:
        """Returns the finished runs of a sweep with an lr, by seed."""
        _, config, *overrides = words
        points = plan_sweep(Path(config), [*overrides, f"optim.lr={lr}"], [], seeds=seeds).points
        known = read_records(self.runs_file)
        return [known[point.digest] for point in points if point.digest in known]

    def _best_lr(self, words: Sequence[str], lrs: Sequence[str]) -> str:
        """Returns the lr of a sweep with the least loss at the first seed."""
        losses = {lr: record.loss for lr in lrs for record in self._records(words, lr) if record.loss is not None}
        return min(losses, key=lambda lr: losses[lr], default=lrs[0])

    def _make_ladder(self) -> None:
        """Plans, trains, fits and registers the ladder, each unless it is done."""
        folder = self.plan.ladder
        if not (folder / "ladder.yaml").exists():
            self._run(self.plan.plan_arguments(self.runs_file))
        ladder = read_ladder(folder)
        if not ladder.records.exists():
            ladder.records.symlink_to(self.runs_file.resolve())
        self._run(["ladder", "run", str(folder), "--jobs", str(self.jobs)])
        if not ladder.fit.exists():
            self._run(["ladder", "fit", str(folder)])
        if self.register.exists():  # a forecast is registered once
            write_text(ladder.register, self.register.read_text(encoding="utf-8"))
            ladder.write_target()
            return
        if not ladder.register.exists():
            self._run(["ladder", "register", str(folder)])
        write_text(self.register, ladder.register.read_text(encoding="utf-8"))

    def _arm(self, name: str) -> tuple[list[str], list[str]]:
        """Returns the arguments of an arm's sweep, and the values of its lr."""
        arm = self._chosen if name == CHOSEN else default_arm(self.plan.base)
        return self.plan.sweep(name, *arm.overrides), arm.lrs(self.plan.factors)

    @cached_property
    def _chosen(self) -> Arm:
        """The laws' choice, by the registered law."""
        (small, base), _ = tuned_runs([self.plan.sweep_folder(each) for each in ("small", "base")], self.runs_file)
        fit, _ = load_forecast(self.register)
        return chosen_arm(self.plan.base, small, base.parameters, fit)

    def _sweep(self, arguments: Sequence[str], *options: str, jobs: int | None = None) -> None:
        """Runs a sweep; one that has a single run gives it the threads of all jobs."""
        jobs = jobs or self.jobs
        words = [*arguments, *options, "--jobs", str(jobs), "--runs", str(self.runs_file)]
        self._run(words, threads=self.jobs // jobs)

    def _run(self, arguments: Sequence[str], *, threads: int = 1) -> None:
        print(f"lehr {' '.join(arguments)}", flush=True)
        self._commands.run(arguments, threads=threads).check()


def _grid(lrs: Sequence[str]) -> list[str]:
    return ["--grid", f"optim.lr={','.join(lrs)}"]


def main() -> None:
    """Does what is missing and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", type=Path, default=HERE / "ladder.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the config")
    parser.add_argument("--folder", type=Path, default=Path("build/ladder-proof"), help="folder of the run folders")
    parser.add_argument("--runs", type=Path, default=HERE / "ladder.jsonl", help="the file of finished runs")
    parser.add_argument("--register", type=Path, default=HERE / "ladder_register.json", help="the registered forecast")
    parser.add_argument("--record", type=Path, default=HERE / "ladder.md", help="the report")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, where there are several")
    parser.add_argument("--report", action="store_true", help="only write the report of what is finished")
    arguments = parser.parse_args()
    try:
        plan = Plan(arguments.config, tuple(arguments.overrides), arguments.folder.resolve())
        proof = Proof(plan, runs=arguments.runs, register=arguments.register, jobs=arguments.jobs)
        load_run_config(plan.config, plan.overrides)  # a mistake in it is one message
        if not arguments.report:
            proof.work()
        write_report(proof.results(), arguments.record)
        print(f"report: {arguments.record}")
    except UserError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
