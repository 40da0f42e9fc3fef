"""Loss curves from where they lie: run folders (metrics.jsonl, config.yaml) and CSV files (step, lr, loss).

A law speaks of one batch size, one mix of data and the lr that was applied; a run that breaks this is refused.
"""

from __future__ import annotations

from pathlib import Path

from laws.reading.csv_file import read_csv
from laws.reading.reading import Reading
from laws.reading.run_folder import DEFAULT_LOSS, read_run
from settings import UserError


def read_curve(
    path: Path, *, loss: str = DEFAULT_LOSS, warmup_steps: int | None = None, last_step: int | None = None
) -> Reading:
    """Reads the curve of a run folder or a CSV file.

    `loss`: the key in metrics.jsonl (a CSV has a column `loss`); `warmup_steps`: None for what config.yaml says, or the
    rows; `last_step`: leave out what comes later. Raises UserError for all that is wrong with the data.
    """
    if path.is_dir():
        return read_run(path, loss=loss, warmup_steps=warmup_steps, last_step=last_step)
    if path.is_file():
        return read_csv(path, warmup_steps=warmup_steps, last_step=last_step)
    raise UserError(f"{path} is neither a run folder nor a CSV file")
