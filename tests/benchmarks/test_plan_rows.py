"""The published rows that a plan is checked on, and the machine files that hold the fit: benchmarks/plan.md is true."""

from __future__ import annotations

import pytest
from plan_fit import MOST_LEHR_MEMORY, MOST_POINTS
from plan_rows import PublishedRow, model_named, read_rows

from model.size import parameters
from parallel.planning.memory import rank_memory

# The column NumParams of llm-foundry, whose positions are learned.
MPT_PARAMETERS = {
    ("mpt-125m", 2048): 125311488,
    ("mpt-760m", 2048): 760470528,
    ("mpt-1b", 8192): 1328533504,
    ("mpt-3b", 512): 2647905280,
    ("mpt-7b", 2048): 6658859008,
    ("mpt-13b", 4096): 12864440320,
    ("mpt-30b", 2048): 29975214080,
    ("mpt-70b", 2048): 64862437376,
}


@pytest.fixture(scope="module")
def rows() -> list[PublishedRow]:
    return read_rows()


@pytest.mark.parametrize(("model", "seq_length"), MPT_PARAMETERS)
def test_a_published_model_has_the_published_parameters(model: str, seq_length: int) -> None:
    assert parameters(model_named(model), seq_length=seq_length) == MPT_PARAMETERS[model, seq_length]


def test_rows_are_divided_by_their_names(rows: list[PublishedRow]) -> None:
    assert len({row.name for row in rows}) == len(rows) == 222
    timed = [row for row in rows if row.tokens_per_second_per_gpu is not None and row.source != "lehr"]
    assert sum(row.is_of_the_fit for row in timed) == 111
    assert not any(row.is_of_the_fit for row in rows if row.source == "lehr")
    for row in rows:
        assert row.step.global_batch_size % (row.step.micro_batch_size * row.step.layout.data) == 0, row.name


@pytest.mark.parametrize(("gpus", "within", "of"), [(("a100", "a100-40gb"), 62, 81), (("h100",), 23, 26)], ids=str)
def test_most_held_out_rows_have_the_published_mfu(
    rows: list[PublishedRow], gpus: tuple[str, ...], within: int, of: int
) -> None:
    held_out = [
        row for row in rows if row.gpu in gpus and not row.is_of_the_fit and row.tokens_per_second_per_gpu is not None
    ]
    errors = [abs(row.mfu(row.predicted_seconds()) - row.mfu(row.seconds)) for row in held_out]
    assert len(errors) == of
    assert sum(error <= MOST_POINTS for error in errors) == pytest.approx(within, abs=1)  # the files round the fit


def test_lehr_on_an_h200(rows: list[PublishedRow]) -> None:
    own = [row for row in rows if row.source == "lehr"]
    assert len(own) == 3
    for row in own:
        assert row.memory_bytes is not None
        assert rank_memory(row.step, row.machine()).training == pytest.approx(row.memory_bytes, rel=MOST_LEHR_MEMORY)
    errors = sorted(abs(row.predicted_seconds() / row.seconds - 1) for row in own)
    assert errors[1] < 0.1 < errors[2] < 0.11  # one of the three misses
