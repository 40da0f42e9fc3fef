"""The batches of a training run. The loader has no state that a resume would need.

The rows of a step are a pure function of the plan of the run's draws and the step (draw_plan.py). `mixture.py` says
which source, or which pool of old data, each row comes from, and which draw from it that is. `pool.py` says which
sample of the source a draw from a pool is, and `order.py` which sequence a sample is. So a resume is exact by
construction, and data ranks, micro-batches and worker threads change nothing: the global batch is dealt to the data
ranks in contiguous blocks.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from data.batches.batch import Batch, Int16s, Int64s, assemble_batch, batch_hash
from data.batches.buffers import BufferPool
from data.batches.build_plan import build_plan, check_seq_length
from data.batches.row_order import RowOrder
from data.config import DataConfig
from data.shards.dataset_json import Split
from data.shards.index import Shards, open_shards

__all__ = ["Batch", "Loader", "batch_hash"]


class Loader:
    """The batches of one data rank, made ahead of time by background threads.

    Shards are memory-mapped, so the page cache decides how much of them is resident. `batch` may be called for any
    step; the `data.prefetch_batches` steps after the last one called for are prepared in the background.
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

        Raises UserError as `open_shards` does, and if a source that a mixture names is shorter than a row.
        `check_training_data` checks the files and data/shards/verify.py their hashes, once and not on every rank.
        """
        assert rows_per_step_global % data_size == 0, (
            f"{rows_per_step_global} rows cannot be dealt to {data_size} ranks"
        )
        assert 0 <= data_rank < data_size, f"data rank {data_rank} is not one of {data_size}"
        self.shards: Shards = open_shards(config)
        check_seq_length(config, self.shards, seq_length, split)
        self.rows_per_step_global = rows_per_step_global
        self.rows_per_step = rows_per_step_global // data_size
        self.first_row = data_rank * self.rows_per_step  # of this rank's block within the global batch
        self._seq_length = seq_length
        self._document_masking = config.document_masking
        self._rows = RowOrder(
            build_plan(
                config,
                self.shards,
                seed=seed,
                seq_length=seq_length,
                rows_per_step_global=rows_per_step_global,
                split=split,
            )
        )
        self._streams = [self.shards.stream(name, split) for name in self.shards.names]
        self._buffers = BufferPool()
        self._prefetch_batches = config.prefetch_batches
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="lehr-loader")
        self._pending: dict[int, Future[Batch]] = {}
        self._prefetch(first_step)

    def batch(self, step: int) -> Batch:
        """Return this data rank's rows of a 0-based step: [first_row, first_row + rows_per_step) of the global batch.

        The arrays stay unchanged for as long as the caller, or a tensor made from them, refers to them.
        """
        future = self._pending.pop(step, None)
        self._prefetch(step + 1)
        return self._make(step) if future is None else future.result()

    def has(self, step: int) -> bool:
        """Return whether `batch` of this step returns at once: it was made in the background, without an error."""
        future = self._pending.get(step)
        return future is not None and future.done() and future.exception() is None

    def sample_numbers(self, step: int) -> tuple[Int16s, Int64s]:
        """Return source and sample numbers [rows_per_step_global] of a step's global batch; reads no tokens."""
        rows = self._rows.rows(step * self.rows_per_step_global, self.rows_per_step_global)
        return rows.sources, rows.samples

    def close(self) -> None:
        """Stop the background threads. Batches that were returned stay valid."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prefetch(self, first_step: int) -> None:
        """Schedule the batches from `first_step` on, and drop all others."""
        wanted = range(first_step, first_step + self._prefetch_batches)
        for step in [step for step in self._pending if step not in wanted]:
            self._pending.pop(step).cancel()
        for step in wanted:
            if step not in self._pending:
                self._pending[step] = self._pool.submit(self._make, step)

    def _make(self, step: int) -> Batch:
        first = step * self.rows_per_step_global + self.first_row
        rows = self._rows.rows(first, self.rows_per_step)
        return assemble_batch(
            self._streams,
            sources=rows.sources,
            samples=rows.samples,
            sequences=rows.sequences,
            seq_length=self._seq_length,
            document_masking=self._document_masking,
            buffers=self._buffers,
        )
