"""`lehr doctor` on this machine, and on machines that lack something."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from processes import exec_lehr, lehr
from rich.console import Console

from launcher.commands import doctor
from launcher.commands.doctor import print_findings, run_checks
from launcher.doctor import packages
from launcher.doctor.finding import Finding


def test_this_machine_can_train() -> None:
    findings = {finding.name: finding for finding in run_checks()}
    for package in ("python", "torch", "megatron-core", "deepspeed", "datatrove", "safetensors"):
        assert findings[package].state == "ok", findings[package]
    assert {"cores", "memory", "shared memory", "open files", "disk", "network", "slurm", "compiler"} <= set(findings)
    assert all(finding.state != "missing" for finding in findings.values())


def test_the_command_exits_with_0_where_training_can_run() -> None:
    done = lehr("doctor")
    assert done.returncode == 0, done.stderr
    assert "ready to train on this machine" in done.stdout
    assert "torch" in done.stdout


@pytest.mark.slow
def test_a_broken_package_is_missing_with_the_command_that_fixes_it(tmp_path: Path) -> None:
    broken = tmp_path / "safetensors"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('built for another machine')\n")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    with exec_lehr("doctor", env={"PYTHONPATH": path}) as done:
        out, err = done.communicate()
    assert done.returncode == 1
    assert "built for another machine" in " ".join(out.split())
    assert "pip install" in out
    assert "cannot train here yet" in out
    assert "Traceback" not in err


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = packages.installed_version
    monkeypatch.setattr(packages, "installed_version", lambda name: None if name == "datatrove" else real(name))
    (finding,) = [finding for finding in run_checks() if finding.name == "datatrove"]
    assert finding.state == "missing"
    assert "datatrove" in finding.fix


def test_a_small_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = packages.installed_version
    monkeypatch.setattr(packages, "installed_version", lambda name: None if name == "zstandard" else real(name))
    findings = {finding.name: finding for finding in packages.check_packages()}
    assert findings["zstandard"].state == "missing"
    assert "pip install" in findings["zstandard"].fix
    assert findings["other packages"].state == "ok"


def test_lehr_itself_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """lehr can be run from its folder; the large packages are checked all the same."""
    real = packages.installed_version

    def requires(name: str) -> list[str]:
        raise packages.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packages, "installed_version", lambda name: None if name == "lehr" else real(name))
    monkeypatch.setattr(packages.metadata, "requires", requires)
    findings = {finding.name: finding for finding in packages.check_packages()}
    assert findings["lehr"].state == "note"
    assert findings["torch"].state == "ok"
    assert all(finding.state != "missing" for finding in findings.values())


def test_a_version_outside_the_range_is_noted() -> None:
    assert packages.is_allowed("megatron-core", "0.16.1")
    assert not packages.is_allowed("megatron-core", "0.3.0")


def test_without_compiler_and_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    findings = {finding.name: finding for finding in run_checks()}
    assert findings["compiler"].state == "note"
    assert "apt-get install g++" in findings["compiler"].fix
    assert findings["slurm"].state == "note"
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    findings = {finding.name: finding for finding in run_checks()}
    assert "squeue" in findings["slurm"].result


def test_a_check_that_fails_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_broken() -> object:
        raise OSError("no such device")
        yield

    monkeypatch.setattr(doctor, "CHECKS", (check_broken, packages.check_python))
    findings = list(run_checks())
    assert findings[0].state == "missing"
    assert "no such device" in findings[0].result
    assert findings[1].name == "python"


def test_the_fixes_and_the_verdict_follow_the_table() -> None:
    out = io.StringIO()
    findings = [Finding("torch", "ok", "2.13"), Finding("glue", "missing", "none", "pip install glue")]
    print_findings(findings, Console(file=out, width=100))
    lines = out.getvalue().splitlines()
    assert lines[-1] == "cannot train here yet: glue"
    assert "missing glue: pip install glue" in lines
    assert sys.executable not in out.getvalue()
