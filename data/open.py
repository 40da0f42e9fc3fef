"""Which shards a run draws from, and every mistake in them that can be found before a process is started."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data.config import DataConfig
from data.dataset import FILE_NAME, DatasetInfo, Split, SplitInfo, TokenizerInfo, check_hash, read_dataset
from data.mixture import Mixture, Stage, integer_weights
from data.stream import Stream
from settings import UserError
from settings.errors import nearest
from settings.files import is_folder

# Weights in proportion to tokens are no decimals that somebody chose: parts of this many are close enough, and their
# table is made in a twentieth of a second.
_PARTS_BY_TOKENS = 2**16

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
    for key, mixture in _mixtures(config):
        for name in mixture:
            if name not in available:
                raise UserError(f'{key}: no shards of a source "{name}" are in {folder}{nearest(name, available)}')
        named.update(mixture)
    if not all(mixture for _, mixture in _mixtures(config)):  # some stage takes all sources, by tokens
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


def mixture_of(config: DataConfig, shards: Shards, *, split: Split, rows_per_step_global: int) -> Mixture:
    """The mixture of `config` over the sources of `shards`, its stages counted in rows."""
    stages: list[Stage] = []
    starts = [0, *(stage.from_step for stage in config.stages)]
    for from_step, (_, mixture) in zip(starts, _mixtures(config), strict=True):
        if mixture:
            weights = integer_weights([mixture.get(name, 0) for name in shards.names])
        else:
            tokens = [shards.split(name, split).tokens for name in shards.names]
            if not any(tokens):
                raise UserError(f"data.shards = {shards.folder}: no source has tokens in its {split} split")
            weights = integer_weights(tokens, longest=_PARTS_BY_TOKENS)
        if stages and stages[-1].first_row == from_step * rows_per_step_global:
            stages.pop()  # a stage from step 0 on stands in for data.mixture
        stages.append(Stage(from_step * rows_per_step_global, weights))
    return Mixture(stages)


def windows_of(tokens: int, seq_length: int) -> int:
    """How many whole windows a stream has: of seq_length + 1 tokens, each beginning with the last of the one before."""
    return max(tokens - 1, 0) // seq_length


def check_windows(config: DataConfig, shards: Shards, seq_length: int, split: Split = "train") -> None:
    """Raise UserError where a source that some stage draws from has not a single window."""
    drawn: set[str] = set()
    for _, mixture in _mixtures(config):
        drawn.update(
            name for name in shards.names if mixture.get(name, 0) or (not mixture and shards.split(name, split).tokens)
        )
    for name in sorted(drawn):
        tokens = shards.split(name, split).tokens
        if not windows_of(tokens, seq_length):
            remedy = f"set train.seq_length to at most {tokens - 1}, or leave" if tokens > 1 else "leave"
            raise UserError(
                f'train.seq_length = {seq_length}: source "{name}" has {tokens} tokens in its {split} split, and a row '
                f"takes seq_length + 1; {remedy} the source out of data.mixture"
            )


def check_shards(config: DataConfig, seq_length: int) -> Shards:
    """Everything a user can get wrong about shards, found before any process starts; raises UserError.

    Missing folders, sources, files; unknown sources in a mixture; files cut short or of another size; an index that
    does not fit its shard; an altered tokenizer; a source shorter than a row. All but what takes reading every byte:
    see data/verify.py.
    """
    shards = open_shards(config)
    check_windows(config, shards, seq_length)
    mixture_of(config, shards, split="train", rows_per_step_global=1)  # says so where there is nothing to draw from
    for name, dataset in shards.datasets.items():
        for split in dataset.splits:
            shards.stream(name, split)
    shards.tokenizer_file()
    return shards


def _mixtures(config: DataConfig) -> Iterable[tuple[str, dict[str, float]]]:
    """Every mixture of the config, by its key."""
    yield "data.mixture", config.mixture
    for number, stage in enumerate(config.stages):
        yield f"data.stages.{number}.mixture", stage.mixture


def _check_one_tokenizer(datasets: dict[str, DatasetInfo]) -> None:
    first, *others = datasets
    for other in others:
        if datasets[other].tokenizer.sha256 != datasets[first].tokenizer.sha256:
            raise UserError(
                f'sources "{first}" and "{other}" were tokenized by different tokenizers '
                f"({datasets[first].tokenizer.path}, {datasets[other].tokenizer.path}); "
                "build both with one, or leave one out of data.mixture"
            )
