"""One side of the comparison: `python -m gpu.parity_side all|reference full|tiny`, on the device that the process sees.

It prints the losses of all cases, or of those that are compared with the CPU (`reference`), each as soon as it is done.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

from gpu.parity_cases import CASES, SIZES
from launcher.processes.environment import prepare_process
from launcher.processes.rank_info import SINGLE_PROCESS


def main() -> None:
    """Trains the cases."""
    warnings.filterwarnings("ignore", category=UserWarning)
    prepare_process(SINGLE_PROCESS)  # before the libraries that read it are imported
    from gpu.parity_training import losses, one_rank

    which, form = sys.argv[1:3]
    mesh = one_rank()
    for name, case in CASES.items():
        if which == "reference" and case.against != "CPU":
            continue
        if form == "tiny" and case.compiled:
            continue
        try:
            row: dict[str, Any] = {"case": name, "losses": losses(case, mesh, SIZES[form])}
        except Exception as error:
            row = {"case": name, "outcome": f"{type(error).__name__}: {str(error)[:500]}"}
        print("ROW " + json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
