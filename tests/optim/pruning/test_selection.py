"""The choice of the k smallest against sorting: random scores with many ties, in parts, groups and copies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optim.pruning.selection import Candidates, select_smallest


def candidates_of(scores: list[Tensor], cuts: list[int], groups: list[int]) -> list[Candidates]:
    """Cuts each parameter in two parts, as two ranks hold it."""
    parts = []
    for number, (values, cut) in enumerate(zip(scores, cuts, strict=True)):
        for first, part in ((0, values[:cut]), (cut, values[cut:])):
            positions = torch.arange(first, first + len(part))
            parts.append(Candidates(number, groups[number], True, lambda p=part: p, lambda p=positions: p))
    return parts


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    seed=st.integers(0, 10**6),
    values=st.integers(1, 30),
    share=st.floats(0, 1),
    in_groups=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_the_choice_is_that_of_a_stable_sort(
    sizes: list[int], seed: int, values: int, share: float, in_groups: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.randint(values, (size,), generator=generator).float() * 0.37 for size in sizes]
    cuts = [int(torch.randint(size + 1, (), generator=generator)) for size in sizes]
    groups = [number % 2 if in_groups else 0 for number in range(len(sizes))]
    count = [
        int(share * sum(size for size, g in zip(sizes, groups, strict=True) if g == group))
        for group in range(max(groups) + 1)
    ]
    chosen = select_smallest(
        candidates_of(scores, cuts, groups),
        torch.tensor(count),
        parameters=len(sizes),
        largest=max(sizes),
        total=lambda x: x,
    )
    together = [torch.cat(chosen[2 * number : 2 * number + 2]) for number in range(len(sizes))]
    for group, wanted in enumerate(count):
        members = [number for number in range(len(sizes)) if groups[number] == group]
        order = torch.cat([scores[number] for number in members]).sort(stable=True).indices[:wanted]
        expected = torch.zeros(sum(sizes[number] for number in members), dtype=torch.bool)
        expected[order] = True
        assert torch.equal(torch.cat([together[number] for number in members]), expected)


def test_a_copy_that_is_not_counted_gets_the_same_choice() -> None:
    scores = torch.tensor([3.0, 1.0, 2.0, 1.0])
    parts = [Candidates(0, 0, counted, lambda: scores, lambda: torch.arange(4)) for counted in (True, False)]
    one, other = select_smallest(parts, torch.tensor([2]), parameters=1, largest=4, total=lambda x: x)
    assert one.tolist() == other.tolist() == [False, True, False, True]


@pytest.mark.parametrize("scores", [[0.0] * 300, [1e-40, 1e-45, 0.0, 3e38, 1e-38], [5.0]])
def test_zeros_denormals_and_large_scores(scores: list[float]) -> None:
    values = torch.tensor(scores)
    part = Candidates(0, 0, True, lambda: values, lambda: torch.arange(len(values)))
    for wanted in {0, 1, len(scores) // 2, len(scores)}:
        (chosen,) = select_smallest(
            [part], torch.tensor([wanted]), parameters=1, largest=len(values), total=lambda x: x
        )
        expected = torch.zeros_like(chosen)
        expected[values.sort(stable=True).indices[:wanted]] = True
        assert torch.equal(chosen, expected)
