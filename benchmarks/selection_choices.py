"""The lines of selection_choices.jsonl: what each selection has chosen, the hashes of its shards, and what it cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from data.config import SELECTION_FOLDER
from launcher.run.config import RunConfig
from launcher.run.input_hashes import inputs_of
from settings import Settings, parse
from settings.jsonl import append_json_line
from train.run_folder.input_hashes import Inputs


class Choice(Settings):
    """One finished selection."""

    name: str = Field(description="The name of the selection.")
    fingerprint: str = Field(description="The hash of the settings that decided it.")
    inputs: Inputs = Field(description="The hashes of its shards: the hash of a run's config needs them.")
    targets: int = Field(description="Target documents.")
    pool_bytes: dict[str, int] = Field(description="Bytes of text of each source of the pool.")
    chosen_bytes: dict[str, int] = Field(description="Bytes of text that were chosen, by source.")
    train_tokens: int = Field(description="Tokens of what was chosen.")
    score_length_correlation: float | None = Field(description="Spearman's, of score and length in the pool.")
    cpu_seconds: float = Field(description="CPU time of the build, and of the proxies that it needs.")
    proxy_cpu_seconds_per_token: float | None = Field(
        None, description="CPU time of training a proxy, for each token; its process starts within it."
    )


def read_choices(path: Path) -> dict[str, Choice]:
    """Returns the last line of each selection, by its name. A last line that was cut off is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    choices = [parse(Choice, json.loads(line), source=f"{path}, line {n}") for n, line in enumerate(whole, start=1)]
    return {choice.name: choice for choice in choices}


def add_choice(path: Path, choice: Choice) -> None:
    """Appends a line in one write. A last line that was cut off is removed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    append_json_line(path, choice.to_plain())


def choice_of(name: str, fingerprint: str, run: RunConfig, *, cpu_seconds: float, per_token: float | None) -> Choice:
    """Returns the line of a selection; `run` is the config of a run on its shards, whose record is read."""
    shards = run.data.shards
    report: dict[str, Any] = json.loads((shards / SELECTION_FOLDER / "report.json").read_text())
    counts = json.loads((shards / "build.json").read_text())["sources"]
    pool = {source: own for source, own in report["sources"].items() if own["pool"]["documents"]}
    return Choice(
        name=name,
        fingerprint=fingerprint,
        inputs=inputs_of(run),
        targets=report["targets"],
        pool_bytes={source: own["pool"]["bytes"] for source, own in pool.items()},
        chosen_bytes={source: own["chosen"]["bytes"] for source, own in pool.items()},
        train_tokens=sum(own["tokens"]["train"] for own in counts.values()),
        score_length_correlation=report["score_length_correlation"]["pool"],
        cpu_seconds=round(cpu_seconds, 1),
        proxy_cpu_seconds_per_token=per_token,
    )
