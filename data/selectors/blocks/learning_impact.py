"""Learning impact measurement (LIM): how closely a document's reward follows the mean reward while a model learns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from data.selectors.base import Float64s, Int64s


def learning_impact(rewards: Iterable[Float64s], groups: Int64s) -> Float64s:
    """Return s_i = 1 - sum_k (r_i^k - r_avg^k)² / sum_k (1 - r_avg^k)², [documents] (arXiv:2502.11886, section 2.2).

    `rewards` gives r^k [documents] in [0, 1] for each checkpoint k. `groups` [documents] are small numbers: the mean
    r_avg is taken over the documents of a group. A group whose rewards are all 1 follows its mean, and has s = 1.
    """
    sizes = np.maximum(np.bincount(groups), 1)
    distance_sums, normalisers = np.zeros(len(groups)), np.zeros(len(sizes))
    for reward in rewards:
        means = np.bincount(groups, reward, len(sizes)) / sizes
        distance_sums += (reward - means[groups]) ** 2
        normalisers += (1 - means) ** 2
    of_documents = normalisers[groups]
    return 1 - np.divide(distance_sums, of_documents, out=np.zeros_like(distance_sums), where=of_documents > 0)
