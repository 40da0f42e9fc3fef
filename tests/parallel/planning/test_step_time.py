"""Work, traffic and time of a step, against the FLOPs that MFU counts and numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from planning_steps import MODEL, machine_of, step_of

from model.size import attention_flops_per_layer, flops_per_token, parameters
from parallel.planning.step_time import mfu, step_time
from parallel.planning.traffic import data_link, group_link, pipeline_link, sent_in_a_step
from parallel.planning.work import block_work, head_work


@pytest.mark.parametrize("layout", [{}, {"tensor": 2}, {"tensor": 2, "sequence": True, "data": 4}], ids=str)
def test_the_work_of_all_ranks_is_what_mfu_counts(layout: dict[str, Any]) -> None:
    step = step_of(**layout)
    block, head = block_work(step), head_work(step)
    work = step.layout.tensor * (MODEL.num_layers * (block.product_flops + 6 / 7 * block.attention_flops))
    work += step.layout.tensor * head.product_flops
    assert work == pytest.approx(step.tokens * flops_per_token(MODEL, step.seq_length))


def test_full_recomputation_is_one_more_forward_pass() -> None:
    plain, full = block_work(step_of()), block_work(step_of(recompute="full"))
    assert full.product_flops == pytest.approx(plain.product_flops * 4 / 3)
    tokens = 2 * 32
    forward = tokens * attention_flops_per_layer(MODEL, 32)
    assert (plain.attention_flops, full.attention_flops) == (3.5 * forward, 4.5 * forward)
    selective = block_work(step_of(recompute="selective"))
    assert plain.moved_bytes < selective.moved_bytes < full.moved_bytes
    assert selective.product_flops == plain.product_flops


def test_a_machine_without_other_costs_reaches_its_efficiency() -> None:
    """Attention computes its scores twice, which MFU does not count."""
    step, machine = step_of(), machine_of(peak=1e12, efficiency=0.5)
    time = step_time(step, machine)
    flops = 64 * 32 * flops_per_token(MODEL, 32)
    scores = 64 * 32 * MODEL.num_layers * 0.5 * attention_flops_per_layer(MODEL, 32)
    assert time.total == pytest.approx((flops + scores) / 0.5e12)
    assert mfu(step, time.total, machine) == pytest.approx(0.5 * flops / (flops + scores))


@pytest.mark.parametrize("virtual_stages", [1, 2])
def test_the_bubble_is_that_of_equal_stages(virtual_stages: int) -> None:
    """(p - 1) / (v m) of the rest, once the head is too small to count."""
    step = step_of(pipeline=4, virtual_stages=virtual_stages, seq_length=4096, global_rows=16)
    time = step_time(step, machine_of(peak=1e12))
    work = time.total - time.bubble
    assert step.micro_batches == 8
    assert time.bubble / work == pytest.approx(3 / (virtual_stages * 8), rel=0.12)
    first = step_time(step_of(seq_length=4096, global_rows=16), machine_of(peak=1e12)).total
    assert work > first / 4  # the last stage has the head


def test_bytes_sent_by_hand() -> None:
    """Each of 8 layers all-reduces [2 x 32, 64] in bfloat16 four times a micro-batch, each half of it twice."""
    machine = machine_of()
    (tensor,) = sent_in_a_step(step_of(tensor=2), machine)
    collective = 2 * 32 * 64 * 2
    assert tensor.bytes == 32 * (8 * 4 + 2) * collective  # and embedding and head once each; 32 micro-batches
    (tensor,) = sent_in_a_step(step_of(tensor=2, sequence=True), machine)
    assert tensor.bytes == 32 * (8 * 5 + 2) * collective  # the inputs of two products are gathered again
    (pipeline,) = sent_in_a_step(step_of(pipeline=2, virtual_stages=2), machine)
    assert pipeline.bytes == 32 * 2 * 2 * collective
    count = parameters(MODEL, seq_length=32)
    for zero, sent in ((0, 8), (1, 6), (2, 2 + 16 * 4), (3, 16 * 8)):  # 16 micro-batches of each data rank
        (data,) = sent_in_a_step(step_of(data=2, zero=zero), machine)
        assert data.bytes == pytest.approx(count * sent / 2)


def test_a_group_uses_the_links_that_it_needs() -> None:
    machine = machine_of(inside_bandwidth=100.0, between_bandwidth=10.0)
    assert group_link(machine, size=8, stride=1).bytes_per_second == 100
    assert group_link(machine, size=16, stride=1).bytes_per_second == 80  # all cards of a node
    assert group_link(machine, size=4, stride=4).bytes_per_second == 20  # two ranks of the group on a node
    assert group_link(machine, size=2, stride=8).bytes_per_second == 10
    assert data_link(step_of(tensor=2, data=4), machine).name == "inside a node"
    assert pipeline_link(step_of(tensor=2, data=2, pipeline=2), machine).name == "inside a node"
    assert pipeline_link(step_of(tensor=2, data=4, pipeline=2), machine).between


def test_only_zero_3_sends_behind_the_computation() -> None:
    quick = {"peak": 1e9, "inside_bandwidth": 1e9}
    for zero, hidden in ((1, False), (2, False), (3, True)):
        time = step_time(step_of(data=2, zero=zero), machine_of(**quick))
        assert (time.data == 0) is hidden
    step, slow = step_of(data=2, zero=3), machine_of(peak=1e9, inside_bandwidth=1e6)
    (sent,) = sent_in_a_step(step, slow)
    assert step_time(step, slow).total == pytest.approx(sent.bytes / 1e6)  # and the computation behind it
