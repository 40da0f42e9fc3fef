"""The settings of a run as a rehearsal has them: on the CPU, for three steps, in folders of its own.

What a GPU alone can do is replaced, and what would look at or write to the user's runs is left out. Every key that
differs is listed with its reason (`changes`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.run.config import BranchConfig, RunConfig
from settings import UserError
from settings.differences import differing_sections, show
from train.config import CheckpointConfig, EvaluateConfig, TrainConfig

_STEPS = 3
_HELD_OUT_ROWS = 4  # of each source

_SMALLER = "as small as the layout and the optimizer allow"
_SLOWER = "limits of time are those of a slow machine"
_REASONS = {
    "run": "the rehearsal has a folder of its own",
    "branch": "the checkpoint of another run is of the full widths: the weights are drawn anew",
    "model": _SMALLER,
    "parallel.data": "a rehearsal has fewer data ranks",
    "data.verify_hashes": "the bytes of the shards are not compared with their hashes (`lehr data verify` does it)",
    "data.prefetch_batches": "three steps need no more",
    "evaluate": "the held-out loss is measured after the last step, on a few rows",
    "checkpoint": "a checkpoint is written before the last step, for the second layout, and at the end",
    "train.stop_at_step": "the schedule and the data are those of the whole run, of which the first steps are taken",
    "train.seq_length": _SMALLER,
    "train.micro_batch_size": _SMALLER,
    "train.global_batch_size": "the number of micro-batches shows every phase of the pipeline",
    "train.device": "the ranks compute on the CPU and talk by gloo",
    "train.precision": "in float32 two layouts must agree to six digits, which shows a wrong shard",
    "train.attention": "a kernel that needs a GPU is replaced by that of the CPU",
    "train.cross_entropy": "a kernel that needs a GPU is replaced by that of the CPU",
    "train.compile": "blocks are compiled on a GPU",
    "train.deterministic": "it chooses kernels of a GPU",
    "train.profile": "no step is profiled",
    "train.forecast": "a law's forecast is for the full model",
    "train.compare_weights_every_steps": "the data ranks' weights are compared before each checkpoint",
    "train.timeout_seconds": _SLOWER,
    "train.hang_seconds": _SLOWER,
    "train.rendezvous_seconds": _SLOWER,
    "train.time_limit_seconds": _SLOWER,
    "train.stop_before_limit_seconds": _SLOWER,
    "train.log_every_steps": "every step has a line",
}
_CPU_KERNELS = ("auto", "sdpa", "blocked")


@dataclass(frozen=True)
class Change:
    """A key whose value a rehearsal replaces."""

    key: str
    old: str
    new: str
    reason: str


def steps_of(config: RunConfig) -> int:
    """Returns how many steps a rehearsal takes. Raises UserError if there are too few for a resume between them."""
    if config.train.steps < 2:
        raise UserError("train.steps = 1: a rehearsal resumes before its last step; set train.steps to 2 or more")
    return min(config.train.steps, _STEPS)


def translate(config: RunConfig, folder: Path) -> RunConfig:
    """Returns a shrunk config as the CPU can train it, with its run in `folder`. Raises UserError as `steps_of`."""
    steps = steps_of(config)
    train, defaults = config.train, TrainConfig.model_fields
    slow = ("timeout_seconds", "hang_seconds", "rendezvous_seconds", "time_limit_seconds", "stop_before_limit_seconds")
    train = train.model_copy(
        update={
            **{key: defaults[key].default for key in (*slow, "compare_weights_every_steps", "log_every_steps")},
            "stop_at_step": steps,
            "device": "cpu",
            "precision": "float32",
            "attention": train.attention if train.attention in _CPU_KERNELS else "auto",
            "cross_entropy": train.cross_entropy if train.cross_entropy == "torch" else "auto",
            "compile": False,
            "deterministic": False,
            "profile": None,
            "forecast": None,
        }
    )
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"name": "first-layout", "folder": folder}),
            "branch": BranchConfig(),
            "data": config.data.model_copy(update={"verify_hashes": False, "prefetch_batches": 1}),
            "train": train,
            "evaluate": EvaluateConfig(every_steps=steps, max_windows=min(config.evaluate.max_windows, _HELD_OUT_ROWS)),
            "checkpoint": CheckpointConfig(every_steps=steps - 1),
        }
    )


def resumed(config: RunConfig) -> RunConfig:
    """Returns the config of the resume: a branch from the checkpoint before the last step of a translated config."""
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"name": "second-layout"}),
            "branch": BranchConfig(run=config.run.path, step=config.train.last_step - 1),
        }
    )


def with_stages_in_steps(config: RunConfig) -> RunConfig:
    """Returns the config with the length of each stage in steps: in tokens, it would depend on the size of a batch."""
    stages = tuple(
        stage.model_copy(update={"steps": steps, "tokens": None})
        for stage, steps in zip(config.stages, config.stage_steps(), strict=bool(config.stages))
    )
    return config.model_copy(update={"stages": stages})


def changes(config: RunConfig, rehearsed: RunConfig) -> list[Change]:
    """Returns every key that differs between a run and its rehearsal, with the reason."""
    differences = differing_sections(config.to_plain(), rehearsed.to_plain())
    return [Change(key, show(old), show(new), _reason(key)) for key, (old, new) in differences.items()]


def _reason(key: str) -> str:
    """Returns the reason of the key, or of the section that holds it."""
    while key not in _REASONS:
        key, dot, _ = key.rpartition(".")
        assert dot, "every key that a rehearsal replaces has a reason"
    return _REASONS[key]
