"""The check of a node: what is wrong with it is named."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from launcher.slurm.health import bad_nodes, nodes_to_exclude, problems, report_bad
from launcher.slurm.site import SiteConfig


def test_a_node_that_is_well_has_no_problem(tmp_path: Path) -> None:
    assert problems(SiteConfig(pre_launch="true"), folder=tmp_path, first_node="127.0.0.1") == []


def test_each_problem_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node without the GPUs that the site has, whose file system is gone, whose first node has no route."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/bash\necho '0, GPU-a'\n")
    tool.chmod(0o755)
    site = SiteConfig(gpus_per_node=2, pre_launch="echo the fan is loud; false")
    found = problems(site, folder=tmp_path / "gone", first_node="no.such.host.invalid")
    assert found[0] == "1 of 2 GPUs answer"
    assert found[1] == f"{tmp_path / 'gone'} cannot be written to: No such file or directory"
    assert found[2].startswith("the first node, no.such.host.invalid, is not reached: ")
    assert found[3] == "pre_launch fails: the fan is loud"
    tool.write_text("#!/bin/bash\necho 'GPU has fallen off the bus' >&2; exit 15\n")
    assert problems(site, folder=tmp_path, first_node="127.0.0.1")[0] == (
        "its GPUs do not answer: GPU has fallen off the bus"
    )


def test_a_clock_that_is_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 90)
    (clock, _) = problems(SiteConfig(), folder=tmp_path, first_node="127.0.0.1")
    assert clock == f"its clock and that of the file system of {tmp_path} are 90 s apart"


def test_which_nodes_are_excluded() -> None:
    """What all nodes fail is no fault of a node, and a first node that no other reaches is itself the bad one."""
    nodes = ["n1", "n2", "n3"]
    (unreached,) = problems(SiteConfig(), folder=Path("/tmp"), first_node="no.such.host.invalid")
    assert nodes_to_exclude(nodes, {"n2": ["0 of 2 GPUs answer"]}) == ("n2",)
    assert nodes_to_exclude(nodes, {node: ["0 of 2 GPUs answer"] for node in nodes}) == ()
    assert nodes_to_exclude(["n1"], {"n1": ["0 of 2 GPUs answer"]}) == ("n1",)
    assert nodes_to_exclude(nodes, {"n3": [unreached]}) == ("n3",)
    assert nodes_to_exclude(nodes, {"n2": [unreached], "n3": [unreached]}) == ("n1",)
    assert nodes_to_exclude([*nodes, "n4"], {"n2": [unreached], "n3": [unreached], "n4": ["its fan"]}) == ("n1", "n4")
    assert nodes_to_exclude(["n1", "n2"], {"n2": [unreached]}) == ("n2",)


def test_bad_nodes_are_read_back(tmp_path: Path) -> None:
    report_bad(tmp_path / "logs", "n2", ["0 of 2 GPUs answer"])
    (tmp_path / "logs" / "bad-node-n3.json").write_text("{")
    assert bad_nodes(tmp_path / "logs") == {"n2": ["0 of 2 GPUs answer"]}
    assert bad_nodes(tmp_path / "none") == {}
