"""The argument that the commands of `lehr ladder` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LadderArgument = Annotated[
    Path, typer.Argument(metavar="LADDER", help="the folder of a ladder, as `lehr ladder plan` makes it")
]
