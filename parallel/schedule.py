"""Runs micro-batches through the pipeline by Megatron's schedules: no pipeline, 1F1B, interleaved 1F1B."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from parallel.patches.cpu_device import redirect_cuda_to_cpu

# isort: split
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator

from parallel.chunk import MicroBatch, PipelineChunk
from parallel.spans import span

_NO_TOKENS = torch.tensor(0, dtype=torch.int)  # Megatron's token count is not used: the loss is weighted already


def run_micro_batches(
    chunks: Sequence[PipelineChunk], micro_batches: Sequence[MicroBatch], *, backward: bool
) -> Tensor:
    """Runs the forward (and backward) passes of all micro-batches; gradients accumulate in the parameters.

    Returns the summed nll of this rank's unmasked tokens, a scalar in float64, which is 0 on every stage but the last.
    """
    rest = iter(micro_batches)
    first = next(rest)
    rows, sequence = first.tokens_BT.shape
    nothing = first.weights_BT.new_zeros((), dtype=torch.float64)
    waiting = [deque([first]) for _ in chunks]
    del first  # its masks would live until the end of the step
    batches = [_micro_batches_of_a_chunk(queue, waiting, rest) for queue in waiting]
    config, groups = chunks[0].config, chunks[0].groups
    run = get_forward_backward_func(groups.pp.size(), config.virtual_pipeline_model_parallel_size)
    with redirect_cuda_to_cpu() or contextlib.nullcontext(), contextlib.nullcontext() if backward else torch.no_grad():
        sums: list[Tensor] = run(
            forward_step_func=_forward_step,
            data_iterator=batches if len(chunks) > 1 else batches[0],
            model=list(chunks) if len(chunks) > 1 else chunks[0],
            num_microbatches=len(micro_batches),
            seq_length=sequence,
            micro_batch_size=rows,
            forward_only=not backward,
            p2p_communicator=P2PCommunicator(pp_group=groups.pp, config=config),
            pg_collection=groups,
        )
    return torch.stack(sums).sum(dtype=torch.float64) if sums else nothing


def _forward_step(
    batches: Iterator[MicroBatch], chunk: PipelineChunk
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]]:
    batch = next(batches)
    with span("forward"):
        output, nll = chunk(batch)
    return output, lambda loss: (loss, _NO_TOKENS, nll)


def _micro_batches_of_a_chunk(
    queue: deque[MicroBatch], waiting: Sequence[deque[MicroBatch]], rest: Iterator[MicroBatch]
) -> Iterator[MicroBatch]:
    """Yields the micro-batches that one chunk takes. Each is made when the first chunk needs it, and serves all chunks.

    It is freed when the last chunk has taken it. (itertools.tee frees 57 at once.)
    """
    while queue or _take_next(rest, waiting):
        yield queue.popleft()


def _take_next(rest: Iterator[MicroBatch], waiting: Sequence[deque[MicroBatch]]) -> bool:
    batch = next(rest, None)
    if batch is not None:
        for queue in waiting:
            queue.append(batch)
    return batch is not None
