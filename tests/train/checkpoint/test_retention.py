"""Which checkpoints stay: by arithmetic against a plain rule, and on disk through kills at any moment."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from train.checkpoint.manifest import MeasuredLoss
from train.checkpoint.retention import kept
from train.config import CheckpointConfig


def on(sequences: str, losses: Mapping[int, float | None]) -> dict[int, MeasuredLoss | None]:
    return {step: None if loss is None else MeasuredLoss(loss, on=sequences) for step, loss in losses.items()}


def test_each_rule() -> None:
    whole = on("", {10: 3.0, 20: 1.0, 30: 2.0, 40: None, 50: 1.5})
    assert kept(whole, CheckpointConfig(keep_last=1)) == {50: ["last"]}
    assert kept(whole, CheckpointConfig(keep_last=2)) == {40: ["last"], 50: ["last"]}
    assert kept(whole, CheckpointConfig(keep_last=1, keep_every_steps=20)) == {
        20: ["every"],
        40: ["every"],
        50: ["last"],
    }
    assert kept(whole, CheckpointConfig(keep_last=1, keep_best=2)) == {20: ["best"], 50: ["last", "best"]}
    assert kept({}, CheckpointConfig()) == {}
    assert kept({7: None}, CheckpointConfig(keep_last=1)) == {7: ["last"]}


def test_of_equal_losses_the_newer_is_the_best() -> None:
    assert kept(on("", {1: 2.0, 2: 2.0, 3: 5.0}), CheckpointConfig(keep_last=1, keep_best=1)) == {
        2: ["best"],
        3: ["last"],
    }


def test_losses_on_other_sequences_do_not_compare() -> None:
    measured = on("8 of each", {1: 2.0, 2: 1.9}) | on("16 of each", {3: 1.5, 4: 1.4, 5: 1.6})
    assert kept(measured, CheckpointConfig(keep_last=1, keep_best=1)) == {2: ["best"], 4: ["best"], 5: ["last"]}


@pytest.mark.parametrize("seed", range(50))
def test_against_a_plain_rule(seed: int) -> None:
    rng = random.Random(seed)
    steps = rng.sample(range(1, 100), rng.randrange(1, 12))
    whole = {step: rng.choice([None, round(rng.random(), 1)]) for step in steps}
    config = CheckpointConfig(
        keep_last=rng.randrange(1, 4), keep_every_steps=rng.choice([0, 5]), keep_best=rng.randrange(3)
    )
    reasons = kept(on("", whole), config)
    assert max(steps) in reasons
    for step in steps:
        newer = sum(other > step for other in steps)
        loss = whole[step]
        better = 0
        if loss is not None:
            better = sum(o is not None and (o < loss or (o == loss and s > step)) for s, o in whole.items())
        expected = ["last"] * (newer < config.keep_last)
        expected += ["every"] * bool(config.keep_every_steps and step % config.keep_every_steps == 0)
        expected += ["best"] * (loss is not None and better < config.keep_best)
        assert reasons.get(step, []) == expected
