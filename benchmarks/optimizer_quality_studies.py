"""The runs of optimizer_quality.py: the methods that are compared, their models and their learning rates.

Every lr is 1e-3 times a power of two. A search takes the first points of the task, then steps outwards until the best
point has a worse one on either side.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optimizer_quality_results import Result, best_lr, final_loss

from launcher.run.config import RunConfig
from optim.groups import DECAY_MATRICES
from settings import parse

Plain = dict[str, Any]
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Study:
    """A method, or a variant of one, whose lr is searched."""

    name: str
    task: str  # key of TASKS
    optim: Plain
    model: Plain = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """One run."""

    study: Study
    lr: float
    seed: int = SEEDS[0]
    length: float = 1.0  # times the task's steps
    variant: str = ""

    @property
    def name(self) -> str:
        """The name of the run."""
        length = f"-x{self.length:g}" if self.length != 1 else ""
        return f"{self.study.name}{self.variant}-lr{self.lr:g}-seed{self.seed}{length}"

    def labels(self) -> dict[str, Any]:
        """Returns the fields of a `Result` that say which run it is."""
        study = self.study.name + self.variant
        return {"run": self.name, "study": study, "lr": self.lr, "seed": self.seed, "length": self.length}


@dataclass(frozen=True)
class Task:
    """The model and the steps that all studies of a kind train."""

    model: Plain
    steps: int
    seq_length: int
    clip_grad_norm: float  # 0: off
    first_lrs: tuple[float, ...]
    rows: int = 8  # rows a step


_LLAMA = {"tied_embeddings": False, "vocab_size": 2048}
_SMALL = {**_LLAMA, "num_layers": 4, "hidden_size": 96, "num_heads": 3, "ffn_size": 256}
_DEEP = {**_LLAMA, "num_layers": 12, "hidden_size": 64, "num_heads": 2, "ffn_size": 172}
TASKS = {
    "optimizers": Task(_SMALL, steps=240, seq_length=256, clip_grad_norm=1.0, first_lrs=(8e-3, 4e-3, 16e-3, 2e-3)),
    "norms": Task(_DEEP, steps=160, seq_length=128, clip_grad_norm=0.0, first_lrs=(4e-3, 2e-3, 8e-3)),
}


def tiny(task: Task) -> Task:
    """Returns a task of the same kind that takes seconds, to see that everything runs."""
    model = {"num_layers": 2, "hidden_size": 16, "num_heads": 2, "ffn_size": 32}
    return replace(task, model=model, steps=5, seq_length=8, rows=2)


def refresh_interval(task: Task) -> int:
    """Returns the interval that refreshes Conda's basis as often in a run as the authors' 60M run does.

    That run has 10,000 steps, with a refresh every 2000.
    """
    return task.steps // 5


def studies(tasks: Mapping[str, Task]) -> tuple[list[Study], list[Study], list[Study]]:
    """Returns the studies of the optimizers, of the ablation of Conda, and of the norms."""
    interval = refresh_interval(tasks["optimizers"])
    conda = {"name": "conda", "refresh_interval": interval}
    adamw_99 = {"name": "adamw", "beta2": 0.99}
    quarter = [_row(rule, 0.25 if rule.pattern.startswith("layers") else 1.0) for rule in DECAY_MATRICES]
    optimizers = [
        Study("adamw", "optimizers", {"name": "adamw"}),
        Study("conda", "optimizers", conda),
        Study("muon", "optimizers", {"name": "muon", "update_scale": "match_rms_adamw"}),
        Study("adamp", "optimizers", {"name": "adamp"}),
    ]
    ablation = [
        Study("adamw-99-quarter", "optimizers", {**adamw_99, "table": quarter}),
        Study("adamw-99", "optimizers", adamw_99),
        Study("conda-scale-1", "optimizers", {**conda, "scale": 1.0}),
    ]
    norms = [
        Study("pre-norm", "norms", {"name": "adamw"}),
        Study("scaled-init", "norms", {"name": "adamw"}, {"init": {"name": "scaled"}}),
        Study("layernorm-scaling", "norms", {"name": "adamw"}, {"norm_scaling": "layernorm_scaling"}),
    ]
    return optimizers, ablation, norms


def _row(rule: Any, lr_multiplier: float) -> Plain:
    return {**rule.to_plain(), "lr_multiplier": lr_multiplier}


def wanted(results: Sequence[Result], tasks: Mapping[str, Task]) -> Iterator[Spec]:
    """Yields every run that the results so far call for, the most important first, finished ones included."""
    (adamw, conda, muon, adamp), (quarter, adamw_99, scale_1), norms = studies(tasks)
    for study in (adamw, conda, muon, adamp, quarter, adamw_99):
        yield from _search(study, results, tasks)
    for study in (adamw, conda, muon):
        yield from _seeds(study, results, tasks)
    for study in norms:
        yield from _search(study, results, tasks)
    for study in (*norms, quarter, adamp):
        yield from _seeds(study, results, tasks)
    yield from _longer(adamw, results, tasks)
    yield from _search(scale_1, results, tasks)
    yield from _intervals(conda, results, tasks)
    for study in (adamw_99, scale_1):
        yield from _seeds(study, results, tasks)


def _search(study: Study, results: Sequence[Result], tasks: Mapping[str, Task]) -> Iterator[Spec]:
    """Yields the points of a search: the first ones, then one more while the best lies at an edge."""
    lrs = list(tasks[study.task].first_lrs)
    while True:
        yield from (Spec(study, lr) for lr in lrs)
        losses = {lr: final_loss(results, study.name, lr=lr, seed=SEEDS[0]) for lr in lrs}
        if None in losses.values():
            return
        best = min(lrs, key=lambda lr: losses[lr] or math.inf)
        if best not in (min(lrs), max(lrs)):
            return
        lrs.append(best / 2 if best == min(lrs) else best * 2)


def _seeds(study: Study, results: Sequence[Result], tasks: Mapping[str, Task]) -> Iterator[Spec]:
    """Yields the other seeds at the best lr, once the search has ended."""
    if _searched(study, results, tasks):
        lr = best_lr(results, study.name)
        yield from (Spec(study, lr, seed) for seed in SEEDS[1:])


def _searched(study: Study, results: Sequence[Result], tasks: Mapping[str, Task]) -> bool:
    finished = {result["run"] for result in results}
    return all(spec.name in finished for spec in _search(study, results, tasks))


def _longer(study: Study, results: Sequence[Result], tasks: Mapping[str, Task]) -> Iterator[Spec]:
    """Yields longer runs at the best lr, which show how many tokens the study needs for another's last loss."""
    if _searched(study, results, tasks):
        yield from (Spec(study, best_lr(results, study.name), length=length) for length in (1.5, 2.0))


