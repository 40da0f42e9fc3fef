"""Slurm's commands, as lehr calls them: submit, look, put back into the queue, cancel."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from settings import RunError, UserError

_SECONDS = 60.0  # a controller that is busy answers late
_UPDATE_TRIES = 20
_AWAY = ("Unable to contact slurm controller", "Socket timed out", "Slurm backup controller in standby")
_AWAY_SECONDS, _AGAIN_SECONDS = 600.0, 2.0  # a controller that is restarted or updated comes back within the first
_GONE = ("Invalid job id", "not found")
# All other states, such as REQUEUE_HOLD, are of a job that may still run.
_ENDED = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
)


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a job."""

    state: str  # PENDING, RUNNING, COMPLETING, COMPLETED, ...
    reason: str  # why it waits, or why it ended: TimeLimit, NonZeroExitCode; "None"
    restarts: int
    preempted: bool  # Slurm has begun to end it, in favour of another job
    nodes: str  # of the current or last attempt
    excluded: str
    start: str
    end: str

    @property
    def lives(self) -> bool:
        """Whether the job waits, runs or is ending."""
        return self.state not in _ENDED


def submit(script: str, *options: str) -> str:
    """Submits the text of a batch file and returns the job's number. Raises UserError with what sbatch says."""
    answer = _call("sbatch", "--parsable", *options, text=script)
    if answer.returncode:
        raise UserError(f"sbatch refuses the job: {_text(answer)}")
    return answer.stdout.strip().partition(";")[0]


def job_state(job_id: str) -> JobState | None:
    """Asks for the state of a job; None if Slurm does not know it any more. Raises RunError without an answer."""
    answer = _call("scontrol", "-o", "show", "job", job_id)
    if answer.returncode:
        if any(words in answer.stderr for words in _GONE):
            return None
        raise RunError(f"Slurm does not answer: {_text(answer)}")
    words = dict(re.findall(r"(\w+)=(\S*)", answer.stdout.splitlines()[0]))
    return JobState(
        state=words.get("JobState", ""),
        reason=words.get("Reason", "None"),
        restarts=int(words.get("Restarts", "0")),
        preempted=words.get("PreemptTime", "None") not in ("None", "Unknown", "N/A"),
        nodes=_value(words.get("NodeList")),
        excluded=_value(words.get("ExcNodeList")),
        start=words.get("StartTime", ""),
        end=words.get("EndTime", ""),
    )


def requeue(job_id: str, *, exclude: Sequence[str] = (), nodes: str = "") -> bool:
    """Puts a running job back into the queue, without the nodes `exclude` and with the node count `nodes`.

    A change needs a job that waits. So the job is held while it is put back, changed, and released; a job that was once
    given a range of nodes would else ask for as many as it had. Returns whether Slurm has taken the change. Raises
    RunError if Slurm refuses.
    """
    _checked("scontrol", "requeuehold", job_id)
    changed = change(job_id, exclude=exclude, nodes=nodes)
    release(job_id)
    return changed


def release(job_id: str) -> None:
    """Lets a job that is held wait for its turn. Raises RunError if Slurm refuses."""
    _checked("scontrol", "release", job_id)


def change(job_id: str, *, exclude: Sequence[str] = (), nodes: str = "", tries: int = _UPDATE_TRIES) -> bool:
    """Changes a job that waits, or will once it is back in the queue. Returns whether Slurm has taken the change."""
    state = job_state(job_id)
    excluded = [name for name in (state.excluded.split(",") if state else []) if name]
    words = [f"ExcNodeList={','.join(dict.fromkeys([*excluded, *exclude]))}"] if exclude else []
    words += [f"NumNodes={nodes}"] if nodes else []
    for number in range(tries if words else 0):
        if number:
            time.sleep(0.5)
        if _call("scontrol", "update", f"JobId={job_id}", *words).returncode == 0:
            return True
    return not words


def cancel(job_id: str) -> None:
    """Cancels a job: its ranks save a checkpoint within Slurm's KillWait. Raises RunError."""
    _checked("scancel", job_id)


def unusable_nodes(nodes: Sequence[str]) -> list[str]:
    """Returns those of the nodes on which Slurm starts nothing, because they do not answer or were taken out."""
    if not nodes:
        return []
    answer = _call("sinfo", "-h", "-N", "-n", ",".join(nodes), "-o", "%N %T")
    found = dict(line.split()[:2] for line in answer.stdout.splitlines() if len(line.split()) > 1)
    return [name for name, state in sorted(found.items()) if re.match(r"down|drain|fail|unk|.*\*$", state)]


def node_names(node_list: str) -> list[str]:
    """Returns the names of a node list such as n[1-3]."""
    return _call("scontrol", "show", "hostnames", node_list).stdout.split() if node_list else []


def _value(text: str | None) -> str:
    return "" if text in (None, "(null)") else str(text)


def _checked(*command: str) -> None:
    if (answer := _call(*command)).returncode:
        raise RunError(f"{' '.join(command)}: {_text(answer)}")


def _text(answer: subprocess.CompletedProcess[str]) -> str:
    return (answer.stderr or answer.stdout).strip() or f"exit code {answer.returncode}"


def _call(*command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Calls a command of Slurm, and again while its controller is away: a decision must not be lost with it."""
    until, told = time.monotonic() + _AWAY_SECONDS, False
    while (answer := _call_once(*command, text=text)).returncode and any(words in answer.stderr for words in _AWAY):
        if time.monotonic() > until:
            break
        if not told:
            print(f"Slurm's controller is away: {command[0]} is tried again for {_AWAY_SECONDS:g} s", file=sys.stderr)
            told = True
        time.sleep(_AGAIN_SECONDS)
    return answer


def _call_once(*command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=_SECONDS)
    except FileNotFoundError:
        raise UserError(f"there is no {command[0]} here: call `lehr slurm` on a node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise RunError(f"{command[0]} has not answered for {_SECONDS:g} s") from None
