"""The trial of a kernel before a run takes it: it must import, run, and give the right numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def why_it_fails(error: Callable[[], float], *, tolerance: float, install: str) -> str | None:
    """Returns why a kernel cannot be used, or None. `error` imports it, runs it and returns its largest error.

    `install` says what to do if it does not import. A lack of memory is raised: it says nothing about the kernel, and
    must not decide with which one a run computes.
    """
    try:
        found = error()
    except ImportError as absent:
        return f"it does not import ({absent}){install}"
    except torch.OutOfMemoryError:
        raise
    except Exception as failure:  # whatever it raises: no compiler, no kernel for this GPU, a wrong build or driver
        return f"it does not run here ({type(failure).__name__}: {str(failure)[:200]})"
    return None if found <= tolerance else f"its results are wrong here, by {found:.0%} of their norm"  # NaN is wrong


def largest_error(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Returns the largest difference of (found, right), as a share of the norm of what is right; NaN if one is NaN."""
    shares = [(found.float() - right.float()).norm() / right.float().norm() for found, right in pairs]
    return float(torch.stack(shares).max())  # Python's max drops a NaN that does not come first
