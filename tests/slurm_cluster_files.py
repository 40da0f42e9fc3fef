"""What the machines of tests/slurm_cluster.py start with: slurm.conf, the hosts they know, and a script each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_CPUS_OF_NODE = 4

_SLURM_CONF = """\
ClusterName=test
SlurmctldHost=login(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job starts after the credential of its earlier attempt has expired: by default after two minutes.
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
CompleteWait=0
InactiveLimit=0
# A job that is cancelled or preempted has this long to save and decide, also where the machine is busy.
KillWait=120
MinJobAge=3600
MessageTimeout={node_timeout_seconds}
SlurmctldTimeout=30
SlurmdTimeout={node_timeout_seconds}
TCPTimeout=2
UnkillableStepTimeout=300
FirstJobId={first_job}
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=120
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""


def slurm_conf(folder: Path, nodes: Sequence[str], *, node_timeout_seconds: int, first_job: int) -> str:
    """Returns the text of slurm.conf. Slurm gives up a node that has not answered for `node_timeout_seconds`."""
    lines = [
        f"NodeName={node} NodeAddr={_address(node)} CPUs={_CPUS_OF_NODE} RealMemory=4000 State=UNKNOWN"
        for node in nodes
    ]
    return _SLURM_CONF.format(
        folder=folder, nodes="\n".join(lines), node_timeout_seconds=node_timeout_seconds, first_job=first_job
    )


def hosts(nodes: Sequence[str]) -> str:
    """Returns the text of /etc/hosts on the login node. The other nodes have one more line before it."""
    names = [f"{_address(node)} {node}" for node in nodes]
    return "\n".join(["127.0.0.1 localhost", "10.77.0.1 login", *names, ""])


def login_script(folder: Path) -> str:
    """Returns what the login node runs: two switches, munge for all nodes, and the controller."""
    munged = " ".join(
        f"--{name}={folder}/{path}"
        for name, path in (
            ("key-file", "munge.key"),
            ("socket", "run/munge.sock"),
            ("pid-file", "run/munged.pid"),
            ("log-file", "log/munged.log"),
            ("seed-file", "run/munge.seed"),
        )
    )
    return f"""
        set -e
        hostname login
        mount --make-rprivate /
        mount --bind {folder}/hosts /etc/hosts
        ip link set lo up
        for net in eth:77 fab:78; do
            ip link add ${{net%:*}}-switch type bridge
            ip link set ${{net%:*}}-switch up
        done
        ip addr add 10.77.0.1/24 dev eth-switch
        munged {munged} --force
        slurmctld -i -c -f {folder}/slurm.conf
        touch {folder}/run/ready
        while :; do sleep 1000; done
    """


def node_script(folder: Path, node: str) -> str:
    """Returns what a node runs. As on Debian, its own name is a loopback address there."""
    return f"""
        set -e
        hostname {node}
        mount --make-rprivate /
        (echo 127.0.1.1 {node}; cat {folder}/hosts) > {folder}/run/hosts-{node}
        mount --bind {folder}/run/hosts-{node} /etc/hosts
        mount -t tmpfs tmpfs /dev/shm
        ip link set lo up
        touch {folder}/run/up-{node}
        while [ ! -e /sys/class/net/fab0 ] && ! ip link show fab0 >/dev/null 2>&1; do sleep 0.02; done
        for net in eth:77 fab:78; do
            ip addr add 10.${{net#*:}}.0.{_number(node)}/24 dev ${{net%:*}}0
            ip link set ${{net%:*}}0 up
        done
        slurmd -N {node} -f {folder}/slurm.conf
        while :; do sleep 1000; done
    """


def _number(node: str) -> int:
    """Returns the last part of the addresses of a node n1, n2, ..."""
    return 10 + int(node.removeprefix("n"))


def _address(node: str) -> str:
    return f"10.77.0.{_number(node)}"
