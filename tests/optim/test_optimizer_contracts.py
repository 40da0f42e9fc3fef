"""What every registered optimizer does: a new file in `optim` is tested here without an edit."""

from __future__ import annotations

import copy

import optim_cases as cases
import pytest
import torch
from optim_cases import MODEL
from processes import run_ranks
from torch import Tensor

from optim import batches
from optim.optimizer import OPTIMIZERS, OneRank, OptimizerConfig
from settings import UserError, parse

NAMES = OPTIMIZERS.names()


def config_of(name: str) -> OptimizerConfig:
    return OPTIMIZERS[name](lr=0.01)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_steps_give_the_same_bits_and_finite_weights_that_moved(name: str) -> None:
    first, _ = cases.trained(config_of(name), MODEL, 3, lr=0.01)
    second, _ = cases.trained(config_of(name), MODEL, 3, lr=0.01)
    initial = cases.weights(MODEL)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.weight, other.weight)
        assert one.weight.isfinite().all()
        assert not torch.equal(one.weight, initial[one.name])


@pytest.mark.parametrize("name", NAMES)
def test_state_has_its_final_keys_shapes_and_memory_from_the_start(name: str) -> None:
    params = cases.params_of(MODEL, cases.weights(MODEL))
    optimizer = config_of(name).build(params, OneRank())
    before = {key: (value.tensor.shape, value.dim, value.tensor.data_ptr()) for key, value in optimizer.state().items()}
    cases.take_steps(optimizer, params, MODEL, range(2), lr=0.01)
    after = {key: (value.tensor.shape, value.dim, value.tensor.data_ptr()) for key, value in optimizer.state().items()}
    assert before == after
    assert all(any(key.startswith(f"{param.name}.") for param in params) for key in before)
    assert all(any(key.startswith(f"{param.name}.") for key in before) for param in params)


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_optimizer_goes_on_bitwise(name: str) -> None:
    whole, _ = cases.trained(config_of(name), MODEL, 6, lr=0.01)
    params, stopped = cases.trained(config_of(name), MODEL, 3, lr=0.01)
    saved = {key: value.tensor.clone() for key, value in stopped.state().items()}
    resumed = cases.params_of(MODEL, {param.name: param.weight for param in params})
    optimizer = config_of(name).build(resumed, OneRank())
    for key, value in optimizer.state().items():
        value.tensor.copy_(saved[key])
    optimizer.step_count = stopped.step_count
    cases.take_steps(optimizer, resumed, MODEL, range(3, 6), lr=0.01)
    assert optimizer.step_count == 6
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(one.weight, other.weight), one.name


@pytest.mark.parametrize("name", NAMES)
def test_a_state_of_zeros_is_a_fresh_start(name: str) -> None:
    fresh, _ = cases.trained(config_of(name), MODEL, 3, lr=0.01)
    params, optimizer = cases.trained(config_of(name), MODEL, 3, lr=0.01)
    for param in params:
        param.weight.copy_(cases.weights(MODEL)[param.name])
    for value in optimizer.state().values():
        value.tensor.zero_()
    optimizer.step_count = 0
    cases.take_steps(optimizer, params, MODEL, range(3), lr=0.01)
    for one, other in zip(fresh, params, strict=True):
        assert torch.equal(one.weight, other.weight), one.name


@pytest.mark.parametrize("name", NAMES)
def test_at_lr_zero_weights_stay_and_state_moves(name: str) -> None:
    params = cases.params_of(MODEL, cases.weights(MODEL))
    optimizer = config_of(name).build(params, OneRank())
    state = {key: value.tensor.clone() for key, value in optimizer.state().items()}
    cases.take_steps(optimizer, params, MODEL, range(2), lr=0.0)
    for param in params:
        assert torch.equal(param.weight, cases.weights(MODEL)[param.name])
        own = [key for key in state if key.startswith(f"{param.name}.")]
        assert any(not torch.equal(state[key], optimizer.state()[key].tensor) for key in own)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_read_only(name: str) -> None:
    params = cases.params_of(MODEL, cases.weights(MODEL))
    optimizer = config_of(name).build(params, OneRank())
    cases.take_steps(optimizer, params, MODEL, range(1), lr=0.01)
    grads = cases.gradients(MODEL, 0)
    for param in params:
        assert param.grad is not None
        assert torch.equal(param.grad, grads[param.name])


