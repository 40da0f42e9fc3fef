"""Pictures appear whole, like every other file."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from settings import UserError

PICTURE_FORMATS = (".png", ".pdf", ".svg")


def check_picture_path(path: Path, *, option: str) -> None:
    """Raises UserError where the ending is of no picture that can be drawn, or the folder is not there."""
    if path.suffix not in PICTURE_FORMATS:
        raise UserError(f"{option} {path} must end in one of {', '.join(PICTURE_FORMATS)}")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.parent}; make it first")


def save_picture(figure: Figure, path: Path) -> None:
    """Write beside, rename over. Raises UserError where that cannot be."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(aside, dpi=120, format=path.suffix[1:])
        aside.replace(path)
    except OSError as error:
        raise UserError(f"picture {path} cannot be written: {error}") from None
    finally:
        aside.unlink(missing_ok=True)
