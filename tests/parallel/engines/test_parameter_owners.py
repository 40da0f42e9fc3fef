"""Owner ranks: balanced, the only holders of their optimizer state, and sending parameters while they work."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from live_memory import bytes_of_tensors
from parallel_runs import Trajectory, Trial, example, global_batches, local_micro_batches, merged, on_a_rank, start
from processes import run_ranks
from torch import nn

from optim import adamw, chunks
from optim.optimizer import OPTIMIZERS
from parallel.config import ParallelConfig
from parallel.engines import parameter_all_gather
from parallel.engines.flat_buffers import FlatLayout
from parallel.engines.parameter_owners import assign_owners, update_order
from parallel.mesh import make_mesh
from parallel.parameter_shards import ParameterShard

# The parameters of a Llama of 60M: d 512, 8 layers, ffn 1376, vocabulary 32000.
LLAMA: dict[str, tuple[int, ...]] = {"embedding.weight": (32000, 512), "head.weight": (32000, 512)}
for _layer in range(8):
    LLAMA |= {f"layers.{_layer}.attention.{name}.weight": (512, 512) for name in ("q", "k", "v", "out")}
    LLAMA |= {f"layers.{_layer}.mlp.{name}.weight": (1376, 512) for name in ("gate", "up")}
    LLAMA |= {f"layers.{_layer}.mlp.down.weight": (512, 1376)}
    LLAMA |= {f"layers.{_layer}.{name}_norm.weight": (512,) for name in ("attention", "mlp")}


def loads(costs: list[float], owners: int) -> list[float]:
    chosen = assign_owners(costs, owners)
    return [sum(cost for cost, owner in zip(costs, chosen, strict=True) if owner == i) for i in range(owners)]


@given(costs=st.lists(st.floats(1, 1e6), min_size=1, max_size=7), owners=st.integers(1, 3))
@settings(deadline=None, max_examples=60, database=None)
def test_the_heaviest_owner_is_within_graham_s_bound_of_the_best(costs: list[float], owners: int) -> None:
    """The costliest first, to the least loaded: at most 4/3 - 1/3n of the best of all assignments (Graham 1969)."""
    best = min(
        max(sum(cost for cost, owner in zip(costs, chosen, strict=True) if owner == i) for i in range(owners))
        for chosen in itertools.product(range(owners), repeat=len(costs))
    )
    assert max(loads(costs, owners)) <= (4 / 3 - 1 / (3 * owners)) * best * (1 + 1e-12)


@pytest.mark.parametrize("owners", [2, 4, 8])
@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_owners_of_a_llama_have_equal_work(name: str, owners: int) -> None:
    """The heaviest owner does at most 5% more than the mean, unless one parameter alone does more."""
    costs = [OPTIMIZERS[name].model_validate({"lr": 1e-3}).cost(shape, key) for key, shape in LLAMA.items()]
    mean = sum(costs) / owners
    assert max(loads(costs, owners)) <= max(1.05 * mean, max(costs))


def shards(shapes: list[tuple[int, ...]]) -> list[ParameterShard]:
    return [
        ParameterShard(f"layers.{i}.weight", nn.Parameter(torch.empty(shape)), shape, None, False, False)
        for i, shape in enumerate(shapes)
    ]


@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12),
    owners=st.integers(1, 4),
    data=st.data(),
)
@settings(deadline=None, max_examples=60, database=None)
def test_a_layout_gives_every_element_one_place(
    shapes: list[tuple[int, ...]], owners: int, data: st.DataObject
) -> None:
    made = shards(shapes)
    chosen = data.draw(st.lists(st.integers(0, owners - 1), min_size=len(made), max_size=len(made)))
    order = update_order(made, [float(math.prod(shape)) ** 1.5 for shape in shapes])
    layout = FlatLayout.of([made[i] for i in order], [chosen[i] for i in order], owners)
    end = 0
    for owner, segment in enumerate(layout.segments):
        assert segment[0] == end
        for shard, first, last in layout.ranges_of(owner):
            assert first == end
            assert chosen[made.index(shard)] == owner
            assert last - first >= shard.parameter.numel()
            end = last
        assert segment[1] == end
    assert layout.size == end
    assert sorted(shard.name for shard in layout.order) == sorted(shard.name for shard in made)


def test_parameters_that_are_cheap_for_their_size_come_first_and_equal_shapes_stand_together() -> None:
    config = example("conda")
    names = list(LLAMA)
    made = [ParameterShard(name, nn.Parameter(torch.empty(0)), LLAMA[name], None, False, False) for name in names]
    ordered = [names[i] for i in update_order(made, [config.cost(LLAMA[name], name) for name in names])]
    assert ordered[:2] == ["embedding.weight", "head.weight"]
    matrices = [name for name in ordered if config.is_primary(name)]
    assert ordered[-len(matrices) :] == matrices
    assert [shape for shape, _ in itertools.groupby(LLAMA[name] for name in matrices)] == [
        (512, 1376),
        (1376, 512),
        (512, 512),
    ]


NAMES = OPTIMIZERS.names()


def trial(name: str, data: int, **parallel: Any) -> Trial:
    return Trial(
        model={"hidden_size": 32, "ffn_size": 48},
        parallel={"data": data, "zero": 1, **parallel},
        optimizer=example(name),
        steps=4,
        all_tokens=True,
    )


def _with_buckets_of(size: int, trials: dict[str, Trial]) -> dict[str, tuple[Trajectory, list[str]]]:
    """Returns each run and the events of its last step: `updated` a chunk of parameters, `send` a broadcast."""
    parameter_all_gather.BUCKET_BYTES = size
    chunks.CPU_SCRATCH_BYTES = adamw._CALL_BYTES = 1 << 12  # many chunks in a small model
    events: list[str] = []
    broadcast = torch.distributed.broadcast

    def noted(*args: Any, **values: Any) -> Any:
        if values.get("async_op"):
            events.append("send")
        return broadcast(*args, **values)

    torch.distributed.broadcast = noted
    gather = parameter_all_gather.ParameterAllGather.gather_as_updated

    def watched(self: parameter_all_gather.ParameterAllGather, updated: Any) -> None:
        def noting() -> Any:
            events.clear()
            for params in updated:
                events.append("updated")
                yield params

        gather(self, noting())

    parameter_all_gather.ParameterAllGather.gather_as_updated = watched  # type: ignore[method-assign]
    mesh = make_mesh(ParallelConfig(**next(iter(trials.values())).parallel), timeout_seconds=60)
    return {name: (on_a_rank(trial, mesh), list(events)) for name, trial in trials.items()}


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [{}, {"offload": "optimizer"}], ids=["", "offload"])
def test_buckets_that_are_sent_during_the_step_change_no_bit(parallel: dict[str, Any]) -> None:
    trials = {name: trial(name, 2, **parallel) for name in NAMES}
    at_the_end, on_the_way = (run_ranks(2, _with_buckets_of, size, trials, timeout=200) for size in (1 << 30, 1 << 12))
    for name in NAMES:
        wanted, found = (merged([rank[name][0] for rank in ranks]) for ranks in (at_the_end, on_the_way))
        assert found.losses == wanted.losses
        assert all(torch.equal(found.weights[key], weight) for key, weight in wanted.weights.items())
        assert [rank[name][1].count("send") for rank in at_the_end] == [2, 2]  # one bucket per owner
        for rank in on_the_way:
            events = rank[name][1]
            assert events.count("send") > 6
            last_updated = len(events) - 1 - events[::-1].index("updated")
            assert events[:last_updated].count("send") > 2, (name, events)  # while there was work to do


def _memory(trials: dict[str, Trial]) -> dict[str, tuple[dict[str, int], int, int]]:
    """Returns bytes: of each state tensor here, of all tensors after a step, of the model's weights and gradients."""
    mesh = make_mesh(ParallelConfig(**next(iter(trials.values())).parallel), timeout_seconds=60)
    found = {}
    for name, each in trials.items():
        before = bytes_of_tensors()
        _, parts = start(each, mesh)
        batch = next(global_batches(all_tokens=True))
        parts.engine.train_step(local_micro_batches(batch, each, mesh, parts), lr=1e-3)
        del batch
        held = {
            key: part.tensor.numel() * part.tensor.element_size()
            for key, part in parts.engine.state(saving=True).items()
            if key.startswith("optimizer.")
        }
        model = 2 * sum(parameter.nbytes for stage in parts.chunks for parameter in stage.parameters())
        found[name] = (held, bytes_of_tensors() - before, model)
        del parts
    return found


