"""A run that `lehr slurm submit` has submitted to the tests' cluster.

The waits are long, so that a machine which is slow and busy fails no test: on a quiet one each ends within seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slurm_cluster import Cluster
from small_runs import steps_taken, wait_until

LEHR = Path(sys.executable).with_name("lehr")


class SubmittedRun:
    """The job of a run, and what it leaves in the run folder."""

    def __init__(self, cluster: Cluster, run: Path) -> None:
        self.cluster = cluster
        self.path = run
        self.job = ""

    def lehr(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `lehr slurm ...` on the login node."""
        return self.cluster.run(LEHR, "slurm", *arguments, check=check, timeout=600)

    def submit(self, config: Path, *arguments: str, site: dict[str, Any], nodes: str = "2") -> SubmittedRun:
        """Submits the run. The site file is written beside the config."""
        path = config.parent / "site.yaml"
        path.write_text(json.dumps(site))
        self.lehr("submit", config, *arguments, "--site", path, "--nodes", nodes)
        self.job = json.loads((self.path / "slurm" / "job.json").read_text())["job"]
        return self

    def wait_for_step(self, step: int, *, seconds: float = 600.0) -> None:
        """Waits until so many steps are in metrics.jsonl."""
        self._wait(lambda: steps_taken(self.path) >= step, seconds)

    def wait_for_begin(self, attempt: int, *, seconds: float = 600.0) -> None:
        """Waits until an attempt has begun to train."""
        log = self.path / "logs" / f"job-{self.job}-attempt-{attempt}" / "rank-00000.log"
        self._wait(lambda: log.exists() and "  loss " in log.read_text(errors="replace"), seconds)

    def wait_for_end(self, *states: str, seconds: float = 900.0) -> dict[str, str]:
        """Waits until the job has ended for good, and returns what Slurm says of it."""
        self._wait(lambda: self.cluster.job(self.job)["JobState"] in states, seconds)
        return self.cluster.job(self.job)

    def notice(self) -> None:
        """Sends the signal that Slurm sends before the time limit: to all ranks."""
        self.cluster.run("scancel", "--signal=USR1", self.job)

    def ends(self) -> list[tuple[str, str, int]]:
        """Returns (action, row, count of starts without a new checkpoint) of each decision."""
        lines = (self.path / "slurm" / "attempts.jsonl").read_text().splitlines()
        ends = [plain for plain in map(json.loads, lines) if plain["event"] == "end"]
        return [(plain["action"], plain["row"], plain["counted"]) for plain in ends]

    def output(self) -> str:
        """Returns what the job has printed."""
        path = self.path / "slurm" / f"{self.job}.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        began = time.monotonic()
        try:
            wait_until(condition, seconds=seconds, pause_seconds=0.1)
        except AssertionError:
            raise AssertionError(
                f"waited for {time.monotonic() - began:.0f} s; {self.cluster.job(self.job)}\n{self.output()}"
            ) from None
