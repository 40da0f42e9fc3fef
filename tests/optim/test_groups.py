"""The parameter table: the first match counts, every name has a row, every row decides a name."""

from __future__ import annotations

import optim_cases as cases
import pytest
import torch

from optim.groups import ADAMW_FOR_NON_MATRICES, DECAY_MATRICES, ParamRule, check_table, rule_of
from optim.mixed import MatrixOptimizerConfig
from optim.optimizer import OPTIMIZERS
from settings import UserError, parse

NAMES = list(cases.MODEL)


def table(*patterns: str) -> tuple[ParamRule, ...]:
    return tuple(ParamRule(pattern=pattern) for pattern in patterns)


def test_the_first_row_that_matches_the_whole_name_counts() -> None:
    rules = table(r"layers\.0\..*", r"layers\..*", r".*")
    assert rule_of(rules, "layers.0.mlp.up.weight") is rules[0]
    assert rule_of(rules, "layers.10.mlp.up.weight") is rules[1]
    assert rule_of(rules, "my.layers.0.x") is rules[2]


@pytest.mark.parametrize("rules", [DECAY_MATRICES, ADAMW_FOR_NON_MATRICES])
def test_the_default_tables_cover_models_with_and_without_biases_positions_and_a_head(
    rules: tuple[ParamRule, ...],
) -> None:
    llama = [name for name in NAMES if not name.endswith("bias")]
    gpt = [
        "embedding.weight", "position.weight", "layers.0.attention_norm.weight", "layers.0.attention_norm.bias",
        "layers.0.attention.q_norm.weight", "layers.0.attention.q.weight", "layers.0.attention.q.bias",
        "layers.11.mlp.down.weight", "layers.11.mlp.down.bias", "final_norm.weight", "final_norm.bias",
    ]  # fmt: skip
    for names in (llama, gpt):
        check_table(rules, names)
        for name in names:
            rule = rule_of(rules, name)
            vector = name.endswith(("norm.weight", ".bias"))
            assert (rule.decay(0.1) == 0.0) == vector, name
            if rules is ADAMW_FOR_NON_MATRICES:
                primary = name.startswith("layers.") and not vector
                assert (rule.method == "own") == primary, name


def test_names_without_a_row_are_listed() -> None:
    with pytest.raises(UserError, match=r"no pattern matches the parameters embedding.weight, final_norm.weight, head"):
        check_table(table(r"layers\..*"), NAMES)
    with pytest.raises(UserError, match=r"and 11 more"):
        check_table(table(r"embedding\.weight"), NAMES)
    with pytest.raises(UserError, match=r"no pattern matches the parameter x.weight"):
        rule_of(table(r"layers\..*"), "x.weight")


def test_a_row_that_decides_nothing_is_named_with_the_reason() -> None:
    with pytest.raises(UserError, match=r"optim.table.0.pattern = 'decoder.*it matches no parameter"):
        check_table(table(r"decoder\..*", r".*"), NAMES)
    with pytest.raises(UserError, match=r"optim.table.1.pattern = .*rows above it match every parameter"):
        check_table(table(r".*", r"layers\..*"), NAMES)


def test_an_invalid_pattern_is_refused_with_its_row() -> None:
    with pytest.raises(UserError, match=r'table.0.pattern = "\(": is no regular expression'):
        parse(OPTIMIZERS["adamw"], {"lr": 1e-3, "table": [{"pattern": "("}]}, source="optim")


def test_a_matrix_optimizer_refuses_a_vector() -> None:
    matrix_methods = [name for name in OPTIMIZERS.names() if issubclass(OPTIMIZERS[name], MatrixOptimizerConfig)]
    assert {"conda", "muon"} <= set(matrix_methods)
    for name in matrix_methods:
        config = OPTIMIZERS[name].model_validate({"lr": 0.01, "table": [{"pattern": ".*"}]})
        with pytest.raises(UserError, match=r"layers.0.attention_norm.weight of shape \(8,\) is no matrix.*adamw"):
            config.check(cases.shapes())


def test_multiplier_and_decay_of_a_row_reach_the_step() -> None:
    names = {"layers.0.mlp.up.weight": cases.Case((4, 4), 0), "head.weight": cases.Case((4, 4), 0)}
    rows = [
        {"pattern": r"head\.weight", "lr_multiplier": 0.5, "weight_decay": 0.0},
        {"pattern": ".*"},
    ]
    config = OPTIMIZERS["adamw"].model_validate({"lr": 0.1, "weight_decay": 0.2, "table": rows})
    params, _ = cases.trained(config, names, 1, lr=0.1)
    start, grads = cases.weights(names), cases.gradients(names, 0)
    up, head = (param.weight for param in params)
    # The first step of Adam is lr times the gradient's sign.
    torch.testing.assert_close(
        up, start["layers.0.mlp.up.weight"] * 0.98 - 0.1 * grads["layers.0.mlp.up.weight"].sign()
    )
    torch.testing.assert_close(head, start["head.weight"] - 0.05 * grads["head.weight"].sign())


def test_the_fallback_adamw_has_a_peak_of_its_own_and_follows_the_schedule() -> None:
    names = {"embedding.weight": cases.Case((4, 4), 0), "layers.0.mlp.up.weight": cases.Case((4, 4), 0)}
    config = OPTIMIZERS["muon"].model_validate({"lr": 0.02, "weight_decay": 0.0, "adamw": {"lr": 0.001}})
    params, _ = cases.trained(config, names, 1, lr=0.01)  # the schedule is at half its peak
    moved = (cases.weights(names)["embedding.weight"] - params[0].weight).abs()
    torch.testing.assert_close(moved, torch.full((4, 4), 0.0005), rtol=1e-3, atol=0)
