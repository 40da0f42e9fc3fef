"""A ladder of cosine runs, made by the laws over horizon and size."""

import numpy as np

from laws.curve import LossCurve, every_step, planned_lr_curve
from laws.law import CurveLaw
from laws.loss_curves.horizon import HorizonConfig
from laws.loss_curves.joint import JointConfig
from schedules.base import SCHEDULES

SIZES, LENGTHS = (2e7, 6e7, 2e8), (1000, 2000, 4000)
TRUE_HORIZON = {"E": 2.5, "B": 0.5, "G": 0.15, "F": 0.01, "beta": 0.366, "C": 0.02}
TRUE_JOINT = {"E": 1.8, "S0": 0.6, "G": 0.15, "F": 0.01, "alpha": 0.424, "beta": 0.43, "w": 1.0, "k": 0.774, "C": 0.02}


def run(law: CurveLaw, values: dict[str, float], steps: int, size: float, noise: float = 0.0) -> LossCurve:
    """A cosine run with the losses of the law."""
    section = {"name": "cosine", "warmup_steps": 100, "min_lr": 1e-4}
    schedule = planned_lr_curve(SCHEDULES.parse(section), peak_lr=1e-3, total_steps=steps)
    at = every_step(schedule, most=60, parameters=size, batch_tokens=4 * size**0.5)
    wave = np.exp(noise * np.random.default_rng(steps).normal(size=at.steps.size))
    known = {"parameters": at.parameters, "batch_tokens": at.batch_tokens}
    return LossCurve(schedule, at.steps, loss=law.predict(values, at) * wave, name=f"{size:g}-{steps}", **known)


HORIZON = HorizonConfig(reference_steps=2000, reference_tokens=2000 * 4 * SIZES[1] ** 0.5)
JOINT = JointConfig(
    reference_steps=2000, reference_tokens=2000 * (4 * SIZES[1] ** 0.5) ** 0.5, reference_parameters=SIZES[1]
)


def ladder() -> list[LossCurve]:
    return [run(JOINT, TRUE_JOINT, steps, size) for size in SIZES for steps in LENGTHS]
