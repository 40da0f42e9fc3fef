"""The check of a node before the ranks start there: what would fail the run, or slow it down, is found in seconds."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from launcher.slurm.site import SiteConfig
from settings import UserError
from settings.files import read_json, write_json

_PEER_PORT = 15000  # of the range in which the ranks meet: whether somebody listens there does not matter
_PEER_SECONDS = 10.0
_ADDRESS_SECONDS, _ADDRESS_FILE = 60.0, "first-node.json"  # how long the others wait for the first node's address
_COMMAND_SECONDS = 60.0
_MOST_CLOCK_SECONDS = 30.0
_LEAST_FREE = 0.1  # of a node's memory
# Such as `srun: error: Task launch for StepId=2.0 failed on node n3: Communication connection failure`.
_NOT_LAUNCHED = re.compile(r"^srun: error: Task launch for \S+ failed on node (\S+): (.+)$", re.M)
_UNREACHED = "the first node,"  # begins the line of a node that does not reach the first one


@dataclass(frozen=True)
class FirstNode:
    """The node at which the ranks meet, as each node sees it."""

    name: str
    is_this: bool  # this node is the first one
    folder: Path  # of the attempt, on the shared file system: there it leaves its address on the site's interface


def problems(site: SiteConfig, *, folder: Path, first_node: FirstNode) -> list[str]:
    """Returns what is wrong with this node, a line each. `folder`: on the shared file system, it must be writable."""
    checks: tuple[Callable[[], Iterator[str]], ...] = (
        lambda: _interface(site.interface, first_node),  # the others wait for the first node
        lambda: _gpus(site.gpus_per_node),
        _memory,
        lambda: _files(folder),
        lambda: _peer(first_node.name),
        lambda: _site_check(site.pre_launch),
    )
    return [line for check in checks for line in check()]


def problem_lines(node: str, found: Sequence[str]) -> list[str]:
    """Returns the lines in which a node tells its problems, on the job's output: its file systems may be gone."""
    return [f"node {node}: {' '.join(line.split())}" for line in found]


def bad_nodes(output: str) -> dict[str, list[str]]:
    """Reads from what an attempt has printed which nodes were found to be bad, and why.

    A node may be lost before Slurm notices: then srun says that the check could not start there.
    """
    lines = re.findall(r"^node (\S+): (.+)$", output, re.M)
    lines += [(node, f"srun cannot start a task there: {reason}") for node, reason in _NOT_LAUNCHED.findall(output)]
    found: dict[str, list[str]] = {}
    for node, problem in lines:
        found.setdefault(node, []).append(problem)
    return found


def nodes_to_exclude(nodes: Sequence[str], found: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Returns the nodes of a job on which no rank should start, by what their checks have found.

    If all of several nodes fail, the cause is elsewhere: then none is excluded. If all but the first one fail, and two
    or more of them only because the first one is not reached, that one is excluded instead of them.
    """
    if len(nodes) > 1 and set(nodes) <= set(found):
        return ()
    alone = [node for node, lines in found.items() if len(lines) == 1 and lines[0].startswith(_UNREACHED)]
    if len(alone) > 1 and set(nodes[1:]) <= set(found):
        return (nodes[0], *(node for node in found if node not in alone))
    return tuple(found)


def _gpus(wanted: int) -> Iterator[str]:
    """NVIDIA's own tool opens every GPU: one that has fallen off the bus is missing from its list, or stops it."""
    if not wanted:
        return
    done, output = _run(["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"])
    seen = len(output.splitlines()) if done else 0
    if not done:
        yield f"its GPUs do not answer: {output}"
    elif seen < wanted:
        yield f"{seen} of {wanted} GPUs answer"


def _memory() -> Iterator[str]:
    memory = psutil.virtual_memory()
    if memory.available < _LEAST_FREE * memory.total:
        yield f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB of memory are free"


def _files(folder: Path) -> Iterator[str]:
    """Writes a file in the run folder and in the folder for temporary files; the first also shows the clock."""
    for place in (folder, Path(tempfile.gettempdir())):
        try:
            with tempfile.NamedTemporaryFile(dir=place, prefix=".lehr-node-") as file:
                file.write(b"x" * 4096)
                file.flush()
                os.fsync(file.fileno())
                apart = abs(os.stat(file.name).st_mtime - time.time())
        except OSError as error:
            yield f"{place} cannot be written to: {error.strerror}"
            continue
        if apart > _MOST_CLOCK_SECONDS:
            yield f"its clock and that of the file system of {place} are {apart:.0f} s apart"


def _interface(named: str, first_node: FirstNode) -> Iterator[str]:
    """The interfaces of the ranks have a link and an address, and the first one of them reaches the first node.

    With a broken one the ranks would find each other, because they meet by the nodes' names, and then wait for minutes.
    """
    names = [name.strip() for name in named.split(",") if name.strip()]
    links, addresses = psutil.net_if_stats(), [_address_of(name) for name in names]
    found = []
    for name, address in zip(names, addresses, strict=True):
        if name not in links:
            found.append(f"it has no network interface {name}")
        elif not links[name].isup:
            found.append(f"its network interface {name} is down, or its link is")
        elif not address:
            found.append(f"its network interface {name} has no address")
    yield from found
    if names and first_node.is_this:
        with contextlib.suppress(OSError):  # the next check names a folder that cannot be written to
            first_node.folder.mkdir(parents=True, exist_ok=True)
            write_json(first_node.folder / _ADDRESS_FILE, {"address": "" if found else addresses[0]})
    elif names and not found:
        told = _told_address(first_node.folder / _ADDRESS_FILE)
        if reason := _unreachable(told, source=addresses[0]) if told else "":
            yield f"{_UNREACHED} {first_node.name}, is not reached over {names[0]}: {reason}"


def _address_of(interface: str) -> str:
    """Returns an address of a network interface, IPv4 before IPv6; "" without one."""
    entries = psutil.net_if_addrs().get(interface, [])
    found = [
        entry.address for family in (socket.AF_INET, socket.AF_INET6) for entry in entries if entry.family == family
    ]
    return found[0] if found else ""


def _told_address(path: Path) -> str:
    """Waits for the address that the first node tells; "" if it tells none, or the file system is too slow."""
    until = time.monotonic() + _ADDRESS_SECONDS
    while not path.exists():
        if time.monotonic() > until:
            return ""
        time.sleep(0.1)
    try:
        return str(read_json(path)["address"])
    except (UserError, KeyError, TypeError):
        return ""


def _peer(first_node: str) -> Iterator[str]:
    if reason := _unreachable(first_node):
        yield f"{_UNREACHED} {first_node}, is not reached: {reason}"


def _unreachable(host: str, *, source: str = "") -> str:
    """Returns why a host does not answer, to packets from the address `source`; "" if it does."""
    try:
        address = (source, 0) if source else None
        socket.create_connection((host, _PEER_PORT), timeout=_PEER_SECONDS, source_address=address).close()
    except ConnectionRefusedError:
        pass  # the host itself has answered
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _site_check(command: str) -> Iterator[str]:
    if command:
        done, output = _run(["bash", "-c", command])
        if not done:
            yield f"pre_launch fails: {output}"


def _run(command: list[str]) -> tuple[bool, str]:
    """Returns whether a command has succeeded, and its output or what is wrong."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        return False, f"{command[0]} has not answered for {_COMMAND_SECONDS:g} s"
    except OSError as error:
        return False, f"{command[0]}: {error.strerror}"
    text = (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip()
    return done.returncode == 0, text or f"exit code {done.returncode}"