def _intervals(conda: Study, results: Sequence[Result], tasks: Mapping[str, Task]) -> Iterator[Spec]:
    """Yields a run with many refreshes of the basis, and one with a refresh at the first step alone."""
    if _searched(conda, results, tasks):
        for interval in (12, 2000):
            variant = Study(conda.name, conda.task, {**conda.optim, "refresh_interval": interval})
            yield Spec(variant, best_lr(results, conda.name), variant=f"-interval-{interval}")


def run_config(spec: Spec, task: Task, *, shards: Path, folder: Path) -> RunConfig:
    """Builds the config of a run.

    The schedule is that of the recipes of Conda and LayerNorm Scaling: warm-up over a tenth of the run, cosine to a
    tenth of the peak, no weight decay.
    """
    steps = round(task.steps * spec.length)
    plain = {
        "run": {"name": spec.name, "folder": str(folder), "seed": spec.seed},
        "data": {"shards": str(shards)},
        "model": {**task.model, **spec.study.model},
        "optim": {"lr": spec.lr, "weight_decay": 0.0, "clip_grad_norm": task.clip_grad_norm, **spec.study.optim},
        "schedule": {"name": "cosine", "warmup_steps": steps // 10, "min_lr": spec.lr / 10},
        "train": {
            "steps": steps,
            "seq_length": task.seq_length,
            "micro_batch_size": task.rows,
            "global_batch_size": task.rows,
            "log_every_steps": steps,
        },
        "evaluate": {"every_steps": max(task.steps // 12, 1), "max_windows": 6144 // task.seq_length},
        "checkpoint": {"every_steps": 0},
    }
    return parse(RunConfig, plain, source=spec.name)


def digest(config: RunConfig) -> str:
    """Hashes the values that a config sets, without its folders. A result counts only for the config of its hash.

    Defaults are left out, so that a new field does not change the hash.
    """
    plain = config.model_dump(mode="json", serialize_as_any=True, exclude_unset=True)
    del plain["run"]["folder"], plain["data"]["shards"]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
