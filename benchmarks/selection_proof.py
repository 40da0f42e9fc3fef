"""Does a selection help? Small models on the choices of each selector, evaluated on two held-out targets.

    python benchmarks/selection_proof.py [CONFIG] [--jobs N] [--blocks NAMES] [--report] [key=value ...]

1. `lehr data build` makes the shards of each selection; two small runs score the pool for the selectors el2n and loss.
2. `lehr sweep` trains the runs of the plan (selection_plan.py). The steps of every run but the longer ones are equal.
3. selection.md and selection.png are written from the lines of the finished runs.

Every finished run is a line of selection.jsonl, and every finished selection one of selection_choices.jsonl. The same
command goes on from these lines: it builds only what a missing run needs, and trains nothing twice. Ctrl-C or SIGTERM
stops it with exit code 75.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lehr_commands import LehrCommands
from selection_choices import Choice, add_choice, choice_of, read_choices
from selection_findings import Findings
from selection_plan import (
    ALL_SOURCES,
    BLOCKS,
    FOLDS,
    RANDOM,
    Block,
    Plain,
    Plan,
    Run,
    Selection,
    blocks_of,
    needs_proxies,
    read_by,
)

from launcher.run.config import load_run_config
from launcher.sweep.records import Record, read_records
from settings import UserError
from settings.durations import format_duration
from settings.files import write_json

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
_FIRST_GUESS = 4e-5  # seconds a token, before a run has ended
_SECONDS_OF_BUILD = 25.0
_CPU_FILE = "cpu_seconds.json"
_PROXY_COSTS = [*FOLDS, *(f"{step}-{fold}" for step in ("proxy", "score") for fold in FOLDS)]


class Proof:
    """The plan at work: what is finished, and the commands that do the rest."""

    def __init__(self, plan: Plan, *, runs: Path, choices: Path, jobs: int) -> None:
        self.plan, self.runs_file, self.choices_file, self.jobs = plan, runs, choices, jobs
        self.known = read_choices(choices)
        self._commands = LehrCommands()
        self._fingerprints: dict[Selection, str] = {}

    def choice(self, selection: Selection) -> Choice | None:
        """Returns the line of a finished selection; None for one of other settings."""
        if selection not in self._fingerprints:
            self._fingerprints[selection] = self.plan.fingerprint(selection)
        found = self.known.get(selection.name)
        return found if found and found.fingerprint == self._fingerprints[selection] else None

    def records(self, runs: Sequence[Run]) -> dict[Run, Record]:
        """Returns the records of the runs that are finished."""
        lines = read_records(self.runs_file)
        found = {}
        for run in runs:
            choice = self.choice(run.selection)
            record = lines.get(self.plan.digest(run, choice.inputs)) if choice else None
            if record:
                found[run] = record
        return found

    def findings(self) -> Findings:
        """Returns what the finished runs say."""
        choices = {selection: choice for selection in self.plan.selections() if (choice := self.choice(selection))}
        return Findings(self.plan, self.records(self.plan.runs()), choices)

    def work(self) -> None:
        """Builds and trains what is missing. Exits with code 75 on a stop, and with 1 if a command fails."""
        with self._commands:
            self._work()

    def _work(self) -> None:
        for block in self.plan.blocks:
            for seed in block.seeds:
                part = Block(block.name, block.selections, (seed,), block.lrs, block.length)
                runs = list(part.runs())
                finished = self.records(runs)
                missing = tuple(dict.fromkeys(run.selection for run in runs if run not in finished))
                for selection in missing:
                    self._require(selection)
                if missing:
                    self._sweep(replace(part, selections=missing), runs[0])

    def progress(self) -> str:
        """Returns how many runs are finished, and about how long the others will take."""
        runs = self.plan.runs()
        finished = self.records(runs)
        tokens = sum(record.tokens for record in finished.values())
        seconds = sum(record.seconds for record in finished.values())
        per_token = seconds / tokens if tokens else _FIRST_GUESS
        left = sum(run.length for run in runs if run not in finished) * self.plan.tokens
        unbuilt = sum(self.choice(selection) is None for selection in self.plan.selections())
        rest = left * per_token / self.jobs + unbuilt * _SECONDS_OF_BUILD
        return f"{len(finished)} of {len(runs)} runs are finished, about {format_duration(rest)} left"

    def _require(self, selection: Selection) -> None:
        """Builds the shards of a selection, and what it reads, unless they are there."""
        for other in read_by(selection):
            self._require(other)
        if needs_proxies(selection):
            self._score_by_proxies()
        shards = self.plan.shards(selection.name)
        if not (shards / "build.json").exists() or self.choice(selection) is None:
            self._build(selection.name, self.plan.select(selection))
        if self.choice(selection) is None:
            own = [selection.name, *(_PROXY_COSTS if needs_proxies(selection) else [])]
            seconds = self._cpu_seconds()
            proxy_tokens = len(FOLDS) * self.plan.tokens * self._proxy_steps() / self.plan.base.train.steps
            trained = sum(seconds.get(f"proxy-{fold}", 0.0) for fold in FOLDS)
            choice = choice_of(
                selection.name,
                self.plan.fingerprint(selection),
                load_run_config(self.plan.config, [*self.plan.overrides, ALL_SOURCES, f"data.shards={shards}"]),
                cpu_seconds=sum(seconds.get(name, 0.0) for name in own),
                per_token=trained / proxy_tokens if needs_proxies(selection) else None,
            )
            add_choice(self.choices_file, choice)
            self.known[choice.name] = choice

    def _score_by_proxies(self) -> None:
        """Trains a small model on each half of the pool, and scores the other half by it."""
        self._require(RANDOM)
        for fold in FOLDS:
            if not (self.plan.shards(fold) / "build.json").exists():
                self._build(fold, self.plan.fold(fold))
        for trained, scored in (FOLDS, FOLDS[::-1]):
            run = self.plan.folder / "proxies" / trained
            scores = self.plan.shards(f"{scored}.scores")
            if (scores / "report.json").exists():
                continue
            overrides = [
                *self.plan.overrides,
                ALL_SOURCES,
                f"data.shards={self.plan.shards(trained)}",
                f"run.name={trained}",
            ]
            overrides += [f"run.folder={run.parent}", f"train.steps={self._proxy_steps()}"]
            self._run(["train", str(self.plan.config), *overrides], what=f"proxy-{trained}", cost=f"proxy-{trained}")
            self._run(["score", str(run), str(self.plan.shards(scored))], what=scored, cost=f"score-{scored}")

    def _proxy_steps(self) -> int:
        return max(1, self.plan.base.train.steps // 2)

    def _build(self, name: str, select: Plain) -> None:
        """Builds shards; where there are some, the command only checks that they are those of the config."""
        is_built = (self.plan.shards(name) / "build.json").exists()
        overrides = self.plan.build_overrides(name, select)
        self._run(["data", "build", str(self.plan.config), *overrides], cost=None if is_built else name, what=name)

    def _sweep(self, part: Block, run: Run) -> None:
        """Trains runs of one seed of a block by `lehr sweep`; `run` is any of the block."""
        shards = ",".join(str(self.plan.shards(selection.name)) for selection in part.selections)
        arguments = ["sweep", str(self.plan.config), *self.plan.run_overrides(replace(run, lr=None))]
        arguments += [f"run.seed={run.seed}", f"run.folder={self.plan.folder / 'runs'}", f"run.name={part.name}"]
        arguments += ["--grid", f"data.shards={shards}", "--jobs", str(self.jobs), "--runs", str(self.runs_file)]
        arguments += ["--grid", f"optim.lr={','.join(part.lrs)}"] if part.lrs else []
        self._run(arguments, what=f"{part.name}, seed {run.seed}")

    def _run(self, arguments: Sequence[str], *, what: str, cost: str | None = None) -> None:
        """Runs a lehr command for `what`, and adds its CPU time to what is known of `cost`.

        Exits with 75 if it was stopped, and with 1 if it failed.
        """
        print(f"[{self.progress()}] lehr {arguments[0]}: {what}", flush=True)
        ended = self._commands.run(arguments)
        if cost:
            seconds = self._cpu_seconds()
            seconds[cost] = seconds.get(cost, 0.0) + ended.cpu_seconds
            self.plan.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.plan.folder / _CPU_FILE, seconds)
        ended.check()

    def _cpu_seconds(self) -> dict[str, float]:
        path = self.plan.folder / _CPU_FILE
        return json.loads(path.read_text()) if path.exists() else {}


def main() -> None:
    """Does what is missing and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", type=Path, default=ROOT / "configs/selection.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the config")
    parser.add_argument(
        "--folder", type=Path, default=Path("shards/selection"), help="folder of shards and run folders"
    )
    parser.add_argument("--runs", type=Path, default=HERE / "selection.jsonl", help="the file of finished runs")
    parser.add_argument("--choices", type=Path, default=HERE / "selection_choices.jsonl")
    parser.add_argument(
        "--record", type=Path, default=HERE / "selection.md", help="the report; the plot lies beside it"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with one thread")
    parser.add_argument("--blocks", nargs="*", default=[], help="names of the blocks to train; by default all")
    parser.add_argument("--report", action="store_true", help="only write the report, from the lines of finished runs")
    arguments = parser.parse_args()
    try:
        _main(arguments)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")


def _main(arguments: argparse.Namespace) -> None:
    plan = Plan(arguments.config, tuple(arguments.overrides), arguments.folder, blocks_of(arguments.blocks))
    proof = Proof(plan, runs=arguments.runs, choices=arguments.choices, jobs=arguments.jobs)
    try:
        if not arguments.report:
            proof.work()
    finally:
        from selection_report import write_report  # matplotlib is slow to import

        print(proof.progress())
        everything = Proof(replace(plan, blocks=BLOCKS), runs=arguments.runs, choices=arguments.choices, jobs=1)
        write_report(everything.findings(), arguments.record)
        print(f"report: {arguments.record}")


if __name__ == "__main__":
    main()
