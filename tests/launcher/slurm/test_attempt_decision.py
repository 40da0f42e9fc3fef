"""The table of decisions: every way in which an attempt ends, with what is done then."""

from __future__ import annotations

import itertools

import pytest

from launcher.slurm.decision import NO_PROGRESS, TABLE, Ending, decide

CASES = [
    # the ending, the action, and whether it counts as a start without progress
    (Ending(0), "end", 0),
    (Ending(0, out_of_time=True), "end", 0),
    (Ending(0, ended_by_slurm=True), "end", 0),
    (Ending(2), "end", 0),
    (Ending(76), "end", 0),
    (Ending(77), "end", 0),
    (Ending(77, preempted=True, new_checkpoint=True), "end", 0),
    (Ending(75, cancelled=True, new_checkpoint=True), "end", 0),
    (Ending(75, cancelled=True, preempted=True), "end", 0),
    (Ending(None, cancelled=True), "end", 0),
    (Ending(75, ended_by_slurm=True, new_checkpoint=True), "leave", 0),
    (Ending(143, ended_by_slurm=True), "leave", 0),
    (Ending(75, preempted=True), "requeue", 0),
    (Ending(75, preempted=True, new_checkpoint=True), "requeue", 0),
    (Ending(143, preempted=True), "requeue", 0),
    (Ending(None, preempted=True), "requeue", 0),
    (Ending(75, new_checkpoint=True), "requeue", 0),
    (Ending(75), "requeue", 1),
    (Ending(75, out_of_time=True, new_checkpoint=True), "requeue", 0),
    (Ending(143, out_of_time=True, new_checkpoint=True), "requeue", 0),
    (Ending(143, out_of_time=True), "requeue", 1),
    (Ending(1), "requeue", 1),
    (Ending(1, new_checkpoint=True), "requeue", 1),
    (Ending(1, bad_node=True), "requeue", 1),
    (Ending(137), "requeue", 1),
    (Ending(138), "requeue", 1),
    (Ending(143), "requeue", 1),
    (Ending(None), "requeue", 1),
    (Ending(None, put_back=True), "requeue", 1),
    (Ending(None, put_back=True, preempted=True), "requeue", 0),
    (Ending(None, put_back=True, lost_node=True), "requeue", 1),
    (Ending(None, lost_node=True), "requeue", 1),
    (Ending(None, lost_node=True, preempted=True), "requeue", 0),
    (Ending(None, new_checkpoint=True), "requeue", 1),
]


@pytest.mark.parametrize(("ending", "action", "counted"), CASES, ids=[str(case[0]) for case in CASES])
def test_what_is_done(ending: Ending, action: str, counted: int) -> None:
    decision = decide(ending, max_failures=3)
    assert (decision.action, decision.counted) == (action, counted)


def test_every_row_decides_a_case() -> None:
    assert {decide(ending, max_failures=3).row for ending, _, _ in CASES} == {row.name for row in TABLE}


def test_what_is_a_fault_of_a_rank_or_a_node() -> None:
    """The time that it costs is lost to faults; a mistake, a preemption and a limit are none."""
    faults = [Ending(1), Ending(137), Ending(None), Ending(1, bad_node=True), Ending(None, lost_node=True)]
    others = [
        Ending(0),
        Ending(2),
        Ending(75),
        Ending(76),
        Ending(77),
        Ending(143, preempted=True),
        Ending(None, put_back=True),
    ]
    others += [Ending(143, out_of_time=True), Ending(143, cancelled=True)]
    assert all(decide(ending, max_failures=3).fault for ending in faults)
    assert not any(decide(ending, max_failures=3).fault for ending in others)
    assert decide(Ending(1), max_failures=0).fault


def test_starts_without_a_new_checkpoint_end_the_chain_with_the_cause() -> None:
    """Three failures are allowed: the fourth start without a new checkpoint is the last."""
    counted, actions = 0, []
    for _ in range(4):
        decision = decide(Ending(1, cause="rank 3 on n2: the pen is empty", counted_before=counted), max_failures=3)
        counted = decision.counted
        actions.append(decision.action)
    assert actions == ["requeue"] * 3 + ["end"]
    assert decision.row == NO_PROGRESS
    assert decision.reason == (
        "no progress: 4 starts without a new checkpoint, more than max_failures = 3; "
        "the run has failed: rank 3 on n2: the pen is empty"
    )


def test_a_new_checkpoint_sets_the_count_back_and_what_is_not_counted_leaves_it() -> None:
    assert decide(Ending(1, new_checkpoint=True, counted_before=3), max_failures=3).counted == 1
    assert decide(Ending(75, new_checkpoint=True, counted_before=3), max_failures=3).counted == 0
    assert decide(Ending(75, preempted=True, counted_before=3), max_failures=3).counted == 3


def test_no_ending_starts_a_run_again_for_ever() -> None:
    """Whatever happens, the same ending over and over ends the job, or was no fault of the run."""
    flags = list(itertools.product([False, True], repeat=3))
    for code, (ended_by_slurm, out_of_time, bad_node) in itertools.product((None, 0, 1, 2, 75, 76, 77, 137), flags):
        counted, action = 0, "requeue"
        for _ in range(9):
            ending = Ending(
                code,
                ended_by_slurm=ended_by_slurm,
                out_of_time=out_of_time,
                bad_node=bad_node,
                counted_before=counted,
            )
            decision = decide(ending, max_failures=5)
            counted, action = decision.counted, decision.action
            if action != "requeue":
                break
        assert action != "requeue", (code, ended_by_slurm, out_of_time, bad_node)
