"""Contracts of every registered optimizer: a new file in `optim` is tested here without an edit.

Quick contracts run over all examples of a config class (`OptimizerConfig.examples`): "conda" is the first one of Conda,
"conda-1" the second.
"""

from __future__ import annotations

import copy
import math

import optim_cases as cases
import pytest
import torch
from optim_cases import MODEL
from processes import run_ranks
from torch import Tensor

from optim import chunks
from optim.groups import rule_of
from optim.optimizer import OPTIMIZERS, OptimizerConfig
from optim.parameters import OneRank, Param
from settings import UserError, parse

NAMES = OPTIMIZERS.names()
LR = 0.01
EXAMPLES = {
    f"{name}-{number}" if number else name: config
    for name in NAMES
    for number, config in enumerate(OPTIMIZERS[name].examples())
}
every_example = pytest.mark.parametrize("config", EXAMPLES.values(), ids=EXAMPLES)
every_name = pytest.mark.parametrize("name", NAMES)


@every_name
def test_there_is_an_example_and_it_is_of_its_class(name: str) -> None:
    examples = OPTIMIZERS[name].examples()
    assert examples
    assert all(type(config) is OPTIMIZERS[name] for config in examples)


@every_example
def test_the_same_steps_give_the_same_bits_and_finite_weights_that_moved(config: OptimizerConfig) -> None:
    first, _ = cases.trained(config, MODEL, 3, lr=LR)
    second, _ = cases.trained(config, MODEL, 3, lr=LR)
    initial = cases.weights(MODEL)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.weight, other.weight)
        assert one.weight.isfinite().all()
        assert not torch.equal(one.weight, initial[one.name])


@every_example
def test_state_has_its_final_keys_shapes_and_memory_from_the_start(config: OptimizerConfig) -> None:
    params = cases.params_of(MODEL, cases.weights(MODEL))
    optimizer = config.build(params, OneRank())
    before = {key: (value.tensor.shape, value.dim, value.tensor.data_ptr()) for key, value in optimizer.state().items()}
    cases.take_steps(optimizer, params, MODEL, range(2), lr=LR)
    after = {key: (value.tensor.shape, value.dim, value.tensor.data_ptr()) for key, value in optimizer.state().items()}
    assert before == after
    assert all(any(key.startswith(f"{param.name}.") for param in params) for key in before)
    for primary in (True, False):  # a method has state for all of its parameters, or for none
        with_state = {
            any(key.startswith(f"{param.name}.") for key in before)
            for param in params
            if config.is_primary(param.name) == primary
        }
        assert len(with_state) <= 1


@every_example
def test_a_restored_optimizer_continues_to_the_bit(config: OptimizerConfig) -> None:
    unbroken, _ = cases.trained(config, MODEL, 6, lr=LR)
    params, stopped = cases.trained(config, MODEL, 3, lr=LR)
    saved = {key: value.tensor.clone() for key, value in stopped.state().items()}
    resumed = cases.params_of(MODEL, {param.name: param.weight for param in params})
    optimizer = config.build(resumed, OneRank())
    for key, value in optimizer.state().items():
        value.tensor.copy_(saved[key])
    optimizer.step_count = stopped.step_count
    cases.take_steps(optimizer, resumed, MODEL, range(3, 6), lr=LR)
    assert optimizer.step_count == 6
    for one, other in zip(unbroken, resumed, strict=True):
        assert torch.equal(one.weight, other.weight), one.name


@every_example
def test_a_state_of_zeros_is_a_fresh_start(config: OptimizerConfig) -> None:
    fresh, _ = cases.trained(config, MODEL, 3, lr=LR)
    params, optimizer = cases.trained(config, MODEL, 3, lr=LR)
    for param in params:
        param.weight.copy_(cases.weights(MODEL)[param.name])
    for value in optimizer.state().values():
        value.tensor.zero_()
    optimizer.step_count = 0
    cases.take_steps(optimizer, params, MODEL, range(3), lr=LR)
    for one, other in zip(fresh, params, strict=True):
        assert torch.equal(one.weight, other.weight), one.name


@every_example
def test_at_lr_zero_weights_stay_and_state_moves(config: OptimizerConfig) -> None:
    """A method need not have state, but state that it has for a parameter follows the gradients."""
    params = cases.params_of(MODEL, cases.weights(MODEL))
    optimizer = config.build(params, OneRank())
    before = {key: value.tensor.clone() for key, value in optimizer.state().items()}
    cases.take_steps(optimizer, params, MODEL, range(2), lr=0.0)
    assert optimizer.step_count == 2
    for param in params:
        assert torch.equal(param.weight, cases.weights(MODEL)[param.name])
        keys = [key for key in before if key.startswith(f"{param.name}.")]
        assert not keys or any(not torch.equal(before[key], optimizer.state()[key].tensor) for key in keys)


@every_example
def test_gradients_are_read_only(config: OptimizerConfig) -> None:
    params = cases.params_of(MODEL, cases.weights(MODEL))
    optimizer = config.build(params, OneRank())
    cases.take_steps(optimizer, params, MODEL, range(1), lr=LR)
    grads = cases.gradients(MODEL, 0)
    for param in params:
        assert param.grad is not None
        assert torch.equal(param.grad, grads[param.name])


@every_example
def test_every_parameter_is_yielded_once_and_after_its_update(config: OptimizerConfig) -> None:
    params = cases.params_of(MODEL, cases.weights(MODEL))
    optimizer = config.build(params, OneRank())
    grads = cases.gradients(MODEL, 0)
    for param in params:
        param.grad = grads[param.name]
    yielded = {}
    for bucket in optimizer.step_in_buckets(lr=LR):
        for param in bucket:
            assert param.name not in yielded
            yielded[param.name] = param.weight.clone()
    assert yielded.keys() == MODEL.keys()
    assert all(torch.equal(yielded[param.name], param.weight) for param in params)


