"""`lehr doctor`: checks Python, its packages and the machine, and names the command that fixes what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table

from launcher.doctor.finding import Finding
from launcher.doctor.machine import check_compiler, check_devices, check_machine, check_network, check_slurm
from launcher.doctor.packages import check_packages, check_python
from launcher.exit_codes import DONE, FAILED
from launcher.processes.environment import prepare_process
from launcher.processes.rank_info import SINGLE_PROCESS

# In an order in which none depends on a later one.
CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_packages,
    check_devices,
    check_compiler,
    check_machine,
    check_network,
    check_slurm,
)


def doctor() -> None:
    """Check this machine: what it has, what is missing, and the command that fixes it.

    Exit code 0 if a model can be trained here, 1 if not.
    """
    prepare_process(SINGLE_PROCESS)
    findings = list(run_checks())
    print_findings(findings, Console(soft_wrap=True))
    raise SystemExit(FAILED if any(finding.state == "missing" for finding in findings) else DONE)


def run_checks() -> Iterator[Finding]:
    """Runs all checks. A check that fails is itself a finding."""
    for check in CHECKS:
        try:
            yield from check()
        except Exception as error:  # a broken package must not hide the other findings
            name = check.__name__.removeprefix("check_")
            yield Finding(name, "missing", f"cannot be checked: {type(error).__name__}: {error}")


def print_findings(findings: list[Finding], console: Console) -> None:
    """Prints a table, the fixes, and whether training can run."""
    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "missing": "[red]missing[/]"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        table.add_row(marks[finding.state], finding.name, finding.result)
    console.print(table)
    fixable = [finding for finding in findings if finding.fix]
    if fixable:
        console.print()
    for finding in fixable:
        console.print(f"{marks[finding.state]} {finding.name}: {finding.fix}", highlight=False)
    missing = [finding.name for finding in findings if finding.state == "missing"]
    verdict = f"cannot train here yet: {', '.join(missing)}" if missing else "ready to train on this machine"
    console.print(f"\n{verdict}", highlight=False)
