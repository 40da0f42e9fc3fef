"""The parameter table (`optim.table`): rows of name patterns with their settings; the first row that matches counts.

Every parameter of the model must have a row, and every row must decide at least one parameter: a row with a misspelt
pattern would silently do nothing. A rank may hold only some of the parameters, so the table is checked once, against
the names of the full model, before processes start (`check_table`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

from pydantic import Field, field_validator

from settings import Settings, UserError


class ParamRule(Settings):
    """A row of the table: how the parameters whose names match `pattern` are updated."""

    pattern: str = Field(description="Regular expression that the whole name of a parameter matches.")
    method: Literal["own", "adamw"] = Field(
        "own", description="Which rule updates the parameters: the optimizer's own, or AdamW."
    )
    lr_multiplier: float = Field(1.0, ge=0, description="Factor on the learning rate of these parameters.")
    weight_decay: float | None = Field(
        None, ge=0, description="Weight decay of these parameters; null means the optimizer's weight_decay."
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from None
        return pattern

    def decay(self, default: float) -> float:
        """Returns the weight decay of this row's parameters."""
        return default if self.weight_decay is None else self.weight_decay


R = TypeVar("R", bound=ParamRule)

_VECTORS = r".*(norm\.weight|\.bias)"  # gains and biases: never decayed
_MATRICES = r"layers\..*"  # all else in the layers: the linear maps
_TABLES = r"(embedding|position|head)\.weight"  # one row per token or position: no linear map between features

DECAY_MATRICES = (
    ParamRule(pattern=_VECTORS, weight_decay=0.0),
    ParamRule(pattern=_MATRICES),
    ParamRule(pattern=_TABLES),
)
"""The primary method updates every parameter; matrices and embeddings are decayed, vectors are not."""

ADAMW_FOR_NON_MATRICES = (
    ParamRule(pattern=_VECTORS, method="adamw", weight_decay=0.0),
    ParamRule(pattern=_MATRICES),
    ParamRule(pattern=_TABLES, method="adamw"),
)
"""For matrix optimizers (Conda, Muon): the fallback AdamW updates embeddings, head, gains and biases."""


def rule_of(table: Sequence[R], name: str) -> R:
    """Returns the first row whose pattern matches the full name. Raises UserError if none does."""
    for rule in table:
        if re.fullmatch(rule.pattern, name):
            return rule
    raise UserError(f"optim.table: no pattern matches the parameter {name}; add a row for it")


def check_table(table: Sequence[ParamRule], names: Iterable[str]) -> None:
    """Checks that every name has a row and that every row decides a name. `names`: global, of the full model.

    Raises UserError that lists the names without a row, or names a row that decides no name and says why.
    """
    names = list(names)
    uncovered, used = [], set()
    for name in names:
        matching = [row for row, rule in enumerate(table) if re.fullmatch(rule.pattern, name)]
        if matching:
            used.add(matching[0])
        else:
            uncovered.append(name)
    if uncovered:
        shown = ", ".join(uncovered[:5]) + (f" and {len(uncovered) - 5} more" if len(uncovered) > 5 else "")
        raise UserError(f"optim.table: no pattern matches the parameters {shown}; add a row for them")
    for row, rule in enumerate(table):
        if row in used:
            continue
        shadowed = any(re.fullmatch(rule.pattern, name) for name in names)
        why = (
            "rows above it match every parameter that it matches"
            if shadowed
            else "it matches no parameter of the model"
        )
        raise UserError(f"optim.table.{row}.pattern = {rule.pattern!r}: {why}; remove or correct the row")
