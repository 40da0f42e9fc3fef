"""Each key declares whether it may change at a resume."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from launcher.run.config import RunConfig
from model.norms import NORMS, NormConfig
from settings import Registry, Settings, may_change
from settings.declarations import MAY_CHANGE, MAY_MOVE, declared
from settings.differences import flatten
from train.resume_rules import differences

PLAIN: dict[str, Any] = {
    "run": {"name": "try"},
    "data": {"shards": "shards", "sources": {"a": {"name": "text", "paths": ["x"]}}},
    "model": {"num_layers": 1, "hidden_size": 8, "num_heads": 1, "ffn_size": 8},
    "optim": {"name": "adamw", "lr": 1e-3},
    "schedule": {"name": "table", "file": "lr.txt"},
    "train": {"steps": 10, "seq_length": 8, "global_batch_size": 4},
}
# The whole list, written out once: a key is added here knowingly.
MAY = {
    *("run.folder", "run.name"),
    *(f"branch.{key}" for key in ("run", "step", "optimizer")),
    *(f"parallel.{key}" for key in ("tensor", "pipeline", "virtual_stages", "sequence", "data", "zero", "offload")),
    *("train.steps", "train.stop_at_step"),
    *(f"train.{key}" for key in ("micro_batch_size", "device", "recompute", "attention", "compile")),
    *("train.deterministic", "train.compare_weights_every_steps"),
    *("train.cross_entropy", "train.collect_garbage_every_steps"),
    *(f"train.{key}" for key in ("max_skipped_steps", "timeout_seconds", "hang_seconds", "time_limit_seconds")),
    *("train.rendezvous_seconds", "train.forecast"),
    *(f"train.{key}" for key in ("stop_before_limit_seconds", "log_every_steps", "profile")),
    *(f"train.spikes.{key}" for key in ("sigma", "window_steps", "max_rollbacks", "skip_batches")),
    *("model.objective.chunk_tokens", "evaluate.every_steps", "evaluate.max_windows"),
    *(f"checkpoint.{key}" for key in ("every_steps", "keep_last", "keep_every_steps", "keep_best")),
    *(f"data.{key}" for key in ("verify_hashes", "prefetch_batches", "executor", "workers", "on_bad_file")),
    *(f"data.slurm.{key}" for key in ("partition", "time", "qos", "cpus_per_task", "mem_per_cpu_gb", "sbatch")),
    *(f"data.slurm.{key}" for key in ("max_array_size", "env_command", "poll_seconds")),
}


def test_exactly_these_keys_may_change() -> None:
    plain = RunConfig.model_validate(PLAIN).to_plain()
    found = {key: declared(RunConfig, key, plain, MAY_CHANGE) for key in flatten(plain)}
    assert {key for key, reason in found.items() if reason is not None} == MAY
    assert all(reason != "" for reason in found.values())


def test_what_is_known_by_its_hashes_may_move() -> None:
    plain = RunConfig.model_validate(PLAIN).to_plain()
    moved = {key for key in flatten(plain) if declared(RunConfig, key, plain, MAY_MOVE) is not None}
    assert moved == {"data.shards", "schedule.file"}
    other = RunConfig.model_validate({**PLAIN, "data": {**PLAIN["data"], "shards": "elsewhere"}}).to_plain()
    assert differences(plain, other, schema=RunConfig, hashed=True) == {}
    assert list(differences(plain, other, schema=RunConfig)) == ["data.shards"]


def test_a_new_methods_harmless_key_is_honoured_without_an_edit_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NORMS, "_classes", dict(NORMS._classes))

    @NORMS.register
    class TiledConfig(NormConfig):
        name: Literal["tiled"] = "tiled"
        tile_rows: int = Field(64, json_schema_extra=may_change("it changes the speed"))
        power: int = 2

    def plain(**norm: int) -> dict[str, Any]:
        model = {**PLAIN["model"], "norm": {"name": "tiled", **norm}}
        return RunConfig.model_validate({**PLAIN, "model": model}).to_plain()

    assert differences(plain(), plain(tile_rows=8), schema=RunConfig) == {}
    assert differences(plain(), plain(tile_rows=8, power=3), schema=RunConfig) == {"model.norm.power": ("2", "3")}


class Filter(Settings):
    """The base of a method that stands in a list."""

    name: str


FILTERS = Registry("filter", room="settings", base=Filter)


@FILTERS.register
class Sieve(Filter):
    """A section with a harmless key and another one."""

    name: Literal["sieve"] = "sieve"
    threads: int = Field(1, json_schema_extra=may_change("it changes the speed"))
    mesh: int = 1


class Listed(Settings):
    """Methods in a list, in an optional list, and in a mapping."""

    items: tuple[Annotated[Filter, FILTERS.field], ...] = ()
    maybe: tuple[Annotated[Filter, FILTERS.field], ...] | None = None
    named: dict[str, Annotated[Filter, FILTERS.field]] = Field({})


def test_methods_in_lists_and_mappings_declare_their_keys_too() -> None:
    def plain(**sieve: int) -> dict[str, Any]:
        sieves = {"name": "sieve", **sieve}
        return Listed.model_validate({"items": [sieves], "maybe": [sieves], "named": {"a": sieves}}).to_plain()

    assert differences(plain(), plain(threads=2), schema=Listed) == {}
    changed = differences(plain(), plain(threads=2, mesh=2), schema=Listed)
    assert list(changed) == ["items.0.mesh", "maybe.0.mesh", "named.a.mesh"]


def test_a_key_of_a_method_or_section_that_is_unknown_counts() -> None:
    there = {"model": {"norm": {"name": "gone", "eps": 1}}, "old": {"x": 1}, "parallel": {"ring": 2}}
    here = {"model": {"norm": {"name": "gone", "eps": 2}}}
    assert set(differences(there, here, schema=RunConfig)) == {"model.norm.eps", "old.x"}
