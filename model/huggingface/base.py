"""An architecture of transformers as tables: which of our keys it needs, and what it calls keys and tensors.

Names of ours are global names without "model." (`layers.0.attention.q.weight`), names of theirs those in their files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from model.config import ModelConfig
from settings import UserError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One tensor of theirs: ours one below the other, turned round where they keep [in, out]; of none, zeros."""

    name: str
    shape: Shape
    ours: tuple[tuple[str, Shape], ...]
    transposed: bool = False

    @property
    def numel(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    def to_theirs(self, ours: Mapping[str, Tensor]) -> Tensor:
        """Their tensor, contiguous, from all of ours that it holds."""
        if not self.ours:
            return torch.zeros(self.shape)
        parts = [ours[name] for name, _ in self.ours]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return (whole.T if self.transposed else whole).contiguous()

    def to_ours(self, theirs: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Our tensors by name, contiguous."""
        whole = theirs.T if self.transposed else theirs
        parts = whole.split([shape[0] for _, shape in self.ours])
        for (name, _), part in zip(self.ours, parts, strict=True):
            yield name, part.contiguous()


@dataclass(frozen=True)
class Architecture:
    """See the module."""

    name: str  # the class of transformers
    model_type: str
    needs: Mapping[str, object]  # our keys that must have this value
    keys: Mapping[str, str]  # their key -> ours, a number or a switch carried over
    positions: str  # their key for the longest sequence
    modules: Mapping[str, Sequence[str]]  # their module -> ours; {} is the layer's number
    fixed: Mapping[str, object]  # their keys that must have this value, and have it where they are not given
    defaults: Mapping[str, object] = field(default_factory=dict)  # of `keys`, what transformers takes if not given
    if_null: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # of `keys`: this multiple of another key
    imported: Mapping[str, object] = field(default_factory=dict)  # our keys, of every model that is imported
    transposed: frozenset[str] = frozenset()  # their modules that keep [in, out]
    grouped_queries: bool = True
    always_bias: frozenset[str] = frozenset()  # their modules that have a bias whatever the config says
    prefix: str = "model."  # of the names without the head; older files leave it out
    not_weights: tuple[str, ...] = ()  # patterns of their names: buffers in older files

    def obstacles(self, config: ModelConfig) -> list[str]:
        """Why it cannot hold a model of this config: our key, the value it must have, the value it has."""
        found = []
        for key, needed in self.needs.items():
            value = lookup(config, key)
            if value != needed:
                found.append(f"model.{key.removesuffix('.name')} = {_shown(needed)}, not {_shown(value)}")
        if not self.grouped_queries and config.kv_heads != config.num_heads:
            found.append(f"model.num_kv_heads = {config.num_heads} (as many as num_heads), not {config.kv_heads}")
        return found

    def entries(self, shapes: Mapping[str, Shape]) -> list[Entry]:
        """Their tensors, in the model's order, from the names and whole shapes of ours, each of which is in one."""
        layers = sorted({int(name.split(".")[1]) for name in shapes if name.startswith("layers.")})
        found = []
        for module, ours in self.modules.items():
            for layer in layers if "{}" in module else [0]:
                names = tuple(each.format(layer) for each in ours)
                for kind in ("weight", "bias"):
                    if entry := self._entry(module, module.format(layer), names, kind, shapes):
                        found.append(entry)
        left = set(shapes) - {name for entry in found for name, _ in entry.ours}
        assert not left, f"{self.name} has no place for {sorted(left)}"
        return found

    def _entry(
        self, module: str, theirs: str, ours: Sequence[str], kind: str, shapes: Mapping[str, Shape]
    ) -> Entry | None:
        parts = tuple((name, shapes[name]) for each in ours if (name := f"{each}.{kind}") in shapes)
        if parts:
            shape = (sum(shape[0] for _, shape in parts), *parts[0][1][1:])
            turned = module in self.transposed and len(shape) == 2
            return Entry(f"{theirs}.{kind}", shape[::-1] if turned else shape, parts, turned)
        if kind == "bias" and module in self.always_bias:
            return Entry(f"{theirs}.bias", (sum(shapes[f"{each}.weight"][0] for each in ours),), ())
        return None

    def config_json(self, config: ModelConfig, *, seq_length: int) -> dict[str, Any]:
        """What config.json says of the model (not of its tokens). For a config without obstacles."""
        plain: dict[str, Any] = {"architectures": [self.name], "model_type": self.model_type}
        for theirs, ours in self.keys.items():
            plain[theirs] = config.kv_heads if ours == "num_kv_heads" else lookup(config, ours)
        plain[self.positions] = seq_length
        if "num_key_value_heads" in self.keys:
            plain["head_dim"] = config.head_size
        plain |= self.fixed
        plain["initializer_range"] = config.init.std
        return plain

    def model_section(self, theirs: Mapping[str, Any], *, source: str) -> dict[str, Any]:
        """Our `model` section, as far as their config.json decides it.

        Raises UserError with every key of theirs that lehr's model does not have; `source` names the file.
        """
        plain = {**self.defaults, **_without_rope_parameters(theirs)}
        wrong = [
            f"{key} = {_shown(plain[key])}, and lehr has only {_shown(only)}"
            for key, only in self.fixed.items()
            if plain.get(key, only) != only
        ]
        values: dict[str, Any] = {**self.needs, **self.imported, "norm_scaling": "none"}
        said: dict[str, str] = {}
        for key, ours in self.keys.items():
            if plain.get(key) is None and key in self.if_null:
                other, times = self.if_null[key]
                plain[key] = plain[other] * times if isinstance(plain.get(other), int) else None
            if plain.get(key) is None:
                wrong.append(f"{key} is missing")
            elif ours in said and plain[key] != values[ours]:
                wrong.append(f"{key} = {_shown(plain[key])} and {said[ours]} = {_shown(values[ours])} must be the same")
            else:
                values[ours], said[ours] = plain[key], key
        if not self.grouped_queries:
            values["num_kv_heads"] = values.get("num_heads")
        wrong += _of_heads_and_layers(plain, values)
        if wrong:
            raise UserError("\n  ".join([f"{source} describes a model that lehr does not have:", *wrong]))
        return _nested(values)


def architecture_of(config: ModelConfig, architectures: Sequence[Architecture]) -> Architecture:
    """The first that holds a model of this config. Raises UserError with what stands in the way of each."""
    tried = [(architecture, architecture.obstacles(config)) for architecture in architectures]
    for architecture, obstacles in tried:
        if not obstacles:
            return architecture
    lines = [f"  {architecture.name} needs {'; '.join(obstacles)}" for architecture, obstacles in tried]
    raise UserError("\n".join(["no architecture of transformers that lehr knows computes this model:", *lines]))


def architecture_called(names: Sequence[str], architectures: Sequence[Architecture], *, source: str) -> Architecture:
    """Of config.json's `architectures`. Raises UserError where it is none that lehr knows."""
    for architecture in architectures:
        if list(names) == [architecture.name]:
            return architecture
    known = ", ".join(architecture.name for architecture in architectures)
    raise UserError(f"{source}: architectures = {list(names)}; lehr imports {known}")


def lookup(config: ModelConfig, key: str) -> Any:
    """The value of a dotted key; None where the method chosen has no such key."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


def _nested(values: Mapping[str, object]) -> dict[str, Any]:
    """{"norm.eps": 1} as {"norm": {"eps": 1}}."""
    plain: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (plain.setdefault(section, {}) if section else plain)[name] = value
    return plain


def _without_rope_parameters(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Newer files keep RoPE's numbers in a section of their own; as older ones have them."""
    plain = dict(theirs)
    rope = plain.pop("rope_parameters", None)
    if isinstance(rope, Mapping):
        plain["rope_theta"] = rope.get("rope_theta", plain.get("rope_theta"))
        if rope.get("rope_type", "default") != "default":
            plain["rope_scaling"] = dict(rope)
    return plain


def _of_heads_and_layers(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What else lehr does not have: heads of a size of their own, layers that attend to less than all."""
    wrong = []
    hidden, heads, size = ours.get("hidden_size"), ours.get("num_heads"), theirs.get("head_dim")
    if isinstance(hidden, int) and isinstance(heads, int) and size is not None and size * heads != hidden:
        wrong.append(
            f"head_dim = {_shown(size)}, and lehr has only hidden_size / num_attention_heads = {hidden}/{heads}"
        )
    kinds = theirs.get("layer_types") or ()
    if any(kind != "full_attention" for kind in kinds):
        wrong.append(f"layer_types = {_shown(sorted(set(map(str, kinds))))}, and lehr has only full_attention")
    return wrong


def _shown(value: object) -> str:
    return json.dumps(value, default=str)
