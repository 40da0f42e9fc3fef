"""The sizes of a rehearsal: the layout of a run with a model, a batch and rows that are as small as its rules allow.

The layout stays: tensor and pipeline ranks, virtual stages, ZeRO, sequence parallelism. Only data ranks are taken away
where there are more than a rehearsal has. What the layout divides stays divisible by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from launcher.run.config import RunConfig
from launcher.run.preflight import check_optimizer, workload
from model.config import ModelConfig
from parallel.config import ParallelConfig
from parallel.layout import layout_problems
from settings import UserError
from train.config import TrainConfig

_SEQ_LENGTH = 32
_MICRO_BATCH_SIZE = 2
_LEAST_LAYERS = 2


def shrink(config: RunConfig, *, most_ranks: int) -> RunConfig:
    """Returns the config with sizes for a rehearsal on at most `most_ranks` ranks; no size becomes larger.

    The config must have passed the checks of a run, and its vocabulary must be known. Widths are the smallest for which
    the layout, the optimizer and its transforms pass their checks too. Raises UserError if the tensor and pipeline
    ranks alone are more than `most_ranks`.
    """
    parallel = _with_fewer_data_ranks(config.parallel, most_ranks)
    train = _with_smaller_batch(config, parallel)
    for model in _smaller_models(config.model, parallel):
        shrunk = config.model_copy(update={"parallel": parallel, "train": train, "model": model})
        if is_possible(shrunk):
            return shrunk
    raise AssertionError("a config that passes its checks with a long row and a large batch passes with small ones")


def is_possible(config: RunConfig) -> bool:
    """Returns whether the layout, the optimizer and its transforms fit the model and the batch."""
    if layout_problems(config.parallel, config.model, workload(config, config.parallel.ranks)):
        return False
    try:
        check_optimizer(config, config.model)
    except UserError:
        return False
    return True


def _with_fewer_data_ranks(parallel: ParallelConfig, most_ranks: int) -> ParallelConfig:
    fixed = parallel.tensor * parallel.pipeline
    if fixed > most_ranks:
        raise UserError(
            f"parallel.tensor = {parallel.tensor} x parallel.pipeline = {parallel.pipeline} are {fixed} ranks, and a "
            f"rehearsal has {most_ranks} at most; give --ranks {fixed}, which takes longer, or make one of them smaller"
        )
    return parallel.model_copy(update={"data": min(parallel.data, most_ranks // fixed)})


def _with_smaller_batch(config: RunConfig, parallel: ParallelConfig) -> TrainConfig:
    """Returns rows that the tensor ranks can share, and as many micro-batches as show every phase of the pipeline.

    1F1B is steady from pipeline + 1 micro-batches on; of an even number, more second layouts can share the batch. The
    interleaved schedule needs a multiple of the pipeline; two rounds show that a chunk's next round begins.
    """
    train = config.train
    seq_length = min(train.seq_length, _SEQ_LENGTH)
    if parallel.sequence:
        seq_length = min(train.seq_length, math.ceil(seq_length / parallel.tensor) * parallel.tensor)
    interleaved = parallel.virtual_stages > 1
    most = 2 * parallel.pipeline if interleaved else parallel.pipeline + 1 + (parallel.pipeline + 1) % 2
    micro_batches = min(train.global_batch_size // (train.micro_batch_size * config.parallel.data), most)
    micro_batch_size = min(train.micro_batch_size, _MICRO_BATCH_SIZE)
    return train.model_copy(
        update={
            "seq_length": seq_length,
            "micro_batch_size": micro_batch_size,
            "global_batch_size": micro_batch_size * parallel.data * micro_batches,
        }
    )


def _smaller_models(model: ModelConfig, parallel: ParallelConfig) -> Iterator[ModelConfig]:
    """Yields models with the rules of `model`, smallest first, and at last `model` itself.

    Each tensor rank has a key-value head, and two heads for it if the heads of the model are grouped. Layers that the
    chunks share unevenly stay uneven. The vocabulary stays.
    """
    tensor, chunks = parallel.tensor, parallel.pipeline * parallel.virtual_stages
    few_layers = min(model.num_layers, max(chunks + model.num_layers % chunks, _LEAST_LAYERS))
    heads = tensor * min(model.num_heads // model.kv_heads, 2)
    for num_layers in dict.fromkeys((few_layers, model.num_layers)):
        for head_size in _head_sizes(model.head_size):
            yield model.model_copy(
                update={
                    "num_layers": num_layers,
                    "hidden_size": heads * head_size,
                    "num_heads": heads,
                    "num_kv_heads": None if model.num_kv_heads is None else tensor,
                    "ffn_size": tensor * min(model.ffn_size // tensor, 2 * head_size),
                }
            )
    yield model


def _head_sizes(most: int) -> Iterator[int]:
    """Yields 8, 12, 16, 24, 32, ... below `most`, and `most`: an even head size gets even ones."""
    size = 8
    while size < most:
        yield size
        if size * 3 // 2 < most:
            yield size * 3 // 2
        size *= 2
    yield most
