"""`lehr ladder` from plan to verdict on real runs of seconds; the register shows in the run and its checkpoints."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from processes import lehr
from small_runs import make_shards, write_config

from launcher.run.config import load_run_config
from settings.files import file_sha256
from train.metrics.jsonl import read_metrics

ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
SHAPE = {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "num_kv_heads": 1, "ffn_size": 32}
TRAIN = {"steps": 160, "seq_length": 32, "micro_batch_size": 4, "global_batch_size": 4}


def run(*arguments: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = lehr(*arguments, env=ENVIRONMENT, timeout=500)
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.slow
def test_a_ladder_from_plan_to_verdict(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        make_shards(tmp_path),
        model=SHAPE,
        train=TRAIN,
        schedule={"warmup_steps": 8},
        checkpoint={"every_steps": 100},
    )
    ladder = tmp_path / "ladder"
    options = ["--target", "17e3", "--tokens", "40e3", "--sizes", "2", "--spacing", "1.6", "--budget", "2e10"]
    planned = run("ladder", "plan", config, *options, "-o", ladder).stdout
    assert "times as much as the largest rung" in planned
    assert "forecast of the target: ± " in planned
    assert run("ladder", "fit", ladder, expect=2).stderr.startswith(
        f"error: {ladder}: no run of the ladder is finished"
    )

    first = run("ladder", "run", ladder).stdout
    assert f"6 of 6 runs are finished: {ladder / 'runs.jsonl'}" in first
    again = run("ladder", "run", ladder).stdout
    assert "running" not in again
    fitted = run("ladder", "fit", ladder, "--samples", "20").stdout
    assert "each rung, forecast from the others" in fitted
    assert "  alpha: " in fitted
    registered = run("ladder", "register", ladder).stdout
    register = ladder / "register.json"
    assert file_sha256(register) in registered

    done = run("train", ladder / "target.yaml").stdout
    verdict = done.splitlines()[-1]
    forecast = json.loads(register.read_text())["forecast"]
    folder = load_run_config(ladder / "target.yaml").run.path
    last = read_metrics(folder / "metrics.jsonl")[-1]
    assert verdict.startswith(f"held-out loss: forecast {forecast['loss'][-1]:.4f} (90%: ")
    assert f"fact {last['held_out/loss']:.4f}" in verdict
    assert verdict.endswith(("inside the interval", "outside the interval"))
    assert last["forecast/loss"] == pytest.approx(forecast["loss"][-1], rel=1e-9)

    record = json.loads((folder / "run.json").read_text())
    assert record["inputs"]["registered_forecast"] == file_sha256(register)
    manifests = [json.loads(path.read_text()) for path in folder.glob("checkpoints/step-*/manifest.json")]
    assert len(manifests) == 4
    assert {manifest["registered_forecast"] for manifest in manifests} == {file_sha256(register)}
    altered = tmp_path / "altered.json"
    altered.write_text(register.read_text().replace('"registered": "2', '"registered": "1'))
    for override in (f"train.forecast={altered}", "train.forecast=null"):
        refused = run("train", ladder / "target.yaml", override, expect=2).stderr
        assert "the registered forecast (train.forecast): SHA-256 " in refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--sizes", "1"], "one size tells nothing of another"),
        (["plan", "--length", "1"], "one length tells nothing of a longer run"),
        (["plan", "--budget", "2e10", "--sizes", "2", "--gpu", "H1000"], '--gpu "H1000" is not known'),
        (["plan", "--rule", "powr"], 'no size rule is called "powr"; did you mean "power"?'),
        (["plan", "--tuned", "nowhere"], "--tuned nowhere: holds no finished run with its config"),
        (["run"], "is no ladder: it has no ladder.yaml"),
        (["run", "--slurm", "--jobs", "2"], "--jobs is for runs on this machine"),
        (["fit"], "is no ladder: it has no ladder.yaml"),
        (["register"], "is no ladder: it has no ladder.yaml"),
    ],
)
def test_mistakes_are_one_message(arguments: list[str], message: str, tmp_path: Path) -> None:
    command, *options = arguments
    words: list[str | Path] = ["ladder", command, tmp_path / "nothing", *options]
    if command == "plan":
        config = write_config(tmp_path, make_shards(tmp_path), model=SHAPE, train=TRAIN)
        words = ["ladder", "plan", config, "--target", "17e3", "--tokens", "40e3", *options, "-o", tmp_path / "ladder"]
    assert message in run(*words, expect=2).stderr
    assert not (tmp_path / "ladder").exists()
