"""The plan of a run's draws that a config describes, over the sources whose shards it names."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from data.batches.batch import num_sequences
from data.batches.draw_plan import DrawPlan, PlannedSource, PlannedStage, Pool, Seen
from data.batches.mixture import LONGEST_PERIOD, integer_weights
from data.batches.seen import seen_by
from data.batches.training_data import DataStage, Replay, stages_of
from data.config import DataConfig
from data.shards.dataset_json import Split
from data.shards.index import Shards
from settings import UserError
from settings.errors import nearest

# Nobody chose weights in proportion to tokens or rows as decimals, so a coarser period is precise enough; its table is
# made in a twentieth of a second.
_LONGEST_PERIOD_BY_TOKENS = 2**16

Shares = dict[str, Fraction]


def build_plan(
    config: DataConfig,
    shards: Shards,
    *,
    seed: int,
    seq_length: int,
    rows_per_step_global: int,
    split: Split = "train",
) -> DrawPlan:
    """Build the plan of `config` over the sources of `shards`.

    A stage that is added later changes nothing of the steps before it. Raises UserError if weights go by tokens and no
    source has a row, and for replay of what was not seen, or was seen in other rows, with another tokenizer or content.
    """
    digests = shards.digests()
    plan = DrawPlan(
        seed=seed,
        seq_length=seq_length,
        rows_per_step_global=rows_per_step_global,
        tokenizer=shards.tokenizer.sha256,
        sources={
            name: PlannedSource(
                sequences=num_sequences(shards.split(name, split).tokens, seq_length), sha256=digests[name]
            )
            for name in shards.names
        },
        stages=(),
    )
    for stage in stages_of(config):
        plan = _with_stage(plan, stage, shards, split)
    return plan


def _with_stage(plan: DrawPlan, stage: DataStage, shards: Shards, split: Split) -> DrawPlan:
    """Return the plan with one more stage. Pools that it adds have weight 0 in the stages before."""
    new, written = _new_shares(stage, plan, shards, split)
    lanes: dict[str | Pool, Fraction] = dict(new.items())
    pools = list(plan.pools)
    if stage.replay is not None:
        share = Fraction(str(stage.replay.share))
        lanes = {name: weight * (1 - share) for name, weight in new.items()}
        seen = _seen(stage, stage.replay, plan)
        old, old_written = _old_shares(stage.replay, seen)
        written = written and old_written
        for name, weight in old.items():
            lane = _lane_of(stage.replay, name, seen)
            lanes[lane] = lanes.get(lane, Fraction(0)) + weight * share
            if isinstance(lane, Pool) and lane not in pools:
                pools.append(lane)
    order: list[str | Pool] = [*plan.sources, *pools]
    weights = integer_weights(
        [lanes.get(lane, Fraction(0)) for lane in order],
        longest=LONGEST_PERIOD if written else _LONGEST_PERIOD_BY_TOKENS,
    )
    added = (0,) * (len(pools) - len(plan.pools))
    before = [old.model_copy(update={"weights": old.weights + added}) for old in plan.stages]
    planned = PlannedStage(first_step=stage.first_step, weights=weights)
    return plan.model_copy(update={"pools": tuple(pools), "stages": (*before, planned)})


def _new_shares(stage: DataStage, plan: DrawPlan, shards: Shards, split: Split) -> tuple[Shares, bool]:
    """Return the shares of the sources without replay, and whether somebody wrote their weights."""
    if stage.mixture:
        return _shares(stage.mixture), True
    tokens = {name: shards.split(name, split).tokens for name in shards.names}
    with_rows = {name: count for name, count in tokens.items() if plan.sources[name].sequences}
    if not with_rows:
        longest = max(tokens.values())
        raise UserError(
            f"train.seq_length = {plan.seq_length}: no source of {shards.folder} has the {plan.seq_length + 1} tokens "
            f"that a row takes in its {split} split; the longest has {longest}"
            + (f": set train.seq_length to at most {longest - 1}" if longest > 1 else "")
        )
    return _shares(with_rows), False


def _old_shares(replay: Replay, seen: Seen) -> tuple[Shares, bool]:
    """Return the shares of the old sources among themselves, and whether somebody wrote their weights."""
    if replay.weights:
        return _shares(replay.weights), True
    return _shares({name: source.rows for name, source in seen.sources.items()}), False


def _shares(weights: Mapping[str, float]) -> Shares:
    exact = {name: Fraction(str(weight)) for name, weight in weights.items() if weight}
    return {name: weight / sum(exact.values()) for name, weight in exact.items()}


def _lane_of(replay: Replay, name: str, seen: Seen) -> str | Pool:
    """Return the lane of a replayed source: a pool, or the run's own stream, which goes on with what is unseen."""
    own = replay.earlier is None
    if own and replay.draw == "unseen_first":
        return name
    return Pool(source=name, draw=replay.draw, seen=seen.sources[name], of_earlier_run=not own)


