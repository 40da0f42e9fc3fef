"""Damage of every kind to every file that lehr reads: one message, or correct use; never a traceback, never a hang.

Over 700 mutations, each from its own seed: `SEED` in a failure's text makes that one again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from mutations import ODD_VALUES, damaged_json, mutated_bytes, mutated_json, mutated_number
from parallel_runs import Trial, start
from processes import lehr, run_ranks
from small_runs import make_shards, write_config

from data.batches.check_training_data import check_training_data
from data.batches.held_out import HeldOutLoader
from data.batches.loader import Loader
from data.config import DataConfig
from launcher.run.config import RunConfig
from launcher.run.preflight import check_config
from launcher.run.verify_shards import verify_run_shards
from laws.reading.curves import read_curve
from settings import RunError, UserError, compose
from train.checkpoint.discovery import latest_checkpoint
from train.checkpoint.manager import CheckpointManager
from train.checkpoint.manifest import _seal
from train.checkpoint.writer_lease import WriterLease, check_not_running
from train.metrics.jsonl import MetricsFile, read_metrics
from train.run_folder.open_run import open_run
from train.run_folder.resume_check import check_run
from train.run_folder.start_record import Start
from train.state import TrainState

SECONDS = 20  # of one mutation: more is a hang


@contextlib.contextmanager
def within_seconds() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def survives(action: Callable[[], Any], *, seed: int, damage: object) -> bool:
    """Returns whether the command did its work. A refusal must be one short message; anything else fails the test."""
    try:
        with within_seconds():
            action()
    except (UserError, RunError) as error:
        text = str(error)
        assert text.strip(), f"seed {seed}: an empty message"
        assert "Traceback" not in text
        assert len(text) < 20_000, f"seed {seed}: {text[:300]}"
        return False
    except BaseException as error:
        shown = damage[:2000] if isinstance(damage, str | bytes) else damage
        raise AssertionError(f"SEED {seed}: {type(error).__name__}: {error}\nof {shown!r}") from error
    return True


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def own_shards(shards: Path, tmp_path: Path) -> Path:
    shutil.copytree(shards, tmp_path / "shards")
    return tmp_path / "shards"


def plain_config(folder: Path, shards: Path) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(write_config(folder, shards).read_text())
    return compose(RunConfig, folder / "config.yaml").to_plain() | {"run": plain["run"]}


def use_config(path: Path, overrides: list[str]) -> None:
    config = compose(RunConfig, path, overrides)
    check_config(config, world_size=config.parallel.ranks)
    check_run(config.run.path, config)


@pytest.mark.slow
def test_configs(tmp_path: Path, shards: Path) -> None:
    plain = plain_config(tmp_path, shards)
    path = tmp_path / "mutated.yaml"
    used = 0
    for seed in range(200):
        content = damaged_json(plain, random.Random(seed))
        path.write_bytes(content)
        used += survives(lambda: use_config(path, []), seed=seed, damage=content)
    assert 5 < used < 150  # the damage is neither always deadly nor without effect


def test_overrides(tmp_path: Path, shards: Path) -> None:
    write_config(tmp_path, shards)
    keys = [
        "train.steps",
        "model.num_layers",
        "optim",
        "optim.lr",
        "data.mixture.alpha",
        "run.name",
        "parallel",
        "x..y",
    ]
    for seed in range(80):
        rng = random.Random(seed)
        value = rng.choice(
            [json.dumps(rng.choice(ODD_VALUES)), "${run}", "${x", "{a: [", "!!python/name:os.system", "&a *a"]
        )
        override = rng.choice([f"{rng.choice(keys)}={value}", f"{value}={value}", rng.choice(keys), f"[{value}]=1"])
        survives(lambda o=override: use_config(tmp_path / "config.yaml", [o]), seed=seed, damage=override)


def use_shards(config: DataConfig) -> None:
    check_training_data(config, seq_length=32)
    verify_run_shards(config)
    loader = Loader(config, seed=1, seq_length=32, rows_per_step_global=8)
    try:
        for step in range(3):
            rows = loader.batch(step)
            assert rows.tokens.shape == rows.targets.shape == (8, 32)
    finally:
        loader.close()
    for _, rows in HeldOutLoader(config, seq_length=32, max_sequences=8).rounds(rows_per_round_global=8):
        assert rows.tokens.shape == (8, 32)


def test_dataset_descriptions(tmp_path: Path, own_shards: Path) -> None:
    path = own_shards / "beta" / "dataset.json"
    plain = json.loads(path.read_text())
    config_path = write_config(tmp_path, own_shards)
    for seed in range(100):
        content = damaged_json(plain, random.Random(seed))
        path.write_bytes(content)
        if survives(lambda: use_shards(DataConfig(shards=own_shards)), seed=seed, damage=content):
            survives(lambda: use_config(config_path, []), seed=seed, damage=content)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("suffix", [".ds", ".ds.index"])
def test_shards(own_shards: Path, suffix: str, sealed: bool) -> None:
    """`sealed`: with dataset.json's hash made to fit, as only an ill-wisher would."""
    (path,) = (own_shards / "beta" / "train").glob(f"*{suffix}")
    description = own_shards / "beta" / "dataset.json"
    content, plain = path.read_bytes(), json.loads(description.read_text())
    used = 0
    for seed in range(40):
        altered = mutated_bytes(content, random.Random(seed))
        if altered == content:
            continue
        path.write_bytes(altered)
        if sealed:
            key = "index_sha256" if suffix.endswith("index") else "sha256"
            plain["splits"]["train"]["files"][0][key] = hashlib.sha256(altered).hexdigest()
            description.write_text(json.dumps(plain))
        used += survives(lambda: use_shards(DataConfig(shards=own_shards)), seed=seed, damage=suffix)
    assert sealed or used == 0


