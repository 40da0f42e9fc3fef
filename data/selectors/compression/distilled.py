"""An estimate of the exact score by a linear model over hashed byte n-grams, fitted to exact scores of a sample.

With the saving s(x, y) = C(x) + C(y) - C(x + y), the exact score is the mean of s(x, y) / max(C(x), C(y)) over the
targets y. The saving comes from n-grams that the two share, and from one table of codes in place of two, which is worth
more the more alike their bytes are distributed. So the model is h(x) a(x) + b(x): h(x) is the mean of
1 / max(C(x), C(y)), with C by LZ4, which is quick, and a and b are linear in the counts of bytes and in the distinct
n-grams. The weight of an n-gram depends on its length and on the share of the targets that has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from data.selectors.compression.compressors import Lz4
from data.selectors.compression.ncd import TargetChunks, chunk_weights, cut, mean_over_chunks
from data.selectors.compression.ngrams import ORDERS, Buckets, DistinctNgrams, order_of, target_shares
from data.selectors.compression.ridge import fit_ridge

Float32s: TypeAlias = npt.NDArray[np.float32]
Float64s: TypeAlias = npt.NDArray[np.float64]
_BYTES = 256
_BYTE_PRIOR = 0.03  # of a byte's coefficient, relative to one for n-grams: a small sample has few documents a byte
_LIMIT = 1.0  # of an estimate: texts that are unlike the sample's may be far out


@dataclass(frozen=True)
class LinearModel:
    """The weights of a(x) in row 0 and of b(x) in row 1."""

    ngram_weights: Float32s  # [2, buckets]
    byte_weights: Float32s  # [2, 256 + 1], the last is the constant


class Estimate(NamedTuple):
    """The estimate of an exact score, and the size of the text by LZ4, which the estimate needs anyway."""

    score: float
    lz4_bytes: int


class Estimator:
    """Estimates scores with a fitted model; the targets are those of the fit."""

    def __init__(self, targets: TargetChunks, model: LinearModel) -> None:
        self.features = _ChunkFeatures(targets)
        self.model = model

    def estimate(self, content: bytes) -> Estimate:
        """Return the estimate of the exact score; that of a text of several chunks is the mean weighted by bytes."""
        chunks = cut(content)
        sizes = [self.features.lz4.size(chunk) for chunk in chunks]
        estimates = np.array([self._estimate_chunk(chunk, size) for chunk, size in zip(chunks, sizes, strict=True)])
        return Estimate(float(np.clip((estimates * chunk_weights(chunks)).sum(), -_LIMIT, _LIMIT)), sum(sizes))

    def _estimate_chunk(self, chunk: bytes, size: int) -> float:
        buckets, counts = self.features.buckets(chunk), self.features.byte_counts(chunk)
        a, b = (
            float(ngrams.take(buckets).sum(dtype=np.float64) + (of_bytes * counts).sum(dtype=np.float64))
            for ngrams, of_bytes in zip(self.model.ngram_weights, self.model.byte_weights, strict=True)
        )
        return self.features.scale(size) * a + b


@dataclass(frozen=True)
class DistilledFit:
    """A fitted model, and what it estimates for each document of its sample when fitted to the others."""

    model: LinearModel
    left_out_estimates: Float64s  # [documents]
    lz4_bytes: Float64s  # [documents]: their sizes by LZ4


def fit_linear_model(targets: TargetChunks, contents: Sequence[bytes], scores: Float64s) -> DistilledFit:
    """Fit the model to the exact scores [documents] of a sample, by ridge regression."""
    shares = target_shares(targets)
    features = _ChunkFeatures(targets)
    sizes = [[features.lz4.size(chunk) for chunk in cut(content)] for content in contents]
    rows = np.stack([_document_features(features, *each, shares=shares) for each in zip(contents, sizes, strict=True)])
    num_ngram_features = rows.shape[1] // 2 - _BYTES - 1
    priors = np.tile(np.repeat([1.0, _BYTE_PRIOR], [num_ngram_features, _BYTES + 1]), 2)
    fitted = fit_ridge(rows, scores, priors)
    of_ngrams, of_bytes = np.split(fitted.coefficients.reshape(2, -1), [num_ngram_features], axis=1)
    of_bytes[1, -1] += fitted.intercept
    functions = _share_functions(shares.reshape(len(ORDERS), -1))
    weights = np.einsum("aof,fob->aob", of_ngrams.reshape(2, len(ORDERS), -1), functions).reshape(2, -1)
    model = LinearModel(weights.astype(np.float32), of_bytes.astype(np.float32))
    estimates = np.clip(fitted.left_out_predictions, -_LIMIT, _LIMIT)
    return DistilledFit(model, estimates, np.array([sum(of_chunks) for of_chunks in sizes], dtype=np.float64))


class _ChunkFeatures:
    """What the model looks at in a chunk."""

    def __init__(self, targets: TargetChunks) -> None:
        self.lz4, self.ngrams = Lz4(), DistinctNgrams()
        self.target_weights = targets.weights
        self.target_sizes = np.array([self.lz4.size(content) for content in targets.contents], dtype=np.float64)

    def buckets(self, chunk: bytes) -> Buckets:
        return self.ngrams.buckets(chunk)

    def byte_counts(self, chunk: bytes) -> Float32s:
        """Return how often each byte occurs, and a 1 for the constant, [256 + 1]."""
        counts = np.ones(_BYTES + 1, dtype=np.float32)
        counts[:_BYTES] = np.bincount(np.frombuffer(chunk, dtype=np.uint8), minlength=_BYTES)
        return counts

    def scale(self, size: int) -> float:
        """Return h(x) of a chunk, given its size by LZ4, in thousandths, so that features have like sizes."""
        return float((1000 * self.target_weights / np.maximum(size, self.target_sizes)).sum())


def _document_features(features: _ChunkFeatures, content: bytes, sizes: Sequence[int], *, shares: Float32s) -> Float64s:
    """Return the regressors of a document: the mean over its chunks, weighted by bytes, [2 x (n-grams, bytes, 1)].

    `sizes` [chunks] are those by LZ4.
    """
    chunks = cut(content)
    rows = []
    for chunk, size in zip(chunks, sizes, strict=True):
        buckets = features.buckets(chunk)
        sums = [
            np.bincount(order_of(buckets), weights=values, minlength=len(ORDERS))
            for values in _share_functions(shares[buckets])
        ]
        row: Float64s = np.concatenate((np.stack(sums, axis=1).ravel(), features.byte_counts(chunk)))
        rows.append(np.concatenate((row * features.scale(size), row)))
    return mean_over_chunks(rows, chunks)


def _share_functions(shares: Float32s) -> Float64s:
    """Return functions of the share of targets that has an n-gram; its weight is a sum of them, [functions, ...]."""
    exact = shares.astype(np.float64)
    return np.stack((np.ones_like(exact), exact > 0, np.sqrt(exact), exact, exact**2))
