"""What the loss of a run is of: the keys of its config that must agree before the law of one run speaks of another."""

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
from settings import UserError
from settings.declarations import MAY_CHANGE
from settings.differences import flatten, listed, show

# Not compared: what the law itself covers, where things lie, and how shards are built (their hashes say what is in
# them). `model.vocab_size` may be left to the shards, whose tokenizer is compared.
_COVERED = ("run.*", "schedule*", "optim.lr", "train.steps", "model.vocab_size")
_OF_THE_DATA = ("data.mixture", "data.stages", "data.document_masking")
_NO_OTHER_LOSS = ("optim.*", "train.precision")  # another curve, but of the same loss: worth a warning
_MOST_DIFFERENCES = 8


@dataclass(frozen=True)
class Differences:
    """Between two origins, a line each."""

    severe: tuple[str, ...]  # the loss is of another model or data
    slight: tuple[str, ...]


def run_provenance(path: Path, *, loss: str) -> dict[str, Any]:
    """Of a run folder, from its config.yaml; empty for what is none (a CSV file says nothing of its run)."""
    try:
        plain = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return config_provenance(plain, loss=loss) if isinstance(plain, Mapping) else {}


def config_provenance(plain: Mapping[str, Any], *, loss: str) -> dict[str, Any]:
    """Of a run's whole config, as plain values."""
    data = plain.get("data")
    data = data if isinstance(data, Mapping) else {}
    flat = flatten({name: section for name, section in plain.items() if name != "data"})
    schema = Schema.read()
    kept = {key: value for key, value in flat.items() if _counts(key, plain, schema)}
    kept |= {key: data[key.removeprefix("data.")] for key in _OF_THE_DATA if key.removeprefix("data.") in data}
    return {"loss": loss, **kept, **_shards(data)}


def compare(there: Mapping[str, Any], here: Mapping[str, Any], *, sizes: bool = False) -> Differences:
    """Of the keys that both have. `sizes`: the law spans model sizes, so the model is not compared."""
    severe: list[str] = []
    slight: list[str] = []
    for key in here:
        if key not in there or there[key] == here[key] or (sizes and key.startswith("model.")):
            continue
        line = f"{key}: {show(there[key])} there, {show(here[key])} here"
        (slight if _matches(key, _NO_OTHER_LOSS) else severe).append(line)
    return Differences(tuple(severe), tuple(slight))


def check_one_provenance(origins: Sequence[tuple[str, Mapping[str, Any]]], *, sizes: bool) -> None:
    """Refuse, with a UserError, runs of several models or data: no one law holds for them."""
    known = [(name, origin) for name, origin in origins if origin]
    for (first, there), (name, here) in itertools.pairwise(known):
        differences = compare(there, here, sizes=sizes)
        if differences.severe:
            raise UserError(
                f"{first} and {name} are of different models, data or batches, and one law does not hold for both "
                f"(there: {first}, here: {name}):\n" + listed_keys(differences.severe)
            )


def listed_keys(lines: Sequence[str]) -> str:
    """The first few lines, indented."""
    return listed(lines, most=_MOST_DIFFERENCES, more="more keys")


def _counts(key: str, plain: Mapping[str, Any], schema: Schema) -> bool:
    if key == "evaluate.max_windows":  # other held-out rows, another loss
        return True
    return not _matches(key, _COVERED) and schema.declared(key, plain, MAY_CHANGE) is None


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


def _shards(data: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the tokenizer and of the held-out split; empty where the shards are gone."""
    infos: dict[str, Any] = {}
    try:
        for path in sorted(Path(str(data["shards"])).glob("*/dataset.json")):
            infos[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
        stages = [stage.get("mixture") for stage in data.get("stages") or ()]
        mixtures = [data.get("mixture"), *stages]
        named = {name for mixture in mixtures for name in mixture or ()}
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