TRIAL = Trial(model={"num_layers": 1, "hidden_size": 16, "ffn_size": 24})
COUNTS = {"manifest": 100, "sealed manifest": 60, "state": 20, "sealed state": 40, "header": 30, "sealed header": 80,
          "latest": 20}  # fmt: skip


def mutate_checkpoints(saved: Path, work: Path) -> dict[str, int]:
    """All of it on one rank with one engine: how many mutations of each kind still loaded the newest checkpoint."""
    mesh, parts = start(TRIAL)
    lease = WriterLease.take(saved)
    arguments: dict[str, Any] = {"model": TRIAL.model_config().to_plain(), "tokenizer": "a" * 64}
    checkpoints = CheckpointManager(saved, mesh, lease=lease, **arguments)
    for step in (10, 20):
        checkpoints.save(parts.engine, TrainState(step=step, held_out_loss=2.5))
    checkpoints.wait()
    (file,) = (path.name for path in (saved / "step-00000020").glob("*.safetensors"))
    newest = {}
    for kind, count in COUNTS.items():
        newest[kind] = 0
        for seed in range(count):
            folder = work / "checkpoints"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(saved, folder)
            damage_checkpoint(folder, kind, file, random.Random(f"{kind} {seed}"))
            reader = CheckpointManager.__new__(CheckpointManager)  # the same groups: a thousand would be too many
            reader.__dict__.update(checkpoints.__dict__, folder=folder)
            steps: list[int] = []

            def load(reader: CheckpointManager = reader, steps: list[int] = steps) -> None:
                state = reader.load_latest(parts.engine)
                assert state is not None, "begun anew"
                steps.append(state.step)

            if survives(load, seed=seed, damage=kind):
                newest[kind] += steps[0] not in (10,)
    return newest


def damage_checkpoint(folder: Path, kind: str, file: str, rng: random.Random) -> None:
    path = folder / "step-00000020"
    manifest = json.loads((path / "manifest.json").read_text())
    if kind == "manifest":
        (path / "manifest.json").write_bytes(damaged_json(manifest, rng))
    elif kind == "sealed manifest":
        altered = (mutated_number if rng.random() < 0.3 else mutated_json)(manifest, rng)
        seal(path, altered)
    elif kind == "latest":
        (folder / "latest").write_bytes(mutated_bytes((folder / "latest").read_bytes(), rng))
    elif kind.endswith("state"):
        (path / "state.json").write_bytes(damaged_json(json.loads((path / "state.json").read_text()), rng))
        if kind.startswith("sealed"):
            reseal(path, manifest, "state.json")
    else:
        content = (path / file).read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        header, values = content[8 : 8 + length], content[8 + length :]
        if kind == "header" or rng.random() < 0.3:
            altered = mutated_bytes(content[: 8 + length], rng) + values
        else:
            plain = json.loads(header)
            text = json.dumps((mutated_number if rng.random() < 0.5 else mutated_json)(plain, rng)).encode()
            altered = struct.pack("<Q", len(text)) + text + values
        (path / file).write_bytes(altered)
        if kind.startswith("sealed"):
            reseal(path, manifest, file)


def reseal(path: Path, manifest: dict[str, Any], name: str) -> None:
    content = (path / name).read_bytes()
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    seal(path, manifest)


