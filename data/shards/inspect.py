"""A summary of a folder of shards: counts, whether hashes match, and a decoded sample of each source."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.shards.dataset_json import FILE_NAME, DatasetInfo, SelectionInfo, SplitInfo, read_dataset
from data.tokenizer import load_tokenizer
from settings import UserError
from settings.data_sizes import format_size
from settings.files import file_sha256

_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # with which text can look like other text


@dataclass(frozen=True)
class SplitView:
    """The summary of one split of a source."""

    name: str
    documents: int
    tokens: int
    bytes_per_token: float
    status: str  # "ok", or which file is missing or altered


@dataclass(frozen=True)
class SourceView:
    """The summary of one source."""

    name: str
    language: str
    licence: str
    splits: tuple[SplitView, ...]
    sample: str
    selection: str  # one line on how its documents were chosen; empty if all were taken


def inspect(shards: Path, *, sample_tokens: int) -> list[SourceView]:
    """Summarize every source of `shards`, sorted by name. Raises UserError if the folder holds none."""
    if not shards.is_dir():
        raise UserError(f"{shards} {'is a file' if shards.exists() else 'does not exist'}; name a folder of shards")
    folders = sorted(path.parent for path in shards.glob(f"*/{FILE_NAME}"))
    if not folders:
        raise UserError(f"{shards} holds no shards; build them with `lehr data build`")
    return [_view(folder, read_dataset(folder), shards, sample_tokens) for folder in folders]


def _view(folder: Path, info: DatasetInfo, shards: Path, sample_tokens: int) -> SourceView:
    splits = tuple(
        SplitView(
            name=name,
            documents=split.documents,
            tokens=split.tokens,
            bytes_per_token=split.text_bytes / split.tokens if split.tokens else 0.0,
            status=_tokenizer_fault(info, shards) or _file_fault(folder, split) or "ok",
        )
        for name, split in info.splits.items()
    )
    return SourceView(
        name=info.source,
        language=info.language,
        licence=info.licence,
        splits=splits,
        sample=_sample(folder, info, shards, sample_tokens),
        selection=_selection_line(info.selection) if info.selection else "",
    )


def _selection_line(selection: SelectionInfo) -> str:
    """Format how documents were chosen: by which selector, up to which limit, with how many targets, and how many."""
    method, pool, chosen = selection.method, selection.pool, selection.chosen
    limit = method["amount"] if method["threshold"] is None else method["threshold"]
    return (
        f"{method['selector']['name']}, {method['choose']}"
        + (f" {limit:,g}" if limit is not None else "")
        + (f", {selection.targets:,} targets" if selection.targets else "")
        + f": {chosen.documents:,} of {pool.documents:,} documents of the pool, "
        f"{format_size(chosen.bytes)} of {format_size(pool.bytes)}"
    )


def _tokenizer_fault(info: DatasetInfo, shards: Path) -> str:
    path = shards / info.tokenizer.path
    if not path.is_file():
        return f"{info.tokenizer.path} is missing"
    return "" if file_sha256(path) == info.tokenizer.sha256 else f"{info.tokenizer.path} was altered"


def _file_fault(folder: Path, split: SplitInfo) -> str:
    for file in split.files:
        for path, expected in file.hashes.items():
            if not (folder / path).is_file():
                return f"{path} is missing"
            if file_sha256(folder / path) != expected:
                return f"{path} was altered"
    return ""


def _sample(folder: Path, info: DatasetInfo, shards: Path, tokens: int) -> str:
    """Decode the first tokens of the first training file; empty if that or the tokenizer is missing."""
    train = info.splits.get("train")
    path = shards / info.tokenizer.path
    if not tokens or train is None or not train.files or not path.is_file():
        return ""
    first = folder / train.files[0].path
    if not first.is_file():
        return ""
    ids = np.fromfile(first, dtype="<u2" if info.token_bytes == 2 else "<u4", count=tokens)
    return without_controls(load_tokenizer(path).decode(ids.tolist(), skip_special_tokens=False))


def without_controls(text: str) -> str:
    r"""Return a text with control characters spelled like \x1b, so that a terminal does not obey them.

    Characters that turn the direction of writing are spelled too. Line ends, tabs and all other text stay as they are.
    """
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if (unicodedata.category(character) == "Cc" and character not in "\n\t") or character in _DIRECTIONS
        else character
        for character in text
    )
