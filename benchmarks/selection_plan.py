"""The selections and the runs of selection_proof.py, which were fixed before the first of them was trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from data.select_config import SelectConfig
from launcher.run.config import RunConfig, load_run_config
from launcher.run.config_digest import config_digest, without_defaults
from train.run_folder.input_hashes import Inputs

Plain = dict[str, Any]
SEEDS = (1, 2, 3)
ALL_SOURCES = "data.sources={}"  # that the shards have: a selection may have chosen nothing of one
LRS = ("2e-3", "4e-3", "8e-3", "16e-3", "32e-3")
MAIN, SHARES = 20, (5, 20, 50)  # percent of the bytes of the pool that are chosen
LONGER = (2, 4)  # times the steps of all other runs
BLIND = ("random", "el2n", "loss")  # their choice knows no target, so that their runs serve both
BY_TARGET = ("zipfit", "classifier", "dsir", "same_sources", "length_matched")
FOLDS = ("fold_a", "fold_b")  # halves of the pool; a small model of each scores the documents of the other
MATHEMATICS, PYTHON = "mathematics", "python"
TARGETS = (MATHEMATICS, PYTHON)  # each is the name of a source of the pool, and eval_TARGET that of its evaluation
_PYTHON_TARGET = {
    "source": {
        "name": "archive",
        "archive": "corpora/werkzeug-*.whl",
        "members": ["[l-z]*.py"],
        "passage_bytes": 2000,
    }
}


@dataclass(frozen=True)
class Selection:
    """One choice among the documents of the pool, with shards of its own."""

    arm: str
    percent: int
    target: str | None = None

    @property
    def name(self) -> str:
        """The name of the folder of its shards."""
        return "-".join([self.arm, *([self.target] if self.target else []), str(self.percent)])


@dataclass(frozen=True)
class Block:
    """Runs that are trained one after the other: every selection with every lr, for one seed after the other."""

    name: str
    selections: tuple[Selection, ...]
    seeds: tuple[int, ...] = SEEDS
    lrs: tuple[str, ...] = ()  # empty: that of the config
    length: int = 1  # times the steps of the config

    def runs(self) -> Iterator[Run]:
        """Yields the runs in the order in which they are trained."""
        for seed in self.seeds:
            for selection in self.selections:
                for lr in self.lrs or (None,):
                    yield Run(selection, seed, lr, self.length)


@dataclass(frozen=True)
class Run:
    """One run."""

    selection: Selection
    seed: int
    lr: str | None = None  # None: that of the config
    length: int = 1


RANDOM = Selection("random", MAIN)  # whose build trains the tokenizer of all others
BLOCKS = (
    Block("lr", (RANDOM,), seeds=SEEDS[:1], lrs=LRS),
    *(Block(f"main-{target}", (RANDOM, *(Selection(arm, MAIN, target) for arm in BY_TARGET))) for target in TARGETS),
    Block("main-blind", tuple(Selection(arm, MAIN) for arm in BLIND if arm != "random")),
    Block(
        "shares",
        tuple(
            selection
            for percent in SHARES
            if percent != MAIN
            for selection in (
                Selection("random", percent),
                *(Selection(arm, percent, target) for target in TARGETS for arm in ("zipfit", "classifier")),
            )
        ),
    ),
    *(Block(f"longer-{length}", (Selection("random", max(SHARES)),), length=length) for length in LONGER),
)


@dataclass(frozen=True)
class Plan:
    """The plan for one config, with the folder of its shards and proxies."""

    config: Path
    overrides: tuple[str, ...]
    folder: Path
    blocks: tuple[Block, ...] = BLOCKS

    @cached_property
    def base(self) -> RunConfig:
        """The config without the overrides of a run."""
        return load_run_config(self.config, self.overrides)

    @property
    def tokens(self) -> int:
        """The tokens of a run of the config's length."""
        train = self.base.train
        return train.steps * train.global_batch_size * train.seq_length

    def runs(self) -> list[Run]:
        """Returns all runs, each once: blocks share some."""
        return list(dict.fromkeys(self.normal(run) for block in self.blocks for run in block.runs()))

    def normal(self, run: Run) -> Run:
        """Returns the run with no lr of its own if that is the lr of the config."""
        return replace(run, lr=None) if run.lr and float(run.lr) == self.base.optim.lr else run

    def selections(self) -> list[Selection]:
        """Returns all selections, each once."""
        return list(dict.fromkeys(selection for block in self.blocks for selection in block.selections))

    def shards(self, name: str) -> Path:
        """Returns the folder of the shards of a selection or a fold."""
        return self.folder / name

    def run_overrides(self, run: Run) -> list[str]:
        """Returns what a run sets besides its seed and shards."""
        lr = [f"optim.lr={run.lr}"] if run.lr else []
        return [*self.overrides, ALL_SOURCES, *lr, f"train.steps={self.base.train.steps * run.length}"]

    def digest(self, run: Run, inputs: Inputs) -> str:
        """Returns the hash by which `lehr sweep` knows a run, given the hashes of its shards."""
        base, lr = self.base, float(run.lr) if run.lr else self.base.optim.lr
        own = {
            "run": base.run.model_copy(update={"seed": run.seed}),
            "optim": base.optim.model_copy(update={"lr": lr}),
            "train": base.train.model_copy(update={"steps": base.train.steps * run.length}),
        }
        return config_digest(base.model_copy(update=own), inputs)

    def select(self, selection: Selection) -> Plain:
        """Returns the `data.select` section of a selection. Raises AssertionError if the config has none."""
        assert self.base.data.select is not None
        own = self.base.data.select
        target: Plain = {}
        if selection.target:
            target = {
                "target": own.target.to_plain() if selection.target == MATHEMATICS and own.target else _PYTHON_TARGET
            }
        amount = {"choose": "share", "amount": selection.percent / 100}
        return {**amount, **target, **self._selector(selection, own.selector.to_plain())}

    def fold(self, name: str) -> Plain:
        """Returns the `data.select` section of one half of the pool."""
        order = "highest" if name == FOLDS[0] else "lowest"
        return {"selector": {"name": "random"}, "choose": "threshold", "threshold": 0.5, "order": order}

    def build_overrides(self, name: str, select: Plain) -> list[str]:
        """Returns the overrides of `lehr data build` for a selection or a fold."""
        tokenizer = self.shards(RANDOM.name) / "tokenizer.json"
        own = [] if name == RANDOM.name else [f"data.tokenizer.path={tokenizer}"]
        return [*self.overrides, f"data.shards={self.shards(name)}", f"data.select={json.dumps(select)}", *own]

    def fingerprint(self, selection: Selection) -> str:
        """Returns a hash of all settings that decide what is chosen, wherever the shards lie.

        Keys at their defaults are left out: a key that a later version of lehr adds changes no hash.
        """
        own = self.base.data
        data = {key: value for key, value in without_defaults(own).items() if key in own.recipe()}
        data["sources"] = {name: without_defaults(source) for name, source in own.sources.items()}
        select = Plan(self.config, self.overrides, Path("shards")).select(selection)
        data["select"] = without_defaults(SelectConfig.model_validate(select))
        run = without_defaults(self.base) if needs_proxies(selection) else {}
        proxies = {key: run[key] for key in ("model", "optim", "schedule", "train") if key in run}
        content = json.dumps([data, proxies], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def _selector(self, selection: Selection, zipfit: Plain) -> Plain:
        """Returns the selector of an arm, with the keys of data.select that are its own."""

        def scores_of(arm: str) -> Plain:
            scored = Selection(arm, MAIN, selection.target)
            return {"name": "scores", "paths": [str(self.shards(scored.name) / "selection" / "scores")]}

        proxies = {"paths": [str(self.shards(f"{fold}.scores")) for fold in FOLDS]}
        if selection.percent != MAIN and selection.target:  # the same scores as at the main share, computed once
            return {"selector": scores_of(selection.arm)}
        sections: dict[str, Plain] = {
            "random": {"selector": {"name": "random"}},
            "zipfit": {"selector": zipfit},
            "classifier": {"selector": {"name": "classifier"}},
            "dsir": {"selector": {"name": "dsir"}, "temperature": 1.0},
            "same_sources": {"selector": {"name": "same_sources", "of": scores_of("zipfit")}},
            "length_matched": {"selector": {"name": "length_matched", "of": scores_of("zipfit")}},
            "el2n": {"selector": {"name": "el2n", **proxies}, "skip": 0.05},
            "loss": {"selector": {"name": "loss", **proxies}, "order": "lowest"},
        }
        return sections[selection.arm]


def read_by(selection: Selection) -> Iterator[Selection]:
    """Yields the selections whose tokenizer or scores the build of a selection reads."""
    if selection != RANDOM:
        yield RANDOM
    if selection.target and selection.percent != MAIN:
        yield Selection(selection.arm, MAIN, selection.target)
    if selection.arm in ("same_sources", "length_matched"):
        yield Selection("zipfit", MAIN, selection.target)


def needs_proxies(selection: Selection) -> bool:
    """Returns whether a selection reads scores of small models."""
    return selection.arm in ("el2n", "loss")


def evaluation(target: str) -> str:
    """Returns the source whose held-out loss counts for a target."""
    return f"eval_{target}"


def blocks_of(names: Sequence[str]) -> tuple[Block, ...]:
    """Returns the blocks of these names, or all blocks if there is no name. Raises KeyError for an unknown one."""
    known = {block.name: block for block in BLOCKS}
    return tuple(known[name] for name in names) if names else BLOCKS
