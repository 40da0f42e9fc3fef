"""The plan of a ladder: sizes, lengths and recipes of its rungs, within the budget; and what is refused."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from made_shards import write_source
from small_runs import make_shards, write_config

from launcher.ladder.design import Sizes, design_ladder
from launcher.ladder.ladder_file import Ladder, LadderPlan, Rung, read_ladder
from launcher.ladder.rungs import check_base, tuned_run
from launcher.ladder.shapes import model_of_size
from launcher.ladder.width import expected_half_width
from launcher.run.config import RunConfig, load_run_config
from launcher.run.preflight import check_config
from launcher.run.stages import run_schedule
from laws.size_rules.power import PowerConfig
from model.config import ModelConfig
from model.size import parameters
from settings import UserError

VOCABULARY = 256
SHAPE = {"num_layers": 2, "hidden_size": 64, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 96}
TRAIN = {"steps": 400, "seq_length": 32, "micro_batch_size": 2, "global_batch_size": 8}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladder")
    schedule = {"name": "wsd", "warmup_steps": 20, "decay_steps": 80, "min_lr": 3e-4}
    return write_config(
        folder,
        make_shards(folder),
        model=SHAPE,
        train=TRAIN,
        schedule=schedule,
        parallel={"tensor": 2},
    )


@pytest.fixture(scope="module")
def config(path: Path) -> RunConfig:
    return load_run_config(path)


def plan(config: RunConfig, **options: object) -> LadderPlan:
    model = config.model.with_vocabulary(VOCABULARY)
    known = {"target": 1.2e5, "tokens": 1e6, "sizes": Sizes(3), **options}
    return design_ladder(config, model, PowerConfig(), **known)  # type: ignore[arg-type]


def test_the_rungs_cost_at_most_the_budget_and_more_than_half_of_it(config: RunConfig) -> None:
    found = plan(config, budget=8e10)
    cost = sum(rung.flops for rung in found.rungs)
    assert 4e10 < cost <= 8e10
    assert len(found.rungs) == 9
    twice = plan(config, budget=2e11, seeds=2)
    assert 1e11 < sum(rung.flops for rung in twice.rungs) * 2 <= 2e11


def test_sizes_and_lengths_are_as_far_apart_as_asked(config: RunConfig) -> None:
    found = plan(config, budget=8e10)
    sizes = sorted({rung.parameters for rung in found.rungs})
    assert all(1.5 < larger / smaller < 2.7 for smaller, larger in itertools.pairwise(sizes))
    for size in sizes:
        lengths = [rung.tokens for rung in found.rungs if rung.parameters == size]
        assert lengths[1] / lengths[0] == pytest.approx(2, rel=0.02)
        assert lengths[2] / lengths[0] == pytest.approx(4, rel=0.02)
    assert found.target.parameters == pytest.approx(1.2e5, rel=0.05)
    assert found.target.tokens == pytest.approx(1e6, rel=0.01)


def test_a_rung_has_the_recipe_of_the_rule_and_a_schedule_of_its_length(config: RunConfig, tmp_path: Path) -> None:
    ladder = Ladder(tmp_path / "ladder", plan(config, budget=8e10))
    ladder.write(config)
    tuned = tuned_run(config, config.model.with_vocabulary(VOCABULARY))
    for rung in (*ladder.plan.rungs, ladder.plan.target):
        run = ladder.config_of(rung)
        recipe = PowerConfig().run(tuned, parameters=rung.parameters, tokens=rung.tokens)
        assert run.optim.lr == pytest.approx(recipe.lr, rel=0.02)
        rows = recipe.batch_tokens / TRAIN["seq_length"]
        assert abs(run.train.global_batch_size - rows) <= TRAIN["micro_batch_size"] / 2 + 0.1
        assert run.train.global_batch_size % run.train.micro_batch_size == 0
        schedule = run_schedule(run)
        lr = schedule.every_step()
        assert int(lr.argmax()) == pytest.approx(run.train.steps / 20, abs=1.5)  # the warm-up of the config
        assert lr[-1] / lr.max() == pytest.approx(0.1, rel=0.02)
        assert 39 <= run.train.steps // run.evaluate.every_steps <= 80
        model = run.model.with_vocabulary(VOCABULARY)
        assert parameters(model, seq_length=32) == rung.parameters
        assert run.parallel.tensor == (2 if rung is ladder.plan.target else 1)


def test_the_target_has_a_name_of_its_own_and_can_be_trained_in_the_layout_of_the_config(
    path: Path, tmp_path: Path
) -> None:
    config = load_run_config(path, ["parallel.data=3"])
    ladder = Ladder(tmp_path / "ladder", plan(config, budget=8e10))
    ladder.write(config)
    target = ladder.config_of(ladder.plan.target)
    assert target.run.name == f"{config.run.name}-{ladder.plan.target.name}"
    assert target.train.global_batch_size % (3 * target.train.micro_batch_size) == 0
    check_config(target, world_size=6)


def test_a_ladder_reads_back_and_every_run_has_a_folder(config: RunConfig, tmp_path: Path) -> None:
    ladder = Ladder(tmp_path / "ladder", plan(config, budget=2e11, seeds=2))
    ladder.write(config)
    again = read_ladder(tmp_path / "ladder")
    assert again.plan == ladder.plan
    points = again.sweep().points
    assert len({point.config.run.path for point in points}) == 18
    assert [point.label for point in points[:2]] == [f"rung={again.plan.rungs[0].name}, seed {seed}" for seed in (1, 2)]


def test_a_rung_that_is_edited_to_another_or_to_nonsense_is_named(config: RunConfig, tmp_path: Path) -> None:
    found = plan(config, budget=8e10)
    first, second = found.rungs[:2]
    for rungs, message in (
        ((first, first), f"several rungs are called {first.name}"),
        ((first, second.model_copy(update={"keys": first.keys})), "are the same run"),
        ((first, second.model_copy(update={"keys": {"optim.lrr": 1}})), f"(?s){second.name}: .*optim.lrr"),
    ):
        ladder = Ladder(tmp_path / "ladder", found.model_copy(update={"rungs": rungs}))
        ladder.write(config)
        with pytest.raises(UserError, match=message):
            read_ladder(ladder.folder).sweep()


def test_the_width_before_any_run_shrinks_with_the_budget(config: RunConfig, tmp_path: Path) -> None:
    def width(budget: float) -> float:
        ladder = Ladder(tmp_path / f"{budget:g}", plan(config, target=3e5, tokens=6e6, budget=budget))
        ladder.write(config)
        return expected_half_width(ladder)

    assert 0.001 < width(3e12) < width(3e11) < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 1e6}, "is not possible"),
        ({"budget": 1e8}, "larger --budget"),
        ({"tokens": 1e3}, "a forecast needs at least 80"),
    ],
)
def test_what_is_too_small_is_refused_with_what_to_do(
    options: dict[str, float], message: str, config: RunConfig
) -> None:
    with pytest.raises(UserError, match=message):
        plan(config, **options)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"count": 1}, "one size tells nothing of another"),
        ({"lengths": (1.0,)}, "one length tells nothing of a longer run"),
        ({"spacing": 1.05}, "closer sizes tell no power"),
    ],
)
def test_a_design_that_tells_nothing_is_refused(sizes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sizes(**sizes)  # type: ignore[arg-type]


def test_a_config_whose_mix_changes_is_refused(path: Path) -> None:
    staged = load_run_config(path, ['stages=[{"name": "a", "steps": 400}]', "~train.steps"])
    with pytest.raises(UserError, match="stages: a ladder is of runs that begin afresh"):
        check_base(staged)


def test_shards_without_a_held_out_split_are_refused(tmp_path: Path) -> None:
    write_source(tmp_path / "shards", "alpha", train=[[[1, 2, 0]] * 200])
    bare = load_run_config(write_config(tmp_path, tmp_path / "shards", model=SHAPE, train=TRAIN))
    with pytest.raises(UserError, match="nothing is held out, and a ladder forecasts a held-out loss"):
        check_base(bare)


def test_no_ladder_is_where_there_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no ladder.yaml; `lehr ladder plan CONFIG -o"):
        read_ladder(tmp_path)


LLAMA = ModelConfig(num_layers=22, hidden_size=2048, num_heads=32, num_kv_heads=4, ffn_size=5632, vocab_size=32000)


@pytest.mark.parametrize("size", [2e7, 1e8, 3e8, 1e9, 7e9])
def test_a_model_of_a_size_keeps_the_proportions(size: float) -> None:
    found = model_of_size(LLAMA, size, seq_length=2048)
    assert parameters(found, seq_length=2048) == pytest.approx(size, rel=0.06)
    assert abs(math.log((found.hidden_size / found.num_layers) / (2048 / 22))) < math.log(2.5)
    assert found.ffn_size / found.hidden_size == pytest.approx(5632 / 2048, rel=0.05)
    assert found.num_heads // found.kv_heads == 8


@pytest.mark.parametrize("size", [3e8, 7e9])
def test_tensor_ranks_can_share_the_heads_and_the_mlp(size: float) -> None:
    found = model_of_size(LLAMA, size, seq_length=2048, tensor=4)
    assert parameters(found, seq_length=2048) == pytest.approx(size, rel=0.1)
    assert found.kv_heads % 4 == found.ffn_size % 4 == 0


def test_a_ladder_for_a_target_of_billions_of_parameters_is_written_and_read(config: RunConfig, tmp_path: Path) -> None:
    ladder = Ladder(tmp_path / "ladder", plan(config, target=1.3e9, tokens=2.6e10))
    ladder.write(config)
    assert read_ladder(ladder.folder).plan == ladder.plan
    assert ladder.plan.target.flops == pytest.approx(6 * 1.3e9 * 2.6e10, rel=0.2)


def test_the_model_of_its_own_size_is_the_model_itself() -> None:
    assert model_of_size(LLAMA, parameters(LLAMA, seq_length=64), seq_length=64) == LLAMA
    with pytest.raises(UserError, match="with a vocabulary of 32000 the smallest has"):
        model_of_size(LLAMA, 1e4, seq_length=64)


def test_a_rung_says_its_changes_as_overrides() -> None:
    rung = Rung(name="a", parameters=1, tokens=1, flops=1, keys={"optim.lr": 1e-5, "model.num_kv_heads": None})
    assert rung.overrides() == ["optim.lr=1e-05", "model.num_kv_heads=null"]
