"""The Slurm that the tests bring up: a real one, of nodes that can be lost, of which nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import Cluster, missing, slurm_cluster
from small_runs import wait_until

MISSING = missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no Slurm: {MISSING}")


def test_a_machine_that_allows_no_namespaces_is_told_from_one_that_does() -> None:
    """As in a container without privileges: there the tests of Slurm are skipped, with what the kernel says."""
    without = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    program = "from slurm_cluster import missing; print(missing())"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*without, sys.executable, "-c", program], capture_output=True, text=True, env=env)
    assert done.stdout == "namespaces are not allowed here: unshare: unshare failed: Operation not permitted\n"


def processes_of(folder: Path) -> list[str]:
    """Command lines of all processes that name the cluster's folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def wait_until_gone(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while left := processes_of(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def reaches(cluster: Cluster, address: str) -> bool:
    """Whether n1 gets an answer from an address, be it that nobody listens there."""
    with cluster.start_on("n1", "timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{address}/9") as process:
        return "Connection refused" in process.communicate()[0]


def test_nodes_are_machines_and_nothing_is_left(tmp_path: Path) -> None:
    """Each node has a name, an address and processes of its own; one that is powered off is lost, and comes back."""
    with slurm_cluster(tmp_path, nodes=2) as cluster:
        said = cluster.run("srun", "--nodes=2", "--label", "bash", "-c", "hostname; ls -d /proc/[0-9]* | wc -l").stdout
        lines = sorted(said.splitlines())
        assert [lines[1], lines[3]] == ["0: n1", "1: n2"]
        assert all(int(line.split()[1]) < 15 for line in (lines[0], lines[2]))
        cluster.cut("n2", "fab")
        assert not reaches(cluster, "10.78.0.12")
        wait_until(lambda: reaches(cluster, "10.77.0.12"))
        cluster.mend("n2", "fab")
        wait_until(lambda: reaches(cluster, "10.78.0.12"))
        cluster.power_off("n2")
        cluster.wait_for_nodes(1)
        cluster.power_on("n2")
        cluster.wait_for_nodes(2)
        assert len(processes_of(tmp_path)) > 4
    wait_until_gone(tmp_path)


def test_a_killed_test_leaves_nothing(tmp_path: Path) -> None:
    """The kernel ends the cluster, with the jobs that run, when the process that has started it is killed."""
    program = (
        "import sys, time; from pathlib import Path; from slurm_cluster import slurm_cluster\n"
        "with slurm_cluster(Path(sys.argv[1]), nodes=1) as cluster:\n"
        "    cluster.run('sbatch', '--output=/dev/null', '--wrap', f'sleep 1000 {sys.argv[1]}')\n"
        "    print('up', flush=True); time.sleep(1000)"
    )
    paths = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"up\n"
        assert len(processes_of(tmp_path)) > 4
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_until_gone(tmp_path)
