"""The phases of the measurements: what each measures, its module, and its time limit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """One measurement. Its module has `measure(context, *arguments)`, which yields a row for each case."""

    name: str
    module: str
    limit_seconds: float
    arguments: tuple[str, ...] = ()


# In the order of their worth: when the time is over, the rest is left out.
CORE = (
    Phase("environment", "environment", 60),
    Phase("speed-160M", "speed", 90, ("160M",)),
    Phase("parity", "parity", 75),
    Phase("speed-410M", "speed", 90, ("410M",)),
    Phase("speed-1.3B", "speed", 100, ("1.3B",)),
    Phase("transformers-160M", "transformers_speed", 90, ("160M",)),
    Phase("checkpoints", "checkpoints", 80),
    Phase("kernels", "kernels", 60),
    Phase("documents-160M", "speed", 60, ("160M", "documents")),
    Phase("faults", "faults", 75),
    Phase("optimizers", "optimizers", 45),
    Phase("tests", "marked_tests", 60),
)
MORE = (
    Phase("transformers-410M", "transformers_speed", 150, ("410M",)),
    Phase("transformers-1.3B", "transformers_speed", 200, ("1.3B",)),
)
CORE_SECONDS = 480.0  # for all of CORE together


def chosen_phases(names: list[str]) -> list[Phase]:
    """Returns the phases of these names in their order of worth; `core` is all of CORE. Raises ValueError."""
    known = {phase.name: phase for phase in (*CORE, *MORE)}
    unknown = [name for name in names if name not in (*known, "core")]
    if unknown:
        raise ValueError(f"there is no phase {', '.join(unknown)}; phases are core, {', '.join(known)}")
    return [phase for phase in known.values() if phase.name in names or ("core" in names and phase in CORE)]
