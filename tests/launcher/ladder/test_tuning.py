"""A size rule from the folders of sweeps: the best lr and batch of each size, and what no rule can be refitted from."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from small_runs import make_shards, write_config

from launcher.ladder.tuning import tuned_runs
from launcher.sweep.grid import parse_axes
from launcher.sweep.points import Point, plan_sweep
from launcher.sweep.records import Record, add_record
from launcher.sweep.train_points import write_configs
from laws.size_rules.power import PowerConfig
from settings import UserError

SMALL = ["model.hidden_size=16", "train.steps=200"]
BEST = {16: 4e-3, 32: 2e-3}  # the best lr by width
LRS = "optim.lr=1e-3,2e-3,4e-3,8e-3"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, make_shards(tmp_path), train={"steps": 800})


def swept(config: Path, name: str, *overrides: str, grid: str = LRS, best_rows: float = 8.0) -> Path:
    """A finished sweep, whose loss is a parabola in the logarithms of lr and batch."""
    planned = plan_sweep(config, [*overrides, f"run.name={name}"], parse_axes([grid]), seeds=2)
    write_configs(planned)
    for point in planned.points:
        add_record(planned.folder / "runs.jsonl", made(point, best_rows))
    return planned.folder


def made(point: Point, best_rows: float) -> Record:
    run = point.config
    off = math.log(run.optim.lr / BEST[run.model.hidden_size]) ** 2
    off += 0.3 * math.log(run.train.global_batch_size / best_rows) ** 2
    loss = 3 + 0.01 * off + 1e-4 * point.seed
    return Record(
        config=point.digest,
        point=dict(point.values),
        seed=point.seed,
        diverged=False,
        loss=loss,
        loss_is="held_out",
        steps=run.train.steps,
        tokens=1,
        seconds=1.0,
    )


def test_sweeps_at_two_sizes_refit_the_lr_and_leave_the_batch(config: Path) -> None:
    runs, of = tuned_runs([swept(config, "base"), swept(config, "small", *SMALL)])
    assert of == {"lr"}
    assert [run.lr for run in runs] == pytest.approx([4e-3, 2e-3], rel=1e-6)
    assert runs[0].tokens == 200 * 8 * 32
    rule = PowerConfig().refitted(runs, of=of)
    assert rule.batch_by_tokens == PowerConfig().batch_by_tokens
    again = rule.run(runs[0], parameters=runs[1].parameters, tokens=runs[1].tokens)
    assert again.lr == pytest.approx(2e-3, rel=1e-6)


def test_batches_of_equal_tokens_are_sweeps_of_their_own(config: Path) -> None:
    batches = [(4, 1600), (8, 800), (16, 400)]
    folders = [
        swept(config, f"b{rows}", f"train.global_batch_size={rows}", f"train.steps={steps}", best_rows=10.0)
        for rows, steps in batches
    ]
    (run,), of = tuned_runs(folders)
    assert of == {"lr", "batch_tokens"}
    assert run.batch_tokens == pytest.approx(10 * 32, rel=1e-6)
    assert run.lr == pytest.approx(2e-3, rel=1e-6)


def test_sweeps_that_tell_no_optimum_are_refused(config: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the best lr, 0.004, lies at the edge of the sweep; add smaller values"):
        tuned_runs([swept(config, "edge", *SMALL, grid="optim.lr=4e-3,8e-3")])
    with pytest.raises(
        UserError, match=r"the sweeps differ in optim.beta2; a rule is refitted from lr, batch and decay"
    ):
        tuned_runs([swept(config, "beta", grid="optim.beta2=0.9,0.95")])
    with pytest.raises(UserError, match=r"there is one lr and one batch only; add a sweep of optim.lr"):
        tuned_runs([swept(config, "one", grid="optim.lr=2e-3")])
    with pytest.raises(UserError, match="holds no finished run with its config"):
        tuned_runs([tmp_path])
    whole = swept(config, "gone")
    shutil.rmtree(whole / "configs")
    with pytest.raises(UserError, match="give the folder of a `lehr sweep`"):
        tuned_runs([whole])
