"""Selectors by the scores of models: means over checkpoints and runs, and learning impact, from files as written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_scores import write_score_file

from data.selectors.blocks.learning_impact import learning_impact
from data.selectors.el2n import El2nConfig
from data.selectors.grand import GrandConfig
from data.selectors.lim import LimConfig
from data.selectors.loss import LossConfig
from data.selectors.model_scores import ModelScoresConfig
from settings import UserError

ONE_GROUP = np.zeros(3, dtype=np.int64)


def write(
    folder: Path, run: str, step: int, values: dict[int, float], *, source: str = "a", checkpoint: str = ""
) -> Path:
    """Writes a file in which el2n, loss and accuracy of a document, by its hash, are 1, 2 and 0.5 times its value."""
    value, hashes = np.array(list(values.values())), np.array(list(values), dtype=np.uint64)
    scores = {"el2n": value, "loss": 2 * value, "accuracy": 0.5 * value}
    return write_score_file(folder, run, step, hashes, **scores, source=source, checkpoint=checkpoint)


def found(config: ModelScoresConfig, hashes: list[int]) -> list[float]:
    config.check()
    scores = config.prepare((), config.fit((), ())).score([""] * len(hashes), np.array(hashes, dtype=np.uint64))
    return [float(score) for score in scores]


def test_scores_are_means_over_the_checkpoints_of_a_run_and_then_over_runs(tmp_path: Path) -> None:
    largest = 2**64 - 1
    write(tmp_path, "one", 10, {largest: 0.4, 3: 0.2, 5: 0.9, 6: np.nan})
    write(tmp_path, "one", 20, {3: 0.4, largest: 0.6, 8: 1.0})
    write(tmp_path, "two", 10, {largest: 0.1})
    write(tmp_path, "two", 10, {9: 0.7}, source="b")
    hashes = [largest, 3, 5, 6, 8, 9, 4]
    wanted = np.array([0.3, 0.3, np.nan, np.nan, np.nan, 0.7, np.nan])
    np.testing.assert_allclose(found(El2nConfig(paths=(str(tmp_path),)), hashes), wanted)
    np.testing.assert_allclose(found(LossConfig(paths=(str(tmp_path),)), hashes), 2 * wanted)
    one_step = El2nConfig(paths=(str(tmp_path / "*/step-00000010/**/*.parquet"),))
    np.testing.assert_allclose(found(one_step, [5, largest]), [0.9, 0.25])


def test_grand_needs_files_with_norms_of_gradients(tmp_path: Path) -> None:
    hashes, norms = np.arange(3, dtype=np.uint64), np.array([0.1, 0.5, 0.3])
    scores = {"el2n": norms * 2, "loss": norms * 3, "accuracy": norms}
    write_score_file(tmp_path, "one", 10, hashes, **scores, grand=norms)
    write_score_file(
        tmp_path, "two", 10, hashes[:2], **{name: each[:2] for name, each in scores.items()}, grand=norms[1:]
    )
    config = GrandConfig(paths=(str(tmp_path),))
    np.testing.assert_allclose(found(config, [0, 1, 2]), [0.3, 0.4, 0.3])
    write(tmp_path, "three", 10, {1: 0.4})
    with pytest.raises(UserError, match=r"three.*has no norms of gradients: run lehr score with --grand"):
        config.check()


def test_lim_compares_with_the_mean_of_all_documents_or_of_a_source(tmp_path: Path) -> None:
    values = {"a": {10: [0.2, 0.6], 20: [1.0, 1.4]}, "b": {10: [0.4, 0.4], 20: [0.6, 2.0]}}
    for source, by_step in values.items():
        for step, pair in by_step.items():
            start = 1 if source == "a" else 3
            write(tmp_path, "one", step, dict(zip((start, start + 1), pair, strict=True)), source=source)
    rewards = 0.5 * np.array([[*values["a"][step], *values["b"][step]] for step in (10, 20)])  # accuracy, [steps, 4]

    def of_group(rewards_KN: np.ndarray) -> np.ndarray:
        mean = rewards_KN.mean(1, keepdims=True)
        return 1 - ((rewards_KN - mean) ** 2).sum(0) / ((1 - mean) ** 2).sum(0)

    paths = (str(tmp_path),)
    np.testing.assert_allclose(found(LimConfig(paths=paths), [1, 2, 3, 4]), of_group(rewards))
    by_source = np.concatenate([of_group(rewards[:, :2]), of_group(rewards[:, 2:])])
    np.testing.assert_allclose(found(LimConfig(paths=paths, per_source=True), [1, 2, 3, 4]), by_source)
    likely = of_group(np.exp(-4 * rewards))  # the loss is four times the accuracy
    np.testing.assert_allclose(found(LimConfig(paths=paths, reward="probability"), [1, 2, 3, 4]), likely)
    one_step = LimConfig(paths=(str(tmp_path / "one" / "step-00000010"),))
    with pytest.raises(UserError, match="lim needs several checkpoints of a run, but the scores of one are of step 10"):
        one_step.fit((), ())


class TestIdentitiesOfLearningImpact:
    def test_the_mean_curve_has_1_and_all_ones_have_0(self) -> None:
        curve = np.array([0.1, 0.3, 0.6])
        rewards = np.stack([curve, np.ones(3), 2 * curve - 1], axis=1)  # [steps, documents], of mean `curve`
        scores = learning_impact(list(rewards), ONE_GROUP)
        np.testing.assert_allclose(scores[:2], [1, 0], atol=1e-15)

    def test_rewards_in_another_order_of_checkpoints_than_the_mean_score_lower(self) -> None:
        rewards = np.tile(np.linspace(0, 0.9, 10)[:, None], 20)
        assert learning_impact(list(rewards), np.zeros(20, dtype=np.int64)).min() == 1
        rewards[:, 0] = np.roll(rewards[:, 0], 1)
        scores = learning_impact(list(rewards), np.zeros(20, dtype=np.int64))
        assert scores[0] < scores[1:].min()
        assert scores.max() <= 1

    def test_parts_with_the_same_mean_give_the_same_scores(self) -> None:
        rng = np.random.default_rng(0)
        rewards = rng.random((4, 6))
        mirrored = np.concatenate([rewards, rewards[:, ::-1]], axis=1)
        scores = learning_impact(list(mirrored), np.zeros(12, dtype=np.int64))
        np.testing.assert_allclose(scores[:6], learning_impact(list(rewards), np.zeros(6, dtype=np.int64)))

    def test_a_group_that_knows_everything_has_1(self) -> None:
        np.testing.assert_array_equal(learning_impact([np.ones(3)], ONE_GROUP), np.ones(3))


def test_files_that_are_no_scores_or_of_two_runs_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "one", 10, {1: 0.5})
    other = write(tmp_path / "elsewhere", "one", 10, {2: 0.5}, checkpoint="another")
    with pytest.raises(UserError, match=r"00000\.parquet is of another checkpoint .* step 10 of the run one"):
        El2nConfig(paths=(str(tmp_path),)).check()
    other.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"00000\.parquet holds no scores that `lehr score` has written"):
        El2nConfig(paths=(str(tmp_path),)).check()
