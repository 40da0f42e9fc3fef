"""The comparison of the two layouts of a rehearsal: a difference beyond rounding fails, with both values."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from launcher.rehearsal.phases import Trained, check_agreement
from settings import RunError

FIRST = Trained(step=3, losses=[5.5, 5.4, 5.3], grad_norm=1.5, held_out_loss=5.2)


@pytest.mark.parametrize(
    "second",
    [
        FIRST,
        replace(FIRST, losses=[5.300001], grad_norm=1.50001, held_out_loss=5.200001),
        replace(FIRST, losses=[5.3]),
    ],
)
def test_layouts_agree_up_to_rounding(second: Trained) -> None:
    check_agreement(FIRST, second)


@pytest.mark.parametrize(
    ("second", "named"),
    [
        (replace(FIRST, losses=[5.5, 5.4, 5.3003]), "loss 5.3 in the layout of the config and 5.3003"),
        (replace(FIRST, grad_norm=1.501), "gradient norm 1.5 "),
        (replace(FIRST, grad_norm=math.nan), "gradient norm 1.5 .* and nan"),
        (replace(FIRST, held_out_loss=5.2002), "held-out loss 5.2 "),
        (replace(FIRST, held_out_loss=None), "held-out loss 5.2 .* and None"),
    ],
)
def test_a_difference_is_named_with_both_values(second: Trained, named: str) -> None:
    with pytest.raises(RunError, match=f"step 3 differs between the two layouts.*{named}"):
        check_agreement(FIRST, second)


def test_nothing_held_out_and_a_step_that_both_layouts_skip_are_no_difference() -> None:
    for same in ({"held_out_loss": None}, {"losses": [math.nan], "grad_norm": math.nan}):
        check_agreement(replace(FIRST, **same), replace(FIRST, **same))
