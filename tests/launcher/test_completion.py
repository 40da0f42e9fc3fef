"""TAB: the protocol that typer's script for bash speaks, in a process of its own, without the imports of a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from processes import computing_seconds

from launcher.cli import COMMANDS
from launcher.command_index import command_index
from launcher.completion import FILE
from optim.optimizer import OPTIMIZERS

SLOW = {"torch", "numpy", "omegaconf", "matplotlib", "scipy", "settings", "launcher.commands"}  # typer brings pydantic
CODE = f"""
import atexit, sys
atexit.register(lambda: print(*sorted({SLOW} & set(sys.modules)), file=sys.stderr))
sys.argv = ["lehr"]
from launcher.cli import main
main()
"""


def complete(*words: str) -> list[str]:
    """Returns what is offered for the last of the words, which is being typed."""
    line = {"COMP_WORDS": "\n".join(("lehr", *words)), "COMP_CWORD": str(len(words)), "_LEHR_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env={**os.environ, **line}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "\n", "what takes long was imported"
    return done.stdout.split()


def test_commands_and_options() -> None:
    assert sorted(complete("")) == sorted(command.name for command in COMMANDS)
    assert complete("tr") == ["train"]
    assert complete("checkpoint", "") == ["list", "verify"]
    assert complete("checkpoint", "verify", "--s") == ["--step"]
    assert "--install-completion" in complete("--")


def test_a_file_is_left_to_the_shell() -> None:
    """bash falls back to files where nothing is offered (`complete -o default`)."""
    assert complete("train", "conf") == []
    assert complete("eval", "ru") == []


def test_keys() -> None:
    assert complete("train", "c.yaml", "optim.l") == ["optim.lr="]
    assert complete("train", "c.yaml", "~optim.l") == ["~optim.lr"]
    assert complete("train", "c.yaml", "~opt") == ["~optim.", "~optim"]
    assert {"run.", "optim.", "optim="} < set(complete("train", "c.yaml", ""))
    assert complete("train", "c.yaml", "model.norm_") == ["model.norm_scaling=", *NORM_SCALING]
    assert "train.spikes.sigma=" in complete("train", "c.yaml", "train.steps=3", "train.spi")
    assert "data.sources.mine.max_bytes=" in complete("data", "build", "c.yaml", "data.sources.mine.max")
    assert "data.filters.0.min_words=" in complete("data", "build", "c.yaml", "data.filters.0.min_")
    assert complete("train", "c.yaml", "evaluate.every_") == ["evaluate.every_steps=", "evaluate.every_steps=25"]


NORM_SCALING = ["model.norm_scaling=none", "model.norm_scaling=layernorm_scaling"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["optim.name=cond"], ["optim.name=conda"]),
        (["optim=cond"], ["optim=conda"]),
        (["optim.name", "=", "cond"], ["conda"]),  # as bash splits it
        (["optim", "="], list(OPTIMIZERS.names())),
        (["train.compile", "="], ["auto", "false", "true"]),
        (["run.name=a", "train.precision=b"], ["train.precision=bfloat16"]),
        (["run.name", "=", "a", "train.precision", "=", "b"], ["bfloat16"]),
        (["data.sources.mine.name=jsonl"], ["data.sources.mine.name=jsonl"]),
        (["model.norm.name=layern"], ["model.norm.name=layernorm"]),
        (["no.such.key="], []),
    ],
)
def test_values(words: list[str], offered: list[str]) -> None:
    assert sorted(complete("train", "c.yaml", *words)) == sorted(offered)


@pytest.mark.slow
def test_it_is_quick() -> None:
    """Its computing time is a few times that of importing typer, which every command has to do."""
    ratios = []
    for _ in range(5):
        bare = computing_seconds(lambda: subprocess.run([sys.executable, "-c", "import typer"], check=True))
        ratios.append(computing_seconds(lambda: complete("train", "c.yaml", "optim.name=co")) / bare)
    assert min(ratios) < 4, ratios


def test_bash_installs_the_script_that_asks_for_this() -> None:
    """Typer's own, so that `lehr --install-completion` is all that a user types."""
    line = {**os.environ, "_LEHR_COMPLETE": "source_bash"}
    done = subprocess.run([sys.executable, "-m", "launcher"], env=line, capture_output=True, text=True, timeout=60)
    assert "complete -o default -F _lehr_completion lehr" in done.stdout
    assert "_LEHR_COMPLETE=complete_bash" in done.stdout


def test_the_file_has_the_commands_as_they_are() -> None:
    found = json.loads(FILE.read_text(encoding="utf-8"))
    assert found == command_index(), "stale: run `make generated`"