@pytest.mark.slow
def test_state_is_held_by_its_owner_alone_and_shrinks_with_the_number_of_data_ranks() -> None:
    by_ranks = {
        ranks: run_ranks(ranks, _memory, {name: trial(name, ranks) for name in NAMES}, timeout=200)
        for ranks in (1, 2, 4)
    }
    for name in NAMES:
        ((by_tensor, alone, model),) = (rank[name] for rank in by_ranks[1])
        full = largest = sum(by_tensor.values())
        for ranks in (2, 4):
            held = [rank[name][0] for rank in by_ranks[ranks]]
            assert sorted(item for each in held for item in each.items()) == sorted(by_tensor.items())  # nothing twice
            sizes = [sum(each.values()) for each in held]
            # Work is what is balanced, so memory is only nearly: the embedding is much of it and little work.
            assert max(sizes) < largest, (name, ranks)
            assert max(sizes) <= 1.5 * full / ranks, (name, ranks, [size / full for size in sizes])
            largest = max(sizes)
            for size, (_, everything, its_model) in zip(sizes, (rank[name] for rank in by_ranks[ranks]), strict=True):
                assert its_model == model  # every data rank has all weights and gradients
                # The rest is scratch memory, which shrinks too or stays.
                assert everything - size <= alone - full + 4096, name
        assert alone - full - model < 2 * full, name
