"""Measures how often the 90% intervals of each law hold the truth, in fits to losses that the law made.

Noise of a curve's neighbouring losses is correlated (each remembers half of the last), or independent; noise of the
runs of a compute law is Gaussian, or has the tails of Student's t with 3 degrees of freedom. A parameter that a prior
holds is drawn from the prior for each fit. Bands of predictions are without the allowance for what laws miss.

    OMP_NUM_THREADS=1 python benchmarks/bench_law_coverage.py [--fits 200] [--only NAME]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from laws.curve import Floats, Ints, LossCurve, LrCurve, every_step, last_step, planned_lr_curve
from laws.fitting.fitted import fit_curves
from laws.law import CurveLaw, LawConfig
from laws.loss_curves.annealing import AnnealingConfig
from laws.loss_curves.annealing_size import AnnealingSizeConfig
from laws.loss_curves.horizon import HeldUpLaw, HorizonConfig
from laws.loss_curves.joint import JointConfig
from laws.loss_curves.multi_power import MultiPowerConfig
from laws.loss_curves.relaxation import RelaxationConfig
from laws.scaling.critical_batch import BatchRun, critical_batch
from laws.scaling.farseer import FarseerConfig
from laws.scaling.fit import fit_runs
from laws.scaling.kaplan_batch import KaplanBatchConfig
from laws.scaling.laws import AverageParametersConfig, ChinchillaConfig, ComputeLaw, PowerConstantConfig, Runs
from laws.scaling.repetition import RepetitionConfig
from laws.scaling.skaling import SkalingConfig
from schedules.base import SCHEDULES

SAMPLES = 100  # of each bootstrap
SECTIONS: tuple[dict[str, object], ...] = (
    {"name": "cosine", "min_lr": 3e-5},
    {"name": "constant"},
    {"name": "wsd", "min_lr": 3e-5},
    {"name": "wsd", "decay_steps": 4000, "min_lr": 9e-5},
)
UNSEEN: dict[str, object] = {"name": "linear", "min_lr": 3e-5}
SIZES = (5e7, 1e8, 3e8, 1e9)
TWO_POWERS = {"E": 1.8172, "A": 482.0, "B": 2085.0, "alpha": 0.3478, "beta": 0.3658}

Held = Iterator[tuple[str, bool]]
Noise = Callable[[np.random.Generator, int], Floats]


def independent(rng: np.random.Generator, size: int) -> Floats:
    """Returns Gaussian noise of standard deviation 1 [size]."""
    return rng.normal(size=size)


def correlated(rng: np.random.Generator, size: int) -> Floats:
    """Returns noise of standard deviation 1 of which each remembers half of the last [size]."""
    noise = rng.normal(size=size)
    for index in range(1, size):
        noise[index] = 0.5 * noise[index - 1] + np.sqrt(0.75) * noise[index]
    return noise


def heavy_tailed(rng: np.random.Generator, size: int) -> Floats:
    """Returns noise of Student's t with 3 degrees of freedom [size]."""
    return rng.standard_t(3, size=size)


def drawn(law: LawConfig, values: Mapping[str, float], rng: np.random.Generator) -> dict[str, float]:
    """Returns the true values; those that a prior holds are drawn from it."""
    found = dict(values)
    for shape in law.shapes():
        if shape.prior is not None:
            value = rng.normal(*shape.prior)
            found[shape.name] = float(np.clip(np.exp(value) if shape.log else value, shape.lower, shape.upper))
    return found


