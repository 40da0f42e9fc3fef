"""What transforms of the optimizer's update are planned with, from the model and the length of the run."""

from __future__ import annotations

from model.config import ModelConfig
from model.size import flops_per_token, parameter_shapes
from optim.transforms.base import RunPlan


def run_plan(model: ModelConfig, *, seq_length: int, steps: int) -> RunPlan:
    """Returns the plan of a run of `steps` steps on rows of `seq_length` tokens. Nothing is allocated."""
    return RunPlan(steps, flops_per_token(model, seq_length), parameter_shapes(model, seq_length=seq_length))
