"""The time of one step, part by part, and its MFU.

Kernels follow each other: the time of a micro-batch on a stage is that of its FLOPs at the peak, of its bytes at the
bandwidth, of starting its kernels, and of what it sends, each divided by an efficiency. So a small matrix product,
which moves many bytes for its FLOPs, takes longer a FLOP than a large one. Of ZeRO 3's traffic only what is longer than
the computation of the micro-batch counts, because DeepSpeed sends it meanwhile.

A pipeline of p stages with v chunks each and m micro-batches takes m times the slowest stage, and (p - 1) / v
micro-batches more to fill and to drain (arXiv 2104.04473, section 2.2): the bubble. Of the inner stages, the one after
the first stands for all: none of them has more layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.memory import stage_layers
from model.size import flops_per_token
from parallel.planning import traffic
from parallel.planning.machine_file import MachineConfig, Precision
from parallel.planning.shape import StepShape
from parallel.planning.work import (
    Work,
    accumulation_work,
    block_work,
    head_work,
    optimizer_work,
    stage_parameters,
)


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step by what they go into, on the slowest stage."""

    products: float
    attention: float
    memory: float  # element-wise kernels, and what bounds small products
    kernels: float  # starting them
    tensor: float  # sending between tensor ranks
    pipeline: float  # sending between stages
    data: float  # sending between data ranks
    optimizer: float
    bubble: float

    @property
    def total(self) -> float:
        """The time of the step."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """Returns the seconds by name, the names as a table has them."""
        return {
            "matrix products": self.products,
            "attention": self.attention,
            "memory traffic": self.memory,
            "kernel starts": self.kernels,
            "tensor traffic": self.tensor,
            "pipeline traffic": self.pipeline,
            "data traffic": self.data,
            "optimizer": self.optimizer,
            "bubble": self.bubble,
        }


@dataclass(frozen=True)
class _StageTime:
    """Seconds of one micro-batch on one stage, and of the end of the step."""

    products: float
    attention: float
    memory: float
    kernels: float
    tensor: float
    pipeline: float
    data: float
    data_once: float
    optimizer: float

    @property
    def micro_batch(self) -> float:
        return self.products + self.attention + self.memory + self.kernels + self.tensor + self.pipeline + self.data


def step_time(step: StepShape, machine: MachineConfig) -> StepTime:
    """Returns the time of a step on a machine. Raises UserError where the machine lacks a peak for the precision."""
    pipeline = step.layout.pipeline
    block = block_work(step)
    stages = {stage: _stage_time(step, machine, stage, block) for stage in {0, min(1, pipeline - 1), pipeline - 1}}
    slowest = max(stages.values(), key=lambda stage: stage.micro_batch)
    last_done = max(stages.values(), key=lambda stage: stage.data_once + stage.optimizer)
    count = step.micro_batches
    inner = max(pipeline - 2, 0) * stages[min(1, pipeline - 1)].micro_batch
    ends = stages[0].micro_batch + (stages[pipeline - 1].micro_batch if pipeline > 1 else 0.0)
    return StepTime(
        products=count * slowest.products,
        attention=count * slowest.attention,
        memory=count * slowest.memory,
        kernels=count * slowest.kernels,
        tensor=count * slowest.tensor,
        pipeline=count * slowest.pipeline,
        data=count * slowest.data + last_done.data_once,
        optimizer=last_done.optimizer,
        bubble=(inner + ends - slowest.micro_batch) / step.layout.virtual_stages,
    )


def mfu(step: StepShape, seconds: float, machine: MachineConfig) -> float:
    """Returns the model FLOPs utilisation, of the FLOPs that lehr counts: the causal half of attention."""
    flops = step.global_tokens * flops_per_token(step.model, step.seq_length)
    return flops / (seconds * step.ranks * machine.peak(precision_of(step)))


def precision_of(step: StepShape) -> Precision:
    """Returns the precision of a step's arithmetic."""
    return "bfloat16" if step.layout.bfloat16 else "float32"


def _stage_time(step: StepShape, machine: MachineConfig, stage: int, block: Work) -> _StageTime:
    layout, efficiency = step.layout, machine.efficiency
    first, last = stage == 0, stage == layout.pipeline - 1
    layers = stage_layers(step.model, layout, stage)
    parameters = stage_parameters(step, num_layers=layers, first=first, last=last)
    work = block * layers + accumulation_work(step, parameters)
    if last:
        work += head_work(step)
    peak = machine.peak(precision_of(step))
    bandwidth = machine.memory_bandwidth.value * efficiency.memory
    products = work.product_flops / (peak * efficiency.products)
    attention = work.attention_flops / (peak * efficiency.attention)
    memory = work.moved_bytes / bandwidth
    kernels = work.kernels * machine.kernel_seconds.value
    tensor_bytes = layers * traffic.tensor_bytes_per_block(step) + traffic.tensor_bytes_of_ends(
        step, first=first, last=last
    )
    tensor = tensor_bytes / traffic.tensor_link(step, machine).bytes_per_second
    data_speed = traffic.data_link(step, machine).bytes_per_second
    data = traffic.data_bytes_per_micro_batch(step, parameters) / data_speed
    if layout.zero == 3:
        data = max(0.0, data - (products + attention + memory + kernels))
    return _StageTime(
        products=products,
        attention=attention,
        memory=memory,
        kernels=kernels,
        tensor=tensor,
        pipeline=traffic.pipeline_bytes(step) / traffic.pipeline_link(step, machine).bytes_per_second,
        data=data,
        data_once=traffic.data_bytes_per_step(step, parameters) / data_speed,
        optimizer=optimizer_work(step, parameters).moved_bytes / bandwidth,
    )
