"""Forgetting and adaptation, from the held-out losses of a run and its parents."""

from __future__ import annotations

from typing import Any

from train.metrics.continual import ContinualMetrics, Part, continual_text
from train.state import TrainState

PARTS = [Part(0, frozenset({"en"})), Part(4, frozenset({"fr"})), Part(8, frozenset({"de", "fr"}))]


def losses(**by_source: float) -> dict[str, float]:
    return {"held_out/loss": 1.0, **{f"held_out/{name}/loss": loss for name, loss in by_source.items()}}


def identity(**sources: str) -> dict[str, Any]:
    return {"seq_length": 8, "sources": {name: {"sha256": sha256} for name, sha256 in sources.items()}}


def test_each_part_forgets_what_came_before_and_adapts_to_what_is_new() -> None:
    metrics = ContinualMetrics(PARTS)
    assert metrics.evaluation(2, losses(en=4.0, fr=6.0)) == {}
    assert metrics.evaluation(4, losses(en=3.5, fr=5.5)) == {}
    assert metrics.evaluation(6, losses(en=3.75, fr=4.5)) == {"forgetting/en": 0.25, "adaptation/fr": 1.0}
    assert metrics.evaluation(8, losses(en=3.25, fr=4.0, de=7.0)) == {"forgetting/en": 0.0, "adaptation/fr": 1.5}
    last = metrics.evaluation(10, losses(en=3.5, fr=4.25, de=5.0))
    assert last == {"forgetting/en": 0.25, "forgetting/fr": 0.25, "adaptation/de": 2.0}
    assert continual_text(last) == "forgetting en 0.2500, fr 0.2500  adaptation de 2.0000"
    assert continual_text({}) is None


def test_steps_that_are_taken_anew_replace_what_came_after_them() -> None:
    metrics = ContinualMetrics(PARTS)
    metrics.evaluation(4, losses(en=3.5, fr=5.5))
    metrics.evaluation(6, losses(en=2.0, fr=5.0))
    assert metrics.evaluation(5, losses(en=3.75, fr=5.0))["forgetting/en"] == 0.25


def test_replayed_data_of_an_earlier_run_is_old_from_the_first_part_on() -> None:
    metrics = ContinualMetrics([Part(0, frozenset({"fr"}), frozenset({"en"}))])
    metrics.evaluation(2, losses(en=3.0, fr=5.0))
    assert metrics.evaluation(4, losses(en=3.5, fr=4.0)) == {"forgetting/en": 0.5}


def test_a_loss_that_is_not_finite_gives_no_metric() -> None:
    metrics = ContinualMetrics(PARTS)
    metrics.evaluation(4, losses(en=float("nan"), fr=5.5))
    assert metrics.evaluation(6, losses(en=float("nan"), fr=float("inf"))) == {}
    assert metrics.evaluation(8, losses(en=3.0, fr=5.0)) == {"forgetting/en": 0.0, "adaptation/fr": 0.5}


def test_a_resume_recalls_each_source_as_long_as_its_own_sequences_are_the_same() -> None:
    before, after = identity(en="a"), identity(en="a", fr="b")
    state = TrainState(step=2).with_held_out_loss(4.0, on=before)
    state = state.model_copy(update={"step": 4}).with_held_out_loss(3.0, on=before)
    rows: list[dict[str, Any]] = [{"step": 2, **losses(en=3.0)}, {"step": 4, **losses(en=3.5)}]
    metrics = ContinualMetrics(PARTS)
    metrics.recall(rows, state=state, sequences=after)
    assert metrics.evaluation(6, losses(en=4.0, fr=5.0)) == {"forgetting/en": 1.0}
    state = state.model_copy(update={"step": 6}).with_held_out_loss(4.0, on=after)
    assert (state.held_out_since, state.source_evaluated_since("en"), state.source_evaluated_since("fr")) == (6, 2, 6)
    rows.append({"step": 6, **losses(en=4.0, fr=5.0)})
    again = ContinualMetrics(PARTS)
    again.recall(rows, state=state, sequences=after)
    assert again.evaluation(8, losses(en=4.0, fr=5.0))["forgetting/en"] == 1.0
    other = ContinualMetrics(PARTS)
    other.recall(rows, state=state, sequences=identity(en="altered", fr="b"))
    assert other.evaluation(8, losses(en=4.0, fr=5.0))["forgetting/en"] == 0.0
