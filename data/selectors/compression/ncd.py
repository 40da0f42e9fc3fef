"""The score of ZIP-FIT, exactly: one minus the mean normalised compression distance to the targets.

The distance of the texts x and y is NCD(x, y) = (C(x + y) - min(C(x), C(y))) / max(C(x), C(y)), where C is the size in
bytes after compression (Cilibrasi and Vitányi 2005; arXiv:2410.18194, section 3).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from data.selectors.compression.compressors import Compressor

Float64s: TypeAlias = npt.NDArray[np.float64]
Int64s: TypeAlias = npt.NDArray[np.int64]
_DECIMALS = 12
CHUNK_BYTES = 16_000  # a chunk of a document and one of a target together fit into deflate's window of 32 KiB


@dataclass(frozen=True)
class TargetChunks:
    """The targets, cut into chunks, with the compressed size of each and its share in the mean over the targets."""

    contents: tuple[bytes, ...]
    sizes: Float64s  # [chunks]
    weights: Float64s  # [chunks], with sum 1

    @cached_property
    def longest(self) -> int:
        """The bytes of the longest chunk."""
        return max(map(len, self.contents))


def make_target_chunks(compressor: Compressor, targets: Sequence[bytes]) -> TargetChunks:
    """Cut the targets into chunks and compress each once. Every target has the same weight, whatever its length."""
    assert targets, "a mean over no targets"
    chunks = [chunk for target in targets for chunk in cut(target)]
    weights = [weight / len(targets) for target in targets for weight in chunk_weights(cut(target)).tolist()]
    return TargetChunks(tuple(chunks), np.array([compressor.size(chunk) for chunk in chunks], float), np.array(weights))


def cut(content: bytes) -> list[bytes]:
    """Cut a text into the fewest chunks of at most CHUNK_BYTES, equally long but for one byte; an empty text is one."""
    count = max(1, -(-len(content) // CHUNK_BYTES))
    ends = [len(content) * number // count for number in range(count + 1)]
    return [content[start:end] for start, end in itertools.pairwise(ends)]


def chunk_weights(chunks: Sequence[bytes]) -> Float64s:
    """Return each chunk's share of the bytes of its document, [chunks]."""
    lengths = np.array([len(chunk) for chunk in chunks], dtype=np.float64)
    return lengths / lengths.sum() if lengths.any() else np.ones(1)


def mean_over_chunks(rows: Sequence[Float64s], chunks: Sequence[bytes]) -> Float64s:
    """Return the mean of the rows [chunks][values] of a document's chunks, weighted by their bytes, [values]."""
    if len(rows) == 1:  # is most of the time, and quick
        return rows[0]
    mean: Float64s = (np.stack(rows) * chunk_weights(chunks)[:, None]).sum(axis=0)
    return mean


class Comparison:
    """A document that is compared with target chunks, some at a time; the compressor reads each of its chunks once."""

    def __init__(self, compressor: Compressor, content: bytes, targets: TargetChunks) -> None:
        self._compressor, self._content, self._targets = compressor, content, targets

    def similarities(self, numbers: Int64s) -> Float64s:
        """Return 1 - NCD(document, target chunk) for the target chunks of these numbers, [numbers].

        A document of several chunks has the mean over them, weighted by their bytes.
        """
        contents = [self._targets.contents[number] for number in numbers.tolist()]
        sizes = self._targets.sizes[numbers]
        rows = []
        for own, joint_size in self._chunks:
            joint = np.array([joint_size(content) for content in contents], dtype=np.float64)
            rows.append(1 - (joint - np.minimum(own, sizes)) / np.maximum(own, sizes))
        return mean_over_chunks(rows, cut(self._content))

    @cached_property
    def _chunks(self) -> list[tuple[float, Callable[[bytes], int]]]:
        """The size of each chunk of the document, and the function that gives its size with another text."""
        primed = [self._compressor.prime(chunk, longest=self._targets.longest) for chunk in cut(self._content)]
        return [(float(joint_size(b"")), joint_size) for joint_size in primed]


def similarities(compressor: Compressor, content: bytes, targets: TargetChunks) -> Float64s:
    """Return 1 - NCD(content, target chunk) for each target chunk, [target chunks]."""
    return Comparison(compressor, content, targets).similarities(np.arange(len(targets.contents)))


def mean_similarity(similarities: Float64s, targets: TargetChunks) -> float:
    """Return the score of a document, from its similarities to all target chunks.

    It is rounded, since equal means must be ties, whatever the order of their terms.
    """
    return round(float((similarities * targets.weights).sum()), _DECIMALS)
