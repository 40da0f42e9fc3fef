"""The collectives that this rank has joined, from torch's flight recorder, for the report of a hang.

torch 2.13 records the last 2000 collectives of a process, unless TORCH_FR_BUFFER_SIZE is set to 0. It has two
recorders: one for gloo, and one for NCCL, which a torch without CUDA does not have.
"""

from __future__ import annotations

import json
from typing import Any

from settings import Settings

_MOST_CHARACTERS = 80
_DUMPS = ("_dump_fr_trace_json", "_dump_nccl_trace_json")


class Collective(Settings):
    """One collective of a group, as one rank has called it."""

    number: int  # among those of its group and backend, from 1 on
    name: str  # such as all_reduce
    shapes: str  # of this rank's inputs, such as [[512, 64]]


class GroupProgress(Settings):
    """What one rank has joined of the collectives of one process group."""

    group: str  # the same on all ranks of the group, and on no others
    name: str  # `data`, `tensor` and so on; `default_pg` for that of all ranks
    ranks: list[int]
    last: Collective  # the last one that this rank has joined
    pending: Collective | None = None  # the first that has not ended on this rank


def group_progress() -> list[GroupProgress]:
    """Returns the progress in each group of which collectives are recorded, by backend.

    Returns [] if the record cannot be read: a report of a hang is worth more than this part of it.
    """
    from torch._C import _distributed_c10d  # a launcher reads the reports of others without torch

    try:
        dumps = [dump(True, False) for name in _DUMPS if (dump := getattr(_distributed_c10d, name, None)) is not None]
        return [one for dump in dumps for one in progress_of(json.loads(dump).get("entries", []))]
    except Exception:  # whatever a later torch writes
        return []


def progress_of(entries: list[dict[str, Any]]) -> list[GroupProgress]:
    """Returns the progress in each group from the entries of a flight recorder, oldest first.

    Messages between two ranks (a pipeline's) are left out: gloo does not record them, and NCCL not their end.
    """
    found: dict[str, GroupProgress] = {}
    for entry in entries:
        if entry["is_p2p"]:
            continue
        (torch_name, name), (backend, _, called) = entry["process_group"], entry["profiling_name"].partition(":")
        collective = Collective(
            number=entry["collective_seq_id"],
            name=called.lstrip("_"),
            shapes=str(entry["input_sizes"])[:_MOST_CHARACTERS],
        )
        ended = entry["retired"] or entry["state"] == "completed"
        group = f"{torch_name} {backend}"
        earlier = found.get(group)
        found[group] = GroupProgress(
            group=group,
            name=name,
            ranks=earlier.ranks if earlier else _ranks_of(torch_name),
            last=collective,
            pending=earlier.pending if earlier and earlier.pending else None if ended else collective,
        )
    return list(found.values())


def _ranks_of(torch_name: str) -> list[int]:
    import torch.distributed as dist
    from torch._C._distributed_c10d import _resolve_process_group
    from torch.distributed.distributed_c10d import GroupName

    return dist.get_process_group_ranks(_resolve_process_group(GroupName(torch_name)))
