"""The `train`, `evaluate` and `checkpoint` sections of a config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from settings import Settings, may_change

FIRST_TIME_FACTOR = 4.0  # the first step, save or evaluation compiles, connects and warms up


class SpikeConfig(Settings):
    """When a loss counts as a spike, and how often the run goes back to a checkpoint for one."""

    # What it has done so far is in the checkpoint.
    model_config = ConfigDict(json_schema_extra=may_change("it is a guard"))

    sigma: float = Field(
        0.0,
        ge=0,
        description="A loss this many standard deviations above the mean of the losses before it is a spike; "
        "0 means that the run never goes back.",
    )
    window_steps: int = Field(
        64,
        ge=4,
        description="Number of steps whose losses make that mean; no loss is a spike before there are as many.",
    )
    max_rollbacks: int = Field(
        3, ge=1, description="How often the run goes back; a later spike is reported, and the run goes on through it."
    )
    skip_batches: int = Field(
        0,
        ge=0,
        description="Number of batches, up to the one of the spike, that are skipped after going back; "
        "0 means all batches since the checkpoint.",
    )


class ProfileConfig(Settings):
    """Which steps and ranks are profiled (docs/profiling.md)."""

    first_step: int = Field(ge=1, description="The first profiled step, counted from 1 as in metrics.jsonl.")
    steps: int = Field(3, ge=1, description="Number of profiled steps.")
    ranks: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0,), min_length=1, description="Ranks that write a trace of these steps."
    )
    memory: bool = Field(
        False, description="Whether these ranks write a snapshot of their GPU's memory too; it needs CUDA."
    )

    @property
    def last_step(self) -> int:
        """The last profiled step."""
        return self.first_step + self.steps - 1


def _steps_may_follow_from_stages(schema: dict[str, Any]) -> None:
    schema["required"].remove("steps")


class TrainConfig(Settings):
    """How long the run trains, on how many tokens a step, and with which arithmetic."""

    model_config = ConfigDict(json_schema_extra=_steps_may_follow_from_stages)

    steps: int = Field(
        ge=1,
        description="Number of optimizer steps of the run; with stages it is their sum, and is left out.",
        json_schema_extra=may_change(
            "it makes the run longer or shorter; the schedule is computed over the new length"
        ),
    )
    stop_at_step: int | None = Field(
        None,
        ge=1,
        description="Step after which this start ends with a checkpoint and exit code 0, while the schedule and the "
        "data are those of train.steps; null means the last step.",
        json_schema_extra=may_change("it says when to stop, not what to do"),
    )
    seq_length: int = Field(
        ge=1, description="Tokens of a row; a row is read from the shards as seq_length + 1 tokens."
    )
    micro_batch_size: int = Field(
        1,
        ge=1,
        description="Rows that a rank takes through forward and backward at once.",
        json_schema_extra=may_change("it says how a global batch is split, not what is in it"),
    )
    global_batch_size: int = Field(ge=1, description="Rows of a step, over all data ranks.")
    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto",
        description="Device of the ranks; auto is CUDA, or the CPU on a machine without a GPU. With auto and cuda, a "
        "GPU that cannot be used ends the command.",
        json_schema_extra=may_change("it says where the same function is computed"),
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Number format of forward and backward; with bfloat16 the master weights, the gradient sums and "
        "the optimizer state stay in float32.",
    )
    recompute: Literal["none", "selective", "full"] = Field(
        "none",
        description="Which activations are computed again in the backward pass instead of saved: none, those that are "
        "large and cheap (selective), or all of a layer (full).",
        json_schema_extra=may_change("it trades memory for time"),
    )
    attention: Literal["auto", "sdpa", "blocked", "varlen", "flash", "flash3", "flash4"] = Field(
        "auto",
        description="Attention kernel; auto is the fastest kind that runs on this machine, and stays when the run goes "
        "on. sdpa and varlen (sdpa with a kernel for documents, on a GPU) are torch's, flash, flash3 and flash4 the "
        "packages flash-attn 2 to 4, blocked is for CPUs.",
        json_schema_extra=may_change("every kernel computes the same function"),
    )
    deterministic: bool = Field(
        False,
        description="Whether a GPU gives the same bits every time, at the cost of speed: attention without cuDNN and "
        "with a deterministic backward pass, a fixed cuBLAS workspace, no atomic additions. CPUs do so anyway.",
        json_schema_extra=may_change("it changes rounding and the speed"),
    )
    cross_entropy: Literal["auto", "torch", "triton"] = Field(
        "auto",
        description="What does the element-wise work of the cross-entropy: a kernel of Triton, which needs a GPU, or "
        "operations of torch; auto is Triton where it runs, and stays when the run goes on.",
        json_schema_extra=may_change("every kernel computes the same function"),
    )
    compile: Literal["auto", True, False] = Field(
        "auto",
        description="Whether torch.compile compiles each block. auto compiles on a GPU where a block becomes one graph "
        "that gives the gradients of an eager one, and stays when the run goes on.",
        json_schema_extra=may_change("it changes rounding and the speed"),
    )
    max_skipped_steps: int = Field(
        10,
        ge=1,
        description="Number of steps in a row without a finite gradient after which the run ends.",
        json_schema_extra=may_change("it is a guard"),
    )
    compare_weights_every_steps: int = Field(
        100,
        ge=0,
        description="Number of steps from one comparison of the data ranks' weights to the next; they are compared "
        "before each checkpoint too, and a difference ends the run. 0 means never.",
        json_schema_extra=may_change("it is a guard"),
    )
    collect_garbage_every_steps: int = Field(
        100,
        ge=0,
        description="Number of steps from one garbage collection of Python to the next, which all ranks make at the "
        "same time; 0 means whenever Python chooses, within a step.",
        json_schema_extra=may_change("it changes the speed"),
    )
    spikes: SpikeConfig = Field(SpikeConfig(), description="What happens when the loss suddenly rises.")
    timeout_seconds: float = Field(
        1800,
        gt=0,
        description="Seconds after which a collective that does not end fails.",
        json_schema_extra=may_change("it is a guard"),
    )
    rendezvous_seconds: float = Field(
        300,
        gt=0,
        description="Seconds for which the ranks wait for each other when they start, before the run fails and names "
        "those that have not come.",
        json_schema_extra=may_change("it is a guard"),
    )
    forecast: Literal["auto"] | Path | None = Field(
        None,
        description="Forecast of the held-out loss during the run: the path of a fit file of `lehr law fit` or of a "
        "register of `lehr ladder register`, or auto for a fit to this run's own losses so far; null means none.",
        json_schema_extra=may_change("it looks at the run and does not change it"),
    )
    hang_seconds: float | None = Field(
        None,
        gt=0,
        description="Seconds without progress after which the run counts as hanging and ends; null means a sixth of "
        "timeout_seconds.",
        json_schema_extra=may_change("it is a guard"),
    )
    time_limit_seconds: float | None = Field(
        None,
        gt=0,
        description="Seconds from the start of the process by which it has saved and ended; null means no limit. Under "
        "Slurm the end of the job is a limit too.",
        json_schema_extra=may_change("it says when to stop, not what to do"),
    )
    stop_before_limit_seconds: float = Field(
        60,
        ge=0,
        description="Seconds before the time limit at which the run stops, besides the time of a step and a save.",
        json_schema_extra=may_change("it says when to stop, not what to do"),
    )
    log_every_steps: int = Field(
        1,
        ge=1,
        description="Number of steps from one line on the console to the next; metrics.jsonl has every step.",
        json_schema_extra=may_change("it is for the console"),
    )
    profile: ProfileConfig | None = Field(
        None,
        description="Steps of which the time (and a GPU's memory) is traced; null means none.",
        json_schema_extra=may_change("it looks at the run and does not change it"),
    )

    @property
    def last_step(self) -> int:
        """The last step that a start takes: `stop_at_step` if it comes first, else `steps`."""
        return self.steps if self.stop_at_step is None else min(self.stop_at_step, self.steps)

    @property
    def hang_after_seconds(self) -> float:
        """`hang_seconds`, or its default."""
        return self.timeout_seconds / 6 if self.hang_seconds is None else self.hang_seconds

    @model_validator(mode="after")
    def _check_profile(self) -> Self:
        profile = self.profile
        if profile is not None and profile.last_step > self.steps:
            raise ValueError(
                f"profile.first_step = {profile.first_step} and profile.steps = {profile.steps} end at step "
                f"{profile.last_step}, and the run at steps = {self.steps}; set profile.first_step to at most "
                f"{max(self.steps - profile.steps + 1, 1)}"
                + (f", and profile.steps to at most {self.steps}" if profile.steps > self.steps else "")
            )
        return self

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        longest = self.hang_after_seconds * FIRST_TIME_FACTOR
        if longest >= self.timeout_seconds:
            raise ValueError(
                f"hang_seconds = {self.hang_after_seconds:g} is {longest:g} for a first step, and must stay below "
                f"timeout_seconds = {self.timeout_seconds:g}: after that a collective fails by itself, with no word of "
                f"where the ranks stand; set timeout_seconds above {longest:g}, or hang_seconds below "
                f"{self.timeout_seconds / FIRST_TIME_FACTOR:g}"
            )
        if self.time_limit_seconds is not None and self.time_limit_seconds <= self.stop_before_limit_seconds:
            raise ValueError(
                f"time_limit_seconds = {self.time_limit_seconds:g} must be above stop_before_limit_seconds = "
                f"{self.stop_before_limit_seconds:g}: no step would be taken"
            )
        return self


class EvaluateConfig(Settings):
    """How often the loss of the held-out split is measured, source by source."""

    model_config = ConfigDict(json_schema_extra=may_change("it looks at the run and does not change it"))

    every_steps: int = Field(
        25,
        ge=0,
        description="Number of steps from one evaluation to the next; 0 means only at the end. A fit of a law needs "
        "about 20 evaluations or more.",
    )
    max_windows: int = Field(
        16, ge=1, description="Largest number of rows of each source that are evaluated; they are the same every time."
    )


class CheckpointConfig(Settings):
    """When checkpoints are saved, and which of them are kept."""

    model_config = ConfigDict(json_schema_extra=may_change("it looks at the run and does not change it"))

    every_steps: int = Field(
        500, ge=0, description="Number of steps from one checkpoint to the next; 0 means only at the end."
    )
    keep_last: int = Field(2, ge=1, description="How many of the newest checkpoints are kept.")
    keep_every_steps: int = Field(
        0, ge=0, description="Checkpoints of steps divisible by this number are kept as well; 0 means none."
    )
    keep_best: int = Field(
        0, ge=0, description="How many checkpoints with the lowest held-out loss are kept as well; 0 means none."
    )