@pytest.mark.parametrize("name", NAMES)
def test_a_rank_may_own_nothing(name: str) -> None:
    optimizer = config_of(name).build([], OneRank())
    optimizer.step(lr=0.01)
    assert (optimizer.step_count, optimizer.state(), optimizer.diagnostics()) == (1, {}, {})


@pytest.mark.parametrize("name", NAMES)
def test_owners_of_parts_do_what_one_owner_of_all_does(name: str) -> None:
    whole, _ = cases.trained(config_of(name), MODEL, 4, lr=0.01)
    together = {param.name: param.weight for param in whole}
    names = list(MODEL)
    for part in (names[::2], names[1::2]):
        own = {name: MODEL[name] for name in part}
        params = cases.params_of(own, cases.weights(MODEL))
        optimizer = config_of(name).build(params, OneRank())
        for step in range(4):
            grads = cases.gradients(MODEL, step)
            for param in params:
                param.grad = grads[param.name]
            optimizer.step(lr=0.01)
        for param in params:
            assert cases.relative(param.weight, together[param.name]) < 1e-5, param.name


@pytest.mark.parametrize("name", NAMES)
def test_batches_of_any_size_give_the_same_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = cases.trained(config_of(name), MODEL, 4, lr=0.01)
    for scratch_bytes in (1, 600):
        monkeypatch.setattr(batches, "CPU_SCRATCH_BYTES", scratch_bytes)
        params, _ = cases.trained(config_of(name), MODEL, 4, lr=0.01)
        for one, other in zip(whole, params, strict=True):
            assert cases.relative(other.weight, one.weight) < 1e-5, one.name


def _on_ranks(name: str, steps: int) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, int | None]]]:
    """This rank's weights and state, gathered as their dims say."""
    ranks = cases.process_ranks()
    params, optimizer = cases.trained(config_of(name), MODEL, steps, lr=0.01, ranks=ranks)
    weights = {p.name: p.weight if p.dim is None else ranks.gather(p.weight, p.dim) for p in params}
    state = {
        key: (value.tensor if value.dim is None else ranks.gather(value.tensor, value.dim), value.dim)
        for key, value in optimizer.state().items()
    }
    return weights, state


@pytest.mark.parametrize("name", NAMES)
def test_tensor_ranks_do_what_one_process_does(name: str) -> None:
    params, optimizer = cases.trained(config_of(name), MODEL, 10, lr=0.01)
    (weights, state), (other_weights, other_state) = run_ranks(2, _on_ranks, name, 10)
    for param in params:
        assert torch.equal(weights[param.name], other_weights[param.name])
        assert cases.relative(weights[param.name], param.weight) < 1e-4, param.name
    assert state.keys() == optimizer.state().keys()
    for key, value in optimizer.state().items():
        assert state[key][0].shape == value.tensor.shape, key
        assert torch.equal(state[key][0], other_state[key][0]), key


@pytest.mark.parametrize("name", NAMES)
def test_costs_are_positive_and_grow_with_the_shape(name: str) -> None:
    config = config_of(name)
    assert 0 < config.cost((8, 8)) < config.cost((8, 16)) < config.cost((16, 16))
    for key, shape in cases.shapes().items():
        assert config.cost(shape, key) > 0


@pytest.mark.parametrize("name", NAMES)
def test_config_survives_a_round_trip_and_fits_the_model(name: str) -> None:
    config = config_of(name)
    assert OPTIMIZERS.parse(copy.deepcopy(config.to_plain())) == config
    config.check(cases.shapes())


@pytest.mark.parametrize("name", NAMES)
def test_lr_is_required_and_positive(name: str) -> None:
    with pytest.raises(UserError, match="lr: is required"):
        parse(OPTIMIZERS[name], {}, source="optim")
    with pytest.raises(UserError, match=r"lr = 0.*greater than 0"):
        parse(OPTIMIZERS[name], {"lr": 0}, source="optim")
