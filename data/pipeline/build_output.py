"""Files that builds wrote, which no build reads as text: shards may lie in the folder of their own input."""

from __future__ import annotations

import os
import re
from pathlib import Path

from data.pipeline.report import BUILD_FILE

_MAX_NAME_BYTES = 200
_WORK_FOLDER = re.compile(r"\..+\.building-[0-9a-f]{12}")


def work_folder_name(shards: str, digest: str) -> str:
    """Return the name of a work folder beside shards of this name; `digest` is 12 hexadecimal digits.

    A very long name is truncated, since file systems take 255 bytes.
    """
    return f".{os.fsencode(shards)[:_MAX_NAME_BYTES].decode(errors='ignore')}.building-{digest}"


class BuildOutput:
    """Knows the files in work folders and in finished shards; looks at each folder once."""

    def __init__(self) -> None:
        self._known: dict[Path, bool] = {}

    def __contains__(self, file: Path) -> bool:
        return self._is_within(file.absolute().parent)

    def _is_within(self, folder: Path) -> bool:
        known = self._known.get(folder)
        if known is None:
            known = (
                _WORK_FOLDER.fullmatch(folder.name) is not None
                or all((folder / name).is_file() for name in (BUILD_FILE, "tokenizer.json"))
                or (folder != folder.parent and self._is_within(folder.parent))
            )
            self._known[folder] = known
        return known
