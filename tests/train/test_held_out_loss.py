"""Held-out losses compare if they are of the same sequences, whatever the order of keys in a file."""

from __future__ import annotations

from train.held_out_loss import are_comparable


def test_losses_compare_on_the_same_sequences_only() -> None:
    here = {"seq_length": 32, "sources": {"a": {"sequences": 4}, "b": {"sequences": 2}}}
    there = {"sources": {"b": {"sequences": 2}, "a": {"sequences": 4}}, "seq_length": 32}
    assert are_comparable(here, there)
    assert are_comparable({}, {})  # two checkpoints that do not record it
    assert not are_comparable(here, {})
    assert not are_comparable(here, {**here, "seq_length": 64})
