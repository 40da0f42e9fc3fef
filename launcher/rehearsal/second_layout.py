"""The layout in which a rehearsal resumes: another one, on about half as many ranks, as after a loss of nodes."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.rehearsal.shrink import is_possible
from launcher.run.config import RunConfig


def in_second_layout(config: RunConfig) -> RunConfig:
    """Returns a shrunk config in another layout, with the same batches; in the same one if there is no other.

    Of those that are possible, the layout differs in as many of tensor, pipeline and data as can be. The vocabulary is
    not shrunk, so a layout with far fewer tensor ranks would take more memory and time than the first.
    """
    first = config.parallel
    wanted = max(first.ranks // 2, 2)

    def order(other: RunConfig) -> tuple[int, int, int]:
        layout = other.parallel
        same = (layout.tensor == first.tensor) + (layout.pipeline == first.pipeline) + (layout.data == first.data)
        return same, wanted - layout.ranks, abs(layout.zero - first.zero)

    return next((other for other in sorted(_others(config, wanted), key=order) if is_possible(other)), config)


def _others(config: RunConfig, most_ranks: int) -> Iterator[RunConfig]:
    """Yields the config in every other layout of 2 to `most_ranks` ranks."""
    first, train = config.parallel, config.train
    fewer_tensor_ranks = max((n for n in range(1, first.tensor) if first.tensor % n == 0), default=1)
    for tensor in dict.fromkeys((fewer_tensor_ranks, first.tensor)):
        for pipeline in range(1, min(config.model.num_layers, most_ranks // tensor) + 1):
            for data in range(1, most_ranks // (tensor * pipeline) + 1):
                sizes = {"tensor": tensor, "pipeline": pipeline, "data": data}
                zero = first.zero if pipeline == 1 else min(first.zero, 1)
                layout = first.model_copy(update={**sizes, "virtual_stages": 1, "zero": zero})
                if layout.ranks < 2 or all(getattr(first, axis) == size for axis, size in sizes.items()):
                    continue
                # Fewer rows at once if the data ranks would not share the batch.
                for micro_batch_size in dict.fromkeys((train.micro_batch_size, 1)):
                    smaller = train.model_copy(update={"micro_batch_size": micro_batch_size})
                    yield config.model_copy(update={"parallel": layout, "train": smaller})
