"""The laws over horizon and size: what they recover, what they refuse, and what they say of two sizes."""

from dataclasses import replace

import numpy as np
import pytest
from made_ladder import HORIZON, JOINT, LENGTHS, SIZES, TRUE_HORIZON, TRUE_JOINT, ladder, run

from laws.curve import LossCurve, last_step, planned_lr_curve
from laws.fitting.fitted import fit_curves
from laws.law import CurveLaw
from laws.loss_curves.horizon import HorizonConfig
from laws.loss_curves.joint import JointConfig
from schedules.base import SCHEDULES
from settings import UserError


def test_a_run_five_times_as_long_is_forecast() -> None:
    fit = fit_curves(HORIZON, [run(HORIZON, TRUE_HORIZON, steps, SIZES[1]) for steps in LENGTHS], samples=0)
    long = run(HORIZON, TRUE_HORIZON, 20000, SIZES[1])
    assert np.abs(fit.predict(long) / long.loss - 1).max() < 1e-3


def test_a_larger_model_is_forecast_from_three_sizes() -> None:
    fit = fit_curves(JOINT, ladder(), samples=20)
    large = run(JOINT, TRUE_JOINT, 8000, 1e9)
    assert fit.notes == ()
    assert np.abs(fit.predict(large) / large.loss - 1).max() < 2e-3
    low, high = fit.band(large)
    assert np.all((low < large.loss) & (large.loss < high))


def test_two_sizes_are_said_to_rest_on_the_prior() -> None:
    fit = fit_curves(JOINT, [curve for curve in ladder() if curve.parameters != SIZES[2]], samples=0)
    assert len(fit.notes) == 1
    assert "two model sizes" in fit.notes[0]
    assert "third size" in fit.notes[0]


def test_the_peak_lr_is_in_units_of_its_run() -> None:
    """The law compares runs whose peaks were tuned: ten times the lr at every step changes nothing."""
    curve = run(JOINT, TRUE_JOINT, 2000, SIZES[0])
    faster = replace(curve, schedule=replace(curve.schedule, lr=curve.schedule.lr * 10))
    np.testing.assert_allclose(JOINT.predict(TRUE_JOINT, faster), JOINT.predict(TRUE_JOINT, curve), rtol=1e-12)


def test_the_batch_counts_tokens_or_steps() -> None:
    """At equal tokens, a law that counts tokens ignores the batch but for the first steps; one of steps does not."""
    values = {**TRUE_JOINT, "F": 0.0, "G": 0.0}
    schedule = planned_lr_curve(
        SCHEDULES.parse({"name": "constant", "warmup_steps": 0}), peak_lr=1e-3, total_steps=4000
    )
    half = planned_lr_curve(SCHEDULES.parse({"name": "constant", "warmup_steps": 0}), peak_lr=1e-3, total_steps=2000)
    losses = {}
    for power in (0.0, 0.5, 1.0):
        law = JOINT.model_copy(update={"batch_power": power})
        small, large = (
            last_step(schedule, parameters=1e8, batch_tokens=1e4),
            last_step(half, parameters=1e8, batch_tokens=2e4),
        )
        losses[power] = float(law.predict(values, large)[0] - law.predict(values, small)[0])
    assert losses[0.0] == pytest.approx(0, abs=1e-12)
    assert 0 < losses[0.5] < losses[1.0]


def test_bad_input_is_refused_with_what_is_missing() -> None:
    curves = ladder()
    one_size = [curve for curve in curves if curve.parameters == SIZES[0]]
    one_length = [curve for curve in curves if curve.schedule.steps == 2000]
    cases: list[tuple[CurveLaw, list[LossCurve], str]] = [
        (JointConfig(), one_size, "at least two model sizes, better three; these have one: add runs of another size"),
        (JointConfig(), one_length, "needs runs of at least two lengths.* add a shorter or a longer run"),
        (
            JointConfig(),
            [replace(c, parameters=None) for c in curves],
            "needs the parameters of every run; missing for",
        ),
        (JointConfig(), [replace(c, batch_tokens=None) for c in curves], "needs the batch_tokens of every run"),
        (HorizonConfig(), curves, "is of one model size; these curves have 3: fit one, or --law joint"),
        (HorizonConfig(), [one_size[0]], "needs runs of at least two lengths"),
    ]
    for key, meaning in (
        ("shards: tokenizer", "the tokenizer differs"),
        ("shards: held-out split", "the validation set differs"),
        ("parameters: counted", "how parameters are counted"),
        ("loss", "the loss differs"),
    ):
        marked = [replace(curve, provenance={key: curve.schedule.steps}) for curve in curves]
        cases.append((JointConfig(), marked, meaning))
    for law, given, message in cases:
        with pytest.raises(UserError, match=message):
            fit_curves(law, given, samples=0)
