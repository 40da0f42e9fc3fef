"""A machine file: the figures of a kind of GPU and of its links, each with its source."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field

from settings import Settings, UserError, compose
from settings.errors import nearest

Precision = Literal["float32", "bfloat16"]


class Figure(Settings):
    """A number, and where it is from."""

    value: float = Field(gt=0, description="the number")
    source: str = Field(min_length=1, description="the data sheet, the measurement or the fit it is from")


class Efficiencies(Settings):
    """The shares of the data sheet's figures that training reaches."""

    products: float = Field(gt=0, le=1, description="of the peak, in matrix products")
    attention: float = Field(gt=0, le=1, description="of the peak, in attention")
    memory: float = Field(gt=0, le=1, description="of the bandwidth of the device's memory")
    inside: float = Field(gt=0, le=1, description="of the links inside a node")
    between: float = Field(gt=0, le=1, description="of the links between nodes")
    source: str = Field(min_length=1, description="the fit or the measurement they are from")


class MachineConfig(Settings):
    """One kind of GPU in a cluster, or a CPU. Bandwidths are in bytes a second, of one GPU and one direction."""

    name: str = Field(description="what the plan calls it")
    device: Literal["cuda", "cpu"] = Field("cuda", description="what torch calls it")
    peak_flops: dict[Precision, Figure] = Field(description="FLOP/s of dense matrix products, by precision")
    memory_bytes: Figure = Field(description="memory of a GPU that torch can use; of a rank, if the device is a CPU")
    memory_bandwidth: Figure = Field(description="of the device's memory, in bytes a second")
    kernel_seconds: Figure = Field(description="the least time of a kernel")
    gpus_per_node: Figure = Field(description="GPUs that the fast links join")
    inside_bandwidth: Figure = Field(description="of a GPU's links inside a node")
    between_bandwidth: Figure = Field(description="of a GPU's share of the links between nodes")
    watts: Figure = Field(description="electric power of a GPU in training, with its share of the node")
    price_per_hour: Figure | None = Field(None, description="of one GPU, in the currency that the source names")
    efficiency: Efficiencies = Field(description="the shares of these figures that training reaches")

    def peak(self, precision: Precision) -> float:
        """Returns the peak FLOP/s. Raises UserError where the file has none for the precision."""
        figure = self.peak_flops.get(precision)
        if figure is None:
            known = ", ".join(self.peak_flops)
            raise UserError(
                f"train.precision = {precision}: machine {self.name} has a peak for {known} only; add "
                f"peak_flops.{precision} to its file, or set train.precision to {known}"
            )
        return figure.value


def machine_names() -> list[str]:
    """Returns the names of the machine files that lehr brings."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def load_machine(name: str) -> MachineConfig:
    """Reads a machine file by its name, such as `h100`, or by its path. Raises UserError, which lists the names."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return compose(MachineConfig, path)
    names = machine_names()
    if name.lower() not in names:
        raise UserError(
            f"--gpu {name}: there is no such machine file{nearest(name.lower(), names)}; "
            "or give the path of a file of your own (docs/plan.md)"
        )
    with resources.as_file(_folder() / f"{name.lower()}.yaml") as file:
        return compose(MachineConfig, file)


def _folder() -> resources.abc.Traversable:
    return resources.files("parallel.planning") / "machines"
