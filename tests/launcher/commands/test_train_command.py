"""`lehr train`: complete runs, stopped and continued runs, and every mistake in one message."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import lehr, run_ranks, start_lehr
from small_runs import slow_data, steps_taken, wait_until

from launcher.commands.train import _early_value, train
from settings import UserError
from train.metrics.jsonl import read_metrics

INSTALLED = Path(sys.executable).with_name("lehr")


def test_what_cuda_must_know_is_read_before_torch_is_imported(tmp_path: Path) -> None:
    plain = tmp_path / "plain.yaml"

    def early(*overrides: str, path: Path = plain) -> tuple[object, object]:
        named = (("train", "device"), ("parallel", "tensor"))
        device, tensor = (_early_value(path, list(overrides), section, key) for section, key in named)
        return device, tensor

    plain.write_text("{train: {device: cpu}, parallel: {tensor: 2}}\n")
    assert early() == ("cpu", 2)
    assert early("train.device=auto", "parallel.tensor=4") == ("auto", 4)
    plain.write_text("train: {steps: 1}\n")
    assert early() == (None, None)
    assert early("train.device=cpu") == ("cpu", None)
    plain.write_text("train: [\n")
    assert early() == (None, None)
    os.mkfifo(tmp_path / "pipe")  # which can be read once only
    assert early(path=tmp_path / "pipe") == (None, None)
    assert early("parallel.tensor=2", path=tmp_path / "pipe") == (None, 2)


def cuda_connections(tensor: int, given: str | None) -> str | None:
    for name in ("RANK", "WORLD_SIZE", "CUDA_DEVICE_MAX_CONNECTIONS"):
        os.environ.pop(name, None)
    if given is not None:
        os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = given
    with pytest.raises(UserError, match="does not exist"):
        train(Path("missing.yaml"), [f"parallel.tensor={tensor}"])
    return os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS")


@pytest.mark.parametrize(("tensor", "given", "expected"), [(1, None, None), (2, None, "1"), (2, "8", "8")])
def test_a_gpu_has_one_queue_under_tensor_parallelism_only(
    tensor: int, given: str | None, expected: str | None
) -> None:
    assert run_ranks(1, cuda_connections, tensor, given, join=False) == [expected]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run / "metrics.jsonl") if "loss" in line]


def batch_hashes(run: Path) -> list[str]:
    return [line["batch_hash"] for line in read_metrics(run / "metrics.jsonl") if "loss" in line]


@pytest.mark.slow
def test_layouts_agree_and_the_run_folder_holds_all(config: Path) -> None:
    runs = config.parent / "runs"
    one = lehr("train", config, "run.name=one")
    assert one.returncode == 0, one.stderr
    two = lehr(
        "train", config, "run.name=two", "parallel.tensor=2", "parallel.sequence=true", "train.micro_batch_size=4"
    )
    assert two.returncode == 0, two.stderr
    assert losses(runs / "two") == pytest.approx(losses(runs / "one"), rel=1e-5)
    assert len(losses(runs / "one")) == 8
    assert batch_hashes(runs / "two") == batch_hashes(runs / "one")
    assert len(set(batch_hashes(runs / "one"))) == 8
    for name in (
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints/latest",
        "logs/rank-00001.log",
    ):
        assert (runs / "two" / name).exists(), name
    evaluated = lehr("eval", runs / "two")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "alpha" in evaluated.stdout


@pytest.mark.slow
def test_zero_2_and_3_train_in_one_process_as_in_plain_training(config: Path) -> None:
    for zero in (0, 2, 3):
        run = lehr("train", config, f"run.name=zero{zero}", f"parallel.zero={zero}", "train.steps=3")
        assert run.returncode == 0, run.stderr
    plain, zero2, zero3 = (losses(config.parent / "runs" / f"zero{zero}") for zero in (0, 2, 3))
    assert len(plain) == 3
    assert zero2 == pytest.approx(plain, rel=1e-5)
    assert zero3 == pytest.approx(plain, rel=1e-5)


@pytest.fixture
def users_packages(tmp_path: Path) -> Path:
    """A user's folder with packages that have the names of lehr's."""
    folder = tmp_path / "project"
    for name in ("data", "model", "optim", "train"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise AssertionError('the {name} of the current folder')\n")
    return folder


@pytest.mark.slow
def test_in_a_folder_with_packages_data_and_model(config: Path, users_packages: Path) -> None:
    done = subprocess.run(
        [INSTALLED, "train", config, "parallel.data=2"], cwd=users_packages, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert len(losses(config.parent / "runs" / "try")) == 8


@pytest.mark.slow
def test_ranks_that_are_new_programs_in_such_a_folder(config: Path, users_packages: Path) -> None:
    """A thread, which would not survive a fork, prevents it as CUDA does."""
    code = (
        "import sys, threading; threading.Thread(target=threading.Event().wait, daemon=True).start();"
        "from launcher.cli import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-P", "-c", code, "train", config, "parallel.data=2"]
    done = subprocess.run(command, cwd=users_packages, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(losses(config.parent / "runs" / "try")) == 8


@pytest.mark.slow
def test_torchrun_is_the_same_program(config: Path, users_packages: Path) -> None:
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", INSTALLED, "train", config]
    done = subprocess.run(
        [sys.executable, "-P", *command, "run.name=torchrun"],
        cwd=users_packages, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(losses(config.parent / "runs" / "torchrun")) == 8


@pytest.mark.slow
def test_a_stopped_run_continues_with_equal_losses_to_the_bit(config: Path) -> None:
    runs = config.parent / "runs"
    uninterrupted = lehr("train", config, "run.name=uninterrupted", "train.steps=60", "evaluate.every_steps=20")
    assert uninterrupted.returncode == 0, uninterrupted.stderr
    arguments = ("train", config, "run.name=stopped", "train.steps=60", "evaluate.every_steps=20", "parallel.data=1")
    process = start_lehr(*arguments, before=slow_data(0.05))
    wait_until(lambda: steps_taken(runs / "stopped") >= 5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    stopped_after = len(losses(runs / "stopped"))
    assert stopped_after < 60
    again = lehr(*arguments)
    assert again.returncode == 0, again.stderr
    assert losses(runs / "stopped") == losses(runs / "uninterrupted")


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_and_is_named(config: Path) -> None:
    process = start_lehr("train", config, "run.name=killed", "train.steps=100000", "parallel.pipeline=2")
    metrics = config.parent / "runs" / "killed" / "metrics.jsonl"
    wait_until(metrics.exists)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    victim = int(children.stdout.split()[-1])
    os.kill(victim, signal.SIGKILL)
    output, errors = process.communicate(timeout=60)
    assert process.returncode not in (0, 2, 75)
    assert "rank 1" in output + errors


MISTAKES = {
    "unknown key": (["model.hiden_size=64"], "did you mean"),
    "wrong type": (["train.steps=many"], "train.steps"),
    "out of range": (["optim.lr=-1"], "optim.lr"),
    "layout": (["parallel.tensor=3"], "must be divisible by parallel.tensor = 3"),
    "no GPU": (["train.device=cuda"], "train.device = cuda: this process sees no GPU"),
    "zero with a pipeline": (["parallel.zero=2", "parallel.pipeline=2"], "use parallel.zero 0 or 1"),
    "batch": (["train.global_batch_size=6", "parallel.data=2"], "train.global_batch_size = 6"),
    "vocabulary": (["model.vocab_size=100"], "model.vocab_size = 100"),
    "sequence": (["train.seq_length=1000000"], "train.seq_length"),
    "no shards": (["data.shards=/nowhere"], "lehr data build"),
    "mixture": (["data.mixture.alfa=1"], "alpha"),
    "schedule": (["schedule.warmup_steps=100"], "schedule.warmup_steps = 100"),
    "optimizer": (["optim.name=adamv"], "adamw"),
    "kernel": (["train.attention=flash"], "train.attention = flash cannot be used"),
    "compiled ZeRO 3": (
        ["train.compile=true", "parallel.zero=3"],
        "train.compile = true does not work with parallel.zero = 3",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_one_message_and_leaves_nothing(config: Path, kind: str) -> None:
    overrides, shown = MISTAKES[kind]
    done = lehr("train", config, *overrides)
    assert done.returncode == 2, done.stderr
    assert shown in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not (config.parent / "runs").exists()


def test_altered_shards_are_refused(config: Path, shards: Path) -> None:
    (file,) = (shards / "beta" / "train").glob("*.ds")
    before = file.read_bytes()
    file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        done = lehr("train", config)
    finally:
        file.write_bytes(before)
    assert done.returncode == 2
    assert file.name in done.stderr
    assert not (config.parent / "runs").exists()


def test_a_run_of_another_config_is_refused(config: Path) -> None:
    first = lehr("train", config, "train.steps=2", "schedule.warmup_steps=1")
    assert first.returncode == 0, first.stderr
    other = lehr("train", config, "train.steps=2", "schedule.warmup_steps=1", "optim.lr=1e-3")
    assert other.returncode == 2
    assert "optim.lr" in other.stderr
    assert "lehr train CONFIG --from" in other.stderr


@pytest.mark.slow
def test_every_start_says_where_it_begins_and_keeps_what_was_logged(config: Path) -> None:
    run = config.parent / "runs/try"
    short = ("train.steps=4", "evaluate.every_steps=2", "checkpoint.every_steps=2")
    first = lehr("train", config, "run.folder=runs", *short, cwd=config.parent)
    assert first.returncode == 0, first.stderr
    assert "Starts at step 1: the run folder is new." in first.stdout
    (run / "checkpoints/step-00000004/state.json").unlink()
    second = lehr("train", run / "config.yaml")  # from another folder
    assert second.returncode == 0, second.stderr
    assert "Goes on from step 2: checkpoint step-00000002" in second.stdout
    assert second.stdout.count("Steps 3 to 4 are taken again.") == 1
    logged = (run / "metrics.jsonl").read_bytes()
    shutil.rmtree(run / "checkpoints")
    third = lehr("train", run / "config.yaml")
    assert third.returncode == 0, third.stderr
    assert "Starts at step 1: the run folder has no checkpoint." in third.stdout
    assert (run / "metrics-1.jsonl").read_bytes() == logged
    assert losses(run) == pytest.approx([line["loss"] for line in read_metrics(run / "metrics-1.jsonl")], rel=1e-5)
