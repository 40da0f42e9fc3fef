"""A correction of the linear model's estimate, by comparing a document with a few texts that stand for all targets.

A summary is made of pieces of the targets of one cluster. So a comparison with it says more of the mean over all
targets than one with a single target. The correction is linear in the estimate and in the savings that the compressor
makes with each summary, s(x, z) = C(x) + C(z) - C(x + z), as they are and times h(x) of distilled.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from data.selectors.compression.compressors import Compressor
from data.selectors.compression.ncd import TargetChunks, cut, mean_over_chunks
from data.selectors.compression.ridge import fit_ridge

if TYPE_CHECKING:
    from data.selectors.base import Arrays

Float64s: TypeAlias = npt.NDArray[np.float64]
Int64s: TypeAlias = npt.NDArray[np.int64]
_CLUSTERS = 3  # a comparison costs about as much as the linear model; four rank a little better, and cost a third more
_LENGTH = 0.8  # of a summary, relative to the mean target: half as long ranks worse, longer hardly better
_LEAST_PIECE_BYTES = 64
_THOUSANDTHS = 1000  # h(x) is taken in thousandths, so that features have like sizes


@dataclass(frozen=True)
class Correction:
    """The coefficients of the corrected score; the summaries follow from the cluster of each target chunk."""

    clusters: Int64s  # [target chunks]
    coefficients: Float64s  # [1 + features]: of the estimate, then of the features
    intercept: float

    def correct(self, estimates: Float64s, features: Float64s) -> Float64s:
        """Return the corrected scores of documents, [documents]; `features` are [documents, features]."""
        corrected: Float64s = (np.column_stack((estimates, features)) * self.coefficients).sum(axis=1) + self.intercept
        return corrected

    def to_arrays(self) -> Arrays:
        """Return what `from_arrays` reads."""
        intercept = np.array(self.intercept)
        return {"clusters": self.clusters, "correction": self.coefficients, "correction_intercept": intercept}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Correction:
        """Return the correction that `to_arrays` described."""
        clusters, coefficients = arrays["clusters"].astype(np.int64), arrays["correction"].astype(np.float64)
        return cls(clusters, coefficients, float(arrays["correction_intercept"]))


def fit_correction(
    clusters: Int64s, features: Float64s, estimates: Float64s, scores: Float64s
) -> tuple[Correction, Float64s]:
    """Fit the correction to exact scores; return it, and what a fit to the others gives for each document.

    `features` are [documents, features]. The `estimates` of documents must be those of a fit to the others.
    """
    fitted = fit_ridge(np.column_stack((estimates, features)), scores)
    return Correction(clusters, fitted.coefficients, fitted.intercept), fitted.left_out_predictions


def cluster_targets(rows: Float64s) -> Int64s:
    """Return the cluster of each target chunk, by which documents of a sample it is similar to.

    `rows` [documents, target chunks] are similarities. What all targets have in common is taken off, and each has the
    same length as a vector, so that clusters are of the same kind of text and not of the same size.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    if rows.shape[1] == 1:
        return np.zeros(1, dtype=np.int64)
    centred = rows - rows.mean(axis=0)
    centred -= centred.mean(axis=1, keepdims=True)
    vectors = (centred / np.maximum(np.linalg.norm(centred, axis=0), 1e-12)).T
    labels = fcluster(linkage(vectors, "ward"), _CLUSTERS, criterion="maxclust")
    clusters: Int64s = labels.astype(np.int64) - 1
    return clusters


class Summaries:
    """Compares documents with the summaries of the clusters."""

    def __init__(self, compressor: Compressor, targets: TargetChunks, clusters: Int64s) -> None:
        self._compressor, self._targets = compressor, targets
        length = round(_LENGTH * float(np.mean([len(content) for content in targets.contents])))
        members = [np.flatnonzero(clusters == number).tolist() for number in range(int(clusters.max()) + 1)]
        self.contents = [summarise([targets.contents[chunk] for chunk in of_one], length) for of_one in members]
        self._sizes = np.array([compressor.size(content) for content in self.contents], dtype=np.float64)
        self._longest = max(map(len, self.contents))

    def features(self, content: bytes) -> Float64s:
        """Return h(x), and the saving with each summary, times h(x) and as it is; the mean over chunks, [features]."""
        chunks = cut(content)
        return mean_over_chunks([self._chunk_features(chunk) for chunk in chunks], chunks)

    def _chunk_features(self, chunk: bytes) -> Float64s:
        joint_size = self._compressor.prime(chunk, longest=self._longest)
        own = joint_size(b"")
        savings = own + self._sizes - np.array([joint_size(content) for content in self.contents], dtype=np.float64)
        scale = float((_THOUSANDTHS * self._targets.weights / np.maximum(own, self._targets.sizes)).sum())
        return np.concatenate(([scale], scale * savings, savings))


def summarise(contents: Sequence[bytes], length: int) -> bytes:
    """Return a text of about `length` bytes, made of equally long pieces of the texts, or of the first ones if many.

    The first piece is from the beginning of its text, the last from the end of its own, and the others from between.
    """
    size = max(_LEAST_PIECE_BYTES, length // len(contents))
    used = contents[: max(1, length // size)]
    places = np.linspace(0, 1, len(used)).tolist() if len(used) > 1 else [0.0]
    starts = [round(place * max(0, len(content) - size)) for place, content in zip(places, used, strict=True)]
    return b"".join(content[start : start + size] for start, content in zip(starts, used, strict=True))
