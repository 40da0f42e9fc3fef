"""The shards that a config names: their descriptions, opened without reading a token."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from data.config import DataConfig
from data.shards.dataset_json import FILE_NAME, DatasetInfo, Split, SplitInfo, TokenizerInfo, check_hash, read_dataset
from data.shards.stream import Stream
from settings import UserError
from settings.errors import nearest
from settings.files import is_folder

_EMPTY = SplitInfo(documents=0, tokens=0, text_bytes=0, files=())


@dataclass(frozen=True)
class Shards:
    """The sources of a run, sorted by name: a source's number is its place here."""

    folder: Path
    datasets: dict[str, DatasetInfo]

    @property
    def names(self) -> tuple[str, ...]:
        """Names by source number, as in Rows.sources."""
        return tuple(self.datasets)

    @property
    def tokenizer(self) -> TokenizerInfo:
        """Of all sources."""
        return next(iter(self.datasets.values())).tokenizer

    def tokenizer_file(self) -> Path:
        """The tokenizer.json. Raises UserError where it is missing or not the one that made the tokens."""
        path = self.folder / self.tokenizer.path
        check_hash(path, self.tokenizer.sha256)
        return path

    def split(self, name: str, split: Split) -> SplitInfo:
        """A source's split; an empty one where its dataset.json has none."""
        return self.datasets[name].splits.get(split, _EMPTY)

    def digests(self) -> dict[str, str]:
        """For each source one hash of what is read of it: the tokens of its files in their order, documents' ends."""
        read = {name: info.to_plain() for name, info in self.datasets.items()}
        return {
            name: hashlib.sha256(json.dumps([info["token_bytes"], info["splits"]], sort_keys=True).encode()).hexdigest()
            for name, info in read.items()
        }

    def stream(self, name: str, split: Split) -> Stream:
        """Open a source's split. Raises UserError where files are missing, cut short, or not of one piece."""
        token_bytes = self.datasets[name].token_bytes
        return Stream(self.folder / name, self.split(name, split), token_bytes=token_bytes)


def open_shards(config: DataConfig) -> Shards:
    """Read the dataset.json of every source that `config` names, or of all there are; cheap: no shard is opened.

    Raises UserError for a missing folder, a source without shards, a mixture that names an unknown one, and sources
    that were tokenized by different tokenizers.
    """
    folder = config.shards
    if not is_folder(folder):
        raise UserError(f"data.shards = {folder}: there is no such folder; build the shards with `lehr data build`")
    available = sorted(path.parent.name for path in folder.glob(f"*/{FILE_NAME}"))
    if not available:
        raise UserError(f"data.shards = {folder}: it holds no source; build the shards with `lehr data build`")
    named: set[str] = set()
    for key, mixture in config.mixtures().items():
        for name in mixture:
            if name not in available:
                raise UserError(f'{key}: no shards of a source "{name}" are in {folder}{nearest(name, available)}')
        named.update(mixture)
    if not all(config.mixtures().values()):  # some stage takes all sources, by tokens
        named.update(config.sources or available)
    elif config.sources:
        named.update(name for name in config.sources if name in available)
    datasets: dict[str, DatasetInfo] = {}
    for name in sorted(named):
        if name not in available:
            raise UserError(
                f"data.sources.{name}: its shards are not in {folder}; build them with `lehr data build`, "
                "or say in data.mixture which sources to train on"
            )
        datasets[name] = read_dataset(folder / name)
    _check_one_tokenizer(datasets)
    return Shards(folder, datasets)


def shard_tokenizer(config: DataConfig) -> TokenizerInfo:
    """The tokenizer of all sources of `config`. Raises UserError where there are no shards, or several tokenizers."""
    return open_shards(config).tokenizer


def _check_one_tokenizer(datasets: dict[str, DatasetInfo]) -> None:
    first, *others = datasets
    for other in others:
        if datasets[other].tokenizer.sha256 != datasets[first].tokenizer.sha256:
            raise UserError(
                f'sources "{first}" and "{other}" were tokenized by different tokenizers '
                f"({datasets[first].tokenizer.path}, {datasets[other].tokenizer.path}); "
                "build both with one, or leave one out of data.mixture"
            )
