"""The estimate of a step, against numbers worked out by hand, and the warnings of steps that cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_shards import write_source

from launcher.run.config import RunConfig
from launcher.run.estimate import StepEstimate, estimate_lines, estimate_step, step_warnings
from launcher.run.preflight import left_out_sources, repeated_data
from settings import compose
from train.metrics.hardware import Peak

PEAK = Peak(1e9, "made up")
UNKNOWN = Peak(None, '"NVIDIA RTX A1000" in float32 is not in the table')
# Per layer: q, out 2 x 32 x 32; k, v 2 x 32 x 16; gate, up, down 3 x 32 x 48. Head: 200 x 32.
MATRICES = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48) + 200 * 32


def estimated(config: Path, *overrides: str, world_size: int = 1) -> tuple[RunConfig, StepEstimate]:
    run = compose(RunConfig, config, ["model.vocab_size=200", *overrides])
    return run, estimate_step(run, run.model, world_size=world_size)


def warnings(config: Path, *overrides: str, peak: Peak = PEAK, world_size: int = 1) -> list[str]:
    run, step = estimated(config, *overrides, world_size=world_size)
    return list(step_warnings(run, step, peak, world_size=world_size))


def test_a_step_in_numbers(config: Path) -> None:
    _, step = estimated(config)
    assert step.tokens == 8 * 32
    assert step.micro_batches == 4
    attention = 2 * 2 * 32 * 32  # both layers' q k and weights v, half of 32 keys of 32 elements: 2 x 2 x 16 x 32 each
    assert step.flops == 8 * 32 * 3 * (2 * MATRICES + attention)
    assert step.batch_bytes % (8 * 32 * 29) == 0  # tokens, targets, positions of 8 bytes, documents of 4, the mask
    _, halved = estimated(config, "parallel.data=2", world_size=2)
    assert (halved.tokens, halved.flops) == (step.tokens, step.flops)
    assert (halved.micro_batches, halved.batch_bytes) == (2, step.batch_bytes // 2)


def test_lines_name_memory_micro_batches_time_and_peak(config: Path) -> None:
    _, step = estimated(config, "train.global_batch_size=8000")
    memory, work = estimate_lines(step, PEAK, world_size=2)
    assert "KiB weights, " in memory
    assert "MiB batches" in memory
    assert "4000 micro-batches a rank, 256,000 tokens" in work
    seconds = round(step.flops / 2e9)
    assert f"; at least {seconds} s, at an mfu of 100%: 2 ranks of 1G FLOP/s each (made up)" in work
    _, work = estimate_lines(step, UNKNOWN, world_size=2)
    assert work.endswith('; no time and no mfu: "NVIDIA RTX A1000" in float32 is not in the table')


def test_a_long_step_is_a_warning(config: Path) -> None:
    assert warnings(config) == []
    long = "train.global_batch_size=524288"  # 16.8M tokens of 142,848 FLOPs each: 2397 s at 1 GFLOP/s
    (warning,) = warnings(config, long)
    assert "a step takes at least 39 min 57 s" in warning
    assert "train.global_batch_size = 524288 counts rows of train.seq_length = 32 tokens, not tokens" in warning
    assert warnings(config, long, peak=UNKNOWN) == []
    assert warnings(config, long, peak=Peak(1e12, "fast")) == []
    _, warning = warnings(config, long, "train.time_limit_seconds=1000")
    assert "train.time_limit_seconds = 1000 leaves no time for one" in warning


@pytest.mark.parametrize("layout", ["parallel.pipeline=2", "parallel.zero=2"])
def test_a_layout_that_cannot_drop_a_step_is_named_if_a_step_is_long(config: Path, layout: str) -> None:
    world_size = 2 if "pipeline" in layout else 1
    assert warnings(config, layout, world_size=world_size) == []
    many = "train.global_batch_size=4096"
    (warning,) = warnings(config, layout, many, peak=UNKNOWN, world_size=world_size)
    assert "stop signals and the time limit wait for the end of a step, of 2048 micro-batches" in warning
    assert f"with {layout.replace('=', ' = ')}, no step can be dropped" in warning
    assert warnings(config, many, peak=UNKNOWN) == []


def test_data_that_repeat_are_named_with_the_number_of_epochs(config: Path) -> None:
    def repeated(*overrides: str) -> tuple[list[str], list[str]]:
        return repeated_data(compose(RunConfig, config, ["data.mixture={alpha: 3, beta: 1}", *overrides]))

    assert repeated("train.steps=8") == ([], [])
    # Each source has 300 documents of 61 tokens: 571 rows of 32 tokens.
    assert repeated("train.steps=200") == (["The run reads source alpha 2.1 times."], [])
    notes, (warning,) = repeated("train.steps=100", "train.global_batch_size=8000")
    assert notes == ["The run reads source alpha 1,050.8 times, source beta 350.3 times."]
    assert "each step reads source alpha 10.5 times, source beta 3.5 times: train.global_batch_size = 8000" in warning


def test_a_source_that_is_too_short_for_a_row_is_named(config: Path, tmp_path: Path) -> None:
    for name, tokens in (("long", 33), ("short", 32)):
        write_source(tmp_path / "two", name, train=[[[1] * tokens]], vocab_size=200)

    def left_out(*overrides: str) -> list[str]:
        return left_out_sources(compose(RunConfig, config, [f"data.shards={tmp_path / 'two'}", *overrides]))

    (note,) = left_out()
    assert note == (
        'The run leaves out source "short": it has 32 tokens in its train split, and a row takes '
        "train.seq_length + 1 = 33."
    )
    assert left_out("train.seq_length=31") == left_out("data.mixture={long: 1}") == []
