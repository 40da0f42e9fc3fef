"""The layouts of a plan: all that the checks of a config allow and no other, in the order of their times."""

from __future__ import annotations

import itertools
import time
from typing import Any, get_args

import pytest
from planning_steps import MODEL, machine_of, step_of

from model.config import ModelConfig
from model.memory import LayoutSizes
from model.recompute import Recompute
from parallel.config import ParallelConfig
from parallel.layout import Workload, check_layout, layout_problems
from parallel.planning.candidates import Choice, enumerate_choices
from parallel.planning.layout_plan import best_of_each, make_plan, with_figures
from parallel.planning.machine_file import load_machine
from parallel.planning.reasons import what_would_change, why_first
from parallel.planning.shape import StepShape
from settings import UserError

GPUS, ROWS = 8, 48


def possible_by_brute_force() -> set[Choice]:
    """Asks for every combination of numbers, divisors or not."""
    numbers = range(1, GPUS + 1)
    found = set()
    for tensor, pipeline, virtual, zero, sequence, rows in itertools.product(
        numbers, numbers, numbers, (0, 1, 2, 3), (False, True), range(1, ROWS + 1)
    ):
        if GPUS % (tensor * pipeline):
            continue
        data = GPUS // (tensor * pipeline)
        if (data == 1 and zero == 0) or (tensor == 1 and sequence) or MODEL.num_layers % (pipeline * virtual):
            continue  # the same as another one, or with stages of unequal length
        parallel = ParallelConfig(
            tensor=tensor, pipeline=pipeline, virtual_stages=virtual, data=data, zero=zero, sequence=sequence
        )
        work = Workload(world_size=GPUS, seq_length=32, micro_batch_size=rows, global_batch_size=ROWS)
        if not layout_problems(parallel, MODEL, work):
            found |= {Choice(parallel, rows, level) for level in get_args(Recompute)}
    return {one for one in found if one.parallel.data > 1 or one.parallel.zero == 1}


def test_every_possible_layout_is_found() -> None:
    found = enumerate_choices(
        ParallelConfig(), MODEL, gpus=GPUS, seq_length=32, global_batch_size=ROWS, needs_full_matrices=None
    )
    assert len(found.possible) == len(set(found.possible))
    assert set(found.possible) == possible_by_brute_force()
    assert "parallel.zero = 2 reduces gradients in every backward pass" in found.refused["parallel.zero"].example


def test_other_rules_and_full_matrices_refuse() -> None:
    plan = make_plan(
        step_of(),
        machine_of(),
        gpus=4,
        parallel=ParallelConfig(),
        needs_full_matrices="optim.name = conda",
        other_rule=lambda parallel: "optim.x = 1 needs one tensor rank" if parallel.tensor > 1 else None,
    )
    assert {one.choice.parallel.zero for one in plan.fitting} == {0, 1}
    assert {one.choice.parallel.tensor for one in plan.fitting} == {1}
    assert plan.refused["optim.x"].count > 0


def plan_of(*, gpus: int = 16, **figures: float) -> Any:
    figures = {"peak": 1e12, "memory_bandwidth": 1e11, "inside_bandwidth": 1e10, "between_bandwidth": 1e9, **figures}
    return make_plan(step_of(), machine_of(**figures), gpus=gpus, parallel=ParallelConfig())


def test_the_order_is_that_of_the_times_and_each_fits() -> None:
    whole = plan_of()
    needs = sorted(one.memory.device for one in whole.fitting)
    memory = needs[len(needs) // 2] / 0.9
    plan = plan_of(memory_bytes=memory)
    assert len(plan.fitting) + len(plan.too_large) == len(whole.fitting)
    assert all(one.memory.device <= 0.9 * memory for one in plan.fitting)
    assert all(one.memory.device > 0.9 * memory for one in plan.too_large)
    times = [one.seconds for one in plan.fitting]
    assert times == sorted(times)
    for one in plan.fitting:
        work = Workload(
            world_size=16, seq_length=32, micro_batch_size=one.choice.micro_batch_size, global_batch_size=64
        )
        check_layout(one.choice.parallel, MODEL, work)
    groups = best_of_each(plan.fitting)
    assert groups[0] == plan.best
    assert [one.seconds for one in groups] == sorted(one.seconds for one in groups)


def test_values_can_be_kept() -> None:
    kept = {"parallel.tensor": 2, "train.recompute": "full"}
    plan = make_plan(step_of(), machine_of(), gpus=8, parallel=ParallelConfig(), kept=kept)
    assert {(one.choice.parallel.tensor, one.choice.recompute) for one in plan.fitting} == {(2, "full")}
    with pytest.raises(UserError, match=r"no layout of 8 GPUs can be with parallel.tensor=3, for train.global_batch"):
        make_plan(step_of(), machine_of(), gpus=8, parallel=ParallelConfig(), kept={"parallel.tensor": 3})


def test_the_reasons_are_true() -> None:
    """The words about another machine agree with a plan for that machine."""
    plan = plan_of()
    assert any(line.startswith("parallel.") for line in why_first(plan))
    moved = what_would_change(plan)
    half = make_plan(step_of(), with_figures(plan.machine, between_bandwidth=0.5), gpus=16, parallel=ParallelConfig())
    named = any(line.startswith("With half the bandwidth between nodes") for line in moved)
    assert named == (half.best.choice != plan.best.choice)
    assert plan.with_machine(half.machine).seconds == half.best.seconds


def test_a_machine_on_which_only_slow_layouts_fit_has_a_first_one() -> None:
    plan = plan_of()
    least = min(plan.fitting, key=lambda one: one.memory.device)
    assert least.seconds > plan.best.seconds
    memory = 1.01 * least.memory.device / 0.9
    small = with_figures(plan.machine, memory_bytes=memory / plan.machine.memory_bytes.value)
    fitting = [one for one in plan.fitting if one.memory.device <= 0.9 * memory]
    assert 0 < len(fitting) < len(plan.fitting)
    assert plan.with_machine(small, most=1).choice == fitting[0].choice


def test_512_gpus_are_planned_in_seconds() -> None:
    model = ModelConfig(
        num_layers=80, hidden_size=8192, num_heads=64, num_kv_heads=8, ffn_size=28672, vocab_size=128256
    )
    sizes = LayoutSizes(bfloat16=True, device_type="cuda", fused_loss=True)
    step = StepShape(model, sizes, seq_length=8192, micro_batch_size=1, global_batch_size=1024)
    began = time.process_time()
    plan = make_plan(step, load_machine("h100"), gpus=512, parallel=ParallelConfig())
    what_would_change(plan)
    assert time.process_time() - began < 10  # 1.1 s on an idle core
    assert plan.best.memory.device < 0.9 * 85e9
