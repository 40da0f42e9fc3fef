"""One attempt of a job, seen from its batch file: its begin, its end, and what is done then.

`lehr slurm decide` calls these functions. Slurm may end the batch file at any moment: what an attempt could not record,
the next one finds out first thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.exit_codes import DONE, FAILED
from launcher.processes.failure_reports import recorded_failures
from launcher.processes.rank_logs import log_folder
from launcher.processes.slurm import SlurmJob
from launcher.slurm import scheduler
from launcher.slurm.cause import cause_of, exit_code_of, silent_ranks
from launcher.slurm.decision import NODE_FAILED, RUN_FAILED, Decision, Ending, decide
from launcher.slurm.exclusions import still_excluded
from launcher.slurm.health import bad_nodes, nodes_to_exclude
from launcher.slurm.job_folder import JobFolder
from launcher.slurm.scheduler import JobState
from settings import RunError
from train.run_folder.folder import RunFolder


class Attempt:
    """The attempt that this process belongs to."""

    def __init__(self, run: Path, job: SlurmJob) -> None:
        self.folder = JobFolder(run)
        self.job = job
        self._submission = self.folder.submission()
        self._events = self.folder.events(job.job_id)

    def begin(self) -> int:
        """Records the begin. Returns an exit code other than 0 if the job must not go on.

        If no decision of the attempt before is recorded, its batch host was lost, a node has failed, or somebody has
        put the job back: it is decided here.
        """
        last, ended = self._last("begin"), self._last("end")
        counted = int(ended.get("counted", 0))
        if last and (ended.get("attempt") != last.get("attempt") or ended.get("action") == "leave"):
            noted = self._last("terminated")
            noted = noted if noted.get("attempt") == last.get("attempt") else {}
            lost = noted.get("lost") or self._unusable_nodes()  # as the attempt could note it, or Slurm says it now
            ending = Ending(
                None,
                cause=", ".join(lost),
                lost_node=bool(lost),
                cancelled=self._is_cancelled(),
                preempted=bool(noted.get("preempted")),
                put_back=bool(noted) and not lost,
                new_checkpoint=self.folder.checkpoint_step() > self._step_at_begin(),
                counted_before=self._counted_before(),
            )
            decision = decide(ending, max_failures=self._submission["max_failures"])
            self._record_end(decision, None, attempt=int(last.get("attempt", 0)))
            if decision.action == "end":
                print(f"the job ends: {decision.reason}", flush=True)
                return FAILED
            counted = decision.counted
        elif ended.get("row") == RUN_FAILED and (lost := self._unusable_nodes()):
            # The ranks had noticed that their peers were lost before Slurm gave up the node: the end is told once more.
            found = {"row": NODE_FAILED, "reason": f"{NODE_FAILED}: {', '.join(lost)}; {ended.get('reason')}"}
            self._add("end", **{key: ended[key] for key in ended if key not in ("time", "event", "step")} | found)
        state = scheduler.job_state(self.job.job_id)
        nodes = state.nodes if state else ""
        if not self._add("begin", nodes=nodes, counted=counted):
            print("the job ends: its starts cannot be counted", flush=True)
            return FAILED
        again = f", from the checkpoint of step {step}" if (step := self.folder.checkpoint_step()) else ""
        print(f"{self.job} begins on {nodes}{again}", flush=True)
        return DONE

    def terminated(self) -> int:
        """Notes that Slurm ends the job. If a node has failed, Slurm puts the job back: without that node then.

        A job that was given a range of nodes would ask for as many as it had, and wait for ever if one is gone.
        """
        lost, state = self._unusable_nodes(), scheduler.job_state(self.job.job_id)
        self._add("terminated", lost=lost, preempted=state is not None and state.preempted)
        if lost:
            scheduler.change(self.job.job_id, excluded=self._exclude(lost, state), nodes=self._submission["nodes"])
        return DONE

    def unhealthy(self) -> int:
        """Decides after the check of the nodes has failed: as `end`, and the nodes that were found bad are excluded."""
        found = bad_nodes(self._output())
        cause = "; ".join(f"{node}: {lines[0]}" for node, lines in found.items() if lines)
        bad = nodes_to_exclude(scheduler.node_names(self._last("begin").get("nodes", "")), found)
        return self.end(FAILED, bad=bad, cause=cause or "the check of the nodes did not end")

    def end(self, exit_code: int, *, bad: tuple[str, ...] = (), cause: str = "") -> int:
        """Decides what is done after the ranks have ended, does it, and returns the exit code of the batch file.

        An attempt on a node that was cut off, and is back, decides nothing about the job: that is in a newer attempt.
        """
        failures = recorded_failures(self._logs)
        state = scheduler.job_state(self.job.job_id)
        if state is not None and state.restarts >= self.job.attempt:
            print(f"{self.job} is over: Slurm has started the job again meanwhile", flush=True)
            return FAILED
        completing = state is not None and state.state == "COMPLETING"
        ending = Ending(
            exit_code=exit_code_of(failures, exit_code),
            cause=cause or cause_of(failures, exit_code, self._output(), silent_ranks(self._logs, failures)),
            cancelled=self._is_cancelled(),
            ended_by_slurm=completing and state is not None and state.reason == "None" and not state.preempted,
            out_of_time=state is not None and state.reason == "TimeLimit",
            preempted=state is not None and state.preempted,
            bad_node=bool(bad),
            new_checkpoint=self.folder.checkpoint_step() > self._step_at_begin(),
            counted_before=self._counted_before(),
        )
        decision = decide(ending, max_failures=self._submission["max_failures"])
        if not self._record_end(decision, ending.exit_code, attempt=self.job.attempt):
            bad = (*bad, self.job.node)  # an attempt elsewhere may be able to; if it is not either, it ends the job
        if decision.requeues:
            print(f"the job goes back into the queue: {decision.reason}", flush=True)
            try:
                excluded = self._exclude(bad, state)
                if not scheduler.requeue(self.job.job_id, excluded=excluded, nodes=self._submission["nodes"]):
                    again = f", which may start on {', '.join(bad)} again" if bad else ""
                    print(f"warning: Slurm has not taken the new nodes of the job{again}", flush=True)
            except RunError as error:  # Slurm may have put it back by now; else jobs that wait for it must not start
                print(f"warning: {error}", flush=True)
                return FAILED
            return DONE
        print(f"the job ends: {decision.reason}", flush=True)
        return FAILED if ending.exit_code is None else ending.exit_code

    def _exclude(self, bad: Sequence[str], state: JobState | None) -> list[str] | None:
        """Returns the nodes on which the job must not start again, `bad` ones among them; None if nothing changes.

        Those that lehr has excluded are recorded: the others are the user's, and always stay excluded.
        """
        before = list(self._last("exclude").get("nodes", []))
        if state is None or not (before or bad):
            return None
        excluded = scheduler.node_names(state.excluded)
        users = [name for name in excluded if name not in before]
        usable = set(scheduler.usable_nodes(state.partition)) - set(users)
        fewest = int(str(self._submission["nodes"]).partition("-")[0])
        own = still_excluded([*before, *bad], usable=usable, fewest=fewest)
        if own != before:
            self._add("exclude", nodes=own)
        return None if {*users, *own} == set(excluded) else [*users, *own]

    def _output(self) -> str:
        """Reads what this attempt has printed: its line of begin is the last one of its kind."""
        try:
            text = Path(self._submission["output"]).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return text[text.rfind(f"{self.job} begins on ") :]

    @property
    def _logs(self) -> Path:
        return log_folder(RunFolder(self.folder.run).logs, self.job)

    def _counted_before(self) -> int:
        return int(self._last("begin").get("counted", 0))

    def _step_at_begin(self) -> int:
        """Returns the step of the newest checkpoint when this attempt, or the lost one before it, began."""
        return int(self._last("begin").get("step", 0))

    def _last(self, event: str) -> dict[str, Any]:
        return next((each for each in reversed(self._events) if each.get("event") == event), {})

    def _is_cancelled(self) -> bool:
        return any(each.get("event") == "cancel" for each in self._events)

    def _unusable_nodes(self) -> list[str]:
        return scheduler.unusable_nodes(scheduler.node_names(self._last("begin").get("nodes", "")))

    def _record_end(self, decision: Decision, exit_code: int | None, *, attempt: int) -> bool:
        return self._add(
            "end",
            attempt=attempt,
            exit_code=exit_code,
            action=decision.action,
            row=decision.row,
            reason=decision.reason,
            counted=decision.counted,
            fault=decision.fault,
        )

    def _add(self, event: str, **values: Any) -> bool:
        """Records an event. Returns False, with a warning, if the file system of this node refuses it."""
        try:
            self.folder.add_event(event, **{"job": self.job.job_id, "attempt": self.job.attempt, **values})
        except OSError as error:
            reason = error.strerror or error
            print(f"warning: {self.folder.attempts} cannot be written on {self.job.node}: {reason}", flush=True)
            return False
        return True