@dataclass(frozen=True)
class CurveCase:
    """A law of loss curves: four runs of 60 losses each, and the last loss of a fifth schedule of 8,000 steps."""

    law: CurveLaw
    values: Mapping[str, float]
    noise: Noise
    scale: float = 1e-3

    @property
    def lengths(self) -> tuple[int, ...]:
        """The steps of the runs: 8,000, or different for the laws that need it."""
        return (3000, 8000, 5000, 8000) if isinstance(self.law, HeldUpLaw) else (8000,) * 4

    def held(self, seed: int, samples: int) -> Held:
        """Yields each quantity of one fit, and whether its interval holds the truth."""
        rng = np.random.default_rng(seed)
        truth = drawn(self.law, self.values, rng)
        curves = []
        for section, size, length in zip(SECTIONS, SIZES, self.lengths, strict=True):
            known = {"parameters": size, "batch_tokens": 1e3 * size**0.5} if self.law.spans_sizes else {}
            at = every_step(_planned(section, length), most=60, **known)
            loss = self.law.predict(truth, at) * np.exp(self.scale * self.noise(rng, at.steps.size))
            curves.append(LossCurve(at.schedule, at.steps, loss=loss, **known))
        fit = fit_curves(self.law, curves, samples=samples, seed=seed).model_copy(update={"law_error": 0.0})
        same_units = fit.law == self.law or not isinstance(self.law, HeldUpLaw)
        for name, (low, high) in fit.parameter_intervals().items() if same_units else ():
            yield name, low <= truth[name] <= high
        end = last_step(_planned(UNSEEN), parameters=curves[0].parameters, batch_tokens=curves[0].batch_tokens)
        fact = self.law.predict(truth, end)[0] * np.exp(self.scale * self.noise(rng, 1)[0])
        (low_end,), (high_end,) = fit.band(end)
        yield "new loss", bool(low_end <= fact <= high_end)


@dataclass(frozen=True)
class ComputeCase:
    """A compute law: runs around 20 tokens a parameter, and a new run of 1e9 parameters and 2e10 tokens."""

    law: ComputeLaw
    values: Mapping[str, float]
    noise: Noise
    runs: int = 60
    scale: float = 0.006

    def held(self, seed: int, samples: int) -> Held:
        """Yields each quantity of one fit, and whether its interval holds the truth."""
        rng = np.random.default_rng(seed)
        flops = 10 ** rng.uniform(18, 22, size=self.runs)
        parameters = np.clip(np.sqrt(flops / 120) * 10 ** rng.normal(scale=0.35, size=self.runs), 4e7, 1.6e10)
        noise = np.exp(self.scale * self.noise(rng, self.runs))
        other = np.random.default_rng([seed, 1])
        batch, epochs = 10 ** other.uniform(4.5, 7, size=self.runs), other.choice([1, 1, 4, 16, 64], size=self.runs)
        tokens = flops / 6 / parameters
        truth = drawn(self.law, self.values, other)
        runs = self._runs(truth, Runs(parameters, tokens, noise, batch, tokens / epochs))
        fit = fit_runs(self.law, runs, samples=samples, seed=seed)
        if fit.law == self.law:  # else the parameters are in the units of the runs
            for name, (low, high) in fit.parameter_intervals().items():
                yield name, low <= truth[name] <= high
        new = {"parameters": 1e9, "tokens": 2e10, "batch_tokens": 1e6, "unique_tokens": 5e9}
        at = {name: np.array([value]) for name, value in new.items()}
        fact = self._runs(truth, Runs(loss=np.exp(self.scale * self.noise(rng, 1)), **at)).loss[0]
        _, low, high = fit.predict(**new)
        yield "new loss", bool(low <= fact <= high)

    def _runs(self, truth: dict[str, float], noise: Runs) -> Runs:
        """Returns runs with the losses of the law times those given."""
        loss_n = self.law.evaluate(self.law.pack(truth)[None], self.law.features(noise))[0][0]
        return replace(noise, loss=noise.loss * loss_n)


@dataclass(frozen=True)
class BatchCase:
    """The critical batch of a loss: five batch sizes, losses every hundredth of the steps so far."""

    noise: Noise
    scale: float = 1e-3
    critical: float = 2e5

    def held(self, seed: int, samples: int) -> Held:
        """Yields the critical batch, and whether its interval holds the truth."""
        rng = np.random.default_rng(seed)
        steps: Ints = np.unique(np.geomspace(20, 100000, 800).round().astype(np.int64))
        runs = []
        for batch in (2e4, 5e4, 2e5, 8e5, 2e6):
            loss = 2 + 3 * (steps / (1 + self.critical / batch)) ** -0.3
            runs.append(BatchRun(batch, steps, loss * np.exp(self.scale * self.noise(rng, steps.size))))
        low, high = critical_batch(runs, 2.3).interval
        yield "critical batch", low <= self.critical <= high


def _planned(section: Mapping[str, object], steps: int = 8000) -> LrCurve:
    return planned_lr_curve(SCHEDULES.parse({"warmup_steps": 200, **section}), peak_lr=3e-4, total_steps=steps)


