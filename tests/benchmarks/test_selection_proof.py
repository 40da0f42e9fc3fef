"""The proof of selection: its plan, its statistics, its report from lines, and real tiny runs that it goes on from."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_text import make_text, write_jsonl
from selection_choices import Choice, add_choice, read_choices
from selection_plan import BLOCKS, MAIN, PYTHON, RANDOM, SEEDS, TARGETS, Plan, Run, Selection, read_by
from selection_proof import Proof
from selection_report import effective_tokens, write_report
from selection_statistics import PairedArms

from launcher.sweep.records import Record, read_records
from train.run_folder.input_hashes import Inputs

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/selection.yaml"


def made_inputs(selection: Selection) -> Inputs:
    return Inputs(tokenizer="t", sources={"a": selection.name})


def made_choice(plan: Plan, selection: Selection) -> Choice:
    return Choice(
        name=selection.name,
        fingerprint=plan.fingerprint(selection),
        inputs=made_inputs(selection),
        targets=3,
        pool_bytes={"verse": 900, "mathematics": 100},
        chosen_bytes={"verse": 100, "mathematics": 100},
        train_tokens=10_000 * selection.percent,
        score_length_correlation=None,
        cpu_seconds=50.0 if selection == RANDOM else 60.0,
        proxy_cpu_seconds_per_token=4e-5 if selection.arm == "el2n" else None,
    )


def made_record(plan: Plan, run: Run, loss: float) -> Record:
    return Record(
        config=plan.digest(run, made_inputs(run.selection)),
        point={},
        seed=run.seed,
        diverged=False,
        loss=loss,
        loss_is="held_out",
        sources={f"eval_{target}": loss for target in TARGETS},
        steps=1,
        tokens=plan.tokens * run.length,
        seconds=40.0,
    )


class TestPlan:
    plan = Plan(CONFIG, (), Path("shards/selection"))

    def test_runs_and_selections_are_named_once_and_need_only_each_other(self) -> None:
        selections = self.plan.selections()
        names = [selection.name for selection in selections]
        assert len(set(names)) == len(names)
        for selection in selections:
            assert set(read_by(selection)) <= set(selections)
            assert self.plan.select(selection)["choose"] == "share"
        runs = self.plan.runs()
        digests = {self.plan.digest(run, made_inputs(run.selection)) for run in runs}
        assert len(digests) == len(runs)

    def test_every_arm_has_the_same_model_tokens_and_seeds(self) -> None:
        for block in BLOCKS:
            assert block.name == "lr" or block.seeds == SEEDS
            assert block.name.startswith("longer") or block.length == 1
        model = self.plan.base.model
        assert self.plan.tokens < 1_100_000
        weights = 1024 * model.hidden_size + model.num_layers * (4 * model.hidden_size + 3 * 192) * model.hidden_size
        assert weights < 300_000

    def test_lines_do_not_depend_on_the_folder(self) -> None:
        moved = replace(self.plan, folder=Path("/elsewhere"))
        for selection in (RANDOM, Selection("el2n", MAIN), Selection("same_sources", MAIN, PYTHON)):
            assert moved.fingerprint(selection) == self.plan.fingerprint(selection)
            run = Run(selection, 2)
            inputs = made_inputs(selection)
            assert moved.digest(run, inputs) == self.plan.digest(run, inputs)
            assert self.plan.digest(run, Inputs(tokenizer="other")) != self.plan.digest(run, inputs)

    def test_a_change_of_the_pool_or_of_the_selector_is_another_selection(self) -> None:
        zipfit = Selection("zipfit", MAIN, PYTHON)
        for key in ("data.sources.verse.max_bytes=5", "data.select.selector.gzip_level=9"):
            changed = replace(self.plan, overrides=(key,))
            assert changed.fingerprint(zipfit) != self.plan.fingerprint(zipfit)
        at_default = replace(self.plan, overrides=("data.select.selector.gzip_level=6", "data.shuffle_seed=0"))
        assert at_default.fingerprint(zipfit) == self.plan.fingerprint(zipfit)
        other_lr = replace(self.plan, overrides=("optim.lr=1",))
        assert other_lr.fingerprint(zipfit) == self.plan.fingerprint(zipfit)
        assert other_lr.fingerprint(Selection("loss", MAIN)) != self.plan.fingerprint(Selection("loss", MAIN))


def test_pairs_take_out_the_seeds_and_pool_the_noise_of_all_arms() -> None:
    rng = np.random.default_rng(0)
    noise, errors, spreads = 0.1, [], []
    for _ in range(300):
        seeds = rng.normal(0, 5, 3)
        drawn = {f"arm {arm}": dict(enumerate(arm + seeds + rng.normal(0, noise, 3))) for arm in range(6)}
        arms = PairedArms(drawn)
        difference = arms.difference("arm 3", "arm 1")
        errors.append(difference.mean - 2)
        spreads.append(difference.standard_error)
        assert difference.verdict == "worse"
    assert math.isclose(float(np.std(errors)), noise * math.sqrt(2 / 3), rel_tol=0.15)
    assert math.isclose(float(np.sqrt(np.mean(np.square(spreads)))), noise * math.sqrt(2 / 3), rel_tol=0.05)
    same = PairedArms({"a": {1: 1.0, 2: 2.0}, "b": {1: 1.1, 2: 1.9}})
    assert same.difference("a", "b").verdict == "not told apart"


def test_repeated_tokens_are_worth_less_and_fresh_ones_all() -> None:
    assert effective_tokens(100, 200) == 100
    assert effective_tokens(100, 100) == 100
    assert 85 < effective_tokens(100, 25) < 100  # four epochs
    assert effective_tokens(1e6, 1) < 17


class TestReport:
    @pytest.fixture
    def proof(self, tmp_path: Path) -> Proof:
        """Returns a proof of which every run is a made line, but one of dsir: classifier equals ZIP-FIT."""
        plan = Plan(CONFIG, (), Path("shards/selection"))
        runs, choices = tmp_path / "runs.jsonl", tmp_path / "choices.jsonl"
        lines = [made_choice(plan, selection).to_plain() for selection in plan.selections()]
        choices.write_text("".join(json.dumps(line) + "\n" for line in lines))
        records, noise = [], random.Random(1)
        level = {"zipfit": 4.0, "classifier": 4.0, "same_sources": 4.5, "length_matched": 5.2}
        for run in plan.runs():
            if run != Run(Selection("dsir", MAIN, TARGETS[0]), SEEDS[-1]):
                loss = level.get(run.selection.arm, 5.0) - 0.1 * math.log(run.length) + run.seed
                records.append(made_record(plan, run, loss + noise.gauss(0, 0.001)).to_plain())
        runs.write_text("".join(json.dumps(record) + "\n" for record in records))
        return Proof(plan, runs=runs, choices=choices, jobs=2)

    def test_the_headline_is_what_equals_zipfit(self, proof: Proof, tmp_path: Path) -> None:
        write_report(proof.findings(), tmp_path / "selection.md")
        text = (tmp_path / "selection.md").read_text()
        total = len(proof.plan.runs())
        assert f"**{total - 1} of {total} runs are finished.**" in text
        headline = "**Mathematics: ZIP-FIT is not told apart from `classifier`.** Worse than it, in nats a token: "
        assert f"{headline}`same_sources` (+" in text
        assert "Not finished: dsir." in text
        assert "| random | 7.0" in text
        assert "the law says +0.0" in text
        assert (tmp_path / "selection.png").read_bytes().startswith(b"\x89PNG")

    def test_lines_of_another_definition_do_not_count(self, proof: Proof) -> None:
        changed = replace(proof.plan, overrides=("model.hidden_size=32",))
        other = Proof(changed, runs=proof.runs_file, choices=proof.choices_file, jobs=1)
        assert not other.records(changed.runs())
        assert other.progress().startswith(f"0 of {len(changed.runs())} runs are finished, about ")

    def test_a_line_that_was_cut_off_is_written_anew(self, proof: Proof) -> None:
        before = read_choices(proof.choices_file)
        last = list(before.values())[-1]
        content = proof.choices_file.read_bytes()
        proof.choices_file.write_bytes(content[:-20])
        assert list(read_choices(proof.choices_file)) == list(before)[:-1]
        add_choice(proof.choices_file, last)
        assert proof.choices_file.read_bytes() == content


def tiny_config(folder: Path) -> Path:
    """Returns a config with the sources that the plan names, and a model that trains in a second."""
    sources = {}
    for number, name in enumerate(("verse", "mathematics", "eval_mathematics", "eval_python")):
        write_jsonl(folder / f"{name}.jsonl", [make_text(1000 * number + seed, 60) for seed in range(60)])
        held_out = 1 if name.startswith("eval") else 0
        sources[name] = {"name": "jsonl", "paths": [str(folder / f"{name}.jsonl")], "held_out_fraction": held_out}
    target = {"source": {"name": "jsonl", "paths": [str(folder / "verse.jsonl")]}}
    data = {
        "shards": str(folder / "shards"),
        "sources": sources,
        "tokenizer": {"vocab_size": 300},
        "held_out_fraction": 0,
        "select": {"selector": {"name": "zipfit"}, "target": target},
        "workers": 1,
    }
    model = {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "ffn_size": 32}
    train = {"steps": 4, "seq_length": 16, "micro_batch_size": 2, "global_batch_size": 2}
    plain = {
        "run": {"name": "tiny"},
        "data": data,
        "model": model,
        "optim": {"name": "adamw", "lr": 0.01},
        "schedule": {"name": "constant", "warmup_steps": 0},
        "train": train,
    }
    path = folder / "tiny.yaml"
    path.write_text(json.dumps(plain))
    return path


@pytest.mark.slow
def test_real_runs_go_on_after_a_stop_and_are_trained_once(tmp_path: Path) -> None:
    runs = tmp_path / "runs.jsonl"
    command = [sys.executable, "benchmarks/selection_proof.py", str(tiny_config(tmp_path)), "--blocks", "lr"]
    command += ["--folder", str(tmp_path / "selection"), "--runs", str(runs), "--jobs", "1"]
    command += ["--choices", str(tmp_path / "choices.jsonl"), "--record", str(tmp_path / "record.md")]
    begun = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not read_records(runs) and begun.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    begun.send_signal(signal.SIGTERM)
    output, _ = begun.communicate(timeout=120)
    assert begun.returncode == 75, output
    before = runs.read_text()
    assert 1 <= len(before.splitlines()) < len(BLOCKS[0].lrs)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "lehr data: " not in done.stdout
    assert f"{len(BLOCKS[0].lrs)} of {len(BLOCKS[0].lrs)} runs are finished" in done.stdout
    assert runs.read_text().startswith(before)
    assert len(read_records(runs)) == len(runs.read_text().splitlines()) == len(BLOCKS[0].lrs)
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr
    assert "lehr sweep: " not in again.stdout
    assert "| loss on both targets' held-out text | " in (tmp_path / "record.md").read_text()
