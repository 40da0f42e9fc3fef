"""Runs the fast tests with the oldest and with the newest packages that pyproject.toml declares.

    python benchmarks/versions.py --folder /tmp/lehr-versions                  # both sets
    python benchmarks/versions.py --folder /tmp/lehr-versions oldest tests/model tests/optim

Each set gets a virtual environment in the folder, with the Python that runs this script. The oldest set pins every
dependency to its lower bound; the newest one takes what pip takes. Tools for types and lint have no part in it. What
came out stands in versions.md.

    python benchmarks/versions.py --folder /tmp/lehr-versions --triton 3.6.0

compiles the Triton kernels for an H100 with another release of Triton, in the environment of this script.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETS = ("oldest", "newest")
_NO_TESTS = re.compile(r"(mypy|ruff|scipy-stubs|types-.*)\b")


def requirements(pyproject: Path, which: str) -> list[str]:
    """Returns the requirements of a set: with `oldest`, each dependency at its lower bound; test tools are new."""
    project = tomllib.loads(pyproject.read_text())["project"]
    tools = [each for each in project["optional-dependencies"]["dev"] if not _NO_TESTS.match(each)]
    dependencies = project["dependencies"]
    return [*(map(at_lower_bound, dependencies) if which == "oldest" else dependencies), *tools]


def at_lower_bound(requirement: str) -> str:
    """Turns `torch>=2.13,<3` into `torch==2.13`. Raises ValueError if there is no lower bound."""
    found = re.fullmatch(r"(?P<name>[\w.-]+(\[[^]]*\])?)\s*>=\s*(?P<bound>[\w.]+)\s*(,.*)?", requirement)
    if found is None:
        raise ValueError(f"pyproject.toml: {requirement!r} has no lower bound")
    return f"{found['name']}=={found['bound']}"


def run_set(which: str, folder: Path, tests: Sequence[str]) -> int:
    """Installs a set and runs the tests. Returns the exit code of pip, or of pytest."""
    python = folder / which / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / which], check=True)
    wanted = folder / f"{which}.txt"
    wanted.write_text("\n".join(requirements(ROOT / "pyproject.toml", which)) + "\n")
    install = [python, "-m", "pip", "install", "--quiet", "--upgrade", "-r", wanted]
    code = subprocess.run(install, check=False).returncode
    if code == 0:
        code = subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "-e", ROOT]).returncode
    if code:
        return code
    frozen = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout
    (folder / f"{which}.frozen.txt").write_text(frozen)
    return subprocess.run([python, "-m", "pytest", "-m", "not slow", *tests], cwd=ROOT, check=False).returncode


def compile_with_triton(version: str, folder: Path) -> int:
    """Puts a release of Triton before the installed one, and compiles the kernels. Returns pytest's exit code."""
    release = folder / f"triton-{version}"
    if not release.exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", release, f"triton=={version}"],
            check=True,
        )
    environment = {**os.environ, "PYTHONPATH": str(release)}
    is_first = f"import triton; assert triton.__version__ == {version!r}, triton.__version__"
    subprocess.run([sys.executable, "-c", is_first], env=environment, check=True)
    tests = [ROOT / "tests/model/test_triton_loss.py", "-k", "sm_90"]
    command = [sys.executable, "-m", "pytest", "-n0", *tests]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main() -> None:
    """Reads the command line and runs the sets; exits with 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, required=True, help="where the environments are made; they take gigabytes"
    )
    parser.add_argument("words", nargs="*", help="oldest, newest or both, and the tests to run (all if not given)")
    parser.add_argument("--triton", metavar="VERSION", help="compile the Triton kernels with this release, and end")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.triton:
        sys.exit(compile_with_triton(given.triton, given.folder.resolve()))
    tests = [word for word in given.words if word not in SETS]
    codes = {
        which: run_set(which, given.folder.resolve(), tests)
        for which in ([each for each in SETS if each in given.words] or SETS)
    }
    for which, code in codes.items():
        print(f"{which}: {'passed' if code == 0 else f'failed (exit code {code})'}; packages: {which}.frozen.txt")
    sys.exit(any(codes.values()))


if __name__ == "__main__":
    main()
