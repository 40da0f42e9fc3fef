"""The sigmoid from a task's loss to its accuracy: a planted one is found, and what tells none is refused."""

from __future__ import annotations

import numpy as np
import pytest

from laws.scaling.task_accuracy import TaskAccuracy, fit_task_accuracy
from settings import UserError

TRUTH = TaskAccuracy(floor=0.25, ceiling=0.9, middle=1.1, steepness=4.0, spread=0.0)


def test_a_planted_sigmoid_is_found_beyond_the_losses_that_were_fitted() -> None:
    loss = np.linspace(1.0, 2.2, 40)
    noise = 0.004 * np.random.default_rng(0).normal(size=loss.size)
    found = fit_task_accuracy(loss, TRUTH.accuracy(loss) + noise, floor=0.25)
    assert found.accuracy(0.9) == pytest.approx(TRUTH.accuracy(0.9), abs=0.02)
    assert found.spread == pytest.approx(0.004, rel=0.4)
    assert found.accuracy(np.array([50.0])) == pytest.approx([0.25])


@pytest.mark.parametrize(
    ("loss", "accuracy", "floor", "message"),
    [
        (np.linspace(1, 2, 5), np.linspace(0.6, 0.3, 5), 0.25, "a task needs 8 of each"),
        (np.linspace(1, 2, 9), np.linspace(0.3, 0.6, 9), 0.25, "does not rise as the loss falls"),
        (np.linspace(1, 2, 9), np.full(9, 0.25), 0.25, "does not rise as the loss falls"),
        (np.linspace(1, 2, 9), np.linspace(0.6, 0.3, 9), 1.5, "floor = 1.5 must be an accuracy"),
    ],
)
def test_what_tells_no_sigmoid_is_refused(loss: np.ndarray, accuracy: np.ndarray, floor: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_task_accuracy(loss, accuracy, floor=floor)