def _seen(stage: DataStage, replay: Replay, plan: DrawPlan) -> Seen:
    """Return what was seen before the stage. Raises UserError if it does not fit the run, or lacks a wanted source."""
    if replay.earlier is None:
        if not plan.stages:
            raise UserError(
                f"{replay.key}: no stage comes before the first one, so there is nothing to replay; "
                f"name an earlier run in {replay.key}.run"
            )
        seen, whose = seen_by(plan, batches=stage.first_step), "the earlier stages of this run"
    else:
        seen, whose = replay.earlier, "the earlier run"
    if seen.seq_length != plan.seq_length:
        raise UserError(
            f"{replay.key}: {whose} read rows of {seen.seq_length} tokens, and train.seq_length = {plan.seq_length}: "
            f"its rows are not rows of this run; set train.seq_length={seen.seq_length}"
        )
    if seen.tokenizer != plan.tokenizer:
        raise UserError(
            f"{replay.key}: {whose} read tokens of another tokenizer (SHA-256 {seen.tokenizer[:16]}… there, "
            f"{plan.tokenizer[:16]}… here); build the shards of both with one tokenizer (data.tokenizer.path)"
        )
    if not seen.sources:
        raise UserError(f"{replay.key}: {whose} read nothing that could be replayed; leave replay out")
    for name in replay.weights or seen.sources:
        if name not in seen.sources:
            raise UserError(
                f'{replay.key}.sources: {whose} read nothing of a source "{name}"{nearest(name, seen.sources)}'
            )
        if name not in plan.sources or plan.sources[name].sha256 != seen.sources[name].sha256:
            found = plan.sources[name].sha256[:16] + "… here" if name in plan.sources else "absent here"
            raise UserError(
                f'{replay.key}: source "{name}" is not the one that {whose} read: SHA-256 '
                f"{seen.sources[name].sha256[:16]}… there, {found}; put its shards into the folder data.shards"
            )
    return seen


def check_seq_length(config: DataConfig, shards: Shards, seq_length: int, split: Split = "train") -> None:
    """Raise UserError if a source that a mixture names with a weight above 0 is too short for a single sequence."""
    for key, mixture in config.mixtures().items():
        for name in sorted(name for name, weight in mixture.items() if weight):
            tokens = shards.split(name, split).tokens
            if not num_sequences(tokens, seq_length):
                remedy = f"set train.seq_length to at most {tokens - 1}, or leave" if tokens > 1 else "leave"
                raise UserError(
                    f'train.seq_length = {seq_length}: source "{name}" has {tokens} tokens in its {split} split, and a '
                    f"row takes seq_length + 1; {remedy} the source out of {key}"
                )


def sources_without_rows(config: DataConfig, shards: Shards, seq_length: int, split: Split = "train") -> dict[str, int]:
    """Return the tokens of the sources that are left out where weights go by tokens: they are too short for a row.

    A source of which the build kept no document has no shards, and has 0 tokens here.
    """
    if all(config.mixtures().values()):
        return {}
    tokens = {name: shards.split(name, split).tokens for name in shards.names}
    tokens.update(dict.fromkeys(config.sources.keys() - tokens.keys(), 0))
    return {name: count for name, count in sorted(tokens.items()) if not num_sequences(count, seq_length)}
