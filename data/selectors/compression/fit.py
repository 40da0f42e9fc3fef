"""What ZIP-FIT learns from a sample of the pool: how to estimate scores, and how well that agrees with exact ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data.selectors.compression.agreement import rank_correlation, top_recalls
from data.selectors.compression.compressors import Compressor
from data.selectors.compression.distilled import fit_linear_model
from data.selectors.compression.ncd import make_target_chunks, mean_similarity, similarities
from data.selectors.compression.prefilter import Sample, cross_fitted_scores, fit_prefilter, log_sizes
from data.selectors.compression.summaries import Summaries, cluster_targets, fit_correction

if TYPE_CHECKING:
    from data.selectors.base import Arrays


def fit_to_sample(
    compressor: Compressor,
    targets: Sequence[bytes],
    contents: Sequence[bytes],
    *,
    num_used: int,
    estimates: bool,
    top_share: float | None,
) -> Arrays:
    """Score a sample of the pool exactly, and fit to it what the mode needs.

    Documents are compared with the first `num_used` targets; the measurements compare with the scores by all of them.
    An estimate of a document is that of a fit to the others. With `top_share`, a prefilter is fitted to the estimates;
    without it they are what documents are ranked by, and comparisons with a few summaries of the targets correct them.
    """
    all_targets, used = (make_target_chunks(compressor, some) for some in (targets, targets[:num_used]))
    rows = np.stack([similarities(compressor, content, all_targets) for content in contents])
    exact = np.array([mean_similarity(row, all_targets) for row in rows])
    rows = rows[:, : len(used.contents)]
    scores = np.array([mean_similarity(row, used) for row in rows])
    fitted: dict[str, Any] = {}
    estimated = final = scores
    if estimates:
        distilled = fit_linear_model(used, contents, scores)
        estimated = final = distilled.left_out_estimates
        fitted |= vars(distilled.model)
        if top_share is not None:
            sizes = log_sizes([len(content) for content in contents], distilled.lz4_bytes)
            sample = Sample(rows, scores, estimated, sizes)
            fitted |= fit_prefilter(sample, top_share=top_share).to_arrays()
            final = cross_fitted_scores(sample, top_share=top_share)
        else:
            clusters = cluster_targets(rows)
            summaries = Summaries(compressor, used, clusters)
            features = np.stack([summaries.features(content) for content in contents])
            correction, estimated = fit_correction(clusters, features, distilled.left_out_estimates, scores)
            fitted |= correction.to_arrays()
            final = estimated
    lengths = np.array([len(content) for content in contents], dtype=np.float64)
    return fitted | {
        "sample_documents": np.array(len(contents)),
        "top_recalls": top_recalls(exact, final),
        "estimate_correlation": np.array(rank_correlation(exact, estimated)),
        "length_correlation": np.array(rank_correlation(exact, lengths)),
    }
