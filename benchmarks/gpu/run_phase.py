"""One phase in a process of its own: `python -m gpu.run_phase NAME CONTEXT` appends its rows as they come."""

from __future__ import annotations

import importlib
import sys
import warnings

from gpu.context import Context
from gpu.phases import chosen_phases
from launcher.processes.environment import prepare_process
from launcher.processes.rank_info import SINGLE_PROCESS


def main() -> None:
    """Measures the phase."""
    warnings.filterwarnings("ignore", category=UserWarning)
    prepare_process(SINGLE_PROCESS)  # before the phase imports the libraries that read it
    name, context = sys.argv[1], Context.from_json(sys.argv[2])
    (phase,) = chosen_phases([name])
    module = importlib.import_module(f"gpu.{phase.module}")
    for row in module.measure(context, *phase.arguments):
        context.append(name, row)


if __name__ == "__main__":
    main()
