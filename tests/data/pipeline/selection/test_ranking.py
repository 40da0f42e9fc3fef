"""The first documents of each group, compared with sorting all of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data.pipeline.selection.ranking import RankedTask, descending_keys, take_first, total_weights

few = st.integers(0, 3)
documents = st.tuples(st.sampled_from([0.0, -0.0, 1.5, -2.0, 1e300, float("inf"), float("-inf")]), few, few, few)


def by_sorting(tasks: list[RankedTask], limits: list[int]) -> list[list[bool]]:
    order = sorted(
        (*task.keys[document].tolist(), number, document)
        for number, task in enumerate(tasks)
        for document in range(len(task.weights))
    )
    taken = [[False] * len(task.weights) for task in tasks]
    remaining = list(limits)
    for *_, number, document in order:
        group, weight = int(tasks[number].groups[document]), int(tasks[number].weights[document])
        taken[number][document] = weight <= remaining[group]
        remaining[group] = remaining[group] - weight if taken[number][document] else -1
    return taken


def make_task(rows: list[tuple[float, int, int, int]]) -> RankedTask:
    scores = np.array([row[0] for row in rows], dtype=np.float64)
    hashes = np.array([row[1] for row in rows], dtype=np.uint64) * np.uint64(2**62 + 12345)
    groups = np.array([row[2] for row in rows], dtype=np.int64)
    weights = np.array([1 + row[3] for row in rows], dtype=np.int64)
    return RankedTask(np.stack((descending_keys(scores), hashes), axis=1), groups, weights)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(documents, max_size=12), min_size=1, max_size=3),
    st.lists(st.integers(0, 40), min_size=4, max_size=4),
)
def test_takes_what_sorting_takes(rows: list[list[tuple[float, int, int, int]]], limits: list[int]) -> None:
    tasks = [make_task(own) for own in rows]
    found = [taken.tolist() for taken in take_first(lambda: tasks, np.array(limits))]
    assert found == by_sorting(tasks, limits)


def test_takes_the_best_of_many() -> None:
    rng = np.random.default_rng(0)
    scores, hashes = rng.normal(size=(5, 4000)), rng.integers(0, 2**63, size=(5, 4000), dtype=np.uint64)
    tasks = [
        RankedTask(np.stack((descending_keys(own), own_hashes), axis=1), np.zeros(4000, int), np.ones(4000, int))
        for own, own_hashes in zip(scores, hashes, strict=True)
    ]
    assert total_weights(tasks, groups=1).tolist() == [20000]
    taken = np.array(list(take_first(lambda: tasks, np.array([777]))))
    assert taken.sum() == 777
    assert scores[taken].min() > scores[~taken].max()
