"""The hashing of a run's shards: by the process that starts the ranks, or by all ranks of torchrun or srun at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from data.config import DataConfig
from data.shards.index import open_shards
from data.shards.verified_record import VerifiedFile, VerifiedRecord
from data.shards.verify import HashingProgress, hashed_files, share_of, verify_files
from launcher.console import ProgressLine
from launcher.processes.environment import available_cores, cache_folder
from launcher.processes.rank_info import SINGLE_PROCESS, RankInfo
from settings import UserError

_QUIET_SECONDS = 5.0  # of hashing, before it is worth a line
_SECONDS_BETWEEN_LINES = 10.0


def verify_run_shards(config: DataConfig) -> None:
    """Hashes the shards of a run that are not recorded as verified, and records them. Raises UserError."""
    verification = SharedVerification(config, SINGLE_PROCESS)
    verification.conclude([verification.share(lambda: False)])


class SharedVerification:
    """The hashing of a run's shards, divided among its ranks, since all of them wait for it."""

    def __init__(self, config: DataConfig, rank_info: RankInfo) -> None:
        self._config = config
        self._rank_info = rank_info

    def share(self, stop: Callable[[], bool]) -> dict[str, Any]:
        """Compares this rank's share of the files. Returns what it has verified. Raises UserError.

        `stop` is called often; the rank stops hashing when it returns True.
        """
        if not self._config.verify_hashes:
            return {}
        rank_info = self._rank_info
        line = ProgressLine(seconds_between=_SECONDS_BETWEEN_LINES, quiet_seconds=_QUIET_SECONDS)

        def report(progress: HashingProgress) -> None:
            if rank_info.rank == 0:
                line.show(f"{progress.line()} (beforehand: lehr data verify {self._config.shards})")

        record = self._record()
        found = verify_files(
            share_of(hashed_files(open_shards(self._config)), rank=rank_info.rank, ranks=rank_info.world_size),
            record.read(),
            threads=max(1, available_cores() // rank_info.local_world_size),
            until_first_problem=True,
            report=report,
            save=record.add if rank_info.rank == 0 else None,
            stop=stop,
        )
        line.end()
        if found.problems:
            raise UserError(found.problems[0])
        return {path: file.to_plain() for path, file in found.verified.items()}

    def conclude(self, shares: Sequence[dict[str, Any]]) -> None:
        """Records the verified files of all ranks, so that no later start reads them again."""
        if self._config.verify_hashes:
            self._record().add({path: VerifiedFile(**plain) for share in shares for path, plain in share.items()})

    def _record(self) -> VerifiedRecord:
        return VerifiedRecord(self._config.shards, cache=cache_folder())
