"""The example of docs/laws.md runs as it stands, and prints what the page says."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "laws.md"


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    expected = []
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
        expected += re.findall(r"^# prints: (.*)", block, flags=re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == expected
