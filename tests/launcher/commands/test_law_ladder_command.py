"""`lehr law` on a ladder: a fit over sizes, a forecast with its batch, a design, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from made_ladder import JOINT, LENGTHS, SIZES, TRUE_JOINT, run
from typer.testing import CliRunner

from launcher.cli import make_app

SHOWN_WIDTH = {"COLUMNS": "200"}


def lehr(*arguments: object, code: int = 0) -> str:
    """Returns what `lehr law ...` prints, in this process."""
    result = CliRunner().invoke(make_app(["law"]), ["law", *map(str, arguments)], env=SHOWN_WIDTH)
    assert result.exit_code == code, result.output
    return result.output + (result.stderr if code else "")


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> dict[float, list[Path]]:
    """CSV files of three lengths at three sizes, with the tokens of each step."""
    folder = tmp_path_factory.mktemp("ladder")
    found: dict[float, list[Path]] = {}
    for size in SIZES:
        for steps in LENGTHS:
            curve = run(JOINT, TRUE_JOINT, steps, size, noise=1e-3)
            lr = curve.schedule.lr[np.minimum(curve.steps, steps - 1)]
            tokens = curve.steps * (curve.batch_tokens or 0)
            rows = [f"{s},{r},{x},{t}" for s, r, x, t in zip(curve.steps, lr, curve.loss, tokens, strict=True)]
            path = folder / f"{size:g}-{steps}.csv"
            path.write_text("step,lr,loss,tokens\n" + "\n".join(rows) + "\n")
            found.setdefault(size, []).append(path)
    return found


def sized(ladder: dict[float, list[Path]], sizes: tuple[float, ...]) -> list[object]:
    """The files of some sizes, each with its --parameters."""
    paths = [(path, size) for size in sizes for path in ladder[size]]
    return [*(path for path, _ in paths), *(word for _, size in paths for word in ("--parameters", size))]


def test_fit_predict_and_design(ladder: dict[float, list[Path]], tmp_path: Path) -> None:
    fit = tmp_path / "fit.json"
    shown = lehr("fit", *sized(ladder, SIZES), "--law", "joint", "--warmup-steps", 100, "--samples", 60, "-o", fit)
    assert "joint law" in shown
    assert "two model sizes" not in shown
    large = run(JOINT, TRUE_JOINT, 8000, 1e9)
    keys = ("schedule=cosine", "schedule.warmup_steps=100", "schedule.min_lr=1e-4", "train.steps=8000", "optim.lr=1e-3")
    shown = lehr("predict", fit, *keys, "--parameters", 1e9, "--batch-tokens", large.batch_tokens)
    for given, missing in (("--batch-tokens", "--parameters"), ("--parameters", "--batch-tokens")):
        assert f"joint law, whose forecasts need {missing}" in lehr("predict", fit, *keys, given, 1e9, code=2)
    predicted = float(shown.split("final loss ")[1].split()[0])
    assert predicted == pytest.approx(float(large.loss[-1]), rel=3e-3)
    shown = lehr("design", fit, "--target", 1e9, "--tokens", 2e10, "--size", 2e7, "--size", 5e8, "--budget", 1e20)
    assert "forecast" in shown
    widths = [float(width) for width in re.findall(r"([\d.]+)% +│ +\d+%", shown)]
    assert len(widths) == 10
    assert widths == sorted(widths)
    assert widths[0] < float(re.findall(r"± ([\d.]+)%", shown)[0])
    target = ("design", fit, "--target", 1e9, "--tokens", 2e10)
    assert "no candidate costs at most 1 FLOPs" in lehr(*target, "--budget", 1, code=2)
    assert "must have at most 10,000,000 steps" in lehr(*target, "--batch-tokens", 1, code=2)


def test_what_cannot_be_fitted_is_refused(ladder: dict[float, list[Path]]) -> None:
    one = lehr("fit", *sized(ladder, SIZES[:1]), "--law", "joint", "--warmup-steps", 100, code=2)
    assert "at least two model sizes" in one
    unsized = lehr("fit", *ladder[SIZES[0]], "--law", "joint", "--warmup-steps", 100, code=2)
    assert "needs the parameters of every run" in unsized
    both = lehr("fit", *sized(ladder, SIZES[:2]), "--law", "joint", "--warmup-steps", 100, "--samples", 0)
    assert "which cannot tell the exponent alpha" in both
