"""Parts of a tensor: the boxes of a flat range are its elements, in their order."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from parallel.engines.slices import FlatSlice, Slice, boxes_of_range


@given(st.lists(st.integers(1, 5), max_size=4), st.data())
def test_boxes_hold_the_elements_of_the_range_in_their_order(shape: list[int], data: st.DataObject) -> None:
    count = math.prod(shape)
    start = data.draw(st.integers(0, count - 1))
    end = data.draw(st.integers(start + 1, count))
    full = torch.arange(count).view(shape)
    boxes = list(boxes_of_range(shape, start, end))
    found = [
        full[tuple(slice(o, o + n) for o, n in zip(offsets, box, strict=True))].reshape(-1) for offsets, box in boxes
    ]
    assert torch.equal(torch.cat(found), torch.arange(start, end))
    assert all(values.numel() == math.prod(box) for values, (_, box) in zip(found, boxes, strict=True))
    assert len(boxes) <= max(1, 2 * len(shape) - 1)


def test_a_flat_slice_of_a_tensor_rank_lies_in_its_columns() -> None:
    full = torch.arange(24.0).view(3, 8)
    part = FlatSlice(torch.zeros(6), 1, start=2, shape=(3, 4))  # of columns 4 to 7 on the second of two ranks
    part.fill(full[:, 4:])
    assert part.full_shape(2) == (3, 8)
    assert [(offsets, box.tolist()) for offsets, box in part.boxes(1)] == [
        ((0, 6), [[6.0, 7.0]]),
        ((1, 4), [[12.0, 13.0, 14.0, 15.0]]),
    ]
    (whole,) = Slice(full[:, 4:], 1).boxes(1)
    assert whole[0] == (0, 4)
    assert torch.equal(whole[1], full[:, 4:])
