"""The sizes of a rehearsal: valid where the run is valid, never larger, in the same layout, as small as can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.rehearsal.second_layout import in_second_layout
from launcher.rehearsal.shrink import is_possible, shrink
from launcher.rehearsal.translation import changes, resumed, translate, with_stages_in_steps
from launcher.run.config import RunConfig
from launcher.run.preflight import workload
from parallel.layout import check_layout
from settings import UserError, parse, to_yaml

SIZES = ("num_layers", "hidden_size", "num_heads", "kv_heads", "ffn_size")


def run_config(**sections: dict[str, Any]) -> RunConfig:
    plain: dict[str, Any] = {
        "run": {"name": "large"},
        "data": {"shards": "shards"},
        "model": {
            "num_layers": 32,
            "hidden_size": 4096,
            "num_heads": 32,
            "num_kv_heads": 8,
            "ffn_size": 14336,
            "vocab_size": 50304,
        },
        "optim": {"name": "adamw", "lr": 3e-4},
        "schedule": {"name": "cosine", "warmup_steps": 200},
        "train": {"steps": 20000, "seq_length": 4096, "global_batch_size": 256, "precision": "bfloat16"},
    }
    return parse(RunConfig, {**plain, **{k: {**plain.get(k, {}), **v} for k, v in sections.items()}}, source="a test")


@st.composite
def possible_configs(draw: st.DrawFn) -> RunConfig:
    """Configs whose layout passes the checks, of every kind of layout and with sizes that are no powers of two."""
    tensor = draw(st.sampled_from([1, 2, 3, 4, 8]))
    pipeline = draw(st.sampled_from([1, 2, 3, 4]))
    virtual = draw(st.sampled_from([1, 2, 3])) if pipeline > 1 else 1
    data = draw(st.sampled_from([1, 2, 3, 16, 128]))
    kv_heads = tensor * draw(st.sampled_from([1, 2, 3]))
    heads = kv_heads * draw(st.sampled_from([1, 2, 3, 4]))
    micro_batch_size = draw(st.sampled_from([1, 2, 3]))
    micro_batches = draw(st.integers(1, 6)) * (pipeline if virtual > 1 else 1)
    sequence = draw(st.booleans())
    model = {
        "num_layers": pipeline * virtual + draw(st.integers(0, 13)),
        "hidden_size": heads * 2 * draw(st.integers(1, 70)),
        "num_heads": heads,
        "num_kv_heads": None if heads == kv_heads else kv_heads,
        "ffn_size": tensor * draw(st.integers(1, 700)),
        "vocab_size": tensor * 1000,
        "position": draw(st.sampled_from(["rope", "learned"])),
        "tied_embeddings": draw(st.booleans()),
    }
    parallel = {
        "tensor": tensor,
        "pipeline": pipeline,
        "virtual_stages": virtual,
        "data": data,
        "sequence": sequence,
        "zero": draw(st.sampled_from([0, 1, 2, 3] if pipeline == 1 else [0, 1])),
    }
    train = {
        "seq_length": draw(st.integers(1, 600)) * (tensor if sequence else 1),
        "micro_batch_size": micro_batch_size,
        "global_batch_size": micro_batch_size * micro_batches * data,
    }
    optim = {"name": draw(st.sampled_from(["adamw", "muon"] if parallel["zero"] < 2 else ["adamw"])), "lr": 1e-3}
    return run_config(model=model, parallel=parallel, train=train, optim=optim)


@settings(deadline=None, max_examples=60)
@given(possible_configs())
def test_a_config_that_checks_out_stays_valid_and_shrinks_in_its_layout(config: RunConfig) -> None:
    assert is_possible(config)
    shrunk = shrink(config, most_ranks=64)
    again = parse(RunConfig, shrunk.to_plain(), source="the shrunk config")  # every rule within the sections
    assert again == shrunk
    assert is_possible(shrunk)
    for size in SIZES:
        assert getattr(shrunk.model, size) <= getattr(config.model, size)
    for size in ("seq_length", "micro_batch_size", "global_batch_size"):
        assert getattr(shrunk.train, size) <= getattr(config.train, size)
    assert shrunk.model.vocab_size == config.model.vocab_size
    assert shrunk.parallel.ranks <= 64
    assert shrunk.parallel.model_copy(update={"data": config.parallel.data}) == config.parallel
    kept = {key: value for key, value in config.model.to_plain().items() if key not in (*SIZES, "num_kv_heads")}
    assert kept.items() <= shrunk.model.to_plain().items()
    chunks = config.parallel.pipeline * config.parallel.virtual_stages
    if config.model.num_layers >= 2 * chunks:
        assert (shrunk.model.num_layers % chunks > 0) == (config.model.num_layers % chunks > 0)


@settings(deadline=None, max_examples=60)
@given(possible_configs())
def test_the_second_layout_is_possible_has_the_same_batches_and_differs_where_another_one_exists(
    config: RunConfig,
) -> None:
    first = shrink(config, most_ranks=64)
    second = in_second_layout(first)
    assert is_possible(second)
    assert second.train.model_copy(update={"micro_batch_size": first.train.micro_batch_size}) == first.train
    assert (second.model, second.optim, second.schedule) == (first.model, first.optim, first.schedule)
    assert second.parallel.ranks <= max(first.parallel.ranks // 2, 2) or second == first
    if first.parallel.ranks >= 4 and first.parallel.tensor > 1 and first.parallel.zero < 2:
        assert second.parallel != first.parallel  # fewer tensor ranks, or fewer data ranks, are possible at least


def test_the_sizes_are_those_that_the_layout_needs() -> None:
    parallel = {"tensor": 8, "pipeline": 4, "virtual_stages": 2, "data": 16, "sequence": True}
    shrunk = shrink(
        run_config(parallel=parallel, train={"micro_batch_size": 4, "global_batch_size": 512}), most_ranks=64
    )
    assert shrunk.parallel.data == 2
    model = shrunk.model
    assert (model.num_layers, model.hidden_size, model.num_heads, model.num_kv_heads) == (8, 128, 16, 8)
    assert (model.ffn_size, model.vocab_size) == (128, 50304)
    # 8 micro-batches of 2 rows on 2 data ranks: the interleaved schedule takes multiples of 4.
    assert (shrunk.train.seq_length, shrunk.train.micro_batch_size, shrunk.train.global_batch_size) == (32, 2, 32)


def test_what_an_optimizer_or_a_transform_needs_is_kept() -> None:
    pruned = {
        "name": "adamw",
        "lr": 1e-3,
        "transforms": [{"name": "sparsity", "target": 0.875, "structure": "2-of-16"}],
    }
    shrunk = shrink(run_config(optim=pruned, parallel={"tensor": 2}), most_ranks=64)
    assert shrunk.model.hidden_size % 32 == shrunk.model.ffn_size % 32 == 0
    table = [{"pattern": r"layers\.20\..*", "weight_decay": 0.0}, {"pattern": ".*"}]
    assert shrink(run_config(optim={"table": table}), most_ranks=64).model.num_layers == 32
    assert shrink(run_config(), most_ranks=64).model.num_layers == 2


def test_a_layout_with_more_tensor_and_pipeline_ranks_than_a_rehearsal_has_is_refused() -> None:
    config = run_config(parallel={"tensor": 8, "pipeline": 16})
    with pytest.raises(UserError, match=r"parallel\.tensor = 8 x parallel\.pipeline = 16 are 128 ranks.*--ranks 128"):
        shrink(config, most_ranks=64)
    assert shrink(config, most_ranks=128).parallel.ranks == 128


@pytest.mark.parametrize(
    "wrong",
    [
        {"parallel": {"tensor": 16}},
        {"parallel": {"pipeline": 64}},
        {"parallel": {"data": 3}},
        {"parallel": {"virtual_stages": 2}},
        {"parallel": {"pipeline": 2, "zero": 3}},
    ],
    ids=str,
)
def test_a_layout_that_cannot_be_is_not_made_possible(wrong: dict[str, Any]) -> None:
    config = run_config(**wrong)
    with pytest.raises(UserError, match="this layout cannot be"):
        check_layout(config.parallel, config.model, workload(config, config.parallel.ranks))
    assert not is_possible(config)


def test_what_a_gpu_alone_can_do_is_translated_and_every_change_has_its_reason(tmp_path: Path) -> None:
    train = {
        "attention": "flash",
        "cross_entropy": "triton",
        "compile": True,
        "deterministic": True,
        "profile": {"first_step": 5, "memory": True},
        "forecast": "auto",
        "hang_seconds": 20,
        "timeout_seconds": 100,
        "time_limit_seconds": 7200,
        "log_every_steps": 10,
    }
    config = run_config(
        train=train, branch={"run": "runs/parent", "step": 7}, checkpoint={"keep_best": 1, "every_steps": 25}
    )
    first = translate(shrink(config, most_ranks=64), tmp_path)
    translated = {key: getattr(first.train, key) for key in train}
    assert translated == {
        "attention": "auto",
        "cross_entropy": "auto",
        "compile": False,
        "deterministic": False,
        "profile": None,
        "forecast": None,
        "hang_seconds": None,
        "timeout_seconds": 1800,
        "time_limit_seconds": None,
        "log_every_steps": 1,
    }
    assert (first.train.device, first.train.precision, first.branch.run) == ("cpu", "float32", None)
    assert first.run.path == tmp_path / "first-layout"
    listed = {change.key: change for change in changes(config, first)}
    assert all(change.reason for change in listed.values())
    assert listed["train.attention"].old == '"flash"'
    assert {f"train.{key}" for key in train} <= set(listed)
    assert listed["branch.run"].new == "null"
    second = resumed(in_second_layout(first))
    assert (second.branch.run, second.branch.step) == (first.run.path, 2)
    assert parse(RunConfig, second.to_plain(), source=to_yaml(second)) == second


def test_stages_in_tokens_keep_their_steps() -> None:
    stages = [{"name": "one", "tokens": 50_000_000}, {"name": "two", "steps": 10}]
    plain = run_config().to_plain() | {"stages": stages}
    del plain["train"]["steps"]
    config = parse(RunConfig, plain, source="a test")
    shrunk = shrink(with_stages_in_steps(config), most_ranks=64)
    assert shrunk.stage_steps() == config.stage_steps() == [48, 10]
    assert shrunk.train.steps == 58


def test_one_step_is_too_few_for_a_resume(tmp_path: Path) -> None:
    config = run_config(train={"steps": 1}, schedule={"warmup_steps": 0})
    with pytest.raises(UserError, match=r"train\.steps = 1: a rehearsal resumes before its last step"):
        translate(config, tmp_path)
    assert translate(run_config(train={"steps": 2}, schedule={"warmup_steps": 0}), tmp_path).checkpoint.every_steps == 1
