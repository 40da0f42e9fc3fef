"""The outcome of a run whose ranks have all ended: the launcher's exit code, and the message if the run failed."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.exit_codes import DONE, FAILED, USER_MISTAKE, code_of
from launcher.processes.hang_report import UnresponsiveRank, explain_hang
from launcher.processes.rank_logs import last_lines
from launcher.processes.rank_process import RankProcess

_SHOWN_LINES = 25


@dataclass(frozen=True)
class RunOutcome:
    """The end of the launcher."""

    exit_code: int
    message: str = ""


def run_outcome(
    ranks: Sequence[RankProcess],
    *,
    stop_signal: signal.Signals | None,
    stopped: str,
    killed_by_user: bool,
    unresponsive: Sequence[UnresponsiveRank],
) -> RunOutcome:
    """Returns the outcome, and writes the failed ranks' tracebacks to their logs.

    The rank that failed first is the cause. `stop_signal`: the first one that the launcher received. `stopped`: the
    end of the message if it ended the ranks.
    """
    failed = [rank for rank in ranks if rank.failed]
    if not failed:
        return RunOutcome(max(rank.exit_code or DONE for rank in ranks))
    if killed_by_user:
        return RunOutcome(128 + signal.SIGINT)
    for rank in failed:
        if rank.report is not None and rank.report.traceback:
            with contextlib.suppress(OSError):
                rank.log.write(rank.report.traceback.encode(errors="replace"))
    first = min(failed, key=lambda rank: rank.failed_at)
    if stop_signal is not None and first.report is None and first.exit_code in (-stop_signal, 128 + stop_signal):
        return RunOutcome(128 + stop_signal, f"ended by {stop_signal.name}{stopped}")
    if first.report is not None and first.report.kind == "user":
        return RunOutcome(USER_MISTAKE, f"error: {first.report.message}")
    if first.report is not None and first.report.kind == "hang":
        numbers = {one.rank for one in unresponsive}
        reports = {rank.rank: rank.report for rank in ranks if rank.report is not None and rank.rank not in numbers}
        return RunOutcome(FAILED, explain_hang(reports, unresponsive))
    return RunOutcome(FAILED if first.report is None else code_of(first.report.kind), _explain_failure(first))


def _explain_failure(rank: RankProcess) -> str:
    if rank.report is not None:
        headline, detail = f"failed: {rank.report.message}", rank.report.traceback
    elif rank.exit_code is not None and rank.exit_code < 0:
        hint = " (often: the machine was out of memory)" if rank.exit_code == -signal.SIGKILL else ""
        headline = f"was killed by {signal.Signals(-rank.exit_code).name}{hint}"
        detail = last_lines(rank.log_path, _SHOWN_LINES)
    else:
        headline, detail = f"ended with exit code {rank.exit_code}", last_lines(rank.log_path, _SHOWN_LINES)
    lines = [f"  {line}" for line in detail.splitlines()[-_SHOWN_LINES:]]
    return "\n".join([f"rank {rank.rank} {headline}", *lines, f"  its log: {rank.log_path}"])
