"""A real Slurm for tests: a controller and up to nine nodes on this machine, which nothing outlives.

    with slurm_cluster(folder, nodes=2) as cluster:
        cluster.run("sbatch", "job.sh")         # on the login node, where the controller runs
        cluster.power_off("n2")

The whole cluster lives in Linux namespaces (unshare(1)) that belong to one process. When that process ends, the kernel
ends every other process of the cluster and removes its networks: after a failed test, and also if pytest is killed.
Every node has its own host name, processes, /dev/shm and two network links, as a machine has:

    eth0  10.77.0.10 + i   to the controller, at 10.77.0.1
    fab0  10.78.0.10 + i   to the other nodes only: the fabric, for the ranks

All nodes see the files of this machine, as on a cluster with a shared file system. It needs Debian's packages
slurmctld, slurmd, slurm-client and munge, and the right to make namespaces; `missing()` says what is not there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from slurm_cluster_files import hosts, login_script, node_script, slurm_conf

from settings.processes import die_with_parent

_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged", "ip", "unshare", "nsenter")
_NAMESPACES = ("--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")
_READY_SECONDS = 120.0  # on a busy machine; in half a second on a quiet one
# What a cluster needs of namespaces, beside their making: links, mounts over files of this machine, file systems.
_TRIED = (
    "ip link add switch type bridge && ip link add one type veth peer name two"
    " && mount --bind /etc/hosts /etc/hosts && mount -t tmpfs tmpfs /dev/shm"
)
_TRIED_SECONDS = 60.0


def missing() -> str | None:
    """Returns why no cluster can be started on this machine; None if one can."""
    if absent := [name for name in _PROGRAMS if shutil.which(name) is None]:
        return f"no {', '.join(absent)}: install slurmctld, slurmd, slurm-client, munge and iproute2"
    if os.geteuid() != 0:
        return "a cluster of namespaces is started by root only"
    command = ["unshare", *_NAMESPACES, "bash", "-c", _TRIED]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=_TRIED_SECONDS)
    except subprocess.TimeoutExpired:
        return f"namespaces could not be tried within {_TRIED_SECONDS:g} s"
    return None if tried.returncode == 0 else f"namespaces are not allowed here: {tried.stderr.strip()}"


class Cluster:
    """A running cluster. Commands run on its login node."""

    def __init__(self, folder: Path, nodes: int, *, node_timeout_seconds: int, first_job: int) -> None:
        self.folder = folder
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self._node_timeout_seconds = node_timeout_seconds
        self._first_job = first_job
        self._inits: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Starts the controller and the nodes, and returns when all nodes are idle. Raises AssertionError."""
        self._write_files()
        self._inits["login"] = self._spawn(["unshare", *_NAMESPACES, "bash", "-c", login_script(self.folder)], "login")
        deadline = time.monotonic() + _READY_SECONDS
        while not (self.folder / "run" / "ready").exists():
            self._check(self._inits["login"].poll() is None and time.monotonic() < deadline, "the controller failed")
            time.sleep(0.05)
        for node in self.nodes:
            self.power_on(node)
        self.wait_for_nodes(len(self.nodes))

    def stop(self) -> None:
        """Ends every process of the cluster. Returns when the kernel has ended them."""
        for process in reversed(self._inits.values()):
            process.kill()
        for process in self._inits.values():
            process.wait()

    def run(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on the login node. Raises AssertionError with its output if it fails, unless not `check`ed."""
        done = subprocess.run(
            [*self._enter("login", cwd), *map(str, command)],
            capture_output=True,
            text=True,
            env={**os.environ, "SLURM_CONF": str(self._conf), **(env or {})},
            timeout=timeout,
        )
        text = f"{shlex.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        assert not check or done.returncode == 0, text
        return done

    def start_on(self, node: str, *command: str | Path, cwd: Path | None = None) -> subprocess.Popen[str]:
        """Starts a command on a node, or on `login`; its output is a pipe."""
        return subprocess.Popen(
            [*self._enter(node, cwd), *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "SLURM_CONF": str(self._conf)},
        )

    def job(self, job: str) -> dict[str, str]:
        """Returns what `scontrol show job` says."""
        words = self.run("scontrol", "-o", "show", "job", job).stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for_job(self, job: str, *states: str, timeout: float = 300.0) -> dict[str, str]:
        """Waits until a job is in one of the states, and returns what Slurm says then. Raises AssertionError."""
        deadline = time.monotonic() + timeout
        while (found := self.job(job))["JobState"] not in states:
            assert time.monotonic() < deadline, f"job {job} is not {' or '.join(states)}: {found}"
            time.sleep(0.2)
        return found

    def wait_for_nodes(self, idle: int, timeout: float = _READY_SECONDS) -> None:
        """Waits until so many nodes are idle."""
        deadline = time.monotonic() + timeout
        while (states := self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T").stdout.split()).count("idle") != idle:
            self._check(time.monotonic() < deadline, f"the nodes are {states}, and not {idle} of them idle")
            time.sleep(0.1)

    def cancel_all(self) -> None:
        """Ends all jobs, and waits until none is left."""
        self.run("scancel", "--signal=KILL", "--full", "--user=root", check=False)
        self.run("scancel", "--user=root", check=False)
        deadline = time.monotonic() + _READY_SECONDS
        while self.run("squeue", "-h").stdout.strip():
            self._check(time.monotonic() < deadline, "jobs are left")
            time.sleep(0.1)

    def recover(self) -> None:
        """Kills all jobs, and mends all that was broken."""
        self.mend_all()
        self.cancel_all()
        self.wait_for_nodes(len(self.nodes))

    def mend_all(self) -> None:
        """Mends all links, and starts the nodes and daemons that are off."""
        for node in self.nodes:
            if node not in self._inits:
                self.power_on(node)  # with whole links, and it starts its daemon itself
                continue
            self.mend(node, "eth", "fab")
            if not self._slurmd_runs(node):
                self.run_on(node, "slurmd", "-N", node, "-f", self._conf)

    def power_off(self, node: str) -> None:
        """Ends a node at once, with all of its processes."""
        process = self._inits.pop(node)
        os.kill(_child_of(process.pid), signal.SIGKILL)
        process.wait()
        self.run("ip", "link", "del", f"eth-{node}", check=False)  # the kernel may have removed them with the node
        self.run("ip", "link", "del", f"fab-{node}", check=False)

    def power_on(self, node: str) -> None:
        """Starts a node, as a machine that boots."""
        command = [*self._enter("login"), "unshare", *_NAMESPACES, "bash", "-c", node_script(self.folder, node)]
        self._inits[node] = self._spawn(command, node)

    def kill_slurmd(self, node: str) -> None:
        """Kills a node's daemon, and leaves the processes of its jobs."""
        self.run_on(node, "kill", "-KILL", self._slurmd(node))

    @contextlib.contextmanager
    def without_controller(self) -> Iterator[None]:
        """Ends the controller, and starts it again at the end."""
        pid = (self.folder / "run" / "slurmctld.pid").read_text().strip()
        self.run("kill", pid)
        while (self.folder / "run" / "slurmctld.pid").exists():
            time.sleep(0.05)
        try:
            yield
        finally:
            self.run("slurmctld", "-f", self._conf)

    def _slurmd_runs(self, node: str) -> bool:
        return self._on(node, "kill", "-0", self._slurmd(node)).returncode == 0

    def _slurmd(self, node: str) -> str:
        """Returns the number of a node's daemon, as the node counts its processes."""
        return (self.folder / "run" / f"slurmd-{node}.pid").read_text().strip()

    def _on(self, node: str, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self._enter(node), *map(str, command)], capture_output=True, text=True, timeout=60)

    def run_on(self, node: str, *command: str | Path) -> str:
        """Runs a command on a node and returns its output."""
        done = self._on(node, *command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def cut(self, node: str, *links: str) -> None:
        """Cuts links of a node, `eth` or `fab`."""
        for link in links:
            self.run("ip", "link", "set", f"{link}-{node}", "down")

    def unplug(self, node: str, *links: str) -> None:
        """Takes links of a node out of their switch: they stay up, and nothing passes."""
        for link in links:
            self.run("ip", "link", "set", f"{link}-{node}", "nomaster")

    def mend(self, node: str, *links: str) -> None:
        """Mends links of a node."""
        for link in links:
            self.run("ip", "link", "set", f"{link}-{node}", "master", f"{link}-switch", "up")

    @property
    def _conf(self) -> Path:
        return self.folder / "slurm.conf"

    def _enter(self, node: str, cwd: Path | None = None) -> list[str]:
        """Returns the command by which what follows runs on a node."""
        init = _child_of(self._inits[node].pid)
        namespaces = [f"--{name}" for name in ("mount", "net", "uts", "ipc", "pid")]
        return ["nsenter", f"--target={init}", *namespaces, f"--wd={cwd or self.folder}"]

    def _write_files(self) -> None:
        for part in ("run", "log", "state", *(f"spool/{node}" for node in self.nodes)):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        for part in (self.folder, self.folder / "run"):
            part.chmod(0o755)
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        (self.folder / "hosts").write_text(hosts(self.nodes))
        conf = slurm_conf(
            self.folder,
            self.nodes,
            node_timeout_seconds=self._node_timeout_seconds,
            first_job=self._first_job,
        )
        self._conf.write_text(conf)

    def _spawn(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        parent = os.getpid()
        up = self.folder / "run" / f"up-{name}"
        up.unlink(missing_ok=True)
        with (self.folder / "log" / f"{name}.console").open("ab") as console:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                preexec_fn=lambda: die_with_parent(parent),
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            )
        if name != "login":
            self._inits[name] = process
            deadline = time.monotonic() + _READY_SECONDS
            while not up.exists():
                self._check(process.poll() is None and time.monotonic() < deadline, f"{name} does not start")
                time.sleep(0.02)
            # The other end of each link is moved into the node by the number of its first process, seen from here.
            for link in ("eth", "fab"):
                self._connect(name, link)
        return process

    def _connect(self, node: str, link: str) -> None:
        """Lays a link from a switch to a node."""
        login = ["nsenter", f"--target={_child_of(self._inits['login'].pid)}", "--net"]
        peer = ["name", f"{link}0", "netns", str(_child_of(self._inits[node].pid))]
        for words in (
            ["link", "add", f"{link}-{node}", "type", "veth", "peer", *peer],
            ["link", "set", f"{link}-{node}", "master", f"{link}-switch", "up"],
        ):
            done = subprocess.run([*login, "ip", *words], capture_output=True, text=True)
            self._check(done.returncode == 0, f"ip {shlex.join(words)}: {done.stderr}")

    def _check(self, holds: bool, what: str) -> None:
        if holds:
            return
        logs = [f"--- {path}\n{path.read_text(errors='replace')[-2000:]}" for path in sorted(self.folder.glob("log/*"))]
        raise AssertionError("\n".join([what, *logs]))


@contextlib.contextmanager
def slurm_cluster(folder: Path, *, nodes: int, node_timeout_seconds: int = 10, first_job: int = 1) -> Iterator[Cluster]:
    """Yields a running cluster; at the end none of its processes is left.

    `node_timeout_seconds`: after which Slurm gives up a node that does not answer. `first_job`: the number of its first
    job.
    """
    cluster = Cluster(folder, nodes, node_timeout_seconds=node_timeout_seconds, first_job=first_job)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _child_of(pid: int) -> int:
    """Returns the process that `unshare --fork` has started, by its number here: the first process of a namespace.

    A node's `unshare` is itself started through nsenter, which may have forked: the way goes down to the first `bash`.
    """
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        current = pid
        while children := Path(f"/proc/{current}/task/{current}/children").read_text().split():
            current = int(children[0])
            name = Path(f"/proc/{current}/comm").read_text().strip()
            if name == "bash":
                return current
        time.sleep(0.01)
    raise AssertionError(f"process {pid} has no first process in its namespaces")


def main() -> None:
    """Starts a cluster for trying things by hand, with a shell on its login node: `python tests/slurm_cluster.py 2`."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = Path(name)
        with slurm_cluster(folder, nodes=int(sys.argv[1])) as cluster:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            shell = [*cluster._enter("login"), "env", f"SLURM_CONF={cluster._conf}", "bash"]
            subprocess.run([*shell, *sys.argv[2:]])


if __name__ == "__main__":
    sys.exit(main())
