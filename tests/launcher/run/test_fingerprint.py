"""The fingerprint of a rank covers the config, the inputs by their hashes, lehr's code and versions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from test_rooms import MAY_IMPORT

from launcher.processes.rank_info import SINGLE_PROCESS
from launcher.run.config import RunConfig
from launcher.run.fingerprint import PACKAGES, code_hashes, fingerprint_of
from settings import compose
from settings.differences import differing


def changed_names(config: Path, *overrides: str) -> set[str]:
    """Returns the names by which a rank with these overrides differs from one without."""
    one, other = (fingerprint_of(compose(RunConfig, config, list(each)), SINGLE_PROCESS) for each in ((), overrides))
    return {name for name in {*one, *other} if one.get(name) != other.get(name)}


def test_every_key_counts_but_the_paths_of_what_is_hashed(config: Path, shards: Path, tmp_path: Path) -> None:
    assert changed_names(config) == set()
    assert changed_names(config, "optim.lr=1e-3", "train.steps=9", "run.seed=7") == {
        "optim.lr",
        "train.steps",
        "run.seed",
    }
    moved = tmp_path / "moved"
    shutil.copytree(shards, moved)
    assert changed_names(config, f"data.shards={moved}") == set()
    info = moved / "beta" / "dataset.json"
    plain = json.loads(info.read_text())
    plain["splits"]["train"]["files"][0]["sha256"] = "0" * 64  # other shards of the same size
    info.write_text(json.dumps(plain))
    assert changed_names(config, f"data.shards={moved}") == {'source "beta"'}


def test_each_package_of_the_code_has_a_hash(tmp_path: Path) -> None:
    assert set(PACKAGES) == set(MAY_IMPORT)
    for package in PACKAGES:
        (tmp_path / package / "inner").mkdir(parents=True)
        (tmp_path / package / "inner" / "code.py").write_text("x = 1\n")
    before = code_hashes(tmp_path)
    (tmp_path / "train" / "inner" / "code.py").write_text("x = 2\n")
    assert differing(before, code_hashes(tmp_path)).keys() == {"code of train"}


def test_it_can_be_sent(config: Path) -> None:
    fingerprint = fingerprint_of(compose(RunConfig, config, []), SINGLE_PROCESS)
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert {"version of torch", "version of Python", "version of megatron-core", "device"} <= set(fingerprint)
