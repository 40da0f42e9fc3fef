"""A table of lr: read from JSON and text, written to the last bit, refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from schedules.base import SCHEDULES
from schedules.cosine import CosineConfig
from schedules.table import TableConfig, write_table
from settings import UserError


def test_table_reads_json_and_text_alike(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1e-3, 0.0005, 0]", encoding="utf-8")
    (tmp_path / "b.txt").write_text("1e-3\n0.0005\n0\n", encoding="utf-8")
    for file in ("a.json", "b.txt"):
        schedule = TableConfig(file=tmp_path / file).build(peak_lr=1.0, total_steps=3)
        assert [schedule(step) for step in range(4)] == [1e-3, 5e-4, 0.0, 0.0]


def test_a_written_table_is_read_to_the_last_bit(tmp_path: Path) -> None:
    lr_n = CosineConfig(warmup_steps=3).build(peak_lr=1 / 3, total_steps=40).every_step()
    write_table(lr_n, tmp_path / "lr.json")
    table = SCHEDULES.parse({"name": "table", "file": str(tmp_path / "lr.json")})
    assert table.build(peak_lr=1.0, total_steps=40).every_step().tobytes() == lr_n.tobytes()
    assert table.file_values() == tuple(lr_n.tolist())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e-3\n", r"holds 1 values, fewer than train.steps = 3"),
        ("1e-3\nabc\n1", "must hold one number a step"),
        ("[1, [2], 3]", "must hold one number a step"),
        ("[1, 2", "must hold one number a step"),
        ("1\n-1\n2", r"lr -1.0 of step 1 must be finite and at least 0"),
        ("1\nnan\n2", r"lr nan of step 1 must be finite"),
    ],
)
def test_table_refuses_a_wrong_file_with_its_reason(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "lr.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        TableConfig(file=path).build(peak_lr=1.0, total_steps=3)


def test_table_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no.txt cannot be read"):
        TableConfig(file=tmp_path / "no.txt").build(peak_lr=1.0, total_steps=3)