def seal(path: Path, manifest: Any) -> None:
    if isinstance(manifest, dict):
        manifest.pop("sha256", None)
        manifest = {**manifest, "sha256": _seal(manifest)}
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.slow
def test_checkpoints(tmp_path: Path) -> None:
    (newest,) = run_ranks(1, mutate_checkpoints, tmp_path / "saved", tmp_path / "work", timeout=250)
    assert newest["header"] <= 2  # a bit that was flipped and flipped back
    assert newest["latest"] > 0
    assert all(newest[kind] < COUNTS[kind] for kind in COUNTS if kind != "latest")


def test_leases(tmp_path: Path) -> None:
    first = WriterLease.take(tmp_path / "run" / "checkpoints")
    record = json.loads((tmp_path / "run" / "checkpoints" / "claim.json").read_text())
    for seed in range(60):
        content = damaged_json(record, random.Random(seed))
        (tmp_path / "run" / "checkpoints" / "claim.json").write_bytes(content)
        survives(lambda: check_not_running(tmp_path / "run" / "checkpoints"), seed=seed, damage=content)
        with within_seconds():
            newer = WriterLease.take(tmp_path / "run" / "checkpoints")
        newer.check()
        assert not survives(first.check, seed=seed, damage=content)
        first = newer


def test_metrics(tmp_path: Path) -> None:
    lines = [
        {
            "step": step,
            "tokens": 256 * step,
            "loss": 5 / step,
            "lr": 1e-3,
            "skipped_steps": 0,
            "held_out/loss": 5 / step,
        }
        for step in range(1, 31)
    ]
    path = tmp_path / "metrics.jsonl"
    for seed in range(100):
        rng = random.Random(seed)
        if rng.random() < 0.5:
            altered = [(mutated_json if rng.random() < 0.3 else lambda x, _: x)(line, rng) for line in lines]
            content = "".join(json.dumps(line) + "\n" for line in altered).encode()
        else:
            content = mutated_bytes("".join(json.dumps(line) + "\n" for line in lines).encode(), rng)
        path.write_bytes(content)
        assert survives(lambda: read_metrics(path), seed=seed, damage=content)
        survives(lambda: read_curve(tmp_path), seed=seed, damage=content)

        def go_on() -> None:
            file = MetricsFile(path, from_step=20)
            file.append({"step": 21, "loss": 1.0})
            file.close()
            read = read_metrics(path)
            assert [line["step"] for line in read][-1] == 21
            assert read[-1]["loss"] == 1.0

        assert survives(go_on, seed=seed, damage=content)


@pytest.mark.slow
def test_run_folders(tmp_path: Path, shards: Path) -> None:
    config = compose(RunConfig, write_config(tmp_path, shards))
    open_run(config.run.path, config, Start(world_size=1))
    recorded = {name: (config.run.path / name).read_bytes() for name in ("config.yaml", "run.json")}
    for seed in range(60):
        rng = random.Random(seed)
        name = rng.choice(list(recorded))
        for other, content in recorded.items():
            (config.run.path / other).write_bytes(content)
        content = mutated_bytes(recorded[name], rng)
        (config.run.path / name).write_bytes(content)
        survives(lambda: open_run(config.run.path, config, Start(world_size=1)), seed=seed, damage=content)
        survives(lambda: latest_checkpoint(config.run.path / "checkpoints"), seed=seed, damage=content)


@pytest.mark.slow
def test_a_sample_through_the_command(tmp_path: Path, own_shards: Path) -> None:
    plain = plain_config(tmp_path, own_shards)
    config = tmp_path / "config.yaml"
    done = lehr("train", config, "train.steps=2", "schedule.warmup_steps=1", "checkpoint.every_steps=1")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "try"

    def ends_well(*words: str | Path) -> None:
        ended = lehr(*words, timeout=60)
        assert ended.returncode in (0, 1, 2), (words, ended)
        assert "Traceback" not in ended.stdout + ended.stderr, (words, ended.stderr)
        assert ended.returncode == 0 or ended.stderr.strip()

    mutated = tmp_path / "mutated.yaml"
    for seed in (3, 7):
        mutated.write_bytes(damaged_json({**plain, "train": {**plain["train"], "steps": 2}}, random.Random(seed)))
        ends_well("train", mutated, "run.name=other", "schedule.warmup_steps=1")
    manifest = run / "checkpoints" / "step-00000002" / "manifest.json"
    manifest.write_bytes(damaged_json(json.loads(manifest.read_text()), random.Random(5)))
    for words in (["checkpoint", "list"], ["checkpoint", "verify"], ["eval"], ["data", "inspect"]):
        ends_well(*words, run if words != ["data", "inspect"] else own_shards)
    dataset = own_shards / "alpha" / "dataset.json"
    dataset.write_bytes(damaged_json(json.loads(dataset.read_text()), random.Random(11)))
    ends_well("data", "inspect", own_shards)
    ends_well("train", run / "config.yaml")
