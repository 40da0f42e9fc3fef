"""The float32 masters and moments of ZeRO 2 and 3, where DeepSpeed keeps them: a flat range of each parameter.

ZeRO 2 divides the parameters of a group, one behind the other, among the data ranks; ZeRO 3 divides each parameter. In
both, a data rank has one range of the elements of a parameter, or none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from parallel.engines.parameter_owners import assign_owners
from parallel.mesh import Axis, Mesh
from parallel.waiting import wait_for_collectives


class ZeroPartitions:
    """The ranges of all data ranks, and the views of this rank's ranges."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], sizes: Sequence[int], mesh: Mesh) -> None:
        """A collective of the data ranks. `sizes`: the elements of each parameter's shard, in order."""
        self._parameters = parameters
        self._mesh = mesh
        own = torch.tensor(
            [_own_range(each, size, mesh.data) for each, size in zip(parameters.values(), sizes, strict=True)],
            device=mesh.device,
        )
        everyone = [torch.empty_like(own) for _ in range(mesh.data.size)]
        dist.all_gather(everyone, own, group=mesh.data.group)
        by_rank = torch.stack(everyone).tolist()
        self._ranges: dict[str, list[tuple[int, int]]] = {
            name: [(start, end) for start, end in ranges]
            for name, ranges in zip(parameters, zip(*by_rank, strict=True), strict=True)
        }
        self._owners = dict(zip(parameters, assign_owners(list(sizes), mesh.data.size), strict=True))
        self._sizes = dict(zip(parameters, sizes, strict=True))

    def start_of(self, name: str) -> int:
        """Returns the first element of this rank's range."""
        return self._ranges[name][self._mesh.data.rank][0]

    def view(self, name: str, moment: str | None) -> Tensor:
        """Returns this rank's range of the master, or of a moment of the optimizer: a view, perhaps empty."""
        start, end = self._ranges[name][self._mesh.data.rank]
        return _partition(self._parameters[name], moment)[: end - start]

    def gather(self, name: str, own: Tensor) -> Tensor | None:
        """Returns the full value on the device of one data rank, which is another one for each parameter, else None.

        `own`: the value of this rank's range. The other ranks send theirs there. A collective of the data ranks.
        """
        data, owner = self._mesh.data, self._owners[name]
        own = own.to(self._mesh.device)
        if data.rank != owner:
            sends = [dist.P2POp(dist.isend, own, group=data.group, group_peer=owner)] if len(own) else []
            wait_for_collectives(dist.batch_isend_irecv(sends) if sends else ())
            return None
        full = own.new_empty(self._sizes[name])
        receives = []
        for rank, (start, end) in enumerate(self._ranges[name]):
            part = full[start:end]
            if rank == owner:
                part.copy_(own)
            elif len(part):
                receives.append(dist.P2POp(dist.irecv, part, group=data.group, group_peer=rank))
        wait_for_collectives(dist.batch_isend_irecv(receives) if receives else ())
        return full


def _own_range(parameter: Any, size: int, data: Axis) -> tuple[int, int]:
    """Returns the first element, in row-major order, and the end of this rank's range of a parameter's shard."""
    if hasattr(parameter, "ds_tensor"):  # ZeRO 3, whose last partitions are padded
        partition = parameter.ds_tensor.numel()
        return min(data.rank * partition, size), min((data.rank + 1) * partition, size)
    if parameter._hp_mapping is None:
        return 0, 0
    address = parameter._hp_mapping.lp_fragment_address
    return address.start, address.start + address.numel


def _partition(parameter: Any, moment: str | None) -> Tensor:
    """Returns DeepSpeed's own flat tensor of this rank's range, with its padding."""
    if hasattr(parameter, "ds_tensor"):
        partition: Tensor = parameter._z3_optimizer._get_fp32_opt_state_partition(
            parameter, release_swap_buffers=False, optim_state_key=moment
        )[0]
        return partition.detach()
    if parameter._hp_mapping is None:
        return torch.empty(0)
    fragment: Tensor = parameter._hp_mapping.get_hp_fragment(moment)
    return fragment.detach()
