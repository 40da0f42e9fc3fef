"""Replay of old data, row by row, against lists of what the rows before have read."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_shards import documents, write_source

from data.batches.build_plan import build_plan
from data.batches.draw_plan import DrawOrder, DrawPlan, Seen
from data.batches.loader import Loader
from data.batches.row_order import RowOrder, Rows
from data.batches.seen import seen_by
from data.batches.training_data import DataStage, Replay, with_stages
from data.config import DataConfig
from data.shards.index import open_shards
from settings import UserError

SEQ_LENGTH = 8
SEQUENCES = {"a": 112, "b": 49, "c": 62}  # of a pass over each source
NAMES = tuple(SEQUENCES)
ROWS = 6

Row = tuple[str, int]  # source and sequence


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("replay"), np.random.default_rng(0)
    for name, tokens in (("a", 900), ("b", 400), ("c", 500)):
        write_source(folder, name, train=[documents(rng, tokens=tokens)])
    return folder


def plan_of(
    folder: Path, *stages: DataStage, seed: int = 0, rows: int = ROWS, seq_length: int = SEQ_LENGTH
) -> DrawPlan:
    config = with_stages(DataConfig(shards=folder), stages)
    return build_plan(config, open_shards(config), seed=seed, seq_length=seq_length, rows_per_step_global=rows)


def stage(first_step: int, replay: Replay | None = None, **mixture: float) -> DataStage:
    """Return a stage that names every source, so that a source's number is its place in NAMES."""
    return DataStage(f"stages.{first_step}.mixture", first_step, dict.fromkeys(NAMES, 0.0) | mixture, replay)


def replay(share: float, draw: DrawOrder = "seen", earlier: Seen | None = None, **weights: float) -> Replay:
    return Replay("stages.1.replay", share, weights, draw, earlier)


def read(rows: Rows) -> list[Row]:
    return [(NAMES[s], int(q)) for s, q in zip(rows.sources, rows.sequences, strict=True)]


def replayed(rows: Rows) -> list[Row]:
    return [row for row, old in zip(read(rows), rows.replayed, strict=True) if old]


def batches_read(plan: DrawPlan, batches: int, left_out: list[tuple[int, int]]) -> list[Row]:
    """Return the rows of every batch that is not left out, one batch after the other."""
    kept = [batch for batch in range(batches) if not any(first <= batch <= last for first, last in left_out)]
    order, rows = RowOrder(plan), plan.rows_per_step_global
    return [row for batch in kept for row in read(order.rows(batch * rows, rows))]


weights_of = st.fixed_dictionaries({name: st.integers(0, 9) for name in NAMES}).filter(lambda w: any(w.values()))


@given(
    data=st.data(),
    first=weights_of,
    second=weights_of,
    share=st.sampled_from([0.01, 0.05, 0.25, 0.5, 1.0]),
    border=st.integers(1, 40),
    rows=st.integers(1, 7),
    draw=st.sampled_from(["seen", "all"]),
)
@settings(max_examples=60, deadline=None)
def test_a_stage_replays_the_stages_before_it(
    folder: Path,
    data: st.DataObject,
    first: dict[str, int],
    second: dict[str, int],
    share: float,
    border: int,
    rows: int,
    draw: DrawOrder,
) -> None:
    """Old rows were read before (or are of those sources), and none comes again before all did. Shares hold."""
    old = {name: data.draw(st.integers(1, 9)) for name in NAMES if first[name]}
    before = read(RowOrder(plan_of(folder, stage(0, None, **first), rows=rows)).rows(0, border * rows))
    assume({name for name, _ in before} == set(old))  # not where no row has come yet to a source of little weight
    plan = plan_of(folder, stage(0, None, **first), stage(border, replay(share, draw, **old), **second), rows=rows)
    assert read(RowOrder(plan).rows(0, border * rows)) == before
    after = RowOrder(plan).rows(border * rows, 60 * rows)
    pools = {name: {q for s, q in before if s == name} for name in old}
    if draw == "all":
        pools = {name: set(range(SEQUENCES[name])) for name in old}
    drawn: dict[str, list[int]] = {name: [] for name in old}
    for name, sequence in replayed(after):
        drawn[name].append(sequence)
    for name, sequences in drawn.items():
        size = len(pools[name])
        for begin in range(0, len(sequences), size):
            one_pass = sequences[begin : begin + size]
            assert len(set(one_pass)) == len(one_pass), "a sequence came again before the pool was spent"
            assert set(one_pass) <= pools[name]
    due, counts = dict.fromkeys(old, Fraction(0)), Counter[str]()
    for (name, _), is_old in zip(read(after), after.replayed, strict=True):
        counts[name] += int(is_old)
        for each, weight in old.items():
            due[each] += Fraction(str(share)) * weight / sum(old.values())
            assert abs(counts[each] - due[each]) < 2  # the mixture's bound where weights change


