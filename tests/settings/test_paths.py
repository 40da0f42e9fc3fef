"""Relative paths of a config become absolute, wherever they stand in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import Field

from settings import Settings, UserError
from settings.paths import recordable, with_absolute_paths


class Inner(Settings):
    """A section with a path."""

    file: Path
    name: str = "a/b"


class Outer(Settings):
    """Sections, in every kind of container."""

    inner: Inner
    forecast: Path | None = None
    files: tuple[Path, ...] = ()
    sources: dict[str, Inner] = Field({})


def test_paths_are_joined_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Outer.model_validate(
        {"inner": {"file": "x"}, "files": ["../y", "/z"], "sources": {"one": {"file": "deep/x"}}}
    )
    absolute = with_absolute_paths(settings)
    assert absolute == Outer(
        inner=Inner(file=tmp_path / "x"),
        files=(tmp_path / "../y", Path("/z")),
        sources={"one": Inner(file=tmp_path / "deep/x")},
    )
    assert with_absolute_paths(absolute) == absolute
    assert settings.inner.file == Path("x")


def test_a_path_that_a_config_cannot_record_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff"))
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=r"is no UTF-8, so that no config can record it; rename it$"):
        recordable(folder)
    with pytest.raises(UserError, match="is no UTF-8"):  # a relative path, by the current folder
        recordable(Path("runs").absolute())
    assert recordable(tmp_path / "\u00e4") == tmp_path / "\u00e4"
