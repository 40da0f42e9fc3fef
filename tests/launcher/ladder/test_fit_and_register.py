"""`lehr ladder fit` and `register`, on runs whose law is known: the forecast, its refusals, and the registered file."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_runs import LAW, TRUTH, finish, make_base, make_ladder, points_of
from small_runs import make_shards

from launcher.commands.ladder.fit import fit_command
from launcher.commands.ladder.register import register_command
from launcher.ladder.curves import ladder_curves
from launcher.ladder.ladder_file import Ladder
from launcher.run.config import RunConfig, load_run_config
from launcher.run.forecast import check_forecast
from launcher.run.input_hashes import inputs_of, register_hash
from launcher.run.preflight import model_with_vocabulary
from launcher.run.register import Register, load_forecast
from laws.curve import last_step
from laws.fitting.fitted import fit_curves, load_fit
from laws.loss_curves.joint import JointConfig
from settings import UserError, to_yaml
from settings.files import file_sha256


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def registered(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    """A finished ladder, fitted and registered."""
    ladder = make_ladder(base, tmp_path_factory.mktemp("registered") / "ladder")
    finish(ladder)
    fit_command(ladder.folder, samples=30, cross_validate=False)
    register_command(ladder.folder)
    return ladder


def target_of(ladder: Ladder) -> RunConfig:
    return load_run_config(ladder.target)


def true_end(ladder: Ladder) -> float:
    points = points_of(ladder.config_of(ladder.plan.target))
    end = last_step(points.schedule, parameters=points.parameters, batch_tokens=points.batch_tokens)
    return float(LAW.predict(TRUTH, end)[0])


def test_a_fit_finds_the_law_that_made_the_runs(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ladder = make_ladder(base, tmp_path / "ladder", seeds=2)
    finish(ladder)
    fit_command(ladder.folder, samples=20)
    out = capsys.readouterr().out
    words = out[out.index("  held-out loss ") :].split()
    forecast, low, high = float(words[2]), float(words[4]), float(words[6].strip("),"))
    truth = true_end(ladder)
    assert low < truth < high
    assert forecast == pytest.approx(truth, rel=0.005)
    for source, above in (("alpha", 0.0), ("beta", 0.1)):
        own = out[out.index(f"  {source}: ") :].split()
        assert float(own[1]) == pytest.approx(truth * (1 + above), rel=0.01)
    rows = [line for line in out.splitlines() if "seed" in line and "%" in line]
    assert len(rows) == 18  # each run, forecast without its rung
    assert "mean error of last losses: 0." in out
    assert len(load_fit(ladder.fit).curves) == 18
    assert ladder.fit.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_rung_that_is_missing_is_named_and_the_rest_is_fitted(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ladder = make_ladder(base, tmp_path / "ladder")
    with pytest.raises(UserError, match=r"no run of the ladder is finished; lehr ladder run"):
        fit_command(ladder.folder)
    last = ladder.plan.rungs[-1]
    finish(ladder, lambda rung: rung is not last)
    fit_command(ladder.folder, samples=2, cross_validate=False)
    out = capsys.readouterr().out
    assert f"note: not finished, so not fitted: rung={last.name}, seed 1 (lehr ladder run" in out
    assert len(load_fit(ladder.fit).curves) == 8


def test_one_size_and_one_length_are_refused_with_what_is_missing(base: Path, tmp_path: Path) -> None:
    ladder = make_ladder(base, tmp_path / "ladder")
    small = ladder.plan.rungs[0].parameters
    finish(ladder, lambda rung: rung.parameters == small)
    with pytest.raises(UserError, match="needs runs of at least two model sizes, better three; these have one"):
        fit_command(ladder.folder)
    ladder.records.unlink()
    second = next(rung for rung in ladder.plan.rungs if rung.parameters != small)
    steps = second.keys["train.steps"]
    alike = [rung for rung in ladder.plan.rungs if 0.82 * steps < rung.keys["train.steps"] < 1.22 * steps]
    assert len({rung.parameters for rung in alike}) > 1
    finish(ladder, lambda rung: rung in alike)
    with pytest.raises(UserError, match="needs runs of at least two lengths"):
        fit_command(ladder.folder)


def test_two_sizes_rest_on_a_prior_and_the_fit_says_so(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ladder = make_ladder(base, tmp_path / "ladder", sizes=2)
    finish(ladder)
    fit_command(ladder.folder, samples=2, cross_validate=False)
    assert "note: the runs are of two model sizes, which cannot tell the exponent alpha" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "meaning"),
    [
        ("shards: tokenizer", "the tokenizer differs"),
        ("shards: held-out split", "the validation set differs"),
        ("parameters: counted", "how parameters are counted .with or without embeddings. differs"),
        ("loss", "the loss differs"),
    ],
)
def test_runs_that_do_not_compare_are_refused(key: str, meaning: str, registered: Ladder) -> None:
    known = ladder_curves(registered).curves
    other = replace(known[0], name="other", provenance={**known[0].provenance, key: "another"})
    with pytest.raises(UserError, match=meaning):
        fit_curves(JointConfig(), [*known, other], samples=0)


def test_a_run_beside_the_ladder_is_fitted_if_its_data_are_the_same(
    registered: Ladder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = registered.config_of(registered.plan.rungs[0])
    folder = write_run_folder(tmp_path / "earlier", config)
    ladder = Ladder(tmp_path / "ladder", registered.plan)
    ladder.write(load_run_config(registered.base))
    shutil.copy(registered.records, ladder.records)
    fit_command(ladder.folder, also=[folder], samples=2, cross_validate=False)
    assert load_fit(ladder.fit).curves[-1].name == "earlier"
    assert "note: no source is forecast by itself, because a run is fitted" in capsys.readouterr().out
    register_command(ladder.folder)
    assert json.loads(ladder.register.read_text())["runs"]["earlier"] == ""
    shards = make_shards(tmp_path)
    info = json.loads((shards / "alpha/dataset.json").read_text())
    info["splits"]["held_out"]["files"][0]["sha256"] = "0" * 64
    (shards / "alpha/dataset.json").write_text(json.dumps(info))
    other = config.model_copy(update={"data": config.data.model_copy(update={"shards": shards})})
    with pytest.raises(UserError, match="the validation set differs"):
        fit_command(ladder.folder, also=[write_run_folder(tmp_path / "other", other)])


def write_run_folder(folder: Path, config: RunConfig) -> Path:
    """Writes the metrics and the config of a run that followed the law."""
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(config))
    points = points_of(config)
    losses = dict(zip(points.steps.tolist(), LAW.predict(TRUTH, points).tolist(), strict=True))
    rows = [
        {"step": step, "lr": lr, "tokens": step * int(points.batch_tokens or 0)}
        | ({"held_out/loss": losses[step]} if step in losses else {})
        for step, lr in enumerate(points.schedule.lr.tolist(), 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_register_holds_the_config_the_law_the_whole_curve_all_hashes_and_a_time(registered: Ladder) -> None:
    plain = json.loads(registered.register.read_text())
    register = Register.model_validate(plain)
    names = ("ladder.yaml", "base.yaml", "runs.jsonl", "fit.json")
    assert register.inputs == {name: file_sha256(registered.folder / name) for name in names}
    assert register.data == inputs_of(registered.config_of(registered.plan.target))
    assert len(register.runs) == 9
    assert register.registered.endswith("+00:00")
    assert register.fit == load_fit(registered.fit)
    config = target_of(registered)
    assert register.config["optim.lr"] == config.optim.lr
    assert register.config["train.steps"] == config.train.steps
    assert register.forecast.steps[-1] == config.train.steps
    assert register.forecast.loss[-1] == pytest.approx(true_end(registered), rel=0.005)
    truth = LAW.predict(TRUTH, points_of(config, most=200))
    assert np.abs(np.array(register.forecast.loss) / truth - 1).max() < 0.02
    assert all(np.diff([register.forecast.low, register.forecast.loss, register.forecast.high], axis=0).min(axis=1) > 0)


def test_a_register_is_written_once_and_before_its_run(registered: Ladder, base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"register.json exists, and a registered forecast stays as it is"):
        register_command(registered.folder)
    ladder = make_ladder(base, tmp_path / "ladder")
    finish(ladder)
    with pytest.raises(
        UserError, match=r"fit.json does not exist, so there is no forecast to register; lehr ladder fit"
    ):
        register_command(ladder.folder)
    shutil.copy(registered.fit, ladder.fit)
    ladder.config_of(ladder.plan.target).run.path.mkdir(parents=True)
    with pytest.raises(UserError, match=r"the target has begun: .* a forecast is registered before its run"):
        register_command(ladder.folder)
    shutil.rmtree(ladder.config_of(ladder.plan.target).run.path)


def test_a_fit_that_lacks_finished_runs_is_not_registered(base: Path, tmp_path: Path) -> None:
    ladder = make_ladder(base, tmp_path / "ladder")
    last = ladder.plan.rungs[-1]
    finish(ladder, lambda rung: rung is not last)
    fit_command(ladder.folder, samples=2, cross_validate=False)
    finish(ladder, lambda rung: rung is last)
    with pytest.raises(UserError, match=rf"fit.json lacks runs that are finished: {last.name} seed 1; lehr ladder fit"):
        register_command(ladder.folder)


def test_a_fit_to_a_rung_that_was_edited_afterwards_is_not_registered(base: Path, tmp_path: Path) -> None:
    ladder = make_ladder(base, tmp_path / "ladder")
    finish(ladder)
    fit_command(ladder.folder, samples=2, cross_validate=False)
    first, *others = ladder.plan.rungs
    edited = first.model_copy(update={"keys": {**first.keys, "optim.lr": 0.9 * first.keys["optim.lr"]}})
    again = Ladder(ladder.folder, ladder.plan.model_copy(update={"rungs": (edited, *others)}))
    again.write(load_run_config(ladder.base))
    gone = f"fit.json has runs that the ladder no longer has as they were: {first.name} seed 1; lehr ladder fit"
    with pytest.raises(UserError, match=re.escape(gone)):
        register_command(ladder.folder)
    finish(again, lambda rung: rung.name == first.name)
    with pytest.raises(UserError, match=f"fit.json lacks runs that are finished: {first.name} seed 1; lehr ladder fit"):
        register_command(ladder.folder)
    fit_command(ladder.folder, samples=2, cross_validate=False)
    register_command(ladder.folder)
    register = json.loads(ladder.register.read_text())
    assert register["runs"] == {f"{point.values['rung']} seed 1": point.digest for point in again.sweep().points}


def test_the_target_starts_with_its_registered_forecast_and_no_other_run_does(registered: Ladder) -> None:
    config = target_of(registered)
    model = model_with_vocabulary(config)
    assert check_forecast(config, model) == []
    assert config.train.forecast == registered.register.absolute()
    assert load_forecast(registered.register)[0] == load_fit(registered.fit)
    for override, line in (
        ("optim.lr=1e-4", "optim.lr: .* registered, 0.0001 here"),
        ("train.steps=999", "train.steps: .* registered, 999 here"),
        ("model.num_layers=1", "model.num_layers: "),
        ("run.seed=7", "run.seed: "),
        ("evaluate.max_windows=9", "evaluate.max_windows: .* registered, 9 here"),
    ):
        other = load_run_config(registered.target, [override])
        with pytest.raises(UserError, match=f"(?s)is the registered forecast of another run:.*{line}"):
            check_forecast(other, other.model.with_vocabulary(model.vocabulary))


def test_a_register_that_was_altered_is_found(registered: Ladder, tmp_path: Path) -> None:
    plain = json.loads(registered.register.read_text())
    plain["forecast"]["loss"][-1] *= 1.001
    path = tmp_path / "register.json"
    path.write_text(json.dumps(plain))
    config = load_run_config(registered.target, [f"train.forecast={path}"])
    with pytest.raises(UserError, match="its curve is not the one of its own law, so the file was altered"):
        check_forecast(config, model_with_vocabulary(config))


def test_other_shards_are_another_run(registered: Ladder, tmp_path: Path) -> None:
    shards = make_shards(tmp_path)
    (shards / "beta/dataset.json").write_text((shards / "alpha/dataset.json").read_text())
    config = load_run_config(registered.target, [f"data.shards={shards}"])
    with pytest.raises(UserError, match='source "beta": SHA-256'):
        check_forecast(config, model_with_vocabulary(config))


def test_only_a_register_has_a_hash_that_a_run_records(registered: Ladder, tmp_path: Path) -> None:
    assert register_hash(registered.register) == file_sha256(registered.register)
    assert inputs_of(target_of(registered)).registered_forecast == file_sha256(registered.register)
    for other in (registered.fit, tmp_path / "missing.json", registered.target):
        assert register_hash(other) == ""
