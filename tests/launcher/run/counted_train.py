"""`lehr train`, which appends every look at a file of the run to FOLDER/RANK.txt: `open PATH`, `stat PATH`, `map PATH`.

python counted_train.py FOLDER CONFIG [KEY=VALUE]...
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOG = os.open(Path(sys.argv[1]) / f"{os.environ['RANK']}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
ENDINGS = (".ds", ".ds.index", ".ds.loss", ".safetensors", "manifest.json", "state.json", "dataset.json")


def note(kind: str, path: object) -> None:
    if isinstance(path, str | os.PathLike) and str(path).endswith(ENDINGS):
        os.write(LOG, f"{kind} {path}\n".encode())


def counted(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(path: Any, *arguments: Any, **options: Any) -> Any:
        note(kind, path)
        return function(path, *arguments, **options)

    return call


if __name__ == "__main__":
    import torch

    sys.addaudithook(lambda event, arguments: note("open", arguments[0]) if event == "open" else None)
    os.stat = counted("stat", os.stat)
    torch.from_file = counted("map", torch.from_file)
    sys.argv = ["lehr", "train", *sys.argv[2:]]
    from launcher.__main__ import main

    main()
