"""JSON lines by step: cut and foreign lines are left out, the lines of a step are one."""

from __future__ import annotations

from pathlib import Path

import pytest

from settings.jsonl import append_json_line, read_json_lines, read_steps


def test_lines_of_a_step_are_one_and_others_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    good = ['{"step": 2, "loss": 3.0}', '{"step": 1, "loss": 4.0}', '{"step": 2, "held_out/loss": null}']
    bad = ["[1]", "7", "", '{"loss": 1.0}', '{"step": true}', '{"step": -1}', '{"step": 1.0}', f'{{"step": {2**63}}}']
    path.write_text("\n".join([*good, *bad, "[" * 10_000, '{"step": 3, "lo']), encoding="utf-8")
    assert [line for line, _ in read_json_lines(path)] == good
    assert read_steps(path) == {1: {"step": 1, "loss": 4.0}, 2: {"step": 2, "loss": 3.0, "held_out/loss": None}}
    assert list(read_steps(path)) == [1, 2]


def test_a_line_is_appended_in_place_of_one_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    for step in (1, 2):
        append_json_line(path, {"step": step})
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    append_json_line(path, {"step": 2})
    assert path.read_bytes() == whole
    path.write_bytes(b'{"st')
    append_json_line(path, {"step": 1})
    assert path.read_bytes() == b'{"step": 1}\n'


def test_a_missing_file_is_an_error_of_the_file_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_steps(tmp_path / "none.jsonl")
