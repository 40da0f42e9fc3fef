"""The results of selection_proof.py by arm; an arm counts when all of its seeds are finished."""

from __future__ import annotations

from collections.abc import Mapping

from selection_choices import Choice
from selection_plan import BLIND, BY_TARGET, MAIN, SEEDS, Plan, Run, Selection, evaluation
from selection_statistics import PairedArms

from launcher.sweep.records import Record


class Findings:
    """The finished runs of a proof, by arm."""

    def __init__(self, plan: Plan, records: Mapping[Run, Record], choices: Mapping[Selection, Choice]) -> None:
        """`records` and `choices`: those of the runs and selections of the plan that are finished."""
        self.plan, self.records, self.choices = plan, records, choices
        self.runs = plan.runs()

    def losses(self, selection: Selection, target: str, *, length: int = 1) -> dict[int, float] | None:
        """Returns the held-out loss on a target by seed; None unless every seed is finished."""
        found = {seed: self.records.get(Run(selection, seed, length=length)) for seed in SEEDS}
        losses = {
            seed: record.sources[evaluation(target)] for seed, record in found.items() if record and record.sources
        }
        return losses if len(losses) == len(SEEDS) else None

    def main_arms(self, target: str) -> list[Selection]:
        """Returns the arms of a target at the main share, finished or not."""
        blind = [Selection(arm, MAIN) for arm in BLIND]
        return [*blind, *(Selection(arm, MAIN, target) for arm in BY_TARGET)]

    def all_arms(self, target: str) -> list[Selection]:
        """Returns all arms that are evaluated on a target, at any share."""
        return [selection for selection in self.plan.selections() if selection.target in (None, target)]

    def compared(self, target: str) -> PairedArms[Selection] | None:
        """Returns the arms of a target, at all shares, of which every seed is finished; None if there are not two."""
        losses = {selection: self.losses(selection, target) for selection in self.all_arms(target)}
        whole = {selection: own for selection, own in losses.items() if own}
        return PairedArms(whole) if len(whole) > 1 else None