@given(
    mixture=weights_of,
    seed=st.integers(0, 2),
    batches=st.integers(1, 60),
    left_out=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 5)), max_size=3),
    draw=st.sampled_from(["seen", "unseen_first"]),
)
@settings(max_examples=60, deadline=None)
def test_what_an_earlier_run_read_is_known_by_arithmetic(
    folder: Path,
    mixture: dict[str, int],
    seed: int,
    batches: int,
    left_out: list[tuple[int, int]],
    draw: DrawOrder,
) -> None:
    """The run to come has another seed and other rows a step; it knows what was read, and what of it was not."""
    ranges, end = [], -1
    for first, length in sorted(left_out):
        if first > end + 1:
            end = first + length
            ranges.append((first, end))
    plan = plan_of(folder, stage(0, None, **mixture), seed=seed)
    rows = batches_read(plan, batches, ranges)
    seen = seen_by(plan, batches=batches, left_out=ranges)
    assert {name: source.rows for name, source in seen.sources.items()} == Counter(name for name, _ in rows)
    pools: dict[str, set[int]] = {name: set() for name in seen.sources}
    taken = RowOrder(plan).rows(0, batches * ROWS)
    for number, (name, sequence) in enumerate(read(taken)):
        if not any(first <= number // ROWS <= last for first, last in ranges):
            pools[name].update({sequence} if taken.samples[number] < SEQUENCES[name] else ())
    if not seen.sources or not all(pools.values()):
        return  # everything was left out, or everything of the first pass over a source
    order = RowOrder(plan_of(folder, stage(0, replay(1.0, draw, seen), a=1), seed=7, rows=10))
    drawn: dict[str, list[int]] = {name: [] for name in pools}
    for name, sequence in replayed(order.rows(0, 2000)):
        drawn[name].append(sequence)
    for name, pool in pools.items():
        expected = [pool] if draw == "seen" else [set(range(SEQUENCES[name])) - pool, pool]
        for _ in range(2):
            for part in expected:
                one_pass, drawn[name] = drawn[name][: len(part)], drawn[name][len(part) :]
                assert len(set(one_pass)) == len(one_pass)
                assert set(one_pass) == part or (not drawn[name] and set(one_pass) <= part)


def test_a_run_that_replays_knows_the_data_of_both(folder: Path) -> None:
    """B draws on A's source a (20 batches of A, then what A had not read) and reads b: C replays the reads of both."""
    first = plan_of(folder, stage(0, None, a=1), seed=1)
    seen_by_first = seen_by(first, batches=5)
    second = plan_of(folder, stage(0, replay(0.5, "unseen_first", seen_by_first), b=1), seed=2)
    both = seen_by(second, batches=10, left_out=[(2, 3)])
    new = batches_read(second, 10, [(2, 3)])
    wanted = {"a": {q for s, q in batches_read(first, 5, []) + new if s == "a"}, "b": {q for s, q in new if s == "b"}}
    assert both.sources["a"].rows == 30 + 24
    assert both.sources["b"].rows == 24
    third = RowOrder(plan_of(folder, stage(0, replay(1.0, "seen", both), c=1), seed=3))
    drawn = replayed(third.rows(0, 400))
    assert {name: {q for s, q in drawn if s == name} for name in ("a", "b")} == wanted
    shares = Counter(name for name, _ in drawn)
    assert abs(shares["a"] - 400 * 54 / 78) < 1.01  # in proportion to the rows that were read


def test_unseen_first_of_this_run_goes_on_with_its_own_stream(folder: Path) -> None:
    """New and old rows of one source never meet before the source is spent."""
    plan = plan_of(folder, stage(0, None, a=1), stage(4, replay(0.5, "unseen_first"), a=1, b=1))
    assert plan.pools == ()
    assert plan.stages[1].weights == (3, 1, 0)
    rows = [sequence for name, sequence in read(RowOrder(plan).rows(0, 24 * ROWS)) if name == "a"]
    assert len(rows) > SEQUENCES["a"]
    assert sorted(rows[: SEQUENCES["a"]]) == list(range(SEQUENCES["a"]))


def test_a_pool_goes_on_through_stages_of_any_share(folder: Path) -> None:
    earlier = seen_by(plan_of(folder, stage(0, None, a=1), seed=1), batches=15)
    stages = [stage(0, replay(0.5, "seen", earlier), b=1), stage(10, replay(0.25, "seen", earlier), c=1)]
    plan = plan_of(folder, *stages)
    assert len(plan.pools) == 1
    drawn = [sequence for _, sequence in replayed(RowOrder(plan).rows(0, 50 * ROWS))]
    assert len(drawn) == 30 + 60
    assert len(set(drawn)) == 90  # all that there are


def test_a_later_stage_changes_nothing_before_it(folder: Path) -> None:
    stages = [stage(0, None, a=2, b=1), stage(5, replay(0.3), c=1), stage(9, replay(0.5, "all"), c=1, b=1)]
    for count in (1, 2):
        end = stages[count].first_step * ROWS
        some, every = (RowOrder(plan_of(folder, *part)).rows(0, end) for part in (stages[:count], stages))
        assert read(some) == read(every)
        assert np.array_equal(some.samples, every.samples)


@pytest.mark.parametrize("size", [2, 3, 6])
def test_every_data_rank_has_its_share_of_old_rows(folder: Path, size: int) -> None:
    """A rank's block of a batch is the difference of two prefixes, each exact to a row: it is exact to two."""
    config = with_stages(DataConfig(shards=folder), [stage(0, None, a=1), stage(3, replay(0.25, a=1), b=1)])
    common: dict[str, Any] = {"seed": 0, "seq_length": SEQ_LENGTH, "rows_per_step_global": 12}
    whole = RowOrder(build_plan(config, open_shards(config), **common))
    ranks = [Loader(config, data_rank=rank, data_size=size, **common) for rank in range(size)]
    for step in range(3, 20):
        wanted = whole.rows(step * 12, 12)
        parts = [rank.batch(step) for rank in ranks]
        for name in ("sources", "samples"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            assert np.array_equal(joined, getattr(wanted, name))
        counts = [int((part.sources == NAMES.index("a")).sum()) for part in parts]
        assert sum(counts) == 3
        assert all(abs(count - 3 / size) < 2 for count in counts)
    for rank in ranks:
        rank.close()


def test_old_rows_have_the_tokens_that_the_earlier_run_read(folder: Path) -> None:
    """The loaders of both runs read the same tokens for a sample, whatever the seed and the rows a step."""
    before = DataConfig(shards=folder, mixture={"a": 1, "c": 1})
    with Loader(before, seed=1, seq_length=SEQ_LENGTH, rows_per_step_global=ROWS) as loader:
        batches = [loader.batch(step) for step in range(8)]
    tokens = {
        (loader.shards.names[s], int(k)): row.tolist()
        for batch in batches
        for s, k, row in zip(batch.sources, batch.samples, batch.tokens, strict=True)
    }
    earlier = seen_by(plan_of(folder, stage(0, None, a=1, c=1), seed=1), batches=8)
    config = with_stages(DataConfig(shards=folder), [stage(0, replay(0.5, "seen", earlier), b=1)])
    found = 0
    with Loader(config, seed=5, seq_length=SEQ_LENGTH, rows_per_step_global=10) as loader:
        for step in range(8):
            batch = loader.batch(step)
            for s, k, row in zip(batch.sources, batch.samples, batch.tokens, strict=True):
                if loader.shards.names[s] != "b":
                    assert tokens[loader.shards.names[s], int(k)] == row.tolist()
                    found += 1
    assert found == 40


def test_replay_that_does_not_fit_is_refused(folder: Path) -> None:
    seen = seen_by(plan_of(folder, stage(0, None, a=1), seed=1), batches=4)

    def refused(replayed: Replay, match: str, *before: DataStage) -> None:
        with pytest.raises(UserError, match=match):
            plan_of(folder, *before, stage(4 if before else 0, replayed, b=1))

    refused(replay(0.1), r"stages.1.replay: no stage comes before the first one")
    refused(replay(0.1, c=1), r'the earlier stages of this run read nothing of a source "c"', stage(0, None, a=1))
    refused(replay(0.1, "seen", seen, b=1), r'stages.1.replay.sources: the earlier run read nothing of a source "b"')
    refused(replay(0.1, "seen", seen.model_copy(update={"sources": {}})), r"the earlier run read nothing that could be")
    longer = seen.model_copy(update={"seq_length": 16})
    refused(replay(0.1, "seen", longer), r"rows of 16 tokens, and train.seq_length = 8: .* set train.seq_length=16")
    other = seen.model_copy(update={"tokenizer": "f" * 64})
    refused(replay(0.1, "seen", other), r"another tokenizer \(SHA-256 f{16}… there, .*data.tokenizer.path")
    rebuilt = {"a": seen.sources["a"].model_copy(update={"sha256": "f" * 64})}
    refused(
        replay(0.1, "seen", seen.model_copy(update={"sources": rebuilt})),
        r'source "a" is not the one that the earlier run read: SHA-256 f{16}… there, [0-9a-f]{16}… here',
    )


def test_one_source_in_two_orders_is_refused(folder: Path) -> None:
    """The run reads a anew by its own seed, and replays it by another one's: no ranges name the union."""
    seen = seen_by(plan_of(folder, stage(0, None, a=1), seed=1), batches=4)
    plan = plan_of(folder, stage(0, replay(0.5, "seen", seen), a=1), seed=2)
    with pytest.raises(UserError, match=r'source "a" was read both in the order of this run and in that of an earlier'):
        seen_by(plan, batches=3)
