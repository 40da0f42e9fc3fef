"""One shard on disk: its tokens, ends and hashes of documents, and loss mask, each memory-mapped at its first use."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.shards.dataset_json import ShardFile
from settings import UserError

Array: TypeAlias = NDArray[Any]

END_TYPE: np.dtype[Any] = np.dtype("<u8")


class MappedShard:
    """The files of a shard. Making one costs nothing: a rank looks only at the files of which it reads something."""

    def __init__(self, folder: Path, file: ShardFile, token_type: np.dtype[Any]) -> None:
        self.file = file
        self._folder = folder
        self._token_type = token_type

    @cached_property
    def tokens(self) -> Array:
        """The tokens of all documents [file.tokens]."""
        return self._map("", self._token_type, self.file.tokens)

    @cached_property
    def ends(self) -> Array:
        """The exclusive end of each document [file.documents], in tokens of the shard."""
        return self._map(".index", END_TYPE, self.file.documents)

    @cached_property
    def loss_mask(self) -> Array | None:
        """Whether the prediction of each token counts [file.tokens]; None if that of every token does."""
        return None if self.file.loss_sha256 is None else self._map(".loss", np.dtype(np.bool_), self.file.tokens)

    @cached_property
    def document_hashes(self) -> Array:
        """The hash of each document's text [file.documents], uint64. Raises UserError if the shard records none."""
        if self.file.document_hashes_sha256 is None:
            raise UserError(
                f"{self._folder / self.file.path} has no hashes of documents: an earlier version wrote it; "
                "build the shards again with `lehr data build`"
            )
        return self._map(".hashes", END_TYPE, self.file.documents)

    def check(self) -> None:
        """Raise UserError if a file is missing, if its size is not dataset.json's, or if the index is of another shard.

        It looks at every file: one process of a node does this before training, and not every rank.
        """
        sizes = {self.file.path: self.file.tokens * self._token_type.itemsize}
        sizes[f"{self.file.path}.index"] = self.file.documents * END_TYPE.itemsize
        if self.file.loss_sha256:
            sizes[f"{self.file.path}.loss"] = self.file.tokens
        for name, expected in sizes.items():
            _check_size(self._folder, name, expected)
        if self.file.tokens:
            self._check_last_end()

    def _check_last_end(self) -> None:
        path = self._folder / f"{self.file.path}.index"
        first = max(self.file.documents - 1, 0) * END_TYPE.itemsize
        last = np.fromfile(path, END_TYPE, offset=first).tolist()
        if last != [self.file.tokens]:
            raise UserError(
                f"{path} ends with {last[0] if last else 'nothing'} but the shard has {self.file.tokens} tokens: "
                "they do not belong together; build the shards again with `lehr data build`"
            )

    def _map(self, suffix: str, dtype: np.dtype[Any], length: int) -> Array:
        """Maps a file as a read-only array, without a file descriptor (np.memmap holds one for each file).

        A corpus can have more shards than a process may open files, and a shuffled order soon touches all of them.
        """
        import torch  # late, since it takes seconds

        size = length * dtype.itemsize
        if size == 0:
            return np.empty(0, dtype=dtype)
        name = f"{self.file.path}{suffix}"
        try:
            mapped = torch.from_file(str(self._folder / name), shared=False, size=size, dtype=torch.uint8)
        except RuntimeError:
            _check_size(self._folder, name, size)  # explains what has happened to the file since it was checked
            raise
        array = mapped.numpy().view(dtype)
        array.flags.writeable = False
        return array


def _check_size(folder: Path, name: str, expected: int) -> None:
    path = folder / name
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise UserError(
            f"shard {path} cannot be opened ({error.strerror}) but {folder / 'dataset.json'} lists it; "
            "put it back or build the shards again with `lehr data build`"
        ) from None
    if size != expected:
        raise UserError(
            f"shard {path} has {size} bytes but {folder / 'dataset.json'} says {expected}: "
            "it is cut short or altered; copy it again, or build the shards again with `lehr data build`"
        )
