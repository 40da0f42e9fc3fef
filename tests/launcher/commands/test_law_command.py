"""The commands of `lehr law`, in processes of their own."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
import yaml
from typer.testing import CliRunner

from launcher.cli import make_app
from launcher.run.config import RunConfig
from laws.curve import every_step, planned_lr_curve
from laws.fitting.fitted import load_fit
from laws.loss_curves.annealing import AnnealingConfig
from schedules.base import SCHEDULES
from settings import compose

ROOT = Path(__file__).parents[3]
TRUTH = {"L0": 2.8, "A": 0.6, "C": 0.5, "alpha": 0.45}
COMPUTE_ROWS = "parameters,tokens,loss\n" + "\n".join(
    f"{n},{d},{1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28}" for n in (1e8, 3e8, 1e9) for d in (2e9, 1e10, 5e10)
)


def lehr(*arguments: object) -> str:
    """Returns the output of `lehr law ...` in a process of its own."""
    done = processes.lehr("law", *map(str, arguments))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refused(*arguments: object) -> str:
    """Returns the message of `lehr law ...`, which must exit with 2; it runs in this process, for speed."""
    result = CliRunner().invoke(make_app(["law"]), ["law", *map(str, arguments)])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    return result.stderr


def write_csv(path: Path, section: dict[str, object], seed: int) -> Path:
    places = every_step(planned_lr_curve(SCHEDULES.parse(section), peak_lr=3e-4, total_steps=6000), most=100)
    loss = AnnealingConfig().predict(TRUTH, places)
    loss = loss * np.exp(5e-4 * np.random.default_rng(seed).normal(size=loss.size))
    lr = places.schedule.lr[np.minimum(places.steps, 5999)]
    rows = [f"{step},{rate},{value}" for step, rate, value in zip(places.steps, lr, loss, strict=True)]
    path.write_text("step,lr,loss\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def fit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("law")
    cosine = write_csv(folder / "cosine.csv", {"name": "cosine", "warmup_steps": 100, "min_lr": 3e-5}, 0)
    constant = write_csv(folder / "constant.csv", {"name": "constant", "warmup_steps": 100}, 1)
    out = lehr(
        "fit", cosine, constant, "--law", "annealing", "--samples", 50, "--warmup-steps", 100, "-o", folder / "fit.json"
    )
    assert "alpha" in out
    assert "cosine" in out
    assert (folder / "fit.png").read_bytes().startswith(b"\x89PNG")
    return folder / "fit.json"


@pytest.mark.slow
def test_fit_finds_the_true_parameters(fit_file: Path) -> None:
    fit = load_fit(fit_file)
    assert fit.values == pytest.approx(TRUTH, rel=0.05)
    assert len(fit.samples) == 50


WSD = {"name": "wsd", "decay_steps": 1000, "min_lr": 3e-5, "warmup_steps": 100}
WSD_KEYS = ("schedule=wsd", "schedule.decay_steps=1000", "schedule.min_lr=3e-5", "schedule.warmup_steps=100")


@pytest.mark.slow
def test_predict(fit_file: Path, tmp_path: Path) -> None:
    schedule = planned_lr_curve(SCHEDULES.parse(WSD), peak_lr=3e-4, total_steps=6000)
    truth = AnnealingConfig().predict(TRUTH, every_step(schedule))[-1]
    out = lehr("predict", fit_file, *WSD_KEYS, "train.steps=6000", "--plot", tmp_path / "p.png")
    final = out[out.index("final loss") :].split()
    assert float(final[2]) == pytest.approx(truth, rel=2e-3)
    assert float(final[4]) < truth < float(final[6].rstrip(")"))
    assert (tmp_path / "p.png").stat().st_size > 1000
    fragment = tmp_path / "fragment.yaml"
    fragment.write_text(yaml.safe_dump({"schedule": WSD, "train": {"steps": 6000}}))
    assert lehr("predict", fit_file, fragment, "optim.lr=3e-4") in out


@pytest.mark.slow
def test_predict_reads_a_config_as_a_run_does(fit_file: Path) -> None:
    demo = ROOT / "configs/demo.yaml"
    overrides = (f"schedule={json.dumps(WSD)}", "optim.lr=3e-4", "train.steps=6000")
    assert lehr("predict", fit_file, demo, *overrides) == lehr("predict", fit_file, *WSD_KEYS, "train.steps=6000")
    assert "model.hiden_size: unknown key" in refused("predict", fit_file, demo, "model.hiden_size=64")
    assert "schedule.warmup_steps = 99 must be at most train.steps = 9" in refused(
        "predict", fit_file, demo, "schedule={name: linear, warmup_steps: 99}", "train.steps=9"
    )


@pytest.mark.slow
def test_schedule_writes_a_config_that_a_run_accepts(fit_file: Path, tmp_path: Path) -> None:
    out = lehr("schedule", fit_file, "--steps", 3000, "--constraint", "min_lr=3e-5", "-o", tmp_path / "best")
    assert "free form" in out
    config = yaml.safe_load((tmp_path / "best" / "config.yaml").read_text())
    lr = SCHEDULES.parse(config["schedule"]).build(peak_lr=config["optim"]["lr"], total_steps=3000)
    table = json.loads((tmp_path / "best" / "schedule.json").read_text())
    assert [lr(step) for step in range(3000)] == pytest.approx(table, rel=1e-12)
    assert (tmp_path / "best" / "schedule.png").stat().st_size > 1000
    again = lehr("predict", fit_file, tmp_path / "best" / "config.yaml")
    assert "final loss" in again
    keys = ("schedule.name=table", f"schedule.file={tmp_path / 'best' / 'schedule.json'}", "train.steps=3000")
    assert lehr("predict", fit_file, *keys).splitlines()[-1] == again.splitlines()[-1]


def test_schedule_prints_overrides_that_a_run_accepts(fit_file: Path, tmp_path: Path) -> None:
    """Also if the best schedule is of free form, a table that no option lets it write."""
    out = lehr("schedule", fit_file, "--steps", 300, "--constraint", "families=linear,cosine")
    assert "the best, free form, is a table" in out
    text, _, command = out.partition("as a config:\n")[2].partition("and as a run:\n")
    fragment = yaml.safe_load(text)
    assert fragment["schedule"]["name"] in ("linear", "cosine")
    assert fragment["schedule"]["warmup_steps"] == 100
    overridden = compose(RunConfig, ROOT / "configs/demo.yaml", shlex.split(command)[3:])
    demo = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    pasted = {section: {**demo[section], **fragment[section]} for section in ("train", "optim")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**demo, **pasted, "schedule": fragment["schedule"]}))
    assert compose(RunConfig, tmp_path / "run.yaml") == overridden
    assert (overridden.train.steps, overridden.optim.lr) == (300, pytest.approx(3e-4, rel=1e-3))
    assert overridden.schedule.to_plain() == fragment["schedule"]
    alone = ("--constraint", "families=")
    assert "-o FOLDER" in refused("schedule", fit_file, "--steps", 300, *alone)


@pytest.mark.slow
def test_no_command_imports_torch(fit_file: Path, tmp_path: Path) -> None:
    """The import would take seconds."""
    (tmp_path / "runs.csv").write_text(COMPUTE_ROWS)
    for arguments in (
        ("fit", fit_file.parent / "cosine.csv", fit_file.parent / "constant.csv", "--law=annealing", "--samples=0"),
        ("predict", fit_file, *WSD_KEYS, "train.steps=6000", "--plot", tmp_path / "p.png"),
        ("schedule", fit_file, "--steps", 200, "--constraint", "families=linear", "-o", tmp_path / "best"),
        ("compute", tmp_path / "runs.csv", "--samples", 0),
    ):
        code = (
            "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules));"
            "from launcher.cli import main; main(['law', *sys.argv[1:]])"
        )
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "False", arguments


@pytest.mark.slow
def test_a_failed_write_keeps_the_old_files(fit_file: Path, tmp_path: Path) -> None:
    """The limit of file sizes stands for a full disk; the schedule's table fits, and its plot does not."""
    known = tmp_path / "known.json"
    shutil.copy(fit_file, known)
    curves = [fit_file.parent / "cosine.csv", fit_file.parent / "constant.csv"]
    schedule = ("schedule", fit_file, "--constraint", "families=linear", "--constraint", "warmup_steps=2", "-o")
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "schedule.json").write_text("[1]")
    for arguments in (
        ("fit", *curves, "--law=annealing", "--samples=9", "--warmup-steps=100", "-o", known),
        (*schedule, tmp_path / "best", "--steps", 2000),
        (*schedule, tmp_path / "best", "--steps", 10),
        (*schedule, tmp_path / "new", "--steps", 10),
    ):
        limited = (
            "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY)); sys.dont_write_bytecode = True"
        )
        done = processes.lehr("law", *map(str, arguments), before=limited)
        assert done.returncode == 2, done.stderr
        message = done.stderr.splitlines()[-1]  # matplotlib may have warned that it cannot save its list of fonts
        assert message.startswith("error: ")
        assert "cannot be written" in message
    assert known.read_bytes() == fit_file.read_bytes()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["best", "known.json", "schedule.json"]
    assert (tmp_path / "best" / "schedule.json").read_text() == "[1]"


