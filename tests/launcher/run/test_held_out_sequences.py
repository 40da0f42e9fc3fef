"""A start warns of held-out losses that are not measured, or that do not compare with earlier ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_shards import write_source
from processes import lehr

from launcher.run.config import load_run_config
from launcher.run.held_out_sequences import held_out_loader, held_out_warnings
from train.checkpoint.discovery import step_folders
from train.checkpoint.manifest import MeasuredLoss, read_manifest
from train.metrics.jsonl import read_metrics
from train.state import TrainState

TOKENS = [*range(1, 60), 0] * 20


def add_source(shards: Path, name: str, *, counted_from: int) -> None:
    """Adds a source whose held-out tokens count from a position on."""
    mask = [position >= counted_from for position in range(len(TOKENS))]
    write_source(shards, name, train=[[TOKENS]], held_out=[[TOKENS]], held_out_loss={0: [mask]}, vocab_size=200)


def save_state(config: Path, state: TrainState) -> None:
    folder = load_run_config(config).run.path / "checkpoints" / f"step-{state.step:08d}"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps(state.to_plain()))


def test_sources_whose_tokens_are_all_masked_are_named(config: Path, tmp_path: Path) -> None:
    add_source(tmp_path / "shards", "late", counted_from=9 * 32)
    config_of = lambda *overrides: load_run_config(config, [f"data.shards={tmp_path}/shards", *overrides])  # noqa: E731
    assert held_out_warnings(config_of("evaluate.max_windows=9")) == []
    first, second, third = held_out_warnings(config_of("evaluate.max_windows=8", "checkpoint.keep_best=1"))
    assert first.startswith('source "late" has no held-out loss: the loss mask leaves out every token of its first 8')
    assert second == "no held-out loss is measured: no source is left"
    assert third.startswith("checkpoint.keep_best = 1 keeps no checkpoint")


def test_losses_on_other_sequences_are_not_compared(config: Path) -> None:
    run = load_run_config(config)
    assert held_out_warnings(run) == []
    state = TrainState(step=4).with_held_out_loss(3.0, on=held_out_loader(run).identity())
    save_state(config, state)
    assert held_out_warnings(run) == []
    (warning,) = held_out_warnings(load_run_config(config, ["evaluate.max_windows=4"]))
    assert "held-out losses up to step 4 are not compared with those to come" in warning
    assert "sources.alpha.sequences: 8 there, 4 here" in warning
    assert "sha256" not in warning
    save_state(config, TrainState(step=8, evaluated_step=8, held_out_loss=3.0))  # as written before there was a record
    (warning,) = held_out_warnings(run)
    assert "does not record on which sequences" in warning


@pytest.mark.slow
def test_the_best_of_other_sequences_stays_and_a_masked_source_is_left_out(config: Path, tmp_path: Path) -> None:
    """A run over 4 windows a source, then over 8, then over a source more: the best of each is kept."""
    shards = tmp_path / "shards"
    add_source(shards, "early", counted_from=0)
    add_source(shards, "late", counted_from=5 * 32)
    command = ("train", config, f"data.shards={shards}", "checkpoint.keep_last=1", "checkpoint.keep_best=1")
    command = (*command, "evaluate.every_steps=2", "checkpoint.every_steps=2")
    first = lehr(*command, "train.steps=4", "evaluate.max_windows=4")
    assert first.returncode == 0, first.stderr
    assert first.stderr.count('source "late" has no held-out loss') == 1
    run = load_run_config(config).run.path
    rows = read_metrics(run / "metrics.jsonl")
    assert [("held_out/late/loss" in row, row.get("held_out/loss")) for row in rows[1::2]] == [
        (False, row["held_out/early/loss"]) for row in rows[1::2]
    ]
    second = lehr(*command, "train.steps=8", "evaluate.max_windows=8")
    assert second.returncode == 0, second.stderr
    assert "held-out losses up to step 4 are not compared" in second.stderr
    assert "held_out/late/loss" in read_metrics(run / "metrics.jsonl")[-1]
    measured = {int(path.name[5:]): read_manifest(path).measured for path in step_folders(run / "checkpoints")}
    losses = {
        row["step"]: row["held_out/loss"] for row in read_metrics(run / "metrics.jsonl") if "held_out/loss" in row
    }
    best = {min((2, 4), key=losses.__getitem__), min((6, 8), key=losses.__getitem__)}
    assert set(measured) == best | {8}
    assert {step: loss and loss.loss for step, loss in measured.items()} == {step: losses[step] for step in measured}
    assert len({loss.on for loss in measured.values() if isinstance(loss, MeasuredLoss)}) == 2
    listed = lehr("checkpoint", "list", run)
    assert listed.stdout.count("best") == 2
    assert "held-out losses on different sequences are not compared" in listed.stderr
    evaluated = lehr("eval", run, "--windows", "4", "--shards", shards)
    assert evaluated.returncode == 0, evaluated.stderr
    assert 'source "late" has no held-out loss' in evaluated.stderr
    assert "late" not in evaluated.stdout
