"""`lehr config`: what it lists, resolves and compares; and that what is generated from the config classes is fresh."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import yaml
from processes import lehr

from launcher.config_schema.listing import find, page, text
from launcher.config_schema.sections import Methods, Section, sections
from launcher.run.config import RunConfig
from launcher.run.config_schema import build_schema
from settings import UserError, compose

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "configs/demo.yaml"


@cache
def parts() -> tuple[Section | Methods, ...]:
    return tuple(sections(build_schema()))


def keys() -> dict[str, str]:
    """Each key, with its method where it has one, and its description."""
    return {
        f"{part.title}: {key.name}": key.description
        for part in parts()
        if isinstance(part, Section)
        for key in part.keys
    }


@pytest.mark.parametrize("key", keys())
def test_every_key_says_what_it_means(key: str) -> None:
    said = keys()[key]
    assert said, f"{key}: give its Field a description"
    assert said[0].isupper() or not said[0].isalpha() or said.split()[0] in ("layernorm_scaling",), said
    assert said.endswith("."), said


def test_every_section_and_method_says_what_it_is() -> None:
    for part in parts():
        assert part.description, f"{part.path}: give its class a docstring, or its Field a description"
        if isinstance(part, Methods):
            assert all(part.names.values()), part


def listed(*words: str) -> str:
    done = lehr("config", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_section_lists_type_rule_default_meaning_and_whether_it_may_change() -> None:
    shown = listed("keys", "train")
    assert "train.steps: integer; at least 1; required" in shown
    assert 'train.precision: one of float32, bfloat16; default "float32"' in shown
    assert "train.hang_seconds: number or null; above 0; default null" in shown
    assert "May change when a run goes on: it is a guard." in shown
    assert "train.spikes.sigma" in shown
    assert "optim." not in shown


def test_methods_are_listed_and_each_shows_its_keys() -> None:
    methods = listed("keys", "optim")
    for name in ("adamw", "conda", "muon"):
        assert f"    {name}: " in methods
    assert "optim.scale" not in methods
    conda = text(find(parts(), "optim.conda"), width=None)
    assert "optim.scale: number; above 0; default 0.25" in conda
    assert "optim.adamw.beta2: number; at least 0, below 1; default 0.99" in conda  # Conda's, not AdamW's own 0.95
    assert "optim.momentum" not in conda


def test_a_word_is_searched_for_in_names_and_descriptions() -> None:
    shown = text(find(parts(), "HeLd-OuT loss"), width=None)
    assert "train.forecast" in shown
    assert "checkpoint.keep_best" in shown
    assert "train.steps" not in shown
    assert "data.held_out_fraction: number; between 0 and 0.5" in text(
        find(parts(), "data.held_out_fraction"), width=None
    )


def test_a_method_is_found_by_its_name_alone() -> None:
    assert find(parts(), "conda") == find(parts(), "optim.conda")
    assert "model.norm.eps: number" in text(find(parts(), "rmsnorm"), width=None)


def test_what_is_unknown_has_the_nearest() -> None:
    with pytest.raises(UserError, match=r'"train\.stepps"; did you mean "train\.steps"\?'):
        find(parts(), "train.stepps")
    assert lehr("config", "keys", "optim.condaa").returncode == 2


@pytest.mark.parametrize("width", [80, 200])
def test_lines_fit_a_terminal_and_lose_nothing(width: int) -> None:
    narrow, whole = text(parts(), width=width), text(parts(), width=None)
    assert narrow.split() == whole.split()
    assert max(len(line) for line in narrow.splitlines() if " " in line.strip()) <= width


def test_every_leaf_of_a_resolved_config_is_listed() -> None:
    from settings.differences import flatten

    names = {name.partition(": ")[2] for name in keys()}
    for key in flatten(compose(RunConfig, DEMO).to_plain()):
        generic = ".".join("N" if part.isdigit() else part for part in key.split("."))
        for source in ("shakespeare", "wiki", "python"):
            generic = generic.replace(f"data.sources.{source}", "data.sources.NAME")
        generic = generic.replace("data.sources.NAME.filters.N", "data.filters.N")
        known = generic in names or generic.rpartition(".")[0] in names  # a mapping's own keys
        known = known or any(name.startswith(f"{generic}.N.") for name in names)  # a list that is a part of its own
        assert known or generic.endswith(".name"), key


def test_show_prints_a_config_that_is_read_back(tmp_path: Path) -> None:
    shown = listed("show", str(DEMO), "optim.lr=1e-3")
    path = tmp_path / "resolved.yaml"
    path.write_text(shown)
    assert compose(RunConfig, path) == compose(RunConfig, DEMO, ["optim.lr=1e-3"])
    assert yaml.safe_load(shown)["evaluate"]["every_steps"] == 20


def test_diff_names_the_keys_with_both_values(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(listed("show", str(DEMO), "optim.lr=1e-3", "model.norm=layernorm"))
    done = lehr("config", "diff", str(DEMO), str(run))
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [
        f'model.norm.name: "rmsnorm" in {DEMO}, "layernorm" in {run}',
        f"optim.lr: 0.002 in {DEMO}, 0.001 in {run}",
    ]
    assert lehr("config", "diff", str(run), str(run / "config.yaml")).returncode == 0
    missing = lehr("config", "diff", str(DEMO), str(tmp_path))
    assert (missing.returncode, "no run folder" in missing.stderr) == (2, True)


def test_the_page_is_fresh() -> None:
    page_now = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    assert page_now == page(parts()), "stale: run `make generated`"
