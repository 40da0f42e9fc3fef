"""FOLDER@STEP as a folder and a step."""

from __future__ import annotations

from pathlib import Path

import pytest

from train.run_folder.at_step import no_run_folder, split_step


@pytest.mark.parametrize(
    ("text", "run", "step"),
    [
        ("a/b@7", "a/b", 7),
        ("a@b@007", "a@b", 7),
        ("a@latest", "a", None),
        ("a/b", "a/b", None),
        ("a@x", "a@x", None),
        ("a@-4", "a@-4", None),
        ("a@٣", "a@٣", None),
        ("a@", "a@", None),
        ("@4", "@4", None),
    ],
)
def test_only_a_whole_number_or_latest_is_a_step(text: str, run: str, step: int | None) -> None:
    assert split_step(text) == (run, step)


def test_the_message_explains_the_step_where_there_is_an_at_sign() -> None:
    assert no_run_folder(Path("runs/a")).endswith("it has no config.yaml")
    assert no_run_folder(Path("runs/a@x")).endswith("STEP must be a whole number or `latest`")
