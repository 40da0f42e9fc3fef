"""Micro-batches through the pipeline by Megatron's schedules: no pipeline, 1F1B, interleaved 1F1B."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from parallel.patches.cpu_device import redirect_cuda_to_cpu

# isort: split
from megatron.core.pipeline_parallel import get_forward_backward_func

from parallel.stage import MicroBatch, Stage

_NO_TOKENS = torch.tensor(0, dtype=torch.int)  # Megatron's own count, unused: weights are in the loss already


def run_micro_batches(stages: Sequence[Stage], micro_batches: Sequence[MicroBatch], *, backward: bool) -> Tensor:
    """Forward (and backward) of all micro-batches; gradients accumulate in the parameters.

    Returns the summed nll of this rank's unmasked tokens: a scalar, 0 on every stage but the last.
    """
    rest = iter(micro_batches)
    first = next(rest)
    rows, sequence = first.tokens_BT.shape
    nothing = first.weights_BT.new_zeros(())
    waiting = [deque([first]) for _ in stages]
    del first  # or its masks would live as long as all
    batches = [_of_a_chunk(own, waiting, rest) for own in waiting]
    with redirect_cuda_to_cpu() or contextlib.nullcontext(), contextlib.nullcontext() if backward else torch.no_grad():
        sums: list[Tensor] = get_forward_backward_func()(
            forward_step_func=_forward_step,
            data_iterator=batches if len(stages) > 1 else batches[0],
            model=list(stages) if len(stages) > 1 else stages[0],
            num_microbatches=len(micro_batches),
            seq_length=sequence,
            micro_batch_size=rows,
            forward_only=not backward,
        )
    return torch.stack(sums).sum() if sums else nothing


def _forward_step(
    batches: Iterator[MicroBatch], stage: Stage
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]]:
    output, nll = stage(next(batches))
    return output, lambda loss: (loss, _NO_TOKENS, nll)


def _of_a_chunk(
    own: deque[MicroBatch], waiting: Sequence[deque[MicroBatch]], rest: Iterator[MicroBatch]
) -> Iterator[MicroBatch]:
    """The micro-batches as one chunk takes them. Each is made when the first chunk asks for it, and serves all.

    It is let go when the last chunk has had it. (itertools.tee lets go of 57 together.)
    """
    while own or _hand_out(rest, waiting):
        yield own.popleft()


def _hand_out(rest: Iterator[MicroBatch], waiting: Sequence[deque[MicroBatch]]) -> bool:
    batch = next(rest, None)
    if batch is not None:
        for queue in waiting:
            queue.append(batch)
    return batch is not None
