"""The nodes that stay excluded from a job."""

from __future__ import annotations

from launcher.slurm.exclusions import still_excluded

NODES = {"n1", "n2", "n3", "n4"}


def test_nodes_stay_excluded_while_enough_others_are_left() -> None:
    assert still_excluded(["n2", "n4"], usable=NODES - {"n4"}, fewest=2) == ["n2", "n4"]
    assert still_excluded([], usable=NODES, fewest=2) == []


def test_the_node_that_failed_longest_ago_is_let_back_in() -> None:
    assert still_excluded(["n2", "n4", "n1"], usable=NODES - {"n1"}, fewest=2) == ["n4", "n1"]
    assert still_excluded(["n2", "n4", "n2"], usable=NODES, fewest=3) == ["n2"]  # it has failed again
    assert still_excluded(["n2"], usable={"n1"}, fewest=2) == []  # the job waits until Slurm has the node back


def test_what_slurm_does_not_tell_changes_nothing() -> None:
    assert still_excluded(["n2", "n4"], usable=set(), fewest=2) == ["n2", "n4"]
