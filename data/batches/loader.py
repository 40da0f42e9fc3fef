"""The batches of a training run. The loader has no state but the step it is asked for.

Which rows a step has is a pure function of (seed, mixture, rows per step, step). `data/batches/mixture.py` says from
which source each row comes and which of that source's samples it is. `data/batches/order.py` says which window that
sample is. So a resume is exact by construction, and neither data ranks, micro-batches nor workers change what is seen:
the global batch is dealt to data ranks by contiguous blocks.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np

from data.batches.draws import check_windows, mixture_of, windows_of
from data.batches.order import Order
from data.batches.rows import Int16s, Int64s, RowBuffers, Rows, assemble, batch_hash
from data.config import DataConfig
from data.shards.dataset_json import Split
from data.shards.index import Shards, open_shards

__all__ = ["Loader", "Rows", "batch_hash"]


class Loader:
    """The rows of one data rank, made ahead of time by background threads.

    Shards are memory-mapped: what is resident of them is the page cache's. `batch` may be called for any step; from the
    step that was asked for last on, `data.prefetch_batches` are held ready.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        seed: int,
        seq_length: int,
        rows_per_step_global: int,
        data_rank: int = 0,
        data_size: int = 1,
        first_step: int = 0,
        split: Split = "train",
        workers: int = 1,
    ) -> None:
        """Open the shards and begin to prefetch `first_step`.

        Raises UserError for shards that are missing or do not fit their dataset.json, a source shorter than a row, or
        an unknown source in the mixture; hashes are data/shards/verify.py's, once a run and not once a rank.
        """
        assert rows_per_step_global % data_size == 0, (
            f"{rows_per_step_global} rows cannot be dealt to {data_size} ranks"
        )
        assert 0 <= data_rank < data_size, f"data rank {data_rank} is not one of {data_size}"
        self.shards: Shards = open_shards(config)
        check_windows(config, self.shards, seq_length, split)
        self.rows_per_step_global = rows_per_step_global
        self.rows_per_step = rows_per_step_global // data_size
        self.first_row = data_rank * self.rows_per_step  # of this rank's block within the global batch
        self._seq_length = seq_length
        self._document_masking = config.document_masking
        self._mixture = mixture_of(config, self.shards, split=split, rows_per_step_global=rows_per_step_global)
        self._streams = [self.shards.stream(name, split) for name in self.shards.names]
        self._orders = [
            Order(seed=seed, source=name, windows=max(windows_of(stream.tokens, seq_length), 1))
            for name, stream in zip(self.shards.names, self._streams, strict=True)
        ]
        self._buffers = RowBuffers()
        self._prefetch_batches = config.prefetch_batches
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="lehr-loader")
        self._pending: dict[int, Future[Rows]] = {}
        self._prefetch(first_step)

    def batch(self, step: int) -> Rows:
        """This data rank's rows of a step (0-based): rows [first_row, first_row + rows_per_step) of the global batch.

        The arrays are the caller's as long as the caller, or a tensor made from them, holds them.
        """
        future = self._pending.pop(step, None)
        self._prefetch(step + 1)
        return self._make(step) if future is None else future.result()

    def sample_numbers(self, step: int) -> tuple[Int16s, Int64s]:
        """(source numbers, sample numbers) [rows_per_step_global] of a step's global batch; reads no tokens."""
        return self._mixture.rows(step * self.rows_per_step_global, self.rows_per_step_global)

    @property
    def ready(self) -> int:
        """Batches that are made and wait to be asked for; 0 again and again means that training waits for data."""
        return sum(future.done() for future in self._pending.values())

    def close(self) -> None:
        """Stop the background threads. Batches that were handed out stay valid."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prefetch(self, first_step: int) -> None:
        """Hold the batches from `first_step` on, and no others."""
        wanted = range(first_step, first_step + self._prefetch_batches)
        for step in [step for step in self._pending if step not in wanted]:
            self._pending.pop(step).cancel()
        for step in wanted:
            if step not in self._pending:
                self._pending[step] = self._pool.submit(self._make, step)

    def _make(self, step: int) -> Rows:
        first = step * self.rows_per_step_global + self.first_row
        sources, samples = self._mixture.rows(first, self.rows_per_step)
        windows = np.empty(len(samples), dtype=np.int64)
        for source in np.unique(sources):
            here = sources == source
            windows[here] = self._orders[source].windows_of(samples[here])
        return assemble(
            self._streams,
            sources=sources,
            samples=samples,
            windows=windows,
            seq_length=self._seq_length,
            document_masking=self._document_masking,
            buffers=self._buffers,
        )
