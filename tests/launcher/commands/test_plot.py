"""`lehr plot`: pictures of runs, from their metrics."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread
from processes import lehr
from typer.testing import CliRunner

from launcher.cli import make_app
from train.metrics.jsonl import MetricsFile


def write_run(folder: Path, *, steps: int = 40, forecast: bool = False) -> Path:
    folder.mkdir()
    file = MetricsFile(folder / "metrics.jsonl", from_step=0)
    for step in range(1, steps + 1):
        loss = 3 + 4 / step if step != 7 else math.nan  # a skipped step
        file.append({"step": step, "tokens": 100 * step, "loss": loss, "lr": 1e-3, "grad_norm": 1 / step})
        if step % 10 == 0:
            held_out = {"held_out/loss": 3.1 + 4 / step, "held_out/books/loss": 3.2, "held_out/code/loss": 2.9}
            final = {"forecast/final": 3.2, "forecast/final_low": 3.1, "forecast/final_high": 3.3} if forecast else {}
            file.append({"step": step, **held_out, **final})
    file.close()
    return folder


def plot(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(make_app(["plot"]), ["plot", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The labels of the lines that are drawn, and the number of points of each."""
    lines: dict[str, int] = {}
    real = Axes.plot

    def plot_and_note(self: Axes, x: object, y: object, *rest: object, **style: object) -> object:
        lines[str(style.get("label", ""))] = len(x)  # type: ignore[arg-type]
        return real(self, x, y, *rest, **style)  # type: ignore[arg-type]

    monkeypatch.setattr(Axes, "plot", plot_and_note)
    return lines


def test_a_run_with_sources_and_forecast(tmp_path: Path, drawn: dict[str, int]) -> None:
    run = write_run(tmp_path / "try", forecast=True)
    code, output = plot(run)
    assert (code, output) == (0, f"drawn: {run / 'curves.png'}\n")
    pixels = imread(run / "curves.png")
    assert pixels.shape[:2] == (7 * 120, 9 * 120)
    assert pixels.std() > 0.05
    assert drawn["try: training"] == 40
    assert drawn["held out: books"] == drawn["held out: code"] == drawn["held out"] == 4
    assert drawn["forecast of the final held-out loss"] == 4
    assert not list(run.glob(".*partial"))


def test_several_runs_in_one_picture(tmp_path: Path, drawn: dict[str, int]) -> None:
    runs = [write_run(tmp_path / name, steps=steps) for name, steps in (("one", 30), ("two", 20))]
    out = tmp_path / "both.svg"
    assert plot(*runs, "-o", out)[0] == 0
    assert out.read_text().startswith("<?xml")
    assert (drawn["one: held out"], drawn["two: held out"]) == (3, 2)


def test_mistakes_are_one_message(tmp_path: Path) -> None:
    run = write_run(tmp_path / "try")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "metrics.jsonl").write_text("")
    for arguments, message in (
        ([tmp_path / "none"], "is no run folder"),
        ([empty], "has no step yet"),
        ([run, "-o", tmp_path / "x.gif"], "must end in one of"),
        ([run, "-o", tmp_path / "no" / "x.png"], "does not exist; make it first"),
    ):
        code, output = plot(*arguments)
        assert code == 2
        assert message in output
        assert len(output.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_run_whose_name_is_no_utf8_is_drawn(tmp_path: Path) -> None:
    run = write_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff")))
    done = lehr("plot", run)
    assert done.returncode == 0, done.stderr
    assert "a\\udcff/curves.png" in done.stdout
    assert (run / "curves.png").stat().st_size > 10_000
