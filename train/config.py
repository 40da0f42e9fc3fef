"""The `train`, `evaluate` and `checkpoint` sections of a config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from settings import Settings

FIRST_TIME_FACTOR = 4.0  # the first step, save or evaluation compiles, connects and warms up


class SpikeConfig(Settings):
    """When a loss is a spike, and how often the run goes back for one."""

    sigma: float = Field(
        0.0, ge=0, description="a loss this many standard deviations above the mean of those before; 0: no rollbacks"
    )
    window_steps: int = Field(64, ge=4, description="the losses before: so many; none is a spike until there are")
    max_rollbacks: int = Field(3, ge=1, description="later spikes are told of, and the run goes on through them")
    skip_batches: int = Field(0, ge=0, description="the last so many up to the spike; 0: all since the checkpoint")


class ProfileConfig(Settings):
    """Which steps and ranks are profiled: see docs/profiling.md."""

    first_step: int = Field(ge=1, description="the first profiled step, counted from 1 as in metrics.jsonl")
    steps: int = Field(3, ge=1, description="how many steps are profiled")
    ranks: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1, description="which ranks write a trace")
    memory: bool = Field(False, description="a snapshot of the GPU's memory too; it needs CUDA")

    @property
    def last_step(self) -> int:
        """The last profiled step."""
        return self.first_step + self.steps - 1


class TrainConfig(Settings):
    """How long, on how much at a time, with which arithmetic."""

    steps: int = Field(ge=1)
    seq_length: int = Field(ge=1, description="tokens a row; a row is read as seq_length + 1 tokens")
    micro_batch_size: int = Field(1, ge=1, description="rows a rank takes forward and backward at once")
    global_batch_size: int = Field(ge=1, description="rows a step, over all data ranks")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: forward and backward in it; masters, gradient sums and state in float32"
    )
    recompute: Literal["none", "selective", "full"] = Field("none", description="activations computed twice")
    attention: Literal["auto", "sdpa", "blocked", "flash"] = Field("auto", description="auto: the fastest that can run")
    compile: bool = Field(False, description="torch.compile the forward pass")
    max_skipped_steps: int = Field(10, ge=1, description="steps in a row without a finite gradient that end the run")
    spikes: SpikeConfig = SpikeConfig()
    timeout_seconds: float = Field(1800, gt=0, description="of every collective: a hang becomes an error")
    forecast: Literal["auto"] | Path | None = Field(
        None, description="of the held-out loss: a fit file of `lehr law fit`, or auto: by this run's own losses so far"
    )
    hang_seconds: float | None = Field(
        None, gt=0, description="no progress for so long is a hang, and ends the run; unset: a sixth of timeout_seconds"
    )
    time_limit_seconds: float | None = Field(
        None, gt=0, description="from the start of the process; under Slurm the job's end counts too, unasked"
    )
    stop_before_limit_seconds: float = Field(
        60, ge=0, description="stop so long before the time limit, besides the time that a step and a save take"
    )
    log_every_steps: int = Field(1, ge=1, description="console lines; metrics.jsonl has every step")
    profile: ProfileConfig | None = Field(None, description="steps whose time is traced; null: none")

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
    """The held-out split, source by source."""

    every_steps: int = Field(25, ge=0, description="0: only at the end; a fit wants some 20 or more in a run")
    max_windows: int = Field(16, ge=1, description="rows of each source; the same ones every time")


class CheckpointConfig(Settings):
    """When, and how many are kept."""

    every_steps: int = Field(500, ge=0, description="0: only at the end")
    keep_last: int = Field(2, ge=1, description="newest ones; the others below are kept beside them")
    keep_every_steps: int = Field(0, ge=0, description="keep those of steps divisible by it; 0: none")
    keep_best: int = Field(0, ge=0, description="keep so many of the lowest held-out loss")