ANNEALING = {"L0": 2.8, "A": 0.6, "C": 0.5, "alpha": 0.45}
CURVE_LAWS: dict[str, tuple[CurveLaw, dict[str, float]]] = {
    "annealing": (AnnealingConfig(), ANNEALING),
    "annealing, lambda fitted": (AnnealingConfig(fit_decay=True), {**ANNEALING, "one_minus_lambda": 2e-3}),
    "annealing_size": (
        AnnealingSizeConfig(),
        {"L0": 1.8, "A": 0.6, "B": 400.0, "C": 0.05, "alpha": 0.45, "beta": 0.34, "gamma": 0.12},
    ),
    "multi_power": (
        MultiPowerConfig(),
        {"L0": 2.65, "A": 0.6, "B": 438.0, "alpha": 0.453, "beta": 0.6, "gamma": 0.65, "C": 2.1},
    ),
    "relaxation": (RelaxationConfig(), {"L0": 2.68, "A": 0.53, "B": 0.2, "alpha": 0.5, "C": 0.02}),
    "horizon": (
        HorizonConfig(reference_steps=5000, reference_tokens=5000),
        {"E": 2.5, "B": 0.5, "G": 0.2, "F": 0.003, "beta": 0.37, "C": 0.02},
    ),
    "joint": (
        JointConfig(reference_steps=5000, reference_tokens=2e7, reference_parameters=2e8, reference_batch_tokens=2e7),
        {"E": 1.8, "S0": 0.7, "G": 0.2, "F": 0.003, "alpha": 0.42, "beta": 0.43, "w": 1.0, "k": 0.77, "C": 0.02},
    ),
}
COMPUTE_LAWS: dict[str, tuple[ComputeLaw, dict[str, float]]] = {
    "power_constant": (PowerConstantConfig(), {"L_inf": 1.7, "A": 250.0, "alpha": 0.13}),
    "chinchilla": (ChinchillaConfig(), TWO_POWERS),
    "average_parameters": (AverageParametersConfig(), TWO_POWERS),
    "skaling": (SkalingConfig(), {"E": 1.76, "S": 0.75, "alpha": 0.42, "beta": 0.43, "k": 0.77, "w": 1.0}),
    "repetition": (RepetitionConfig(), {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353}),
    "kaplan_batch": (
        KaplanBatchConfig(),
        {"A": 6.5e13**0.077, "B": 2.1e3**0.76, "alpha": 0.077, "beta": 0.76, "B_star": 2e8},
    ),
    "farseer": (
        FarseerConfig(),
        {
            "exp_b3": 4.0,
            "exp_b2": 0.02,
            "a3": -0.7,
            "g3": 0.17,
            "a2": 11.1,
            "g2": -0.1,
            "a1": -1.6,
            "g1": 0.12,
            "b1": 0.42,
        },
    ),
}
CASES: dict[str, CurveCase | ComputeCase | BatchCase] = {
    **{f"{name}; correlated": CurveCase(*case, correlated) for name, case in CURVE_LAWS.items()},
    **{f"{name}; independent": CurveCase(*case, independent) for name, case in CURVE_LAWS.items()},
    **{f"{name}; Gaussian": ComputeCase(*case, independent) for name, case in COMPUTE_LAWS.items()},
    **{f"{name}; heavy tails": ComputeCase(*case, heavy_tailed) for name, case in COMPUTE_LAWS.items()},
    "chinchilla, 20 runs; Gaussian": ComputeCase(*COMPUTE_LAWS["chinchilla"], independent, runs=20),
    "critical batch; independent": BatchCase(independent),
}


def counts(name: str, *, fits: int, samples: int = SAMPLES) -> Counter[str]:
    """Returns in how many of the fits of a case each quantity's interval held the truth."""
    found: Counter[str] = Counter()
    for seed in range(fits):
        found.update({quantity: int(held) for quantity, held in CASES[name].held(seed, samples)})
    return found


def main() -> None:
    """Reads the arguments and prints the share of each law and quantity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=int, default=200)
    parser.add_argument("--only", default="", help="the cases whose name begins so")
    arguments = parser.parse_args()
    print(f"| law; noise | seconds a fit | share of {arguments.fits} fits |\n|---|---|---|")
    for name in CASES:
        if name.startswith(arguments.only):
            started = time.process_time()
            held = counts(name, fits=arguments.fits)
            seconds = (time.process_time() - started) / arguments.fits
            shares = ", ".join(f"{quantity} {100 * count / arguments.fits:.1f}%" for quantity, count in held.items())
            print(f"| {name} | {seconds:.2f} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
