"""A job of one task that runs one command of lehr: a data build, an evaluation, an export."""

from __future__ import annotations

import itertools
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher.cli import COMMANDS
from launcher.slurm.batch_file import COMMAND_TEMPLATE, described, fill_in, options_of
from launcher.slurm.launch import LAUNCHES
from launcher.slurm.option_rules import check_limit
from launcher.slurm.site import SiteConfig
from settings import UserError
from settings.errors import nearest

# These start ranks or jobs of their own.
_NOT_AS_ONE_TASK = ("train", "slurm")


def prepare_command(
    words: Sequence[str], site: SiteConfig, *, folder: Path, options: Mapping[str, str], command: Sequence[str]
) -> tuple[Path, str]:
    """Returns the path and the text of the batch file for `lehr WORDS`. Writes nothing.

    `options`: of sbatch, without dashes. `command`: by which it was asked for. Raises UserError for an unknown command.
    """
    known = [known.name for known in COMMANDS if known.name not in _NOT_AS_ONE_TASK]
    if words[0] not in known:
        hint = "`lehr slurm submit` does that" if words[0] in _NOT_AS_ONE_TASK else f"unknown{nearest(words[0], known)}"
        raise UserError(f"lehr {words[0]}: {hint}")
    words = [*words, *_build_overrides(words, site)]
    name = "-".join(itertools.takewhile(lambda word: re.fullmatch(r"[a-z]+", word), words))  # without its arguments
    named = options_of(site, name=f"lehr-{name}", output=folder / f"{name}-%j.out", nodes="1")
    named |= {"ntasks-per-node": "1", **options}
    named.pop("requeue")
    check_limit(named.get("time", ""), site.notice_seconds)
    called = shlex.join([str(Path(sys.executable).with_name("lehr")), *words])
    script = fill_in(COMMAND_TEMPLATE, site, named, launch=LAUNCHES["srun"], called=called, **described(command))
    return folder / f"{name}.sbatch", script


def _build_overrides(words: Sequence[str], site: SiteConfig) -> list[str]:
    """Returns overrides by which a data build that submits jobs of its own takes the site's settings."""
    if list(words[:2]) != ["data", "build"]:
        return []
    given = {word.partition("=")[0] for word in words}
    sbatch = {"account": site.account} if site.account else {}
    values = {
        "data.slurm.partition": site.partition,
        "data.slurm.qos": site.qos or None,
        "data.slurm.sbatch": sbatch or None,
    }
    lines = {
        key: value if isinstance(value, str) else "{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}"
        for key, value in values.items()
        if value
    }
    return [f"{key}={text}" for key, text in lines.items() if key not in given]
