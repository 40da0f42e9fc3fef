"""The help of `lehr score`."""

from __future__ import annotations

from typer.testing import CliRunner

from data.selectors.base import SELECTORS
from data.selectors.model_scores import ModelScoresConfig
from launcher.cli import make_app


def test_the_help_names_each_selector_that_reads_the_scores() -> None:
    result = CliRunner().invoke(make_app(["score"]), ["score", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    text = result.output.partition("The selectors ")[2].partition(". ")[0]
    readers = [name for name in SELECTORS.names() if issubclass(SELECTORS[name], ModelScoresConfig)]
    assert "grand" in readers
    assert [name for name in readers if name not in text.replace(",", "").split()] == []
