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
_TRIES, _TRY_SECONDS = 20, 0.5  # of a change that Slurm may refuse while the job is on its way back
_AWAY = ("Unable to contact slurm controller", "Slurm backup controller in standby")
_UNANSWERED = "Socket timed out"  # the controller may have done what it was asked to
_PUT_BACK = "Job is pending execution"  # so the job is back in the queue
_AWAY_SECONDS, _AGAIN_SECONDS = 600.0, 2.0  # a controller that is restarted or updated comes back within the first
_GONE = ("Invalid job id", "not found")
# The states of a node on which Slurm starts nothing; * means no answer.
_OFF = re.compile(r"down|drain|fail|inval|unk|.*\*$")
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
    partition: str
    start: str
    end: str

    @property
    def lives(self) -> bool:
        """Whether the job waits, runs or is ending."""
        return self.state not in _ENDED


def submit(script: str, *options: str) -> str:
    """Submits the text of a batch file and returns the job's number. Raises UserError with what sbatch says.

    Raises RunError if it gives no answer.
    """
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
        partition=_value(words.get("Partition")),
        start=words.get("StartTime", ""),
        end=words.get("EndTime", ""),
    )


def requeue(job_id: str, *, excluded: Sequence[str] | None = None, nodes: str = "") -> bool:
    """Puts a running job back into the queue, with the nodes `excluded` if given, and with the range of nodes `nodes`.

    Slurm changes only a job that waits. So a job with a change is held while it is put back, changed, and released; one
    that was given a range of nodes would else ask for as many as it had. Returns whether Slurm has taken the change.
    Raises RunError if Slurm refuses. Putting back a job that is back already, by an earlier call of which the answer
    was lost, is no refusal.
    """
    if excluded is None and "-" not in nodes:
        _checked("scontrol", "requeue", job_id, unless=_PUT_BACK)
        return True
    _checked("scontrol", "requeuehold", job_id, unless=_PUT_BACK)
    changed = change(job_id, excluded=excluded, nodes=nodes)
    release(job_id)
    return changed


def release(job_id: str) -> None:
    """Lets a job that is held wait for its turn. Raises RunError if Slurm refuses again and again: it stays held."""
    for number in range(_TRIES):
        if number:
            time.sleep(_TRY_SECONDS)
        if not (answer := _call("scontrol", "release", job_id)).returncode:
            return
    raise RunError(f"job {job_id} stays held ({_text(answer)}): `scontrol release {job_id}` lets it start again")


def change(job_id: str, *, excluded: Sequence[str] | None = None, nodes: str = "") -> bool:
    """Changes a job that waits, or will once it is back in the queue. Returns whether Slurm has taken the change.

    `excluded`: all nodes on which it must not start; None leaves them as they are.
    """
    words = [] if excluded is None else [f"ExcNodeList={','.join(excluded)}"]
    words += [f"NumNodes={nodes}"] if nodes else []
    for number in range(_TRIES if words else 0):
        if number:
            time.sleep(_TRY_SECONDS)
        if _call("scontrol", "update", f"JobId={job_id}", *words).returncode == 0:
            return True
    return not words


def cancel(job_id: str) -> None:
    """Cancels a job: its ranks save a checkpoint within Slurm's KillWait. Raises RunError."""
    _checked("scancel", job_id)


def unusable_nodes(nodes: Sequence[str]) -> list[str]:
    """Returns those of the nodes on which Slurm starts nothing, because they do not answer or were taken out."""
    return [name for name, state in _node_states("-n", ",".join(nodes)) if _OFF.match(state)] if nodes else []


def usable_nodes(partition: str) -> list[str]:
    """Returns the nodes of a partition, or of several, on which Slurm may start a job, now or when they are free."""
    return [name for name, state in _node_states("-p", partition) if not _OFF.match(state)] if partition else []


def _node_states(*which: str) -> list[tuple[str, str]]:
    """Returns the name and the state of each node, by name."""
    lines = _call("sinfo", "-h", "-N", *which, "-o", "%N %T").stdout.splitlines()
    return sorted({words[0]: words[1] for line in lines if len(words := line.split()) > 1}.items())


def node_names(node_list: str) -> list[str]:
    """Returns the names of a node list such as n[1-3]."""
    return _call("scontrol", "show", "hostnames", node_list).stdout.split() if node_list else []


def _value(text: str | None) -> str:
    return "" if text in (None, "(null)") else str(text)


def _checked(*command: str, unless: str | None = None) -> None:
    """Calls a command of Slurm. Raises RunError if it fails, unless it says the words `unless`."""
    answer = _call(*command)
    if answer.returncode and (unless is None or unless not in answer.stderr):
        raise RunError(f"{' '.join(command)}: {_text(answer)}")


def _text(answer: subprocess.CompletedProcess[str]) -> str:
    return (answer.stderr or answer.stdout).strip() or f"exit code {answer.returncode}"


def _call(*command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Calls a command of Slurm, and again while its controller is away: a decision must not be lost with it.

    A command without an answer is tried again as well, but for sbatch: the job may have been submitted. Raises RunError
    if none comes.
    """
    until, told = time.monotonic() + _AWAY_SECONDS, False
    while True:
        answer = _call_once(*command, text=text)
        if answer is None and command[0] == "sbatch":
            raise RunError(
                "Slurm has not answered sbatch, and may have taken the job all the same: look with squeue before you "
                "submit it again"
            )
        is_over = time.monotonic() > until
        if answer is None and is_over:
            raise RunError(f"Slurm has not answered {command[0]} for {_AWAY_SECONDS:g} s")
        if answer is not None and (is_over or not _is_away(answer)):
            return answer
        if not told:
            print(f"Slurm's controller is away: {command[0]} is tried again for {_AWAY_SECONDS:g} s", file=sys.stderr)
            told = True
        time.sleep(_AGAIN_SECONDS)


def _is_away(answer: subprocess.CompletedProcess[str]) -> bool:
    """Returns whether the controller has not heard of the command."""
    return answer.returncode != 0 and any(words in answer.stderr for words in _AWAY)


def _call_once(*command: str, text: str | None = None) -> subprocess.CompletedProcess[str] | None:
    """Calls a command of Slurm; None if no answer has come."""
    try:
        answer = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_SECONDS)
    except FileNotFoundError:
        raise UserError(f"there is no {command[0]} here: call `lehr slurm` on a node of the cluster") from None
    except subprocess.TimeoutExpired:
        return None
    return None if answer.returncode and _UNANSWERED in answer.stderr else answer
