"""The shards that a config names, opened by their dataset.json files without reading a token."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from data.config import DataConfig
from data.shards.dataset_json import FILE_NAME, DatasetInfo, Split, SplitInfo, TokenizerInfo, check_hash, read_dataset
from data.shards.stream import TokenStream
from settings import UserError
from settings.errors import nearest
from settings.files import is_folder, read_json

_EMPTY = SplitInfo(documents=0, tokens=0, text_bytes=0, files=())


@dataclass(frozen=True)
class Shards:
    """The sources of a run, sorted by name: a source's number is its index here."""

    folder: Path
    datasets: dict[str, DatasetInfo]

    @property
    def names(self) -> tuple[str, ...]:
        """The source names by source number, as in Batch.sources."""
        return tuple(self.datasets)

    @property
    def tokenizer(self) -> TokenizerInfo:
        """The tokenizer, which all sources share."""
        return next(iter(self.datasets.values())).tokenizer

    def tokenizer_file(self) -> Path:
        """Return the path of tokenizer.json. Raises UserError if it is missing or did not make the tokens."""
        path = self.folder / self.tokenizer.path
        check_hash(path, self.tokenizer.sha256)
        return path

    def split(self, name: str, split: Split) -> SplitInfo:
        """Return a source's split, or an empty one if its dataset.json has none."""
        return self.datasets[name].splits.get(split, _EMPTY)

    def digests(self) -> dict[str, str]:
        """Return for each source one hash of what training reads: its shards in their order, with their indexes."""
        plain = {name: info.to_plain() for name, info in self.datasets.items()}
        for info in plain.values():
            for split in info["splits"].values():
                for file in split["files"]:
                    del file["document_hashes_sha256"]  # which training does not read, and earlier builds do not write
        return {
            name: hashlib.sha256(json.dumps([info["token_bytes"], info["splits"]], sort_keys=True).encode()).hexdigest()
            for name, info in plain.items()
        }

    def stream(self, name: str, split: Split) -> TokenStream:
        """Return a source's split as one stream. Its files are opened when they are read."""
        token_bytes = self.datasets[name].token_bytes
        return TokenStream(self.folder / name, self.split(name, split), token_bytes=token_bytes)


def open_shards(config: DataConfig) -> Shards:
    """Read the dataset.json of every source that `config` names, or of all sources if it names none; opens no shard.

    A source of which the build kept no document, such as one that a selection chose nothing of, is left out. Raises
    UserError for a missing folder, another source without shards, a mixture that names an unknown source, and sources
    that were tokenized by different tokenizers.
    """
    folder = config.shards
    if not is_folder(folder):
        raise UserError(
            f"data.shards = {folder}: there is no such folder; build the shards with `lehr data build`, "
            "or name the folder to which they were moved"
        )
    available = sorted(path.parent.name for path in folder.glob(f"*/{FILE_NAME}"))
    if not available:
        raise UserError(f"data.shards = {folder}: it holds no source; build the shards with `lehr data build`")
    named: set[str] = set()
    for key, mixture in config.mixtures().items():
        for name in mixture:
            if name not in available:
                raise UserError(f'{key}: no shards of a source "{name}" are in {folder}{nearest(name, available)}')
        named.update(mixture)
    if not all(config.mixtures().values()):  # some stage draws from all sources, in proportion to tokens
        named.update(config.sources.keys() - _left_empty(folder) or available)
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


def _left_empty(folder: Path) -> frozenset[str]:
    """Return the sources of which the build of these shards kept no document, by its report if there is one."""
    path = folder / "build.json"
    sources = read_json(path).get("sources", {}) if path.exists() else {}
    return frozenset(name for name, source in sources.items() if not any(source.get("documents", {"": 1}).values()))


def shard_tokenizer(config: DataConfig) -> TokenizerInfo:
    """Return the tokenizer that all sources of `config` share. Raises UserError as `open_shards` does."""
    return open_shards(config).tokenizer


def _check_one_tokenizer(datasets: dict[str, DatasetInfo]) -> None:
    """Raise UserError if two sources were tokenized by different tokenizers."""
    first, *others = datasets
    for other in others:
        if datasets[other].tokenizer.sha256 != datasets[first].tokenizer.sha256:
            raise UserError(
                f'sources "{first}" and "{other}" were tokenized by different tokenizers '
                f"({datasets[first].tokenizer.path}, {datasets[other].tokenizer.path}); "
                "build both with one, or leave one out of data.mixture"
            )
