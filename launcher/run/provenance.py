"""The provenance of a run's loss: the config keys that must agree before the law of one run holds for another."""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher.config_schema.schema import Schema
from launcher.run.old_stages import with_new_stages
from schedules.stage_lengths import mixes
from settings import UserError
from settings.declarations import MAY_CHANGE
from settings.differences import flatten, listed, show
from settings.mistakes import KeyMistakeError

# These keys are not compared: the law covers them, or they are paths. How the shards were built is not compared either,
# because their hashes are. `model.vocab_size` may be left to the shards, whose tokenizer is compared.
_NOT_COMPARED = ("run.*", "schedule*", "stages*", "optim.lr", "train.steps", "model.vocab_size")
_DATA_KEYS = ("data.mixture", "data.document_masking")
_SAME_LOSS = ("optim.*", "train.precision")  # they change the curve but not the loss: a warning
_MOST_DIFFERENCES = 8


@dataclass(frozen=True)
class Differences:
    """The differences between two provenances, a line each."""

    severe: tuple[str, ...]  # of the model, the data or the batch: the losses are not comparable
    slight: tuple[str, ...]


def run_provenance(path: Path, *, loss: str) -> dict[str, Any]:
    """Returns the provenance of a run folder, from its config.yaml; empty if it is none, such as a CSV file."""
    try:
        plain = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    try:
        return config_provenance(with_new_stages(plain), loss=loss) if isinstance(plain, Mapping) else {}
    except KeyMistakeError:
        return {}


def config_provenance(plain: Mapping[str, Any], *, loss: str) -> dict[str, Any]:
    """Returns the provenance of a run from its full config, as plain values."""
    data = plain.get("data")
    data = data if isinstance(data, Mapping) else {}
    flat = flatten({name: section for name, section in plain.items() if name != "data"})
    schema = Schema.read()
    compared = {key: value for key, value in flat.items() if _is_compared(key, plain, schema)}
    compared |= {key: data[key.removeprefix("data.")] for key in _DATA_KEYS if key.removeprefix("data.") in data}
    first, *later = mixes(plain)
    if "data.mixture" in compared or first.mixture:
        compared["data.mixture"] = first.mixture
    if first.replay or later:
        compared["stages: data"] = [[mix.first_step, mix.mixture, mix.replay] for mix in (first, *later)]
    return {"loss": loss, **compared, **_shard_hashes(data, [mix.mixture for mix in (first, *later)])}


def compare(
    there: Mapping[str, Any], here: Mapping[str, Any], *, sizes: bool = False, batches: bool = False
) -> Differences:
    """Compares the keys that both have. Laws over `sizes` or `batches` leave out the model or the batch."""
    severe: list[str] = []
    slight: list[str] = []
    for key in here:
        if key not in there or there[key] == here[key]:
            continue
        if (sizes and key.startswith("model.")) or (batches and key == "train.global_batch_size"):
            continue
        line = f"{key}: {show(there[key])} there, {show(here[key])} here"
        (slight if _matches(key, _SAME_LOSS) else severe).append(line)
    return Differences(tuple(severe), tuple(slight))


def check_one_provenance(
    provenances: Sequence[tuple[str, Mapping[str, Any]]], *, sizes: bool, batches: bool = False
) -> None:
    """Raises UserError if runs are of different models, data or batches: no one law holds for them."""
    known = [(name, provenance) for name, provenance in provenances if provenance]
    for (first, there), (name, here) in itertools.pairwise(known):
        differences = compare(there, here, sizes=sizes, batches=batches)
        if differences.severe:
            raise UserError(
                f"{first} and {name} are of different models, data or batches, and one law does not hold for both "
                f"(there: {first}, here: {name}):\n" + list_differences(differences.severe)
            )


def list_differences(lines: Sequence[str]) -> str:
    """Returns the first lines, indented, and the number of the others."""
    return listed(lines, most=_MOST_DIFFERENCES, more="more keys")


def _is_compared(key: str, plain: Mapping[str, Any], schema: Schema) -> bool:
    if key == "evaluate.max_windows":  # the loss is over other sequences
        return True
    return not _matches(key, _NOT_COMPARED) and schema.declared(key, plain, MAY_CHANGE) is None


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _shard_hashes(data: Mapping[str, Any], mixtures: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns hashes of the tokenizer and of the held-out split; empty if the shards are gone."""
    infos: dict[str, Any] = {}
    try:
        for path in sorted(Path(str(data["shards"])).glob("*/dataset.json")):
            infos[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
        named = {name for mixture in mixtures for name in mixture}
        if not all(mixtures):
            named |= set(data.get("sources") or infos)
        used = {name: info for name, info in infos.items() if name in named}
        held_out = [
            [name, [file["sha256"] for file in info["splits"].get("held_out", {}).get("files", ())]]
            for name, info in used.items()
        ]
        tokenizers = sorted({info["tokenizer"]["sha256"] for info in used.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    if not used:
        return {}
    digest = hashlib.sha256(json.dumps(held_out).encode()).hexdigest()
    return {"shards: tokenizer": ", ".join(tokenizers)[:16], "shards: held-out split": digest[:16]}
