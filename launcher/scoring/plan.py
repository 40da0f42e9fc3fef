"""The plan of `lehr score`: the checkpoints, the shards, and the file of scores of each pair."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.config import DataConfig
from data.score_files import ScoreOrigin, read_origin
from data.shards.dataset_json import FILE_NAME
from data.shards.index import Shards, open_shards
from data.shards.mapped_shard import MappedShard
from launcher.run.saved_run import model_of_checkpoint, read_run_config
from settings import UserError
from settings.errors import nearest
from train.checkpoint.discovery import step_folders, step_of
from train.checkpoint.manifest import Manifest, folder_name, read_manifest
from train.run_folder.folder import RunFolder


@dataclass(frozen=True)
class PlannedFile:
    """A file of scores: of one shard, by one checkpoint."""

    run: Path
    shard: MappedShard
    path: Path
    origin: ScoreOrigin

    @property
    def is_done(self) -> bool:
        """Whether the file exists, and is of these weights and tokens."""
        origin = read_origin(self.path)
        return origin is not None and origin.serves(self.origin)


def scored_data(folder: Path, sources: Sequence[str]) -> DataConfig:
    """Returns the config of the shards of `sources`, or of all that the folder has if none is named."""
    return DataConfig(shards=folder, mixture=dict.fromkeys(sources, 1.0))


def open_scored_shards(folder: Path, sources: Sequence[str]) -> Shards:
    """Opens the shards of `sources`, or all of the folder if none is named. Raises UserError as `open_shards` does."""
    available = sorted(path.parent.name for path in folder.glob(f"*/{FILE_NAME}"))
    for name in sources:
        if available and name not in available:
            raise UserError(f"--source {name}: {folder} has no such source{nearest(name, available)}")
    return open_shards(scored_data(folder, sources))


def plan_scores(
    runs: Sequence[Path], shards: Shards, *, steps: Sequence[int], output: Path, grand: bool = False
) -> list[PlannedFile]:
    """Returns the files of scores, checkpoint by checkpoint: those of `steps`, or of every step if it is empty.

    Raises UserError if a run has no such checkpoint or another tokenizer, if two runs have one name, or if shards have
    no hashes of documents. The bytes of checkpoints are not read.
    """
    names = [run.resolve().name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"two of the runs are named {name}: score them into two folders, each with its own --output"
            )
    planned = []
    for run, name in zip(runs, names, strict=True):
        folder, config = read_run_config(run)
        for checkpoint in _checkpoints(folder, steps):
            manifest = read_manifest(checkpoint)
            model_of_checkpoint(checkpoint, manifest, shards.tokenizer)  # UserError for another tokenizer
            for source in shards.names:
                for shard in shards.stream(source, "train").shards:
                    shard.document_hashes  # noqa: B018 (UserError if it has none)
                    origin = ScoreOrigin(
                        run=name,
                        step=manifest.step,
                        source=source,
                        checkpoint_sha256=_weights_sha256(checkpoint, manifest),
                        shard_sha256=shard.file.hashes,
                        seq_length=config.train.seq_length,
                        precision=config.train.precision,
                        grand=grand,
                    )
                    file = Path(shard.file.path).with_suffix(".parquet").name
                    path = output / name / folder_name(manifest.step) / source / file
                    planned.append(PlannedFile(run, shard, path, origin))
    if not planned:
        raise UserError(f"{shards.folder} has no documents to train on in {', '.join(shards.names)}")
    return planned


def _checkpoints(folder: RunFolder, steps: Sequence[int]) -> list[Path]:
    found = {step_of(path): path for path in step_folders(folder.checkpoints)}
    if not found:
        raise UserError(f"{folder.path} has no checkpoint yet; train it with: lehr train {folder.config}")
    for step in steps:
        if step not in found:
            raise UserError(
                f"--steps: {folder.path} has no checkpoint of step {step}; it has {', '.join(map(str, found))}"
            )
    return [found[step] for step in sorted(set(steps) or found)]


def _weights_sha256(checkpoint: Path, manifest: Manifest) -> str:
    """Returns a hash of the checkpoint's tensors, which the rest of the manifest does not change."""
    hashes = [manifest.files[path.name].sha256 for path in manifest.tensor_files(checkpoint)]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
