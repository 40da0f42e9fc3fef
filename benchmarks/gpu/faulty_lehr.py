"""`lehr` with a fault in the step FAULTY_STEP: `python -m gpu.faulty_lehr nan|hang|memory train CONFIG ...`."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

FAULTY_STEP = 3


def main() -> None:
    """Runs the command line with the fault in place."""
    from launcher.cli import main as run_command_line
    from launcher.processes.environment import prepare_process
    from launcher.processes.rank_info import SINGLE_PROCESS

    prepare_process(SINGLE_PROCESS)
    _inject(_FAULTS[sys.argv[1]])
    run_command_line(sys.argv[2:])


def _inject(fault: Callable[[Any], Any]) -> None:
    from parallel.engines.sharded_optimizer_engine import ShardedOptimizerEngine

    original = ShardedOptimizerEngine.train_step
    steps = 0

    def train_step(self: ShardedOptimizerEngine, micro_batches: Any, *, lr: float) -> Any:
        nonlocal steps
        steps += 1
        if steps == FAULTY_STEP:
            micro_batches = fault(micro_batches)
        return original(self, micro_batches, lr=lr)

    ShardedOptimizerEngine.train_step = train_step  # type: ignore[method-assign]


def _nan(micro_batches: Any) -> Any:
    """Returns micro-batches whose loss is NaN."""
    return [dataclasses.replace(batch, weights_BT=batch.weights_BT * float("nan")) for batch in micro_batches]


def _hang(micro_batches: Any) -> Any:
    """Keeps the device busy for minutes; without a GPU the process sleeps."""
    import torch

    if torch.cuda.is_available():
        torch.cuda._sleep(10**12)
        torch.cuda.synchronize()
    else:
        time.sleep(600)
    return micro_batches


def _memory(micro_batches: Any) -> Any:
    """Allocates more than the device has; without a GPU the error is raised."""
    import torch

    if torch.cuda.is_available():
        torch.empty(torch.cuda.get_device_properties(0).total_memory, dtype=torch.uint8, device="cuda")
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1024.00 GiB.")


_FAULTS = {"nan": _nan, "hang": _hang, "memory": _memory}


if __name__ == "__main__":
    main()
