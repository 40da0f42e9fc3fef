"""The named parts of a step in the trace of torch.profiler. Without a profiler a span does nothing."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any, Literal

from torch._C._autograd import _profiler_enabled
from torch.profiler import record_function

from parallel.compute_timer import ComputeTimer

Span = Literal["data", "forward", "backward", "reduction", "update", "evaluation", "save"]
_NOTHING = contextlib.nullcontext()
_OF_MEGATRON = {"backward-compute": "backward"}  # its forward-compute would hold the making of the micro-batch too


def span(name: Span) -> AbstractContextManager[Any]:
    """Returns a context whose time the trace shows under `name`."""
    # record_function alone costs some 20 us even without a profiler: 3% of a step of a small model.
    return record_function(name) if _profiler_enabled() else _NOTHING


class MegatronTimers:
    """Megatron's `config.timers`, by which its schedules say what they do: each timer is a span of the trace.

    Its names for messages between stages ("forward-recv") stay as they are. The backward passes also count as time in
    which the rank computes.
    """

    def __init__(self, compute_timer: ComputeTimer) -> None:
        self._compute_timer = compute_timer
        self._timers: dict[str, _Timer] = {}

    def __call__(self, name: str, log_level: int | None = None) -> _Timer:
        if name not in self._timers:
            compute_timer = self._compute_timer if name == "backward-compute" else None
            self._timers[name] = _Timer(_OF_MEGATRON.get(name, name), compute_timer)
        return self._timers[name]


class _Timer:
    def __init__(self, name: str, compute_timer: ComputeTimer | None) -> None:
        self._name = name
        self._compute_timer = compute_timer
        self._open: record_function | None = None

    def start(self, barrier: bool = False) -> None:
        if self._compute_timer is not None:
            self._compute_timer.start()
        if _profiler_enabled():
            self._open = record_function(self._name)
            self._open.__enter__()

    def stop(self, barrier: bool = False) -> None:
        if self._compute_timer is not None:
            self._compute_timer.stop()
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None
