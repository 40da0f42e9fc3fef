"""Saves figures as PNG, PDF or SVG files that appear complete or not at all."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from launcher.commands.outputs import check_output
from settings import UserError
from settings.files import new_file, output_of_user

PICTURE_FORMATS = (".png", ".pdf", ".svg")


def check_picture_path(path: Path, *, option: str) -> None:
    """Raises UserError if the suffix is of no picture format, or if the folder does not exist or is one of lehr's."""
    if path.suffix not in PICTURE_FORMATS:
        raise UserError(f"{option} {path} must end in one of {', '.join(PICTURE_FORMATS)}")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: the folder {path.parent} does not exist; make it first")
    check_output(path, option=option)


def save_picture(figure: Figure, path: Path) -> None:
    """Writes the picture. Raises UserError if it cannot be written."""
    with output_of_user(path), new_file(path) as staging:
        figure.savefig(staging, dpi=120, format=path.suffix[1:])
