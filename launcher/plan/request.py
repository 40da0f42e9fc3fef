"""A request of `lehr plan`: a config and a number of GPUs of a machine, and the plan of its layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

from launcher.run.config import RunConfig, with_values
from launcher.run.estimate import format_bytes, layout_sizes, mask_bytes
from launcher.run.preflight import check_compile, model_with_vocabulary, workload
from model.config import ModelConfig
from model.size import flops_per_token, parameters
from parallel.config import ParallelConfig
from parallel.layout import layout_problems
from parallel.planning.candidates import Choice
from parallel.planning.layout_plan import Plan, PlannedLayout, make_plan, plan_layout
from parallel.planning.machine_file import MachineConfig
from parallel.planning.shape import StepShape
from parallel.run_plan import run_plan
from settings import UserError


@dataclass(frozen=True)
class Request:
    """A run to plan. `model` has its vocabulary."""

    config: RunConfig
    model: ModelConfig
    machine: MachineConfig
    gpus: int
    headroom: float
    kept: tuple[str, ...]  # keys whose values stay as the config has them

    @property
    def parameters(self) -> int:
        """All parameters of the model."""
        return parameters(self.model, seq_length=self.config.train.seq_length)

    @property
    def flops_per_token(self) -> float:
        """FLOPs of a token, forward and backward."""
        return flops_per_token(self.model, self.config.train.seq_length)

    @property
    def tokens(self) -> int:
        """The tokens that the run trains on."""
        train = self.config.train
        return train.steps * train.global_batch_size * train.seq_length

    def plan(self) -> Plan:
        """Plans the layouts. Raises UserError if none can be, and for an optimizer that the model does not suit."""
        config, values = self.config, self._choice().values()
        unknown = [key for key in self.kept if key not in values]
        if unknown:
            raise UserError(f"--keep {unknown[0]}: a plan chooses {', '.join(values)}; name one of these")
        return make_plan(
            self._step(),
            self.machine,
            gpus=self.gpus,
            parallel=config.parallel,
            needs_full_matrices=config.optim.needs_full_matrices(),
            other_rule=self._other_rule(),
            kept={key: values[key] for key in self.kept},
            headroom=self.headroom,
        )

    def plan_of_fitting(self) -> Plan:
        """Plans the layouts. Raises UserError also if none fits into memory."""
        plan = self.plan()
        if not plan.fitting:
            least = min(plan.too_large, key=lambda one: one.memory.device)
            values = " ".join(f"{key}={text}" for key, text in least.choice.texts().items())
            can_offload = self.config.parallel.offload == "none" and self.machine.device != "cpu"
            raise UserError(
                f"no layout of {self.gpus} x {self.machine.name} fits into {format_bytes(plan.limit_bytes)}: the "
                f"smallest needs {format_bytes(least.memory.device)}, with {values}; give more GPUs, or a smaller "
                f"model or train.seq_length{', or parallel.offload=optimizer' if can_offload else ''}"
            )
        return plan

    def own_layout(self) -> PlannedLayout:
        """Plans the layout of the config. Raises UserError with the first rule that it breaks on so many GPUs."""
        own, parallel = self._choice(), self.config.parallel
        data = self.gpus // (parallel.tensor * parallel.pipeline)
        own = replace(own, parallel=parallel.model_copy(update={"data": data}))
        problems = layout_problems(own.parallel, self.model, workload(self.config, self.gpus))
        problem = next(iter(problems), None) or self._other_rule()(own.parallel)
        if problem is not None:
            raise UserError(problem)
        return plan_layout(own, self._step(), self.machine)

    def _choice(self) -> Choice:
        """Returns what the config has for the keys that a plan chooses."""
        return Choice(self.config.parallel, self.config.train.micro_batch_size, self.config.train.recompute)

    def _other_rule(self) -> Callable[[ParallelConfig], str | None]:
        """Returns the rules of the sections `optim` and `train` about layouts. Raises UserError for other mistakes."""
        config = self.config
        run = run_plan(self.model, seq_length=config.train.seq_length, steps=config.train.steps)
        config.optim.check(run.shapes)

        @cache
        def of_tensor(tensor: int) -> str | None:
            messages = (_message(partial(each.check, run, tensor=tensor)) for each in config.optim.transforms)
            return next(filter(None, messages), None)

        def rule(parallel: ParallelConfig) -> str | None:
            compiles = _message(partial(check_compile, config.train.compile, zero=parallel.zero))
            return compiles or of_tensor(parallel.tensor)

        return rule

    def _step(self) -> StepShape:
        config, device = self.config, self.machine.device
        return StepShape(
            model=self.model,
            layout=layout_sizes(config, data=1, device=device),
            seq_length=config.train.seq_length,
            micro_batch_size=config.train.micro_batch_size,
            global_batch_size=config.train.global_batch_size,
            compiled=config.train.compile is True or (config.train.compile == "auto" and device != "cpu"),
            mask_bytes=mask_bytes(config),
            offload=config.parallel.offload == "optimizer",
        )


def _message(check: Callable[[], object]) -> str | None:
    try:
        check()
    except UserError as error:
        return str(error)
    return None


def vocabulary_of(config: RunConfig) -> ModelConfig:
    """Returns the model with its vocabulary: of the shards, or model.vocab_size where there are no shards yet.

    Raises UserError where there is neither.
    """
    if config.data.shards.exists():
        return model_with_vocabulary(config)
    if config.model.vocab_size is None:
        raise UserError(
            f"data.shards = {config.data.shards}: there is no such folder, and the size of the vocabulary is not known "
            "without shards: build them with `lehr data build`, or set model.vocab_size"
        )
    return config.model


def with_planned(config: RunConfig, values: Mapping[str, object]) -> RunConfig:
    """Returns the config with values that a plan has found, by key. Raises UserError as a config with mistakes does."""
    return with_values(config, values, source="the planned config")
