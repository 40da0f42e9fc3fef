"""The public curves of arXiv 2503.12811's authors, with the schedules they were trained on."""

from pathlib import Path

import numpy as np

from laws.curve import LossCurve, LrCurve
from laws.fitting.fitted import Fit

FITTED = ("cosine_24000", "constant_24000", "wsdcon_9")
HELD_OUT = ("cosine_72000", "constant_72000", "wsd_20000_24000", "wsdld_20000_24000", "wsdcon_3", "wsdcon_18")
PEAK, LEAST, WARMUP = 3e-4, 3e-5, 2160


def public_curve(folder: Path, size: str, name: str) -> LossCurve:
    """A public curve with the lr of every step (checked against the lr in its rows)."""
    rows = np.genfromtxt(folder / size / f"{name}.csv", delimiter=",", names=True)
    kind, *numbers = name.split("_")
    steps = 16000 if kind == "wsdcon" else int(numbers[-1])
    lr = np.concatenate([PEAK * np.arange(1, WARMUP + 1) / WARMUP, np.full(steps - WARMUP, PEAK)])
    after = np.arange(WARMUP, steps)
    if kind == "cosine":
        lr[after] = LEAST + (PEAK - LEAST) / 2 * (1 + np.cos(np.pi * (after - WARMUP) / (steps - WARMUP)))
    elif kind == "wsdcon":
        lr[8000:] = int(numbers[0]) * 1e-5
    elif kind in ("wsd", "wsdld"):
        done = np.arange(4000) / 4000
        lr[20000:] = PEAK * (LEAST / PEAK) ** done if kind == "wsd" else PEAK + (LEAST - PEAK) * done
    else:
        assert kind == "constant", name
    at = rows["step"].astype(np.int64)
    np.testing.assert_allclose(lr[at], rows["lr"], rtol=1e-12)
    return LossCurve(LrCurve(lr, WARMUP), at, loss=rows["loss"], name=name)


def held_out_errors(fit: Fit, folder: Path, size: str) -> np.ndarray:
    """The relative errors of a fit at every loss of the six curves that it was not fitted on."""
    curves = [public_curve(folder, size, name) for name in HELD_OUT]
    return np.concatenate([np.abs(fit.predict(curve) / curve.loss - 1) for curve in curves])