def test_compute(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text(COMPUTE_ROWS)
    out = lehr("compute", tmp_path / "runs.csv", "--flops", "5.76e23", "--parameters", "5e8", "--tokens", "1e10")
    assert "3.22e+10" in out
    assert f"final loss {1.69 + 406.4 * 5e8**-0.34 + 410.7 * 1e10**-0.28:.4f}" in out


@pytest.mark.slow
def test_hyperparameters() -> None:
    out = lehr("hyperparameters", "--parameters", "1e9", "--tokens", "1e11", "--seq-length", 2048)
    assert "0.00166" in out
    assert "1,106,818" in out
    out = lehr("hyperparameters", "--lr", "1e-2", "--tuned-width", 256, "--width", 1024)
    assert "0.0025" in out


def test_mistakes_are_one_message(fit_file: Path, tmp_path: Path) -> None:
    constant = fit_file.parent / "constant.csv"
    assert "constant after the warm-up in every curve" in refused("fit", constant)
    assert 'no law is called "aneal"' in refused("fit", constant, "--law", "aneal")
    assert "decoy: unknown key" in refused("fit", constant, "--law", "annealing:decoy=1")
    assert "neither a run folder nor a CSV" in refused("fit", tmp_path / "no")
    for output in (tmp_path, tmp_path / "no" / "fit.json"):
        assert "must be a file in a folder that exists" in refused("fit", fit_file, "-o", output)
    assert "also where the residual plot goes" in refused("fit", fit_file, "-o", tmp_path / "fit.png")
    assert 'no law is called "aneal"' in refused("fit", tmp_path / "no", "--law", "aneal")  # the law comes first
    assert "does not exist" in refused("predict", tmp_path / "no", "schedule=cosine", "train.steps=10")
    for command in (
        ("predict", ROOT / "configs/demo.yaml", "x=1"),
        ("schedule", ROOT / "configs/demo.yaml", "--steps", 9),
    ):
        assert "is no fit file: it must be JSON that names a law and its values" in refused(*command)
    assert 'did you mean "cosine"' in refused("predict", fit_file, "schedule=cosin", "train.steps=100")
    assert "train.steps: is required" in refused("predict", fit_file, "schedule=cosine")
    assert "schedule: is required" in refused("predict", fit_file, "train.steps=100")
    assert "schedule.decay: unknown key" in refused(
        "predict", fit_file, "schedule=wsd", "schedule.decay=9", "train.steps=100"
    )
    assert "unknown key" in refused("schedule", fit_file, "--steps", 100, "--constraint", "min_lrs=1")
    assert "min_lr" in refused("schedule", fit_file, "--steps", 1000, "--constraint", "min_lr=low")
    assert "--tokens is missing" in refused("hyperparameters", "--parameters", "1e9")


DESIGN = ("design", "fit.json", "--target", 1e9, "--tokens", 2e10)


@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1e9"])
@pytest.mark.parametrize(
    ("command", "options"),
    [
        (DESIGN, ("--target", "--tokens", "--size", "--tokens-per-parameter", "--budget", "--batch-tokens")),
        (("predict", "fit.json", "schedule=cosine"), ("--parameters", "--batch-tokens")),
        (("schedule", "fit.json", "--steps", 9), ("--parameters",)),
        (("fit", "run"), ("--parameters",)),
        (("compute", "a.csv"), ("--flops", "--parameters", "--tokens", "--batch-tokens", "--unique-tokens")),
        (("hyperparameters",), ("--parameters", "--tokens", "--lr", "--weight-decay")),
        (("batch", "run"), ("--loss",)),
    ],
    ids=lambda part: part[0],
)
def test_an_amount_must_be_above_0_and_finite(
    command: tuple[object, ...], options: tuple[str, ...], value: str
) -> None:
    for option in options:
        message = refused(*command, option, value)
        assert message == f"error: {option} = {float(value):g} must be above 0 and finite\n"


def test_a_batch_is_at_most_the_run() -> None:
    for command in (DESIGN, ("compute", "a.csv", "--tokens", 2e10)):
        message = refused(*command, "--batch-tokens", 3e10)
        assert "--batch-tokens = 3e+10 must be at most --tokens = 2e+10" in message


@pytest.mark.parametrize(
    "constraint",
    [
        "peak_lr=nan",
        "peak_lr=0",
        "min_lr=-1",
        "min_lr=inf",
        "warmup_steps=-1",
        "max_decay_share=nan",
        "max_decay_share=2",
    ],
)
def test_a_constraint_has_a_range(fit_file: Path, constraint: str) -> None:
    message = refused("schedule", fit_file, "--steps", 300, "--constraint", constraint)
    assert message.startswith(f"error: --constraint:\n  {constraint.partition('=')[0]} = ")
    assert "must be" in message