@every_example
def test_a_rank_may_own_nothing(config: OptimizerConfig) -> None:
    optimizer = config.build([], OneRank())
    optimizer.step(lr=LR)
    assert (optimizer.step_count, optimizer.state(), optimizer.diagnostics()) == (1, {}, {})


@every_example
def test_owners_of_some_parameters_do_what_one_owner_of_all_does(config: OptimizerConfig) -> None:
    params_of_all, _ = cases.trained(config, MODEL, 4, lr=LR)
    together = {param.name: param.weight for param in params_of_all}
    names = list(MODEL)
    for owned in (names[::2], names[1::2]):
        own_cases = {name: MODEL[name] for name in owned}
        params = cases.params_of(own_cases, cases.weights(MODEL))
        optimizer = config.build(params, OneRank())
        for step in range(4):
            grads = cases.gradients(MODEL, step)
            for param in params:
                param.grad = grads[param.name]
            optimizer.step(lr=LR)
        for param in params:
            assert cases.relative(param.weight, together[param.name]) < 1e-5, param.name


@every_example
def test_chunks_of_any_size_give_the_same_weights(config: OptimizerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = cases.trained(config, MODEL, 4, lr=LR)
    for scratch_bytes in (1, 600):
        monkeypatch.setattr(chunks, "CPU_SCRATCH_BYTES", scratch_bytes)
        params, _ = cases.trained(config, MODEL, 4, lr=LR)
        for one, other in zip(expected, params, strict=True):
            assert cases.relative(other.weight, one.weight) < 1e-5, one.name


@pytest.mark.parametrize("config", [pytest.param(c, id=i) for i, c in EXAMPLES.items() if c.elementwise])
def test_an_elementwise_optimizer_updates_flat_shards_as_it_does_full_parameters(config: OptimizerConfig) -> None:
    """ZeRO 2 and 3 have flat shards that begin and end anywhere in a parameter."""
    full, _ = cases.trained(config, MODEL, 3, lr=LR)
    for param in full:
        size = math.prod(param.shape)
        start = cases.weights(MODEL)[param.name].flatten()
        parts = [start[: size // 3].clone(), start[size // 3 :].clone()]
        flat = [Param(f"part{i}", part, tuple(part.shape)) for i, part in enumerate(parts)]
        optimizer = config.build_elementwise(flat, [rule_of(config.table, param.name)] * 2)
        for step in range(3):
            grad = cases.gradients(MODEL, step)[param.name].flatten()
            flat[0].grad, flat[1].grad = grad[: size // 3], grad[size // 3 :]
            optimizer.step(lr=LR)
        assert cases.relative(torch.cat(parts), param.weight.flatten()) < 1e-6, param.name


Gathered = tuple[dict[str, Tensor], dict[str, tuple[Tensor, int | None]]]


def _on_ranks(configs: dict[str, OptimizerConfig], steps: int) -> dict[str, Gathered]:
    """Returns weights and state of each example, gathered over this rank and the others."""
    ranks = cases.process_ranks()
    gathered = {}
    for example, config in configs.items():
        params, optimizer = cases.trained(config, MODEL, steps, lr=LR, ranks=ranks)
        weights = {p.name: p.weight if p.dim is None else ranks.gather(p.weight, p.dim) for p in params}
        state = {
            key: (value.tensor if value.dim is None else ranks.gather(value.tensor, value.dim), value.dim)
            for key, value in optimizer.state().items()
        }
        gathered[example] = (weights, state)
    return gathered


@pytest.fixture(scope="module")
def on_two_ranks() -> list[dict[str, Gathered]]:
    """Every example on two tensor ranks, in one start of processes."""
    return run_ranks(2, _on_ranks, EXAMPLES, 10)


@pytest.mark.parametrize("example", EXAMPLES)
def test_tensor_ranks_do_what_one_process_does(example: str, on_two_ranks: list[dict[str, Gathered]]) -> None:
    params, optimizer = cases.trained(EXAMPLES[example], MODEL, 10, lr=LR)
    (weights, state), (other_weights, other_state) = (rank[example] for rank in on_two_ranks)
    for param in params:
        assert torch.equal(weights[param.name], other_weights[param.name])
        assert cases.relative(weights[param.name], param.weight) < 1e-4, param.name
    assert state.keys() == optimizer.state().keys()
    for key, value in optimizer.state().items():
        assert state[key][0].shape == value.tensor.shape, key
        assert torch.equal(state[key][0], other_state[key][0]), key


@every_example
def test_costs_are_positive_and_grow_with_the_shape(config: OptimizerConfig) -> None:
    assert 0 < config.cost((8, 8)) < config.cost((8, 16)) < config.cost((16, 16))
    for key, shape in cases.shapes().items():
        assert config.cost(shape, key) > 0


@every_example
def test_a_config_survives_a_round_trip_and_fits_the_model(config: OptimizerConfig) -> None:
    assert OPTIMIZERS.parse(copy.deepcopy(config.to_plain())) == config
    config.check(cases.shapes())


@every_name
def test_lr_is_required_and_positive(name: str) -> None:
    with pytest.raises(UserError, match="lr: is required"):
        parse(OPTIMIZERS[name], {}, source="optim")
    with pytest.raises(UserError, match=r"lr = 0.*greater than 0"):
        parse(OPTIMIZERS[name], {"lr": 0}, source="optim")
