"""A ladder whose finished runs have losses of the joint law: its fit is known, and nothing needs to be trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from small_runs import make_shards, write_config

from launcher.ladder.design import Sizes, design_ladder
from launcher.ladder.ladder_file import Ladder, Rung
from launcher.run.config import RunConfig, load_run_config
from launcher.run.preflight import model_with_vocabulary
from launcher.run.register import run_points
from launcher.sweep.points import Point
from launcher.sweep.records import Record, add_record
from laws.curve import EvaluationPoints
from laws.loss_curves.joint import JointConfig
from laws.size_rules.power import PowerConfig

TRUTH = {"E": 1.8, "S0": 0.6, "G": 0.15, "F": 0.01, "alpha": 0.424, "beta": 0.43, "w": 1.0, "k": 0.774, "C": 0.02}
LAW = JointConfig(reference_steps=400, reference_tokens=400 * 300**0.5, reference_parameters=2e4)
NOISE = 5e-4
SHAPE = {"num_layers": 2, "hidden_size": 64, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 96}
TRAIN = {"steps": 400, "seq_length": 32, "micro_batch_size": 2, "global_batch_size": 8}


def make_base(folder: Path) -> Path:
    """Writes shards and the config of a ladder."""
    schedule = {"warmup_steps": 20}
    return write_config(folder, make_shards(folder), model=SHAPE, train=TRAIN, schedule=schedule)


def make_ladder(config: Path, folder: Path, *, sizes: int = 3, seeds: int = 1) -> Ladder:
    """Plans a ladder for a target of 120,000 parameters, and writes it."""
    base = load_run_config(config)
    model = model_with_vocabulary(base)
    options = {"target": 1.2e5, "tokens": 1e6, "budget": 8e10 * seeds, "sizes": Sizes(sizes), "seeds": seeds}
    plan = design_ladder(base, model, PowerConfig(), **options)  # type: ignore[arg-type]
    ladder = Ladder(folder, plan)
    ladder.write(base)
    return ladder


def points_of(config: RunConfig, most: int = 40) -> EvaluationPoints:
    """The points of a run's curve at which it is evaluated."""
    return run_points(config, model_with_vocabulary(config), LAW, most=most)


def finish(ladder: Ladder, choose: Callable[[Rung], bool] = lambda rung: True, *, above: float = 0.1) -> None:
    """Adds a line to the file of finished runs for each run of the chosen rungs.

    The source `beta` has losses that are higher by `above`, as a share.
    """
    rungs = {rung.name: rung for rung in ladder.plan.rungs}
    for number, point in enumerate(ladder.sweep().points):
        if choose(rungs[point.values["rung"]]):
            add_record(ladder.records, made_record(point, number, above))


def made_record(point: Point, number: int, above: float) -> Record:
    """The record of a run that followed the law, up to noise."""
    points = points_of(point.config)
    noise = np.exp(NOISE * np.random.default_rng(number).normal(size=points.steps.size))
    assert points.batch_tokens is not None
    tokens = (points.steps * points.batch_tokens).astype(int).tolist()
    losses = (LAW.predict(TRUTH, points) * noise).tolist()
    curve = list(zip(tokens, losses, strict=True))
    return Record(
        config=point.digest,
        point=dict(point.values),
        seed=point.seed,
        diverged=False,
        loss=losses[-1],
        loss_is="held_out",
        curve=curve,
        source_curves={"alpha": curve, "beta": [(seen, loss * (1 + above)) for seen, loss in curve]},
        steps=point.config.train.steps,
        tokens=tokens[-1],
        seconds=1.0,
    )
