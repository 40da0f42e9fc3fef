"""The process that started this one. This file imports nothing slow: the command line notes its parent first of all."""

from __future__ import annotations

import functools
import os


@functools.cache
def first_parent() -> int:
    """Returns the parent's number at the first call, which launcher/__main__.py makes; the parent may have ended since.

    `settings.processes.die_with_parent` compares it: a parent that ends during the imports is noticed.
    """
    return os.getppid()
