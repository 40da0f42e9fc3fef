"""The named parts of a step in a profiler's trace (torch.profiler). Without a profiler a span does next to nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal

from torch.profiler import record_function

Span = Literal["data", "forward", "backward", "reduction", "update", "evaluation", "save"]
_OF_MEGATRON = {"backward-compute": "backward"}  # its forward-compute would hold the making of the micro-batch too


def span(name: Span) -> AbstractContextManager[Any]:
    """Returns a context whose time the trace shows under `name`."""
    return record_function(name)


class MegatronTimers:
    """Megatron's `config.timers`, by which its schedules say what they do: each timer is a span of the trace.

    Its names for messages between stages ("forward-recv") stay as they are.
    """

    def __init__(self) -> None:
        self._timers: dict[str, _Timer] = {}

    def __call__(self, name: str, log_level: int | None = None) -> _Timer:
        if name not in self._timers:
            self._timers[name] = _Timer(_OF_MEGATRON.get(name, name))
        return self._timers[name]


class _Timer:
    def __init__(self, name: str) -> None:
        self._name = name
        self._open: list[record_function] = []

    def start(self, barrier: bool = False) -> None:
        opened = record_function(self._name)
        opened.__enter__()
        self._open.append(opened)

    def stop(self, barrier: bool = False) -> None:
        self._open.pop().__exit__(None, None, None)
