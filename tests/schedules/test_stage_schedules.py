"""The schedules of stages one after the other: one function of the global step, continuous where a stage warms up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from schedules.base import SCHEDULES, Schedule
from schedules.stage_lengths import first_steps, mixes, stage_lengths
from schedules.stages import in_sequence, rewarmed

PEAK, WARMUP = 1e-3, 20
FIRST = SCHEDULES.parse({"name": "cosine", "warmup_steps": 5, "min_lr": 2e-4}).build(peak_lr=3e-3, total_steps=50)


def second(name: str, folder: Path) -> list[Schedule]:
    """Returns the schedules of a stage of 200 steps, with a warm-up where the method has one."""
    warmed = [
        config.model_copy(update={"warmup_steps": WARMUP}) if config.stated_warmup() is not None else config
        for config in SCHEDULES[name].examples(folder)
    ]
    return [config.build(peak_lr=PEAK, total_steps=200) for config in warmed]


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_a_stage_keeps_its_own_lr_and_warms_up_from_the_stage_before(name: str, tmp_path: Path) -> None:
    """The rise is linear, so no step of it is larger than another, and its end is the peak to the bit."""
    for own in second(name, tmp_path):
        last = FIRST(49)
        both = in_sequence([FIRST, rewarmed(own, warmup_steps=WARMUP, from_lr=last), FIRST])
        assert both.total_steps == 300
        every = both.every_step()
        assert every[:50].tobytes() == every[250:].tobytes() == FIRST.every_step().tobytes()
        assert every[50 + WARMUP - 1 : 250].tobytes() == own.every_step()[WARMUP - 1 :].tobytes()
        rises = np.diff(every[49 : 50 + WARMUP])
        assert np.allclose(rises, (own(WARMUP - 1) - last) / WARMUP, rtol=1e-9)
        some = np.sort(np.random.default_rng(0).choice(320, 60, replace=False))
        assert both.lr(some).tolist() == [both(int(step)) for step in some]
        assert both.lr(some[some < 300]).tobytes() == every[some[some < 300]].tobytes()


def test_lengths_and_mixes_of_plain_configs() -> None:
    """A step has 4 x 8 tokens. A mix counts once for as long as it stays."""
    same = {"steps": 3, "mixture": {"a": 1}}
    plain = {
        "train": {"global_batch_size": 4, "seq_length": 8},
        "data": {"mixture": {"a": 1}},
        "stages": [{"steps": 5}, same, {"tokens": 33, "mixture": {"b": 1}}, {**same, "replay": {"share": 0.1}}],
    }
    assert stage_lengths(plain) == [5, 3, 2, 3]
    assert first_steps([5, 3, 2, 3]) == [0, 5, 8, 10]
    assert [mix[:2] for mix in mixes(plain)] == [("stages.0", 0), ("stages.2", 8), ("stages.3", 10)]
    assert mixes({"data": {}}) == [("data", 0, {}, None)]
    assert stage_lengths({**plain, "stages": [{"steps": 5, "tokens": 6}]}) is None
    assert stage_lengths({**plain, "train": {}}) is None
