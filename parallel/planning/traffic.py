"""The bytes that a rank sends, and over which link: inside a node, or between nodes.

A collective of n ranks on B bytes sends (n - 1) / n B a rank, an all-reduce twice that (ring algorithms). Ranks are
numbered tensor first, then data, then pipeline, so ranks of one tensor group are neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.memory import BYTES_FLOAT32, stage_layers
from parallel.planning.machine_file import MachineConfig
from parallel.planning.shape import StepShape
from parallel.planning.work import stage_parameters


@dataclass(frozen=True)
class Link:
    """The bytes that one rank of a group can send in a second, and whether they go between nodes."""

    between: bool
    bytes_per_second: float

    @property
    def name(self) -> str:
        """The link's name in a table."""
        return "between nodes" if self.between else "inside a node"


def group_link(machine: MachineConfig, *, size: int, stride: int) -> Link:
    """Returns the link of a group of `size` ranks that are `stride` apart.

    A group with several ranks on a node sends over the network cards of all of them. A ring through the node crosses
    its border once, so each rank's bytes cross it at the speed of all these cards together.
    """
    node, efficiency = round(machine.gpus_per_node.value), machine.efficiency
    inside = machine.inside_bandwidth.value * efficiency.inside
    if size * stride <= node:
        return Link(False, inside)
    on_a_node = max(1, node // stride)
    cards = machine.between_bandwidth.value * efficiency.between * on_a_node
    return Link(True, min(cards, inside) if on_a_node > 1 else cards)


def tensor_link(step: StepShape, machine: MachineConfig) -> Link:
    """Returns the link between tensor ranks."""
    return group_link(machine, size=step.layout.tensor, stride=1)


def data_link(step: StepShape, machine: MachineConfig) -> Link:
    """Returns the link between data ranks."""
    return group_link(machine, size=step.layout.data, stride=step.layout.tensor)


def pipeline_link(step: StepShape, machine: MachineConfig) -> Link:
    """Returns the link between neighbouring stages."""
    layout = step.layout
    stride = layout.tensor * layout.data
    if stride * layout.pipeline <= machine.gpus_per_node.value:
        return Link(False, machine.inside_bandwidth.value * machine.efficiency.inside)
    return Link(True, machine.between_bandwidth.value * machine.efficiency.between)


def tensor_bytes_per_block(step: StepShape) -> float:
    """Returns what a tensor rank sends for one block and micro-batch.

    Two all-reduces forward and two backward; under sequence parallelism each is a reduce-scatter and an all-gather, and
    the backward pass gathers the inputs of both column-sharded products again. Full recomputation repeats the forward
    pass.
    """
    layout = step.layout
    collective = step.tokens * step.model.hidden_size * layout.element * (layout.tensor - 1) / layout.tensor
    forward = 4
    return collective * (2 * forward + (2 if layout.sequence else 0) + (forward if layout.recompute == "full" else 0))


def tensor_bytes_of_ends(step: StepShape, *, first: bool, last: bool) -> float:
    """Returns what a tensor rank sends for the embedding and the head, of one micro-batch."""
    layout = step.layout
    collective = step.tokens * step.model.hidden_size * layout.element * (layout.tensor - 1) / layout.tensor
    return 2 * collective * (first + last)


def pipeline_bytes(step: StepShape) -> float:
    """Returns what an inner stage sends for one micro-batch: activations on, gradients back, for each of its chunks."""
    layout = step.layout
    if layout.pipeline == 1:
        return 0.0
    sent = step.tokens * step.model.hidden_size * layout.element * layout.residual_share
    return 2 * sent * layout.virtual_stages


def data_bytes_per_micro_batch(step: StepShape, parameters: float) -> float:
    """Returns what ZeRO 2 and 3 send in every micro-batch: gradients in float32, and the weights twice (ZeRO 3)."""
    layout = step.layout
    if layout.zero < 2:
        return 0.0
    gathered = 2 * layout.element if layout.zero == 3 else 0
    return parameters * (BYTES_FLOAT32 + gathered) * (layout.data - 1) / layout.data


def data_bytes_per_step(step: StepShape, parameters: float) -> float:
    """Returns what a data rank sends once in a step.

    ZeRO 0 all-reduces gradients; ZeRO 1 reduces them to their owners and gathers weights; ZeRO 2 gathers weights.
    """
    layout = step.layout
    sent = {0: 2 * BYTES_FLOAT32, 1: BYTES_FLOAT32 + layout.element, 2: layout.element, 3: 0}[layout.zero]
    return parameters * sent * (layout.data - 1) / layout.data


@dataclass(frozen=True)
class Sent:
    """The bytes that a rank of the first stage sends in a step along one axis of the mesh."""

    axis: str
    bytes: float
    link: Link


def sent_in_a_step(step: StepShape, machine: MachineConfig) -> list[Sent]:
    """Returns what a rank of the first stage sends, axis by axis; an axis of one rank sends nothing and is left out."""
    layout = step.layout
    layers = stage_layers(step.model, layout, 0)
    parameters = stage_parameters(step, num_layers=layers, first=True, last=layout.pipeline == 1)
    tensor = layers * tensor_bytes_per_block(step) + tensor_bytes_of_ends(step, first=True, last=layout.pipeline == 1)
    sent = [
        Sent("tensor", step.micro_batches * tensor, tensor_link(step, machine)),
        Sent("pipeline", step.micro_batches * pipeline_bytes(step), pipeline_link(step, machine)),
        Sent(
            "data",
            step.micro_batches * data_bytes_per_micro_batch(step, parameters) + data_bytes_per_step(step, parameters),
            data_link(step, machine),
        ),
    ]
    return [one for one in sent if one.bytes]
