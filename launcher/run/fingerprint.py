"""The fingerprint of a rank: what must be the same on all ranks of a run, by name."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any

import torch

from launcher.processes.rank_info import RankInfo
from launcher.run.config import RunConfig
from launcher.run.input_hashes import inputs_of
from settings.declarations import MAY_MOVE, declared
from settings.differences import flatten
from settings.packages import installed_version

_ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("data", "launcher", "laws", "model", "optim", "parallel", "schedules", "settings", "train")
_LIBRARIES = ("megatron-core", "deepspeed", "flash-attn", "flash-attn-3", "flash-attn-4", "numpy")


def fingerprint_of(config: RunConfig, rank_info: RankInfo) -> dict[str, Any]:
    """Returns the fingerprint: config, hashes of the inputs, lehr's code, versions, and the name of the device.

    Paths of files that are compared by their hashes may differ. Raises UserError if there are no shards.
    """
    plain = config.to_plain()
    keys = {key: value for key, value in flatten(plain).items() if not declared(RunConfig, key, plain, MAY_MOVE)}
    inputs = inputs_of(config)
    hashes = {
        "the tokenizer": inputs.tokenizer,
        **{f'source "{name}"': value for name, value in inputs.sources.items()},
        **{f"schedule.file, {count} values": value for count, value in inputs.lr_table.items()},
        **code_hashes(_ROOT),
    }
    versions = {f"version of {name}": installed_version(name) for name in _LIBRARIES}
    return {
        "number of ranks": rank_info.world_size,
        **keys,
        **{name: f"SHA-256 {value[:16]}…" for name, value in hashes.items()},
        "version of Python": platform.python_version(),
        "version of torch": torch.__version__,
        **versions,
        "device": _device_name(rank_info),
    }


def code_hashes(root: Path) -> dict[str, str]:
    """Returns a hash of the source files of each of lehr's packages, which are folders of `root`."""
    hashes = {}
    for package in PACKAGES:
        digest = hashlib.sha256()
        for path in sorted((root / package).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
        hashes[f"code of {package}"] = digest.hexdigest()
    return hashes


def _device_name(rank_info: RankInfo) -> str:
    """Returns the name of the rank's GPU, or `CPU`."""
    if not torch.cuda.is_available():
        return "CPU"
    return torch.cuda.get_device_name(rank_info.gpu(torch.cuda.device_count()))
