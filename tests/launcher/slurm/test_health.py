"""The check of a node: what is wrong with it is named."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from launcher.slurm.health import FirstNode, bad_nodes, nodes_to_exclude, problem_lines, problems
from launcher.slurm.site import SiteConfig


def first(name: str, folder: Path, *, is_this: bool = True) -> FirstNode:
    return FirstNode(name, is_this=is_this, folder=folder / "attempt")


def test_a_node_that_is_well_has_no_problem(tmp_path: Path) -> None:
    assert problems(SiteConfig(pre_launch="true"), folder=tmp_path, first_node=first("127.0.0.1", tmp_path)) == []


def test_each_problem_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node without the GPUs that the site has, whose file system is gone, whose first node has no route."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/bash\necho '0, GPU-a'\n")
    tool.chmod(0o755)
    site = SiteConfig(gpus_per_node=2, pre_launch="echo the fan is loud; false")
    found = problems(site, folder=tmp_path / "gone", first_node=first("no.such.host.invalid", tmp_path))
    assert found[0] == "1 of 2 GPUs answer"
    assert found[1] == f"{tmp_path / 'gone'} cannot be written to: No such file or directory"
    assert found[2].startswith("the first node, no.such.host.invalid, is not reached: ")
    assert found[3] == "pre_launch fails: the fan is loud"
    tool.write_text("#!/bin/bash\necho 'GPU has fallen off the bus' >&2; exit 15\n")
    assert problems(site, folder=tmp_path, first_node=first("127.0.0.1", tmp_path))[0] == (
        "its GPUs do not answer: GPU has fallen off the bus"
    )


def test_the_interface_of_the_ranks_must_exist_and_reach_the_first_node(tmp_path: Path) -> None:
    """The first node leaves its address on the interface; the others try it from theirs."""
    loopback = SiteConfig(interface="lo")
    assert problems(loopback, folder=tmp_path, first_node=first("127.0.0.1", tmp_path)) == []
    assert json.loads((tmp_path / "attempt" / "first-node.json").read_text()) == {"address": "127.0.0.1"}
    other = first("127.0.0.1", tmp_path, is_this=False)
    assert problems(loopback, folder=tmp_path, first_node=other) == []
    (tmp_path / "attempt" / "first-node.json").write_text('{"address": "no.such.host.invalid"}')
    (line,) = problems(loopback, folder=tmp_path, first_node=other)
    assert line.startswith("the first node, 127.0.0.1, is not reached over lo: ")
    absent = problems(SiteConfig(interface="lo,ib7"), folder=tmp_path, first_node=first("127.0.0.1", tmp_path))
    assert absent == ["it has no network interface ib7"]


def test_a_clock_that_is_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 90)
    (clock, _) = problems(SiteConfig(), folder=tmp_path, first_node=first("127.0.0.1", tmp_path))
    assert re.fullmatch(rf"its clock and that of the file system of {tmp_path} are [3-9]\d s apart", clock)


def test_which_nodes_are_excluded(tmp_path: Path) -> None:
    """What all nodes fail is no fault of a node, and a first node that no other reaches is itself the bad one."""
    nodes = ["n1", "n2", "n3"]
    (unreached,) = problems(SiteConfig(), folder=tmp_path, first_node=first("no.such.host.invalid", tmp_path))
    assert nodes_to_exclude(nodes, {"n2": ["0 of 2 GPUs answer"]}) == ("n2",)
    assert nodes_to_exclude(nodes, {node: ["0 of 2 GPUs answer"] for node in nodes}) == ()
    assert nodes_to_exclude(["n1"], {"n1": ["0 of 2 GPUs answer"]}) == ("n1",)
    assert nodes_to_exclude(nodes, {"n3": [unreached]}) == ("n3",)
    assert nodes_to_exclude(nodes, {"n2": [unreached], "n3": [unreached]}) == ("n1",)
    assert nodes_to_exclude([*nodes, "n4"], {"n2": [unreached], "n3": [unreached], "n4": ["its fan"]}) == ("n1", "n4")
    assert nodes_to_exclude(["n1", "n2"], {"n2": [unreached]}) == ("n2",)


def test_bad_nodes_are_read_from_the_output_of_the_job() -> None:
    lines = [*problem_lines("n2", ["0 of 2 GPUs answer", "pre_launch fails: the fan\nis loud"]), "srun: error: n2: ..."]
    found = bad_nodes("\n".join(["job 1 attempt 1 begins on n[1-2]", *lines, *problem_lines("n3", ["no memory"])]))
    assert found == {"n2": ["0 of 2 GPUs answer", "pre_launch fails: the fan is loud"], "n3": ["no memory"]}
    assert bad_nodes("") == {}


def test_a_node_that_is_lost_before_slurm_notices_is_read_from_what_srun_says() -> None:
    """As srun of Slurm 22.05 has printed it for a node that was powered off some seconds before."""
    output = (
        "srun: error: Task launch for StepId=2.0 failed on node n3: Communication connection failure\n"
        "srun: error: Application launch failed: Communication connection failure\nsrun: Job step aborted\n"
    )
    assert bad_nodes(output) == {"n3": ["srun cannot start a task there: Communication connection failure"]}
