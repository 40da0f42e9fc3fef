"""`dataset.json`: the description of one source's shards, and the contract between the build and the loader.

SHARDS/tokenizer.json
SHARDS/SOURCE/dataset.json
SHARDS/SOURCE/train/*.ds  *.ds.index  [*.ds.loss]     datatrove's format: little-endian tokens without a header,
SHARDS/SOURCE/held_out/*.ds ...                       uint64 exclusive ends of documents, one byte a token
SHARDS/SOURCE/train/*.ds.hashes                       uint64 hash of each document's text, by which scores are joined
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from settings import Settings, UserError, parse
from settings.files import file_sha256, read_json

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")
FILE_NAME = "dataset.json"


class ShardFile(Settings):
    """One `.ds` file with the files beside it, named relative to the source's folder."""

    path: str
    tokens: int = Field(ge=0)
    documents: int = Field(ge=0)
    sha256: str
    index_sha256: str
    loss_sha256: str | None = None
    document_hashes_sha256: str | None = None  # None in shards of earlier versions

    @property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of the shard's file, its index, its loss mask and its documents' hashes, by path."""
        optional = {".loss": self.loss_sha256, ".hashes": self.document_hashes_sha256}
        given = {f"{self.path}{suffix}": sha256 for suffix, sha256 in optional.items() if sha256}
        return {self.path: self.sha256, f"{self.path}.index": self.index_sha256, **given}


class SplitInfo(Settings):
    """One split of a source; `files` are in the order in which they are read."""

    documents: int = Field(ge=0)
    tokens: int = Field(ge=0)
    text_bytes: int = Field(ge=0)  # in UTF-8; converts losses to bits per byte
    files: tuple[ShardFile, ...]


class TokenizerInfo(Settings):
    """The tokenizer that made the tokens; `path` is relative to the shards' folder."""

    path: str
    sha256: str
    vocab_size: int = Field(ge=1, le=2**32)  # token ids take four bytes at most
    eos_id: int


class Amount(Settings):
    """A number of documents, and their bytes of text in UTF-8."""

    documents: int
    bytes: int


class SelectionInfo(Settings):
    """How the documents to train on were chosen from this source's pool. SHARDS/selection holds the full record."""

    method: dict[str, Any]  # data.select of the config that built it
    targets: int
    targets_sha256: str  # of the hashes of the targets, 8 bytes each, sorted
    inputs: dict[str, str]  # the fingerprints of the files of targets and of stored scores, by path
    pool: Amount
    chosen: Amount


class DatasetInfo(Settings):
    """The content of `dataset.json`."""

    format: Literal[1] = 1
    source: str
    licence: str
    language: str
    tokenizer: TokenizerInfo
    token_bytes: Literal[2, 4]
    pipeline: dict[str, Any]  # the config that built it
    splits: dict[Split, SplitInfo]
    selection: SelectionInfo | None = None


def read_dataset(folder: Path) -> DatasetInfo:
    """Read SHARDS/SOURCE/dataset.json. Raises UserError if it is missing or not of this form."""
    path = folder / FILE_NAME
    missing = f"no shards in {folder}: {path} does not exist; build them with `lehr data build`"
    return parse(DatasetInfo, read_json(path, missing=missing), source=str(path))


def check_hash(path: Path, expected: str) -> None:
    """Raise UserError if a file's SHA-256 is not the one that dataset.json records."""
    try:
        found = file_sha256(path)
    except OSError as error:
        raise UserError(unreadable_message(path, error)) from None
    if found != expected:
        raise UserError(altered_message(path, found=found, expected=expected))


def unreadable_message(path: Path, error: OSError) -> str:
    """Return the message for a file of the shards that cannot be read."""
    return f"{path} cannot be read ({error.strerror}); build the shards again with `lehr data build`"


def altered_message(path: Path, *, found: str, expected: str) -> str:
    """Return the message for a file of the shards that has another SHA-256 than dataset.json records."""
    return (
        f"{path} was altered since the shards were built: its SHA-256 is {found[:16]}…, dataset.json says "
        f"{expected[:16]}…; copy it again, or build the shards again with `lehr data build`"
    )
