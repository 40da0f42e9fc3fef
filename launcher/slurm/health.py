"""The check of a node before the ranks start there: what would fail the run, or slow it down, is found in seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from launcher.slurm.site import SiteConfig
from settings import UserError
from settings.files import read_json, write_json

_PEER_PORT = 15000  # of the range in which the ranks meet: whether somebody listens there does not matter
_PEER_SECONDS = 10.0
_COMMAND_SECONDS = 60.0
_MOST_CLOCK_SECONDS = 30.0
_LEAST_FREE = 0.1  # of a node's memory
_UNREACHED = "the first node,"  # begins the line of a node that does not reach the first one


def problems(site: SiteConfig, *, folder: Path, first_node: str) -> list[str]:
    """Returns what is wrong with this node, a line each.

    `folder`: on the shared file system, which must be writable. `first_node`: the node at which the ranks meet.
    """
    checks: tuple[Callable[[], Iterator[str]], ...] = (
        lambda: _gpus(site.gpus_per_node),
        _memory,
        lambda: _files(folder),
        lambda: _peer(first_node),
        lambda: _site_check(site.pre_launch),
    )
    return [line for check in checks for line in check()]


def report_bad(folder: Path, node: str, found: list[str]) -> None:
    """Leaves a file that names this node as a bad one."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"bad-node-{node}.json", {"node": node, "problems": found})


def bad_nodes(folder: Path) -> dict[str, list[str]]:
    """Reads which nodes were found to be bad, and why."""
    found = {}
    for path in sorted(folder.glob("bad-node-*.json")):
        try:
            plain = read_json(path)
            found[str(plain["node"])] = [str(line) for line in plain["problems"]]
        except (UserError, KeyError, TypeError):
            continue
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


def _peer(first_node: str) -> Iterator[str]:
    try:
        socket.create_connection((first_node, _PEER_PORT), timeout=_PEER_SECONDS).close()
    except ConnectionRefusedError:
        return  # the node itself has answered
    except OSError as error:
        yield f"{_UNREACHED} {first_node}, is not reached: {error.strerror or error}"


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
