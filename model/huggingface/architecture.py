"""An architecture of transformers as tables: the keys of lehr that it needs, and its own names of keys and tensors.

lehr's tensors have their global names without "model." (`layers.0.attention.q.weight`), those of transformers the names
in its files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model.config import ModelConfig
from model.huggingface.config_keys import NEUTRAL, ROPE_NEUTRAL, shown, unknown_keys, without_rope_sections
from model.huggingface.entry import Entry, Shape
from settings import UserError


@dataclass(frozen=True)
class Architecture:
    """One class of transformers, in tables."""

    name: str  # the class of transformers
    model_type: str
    needs: Mapping[str, object]  # keys of lehr that must have this value
    keys: Mapping[str, str]  # key of transformers -> key of lehr with the same value
    positions: str  # key of transformers for the longest sequence
    modules: Mapping[str, Sequence[str]]  # module of transformers -> modules of lehr; {} is the layer's number
    fixed: Mapping[str, object]  # keys of transformers that must have this value, or be absent
    defaults: Mapping[str, object] = field(default_factory=dict)  # of `keys`, transformers' own defaults
    if_null: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # of `keys`: this multiple of another key
    imported: Mapping[str, object] = field(default_factory=dict)  # keys of lehr that every imported model has
    transposed: frozenset[str] = frozenset()  # modules of transformers whose matrices are [in, out]
    grouped_queries: bool = True
    always_bias: frozenset[str] = frozenset()  # modules of transformers that always have a bias
    prefix: str = "model."  # of all names but the head; older files leave it out
    not_weights: tuple[str, ...] = ()  # patterns of names: buffers in older files
    harmless: frozenset[str] = frozenset()  # further keys of transformers that change no logits
    neutral: Mapping[str, object] = field(default_factory=dict)  # as `fixed`, but not exported; null is allowed

    def tensor_of(self, module: str) -> str:
        """Returns the name of the tensor of transformers that holds the weight of one module of lehr alone."""
        return next(f"{name}.weight" for name, parts in self.modules.items() if list(parts) == [module])

    def obstacles(self, config: ModelConfig) -> list[str]:
        """Returns why it cannot hold a model of this config: the key, the value that it needs, the value there."""
        found = []
        for key, needed in self.needs.items():
            value = lookup(config, key)
            if value != needed:
                found.append(f"model.{key.removesuffix('.name')} = {shown(needed)}, not {shown(value)}")
        if not self.grouped_queries and config.kv_heads != config.num_heads:
            found.append(f"model.num_kv_heads = {config.num_heads} (as many as num_heads), not {config.kv_heads}")
        return found

    def entries(self, shapes: Mapping[str, Shape]) -> list[Entry]:
        """Returns the tensors of transformers in its order, from the names and full shapes of all tensors of lehr."""
        layers = sorted({int(name.split(".")[1]) for name in shapes if name.startswith("layers.")})
        found = []
        for module, parts in self.modules.items():
            for layer in layers if "{}" in module else [0]:
                names = tuple(each.format(layer) for each in parts)
                for kind in ("weight", "bias"):
                    if entry := self._entry(module, module.format(layer), names, kind, shapes):
                        found.append(entry)
        left = set(shapes) - {name for entry in found for name, _ in entry.parts}
        assert not left, f"{self.name} has no place for {sorted(left)}"
        return found

    def _entry(
        self, module: str, name: str, modules: Sequence[str], kind: str, shapes: Mapping[str, Shape]
    ) -> Entry | None:
        parts = tuple((part, shapes[part]) for each in modules if (part := f"{each}.{kind}") in shapes)
        if parts:
            shape = (sum(shape[0] for _, shape in parts), *parts[0][1][1:])
            transposed = module in self.transposed and len(shape) == 2
            return Entry(f"{name}.{kind}", shape[::-1] if transposed else shape, parts, transposed)
        if kind == "bias" and module in self.always_bias:
            return Entry(f"{name}.bias", (sum(shapes[f"{each}.weight"][0] for each in modules),), ())
        return None

    def config_json(self, config: ModelConfig, *, seq_length: int) -> dict[str, Any]:
        """Returns the keys of config.json that describe the model, not its tokens, for a config without obstacles."""
        plain: dict[str, Any] = {"architectures": [self.name], "model_type": self.model_type}
        for key, lehr_key in self.keys.items():
            plain[key] = config.kv_heads if lehr_key == "num_kv_heads" else lookup(config, lehr_key)
        plain[self.positions] = seq_length
        if "num_key_value_heads" in self.keys:
            plain["head_dim"] = config.head_size
        plain |= self.fixed
        plain["initializer_range"] = config.init.std
        return plain

    def model_section(self, config_json: Mapping[str, Any], *, source: str) -> dict[str, Any]:
        """Returns lehr's `model` section, as far as config.json decides it.

        Raises UserError with every key that describes something lehr's model does not have; `source` names the file.
        """
        neutral = {**NEUTRAL, **self.neutral, "model_type": self.model_type}
        plain = dict(config_json)
        wrong: list[str] = []
        if self.needs["position.name"] == "rope":
            plain, wrong = without_rope_sections(config_json)
            neutral |= ROPE_NEUTRAL
        plain = {**self.defaults, **plain}
        known = {*self.keys, *self.fixed, *self.harmless, self.positions, "head_dim", "layer_types"}
        wrong += unknown_keys(plain, known=known, neutral=neutral)
        wrong += [
            f"{key} = {shown(plain[key])}, and lehr has only {shown(only)}"
            for key, only in self.fixed.items()
            if plain.get(key, only) != only
        ]
        values: dict[str, Any] = {**self.needs, **self.imported, "norm_scaling": "none"}
        decided_by: dict[str, str] = {}
        for key, lehr_key in self.keys.items():
            if plain.get(key) is None and key in self.if_null:
                other, times = self.if_null[key]
                plain[key] = plain[other] * times if isinstance(plain.get(other), int) else None
            if plain.get(key) is None:
                wrong.append(f"{key} is missing")
            elif lehr_key in decided_by and plain[key] != values[lehr_key]:
                same = f"{decided_by[lehr_key]} = {shown(values[lehr_key])}"
                wrong.append(f"{key} = {shown(plain[key])} and {same} must be the same")
            else:
                values[lehr_key], decided_by[lehr_key] = plain[key], key
        if not self.grouped_queries:
            values["num_kv_heads"] = values.get("num_heads")
        wrong += _heads_and_layers_not_in_lehr(plain, values)
        if wrong:
            raise UserError("\n  ".join([f"{source} describes a model that lehr does not have:", *wrong]))
        return _nested(values)


def architecture_of(config: ModelConfig, architectures: Sequence[Architecture]) -> Architecture:
    """Returns the first architecture that can hold a model of this config. Raises UserError with all obstacles."""
    tried = [(architecture, architecture.obstacles(config)) for architecture in architectures]
    for architecture, obstacles in tried:
        if not obstacles:
            return architecture
    lines = [f"  {architecture.name} needs {'; '.join(obstacles)}" for architecture, obstacles in tried]
    raise UserError("\n".join(["no architecture of transformers that lehr knows computes this model:", *lines]))


def architecture_called(names: Sequence[str], architectures: Sequence[Architecture], *, source: str) -> Architecture:
    """Returns the architecture that config.json names in `architectures`. Raises UserError if lehr does not know it."""
    for architecture in architectures:
        if list(names) == [architecture.name]:
            return architecture
    known = ", ".join(architecture.name for architecture in architectures)
    raise UserError(f"{source}: architectures = {list(names)}; lehr imports {known}")


def lookup(config: ModelConfig, key: str) -> Any:
    """Returns the value of a dotted key; None if the chosen method has no such key."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


def _nested(values: Mapping[str, object]) -> dict[str, Any]:
    """Turns {"norm.eps": 1} into {"norm": {"eps": 1}}."""
    plain: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (plain.setdefault(section, {}) if section else plain)[name] = value
    return plain


def _heads_and_layers_not_in_lehr(plain: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """Returns what else lehr does not have: heads of an independent size, layers that attend to some tokens."""
    wrong = []
    hidden, heads, size = values.get("hidden_size"), values.get("num_heads"), plain.get("head_dim")
    if isinstance(hidden, int) and isinstance(heads, int) and size is not None and size * heads != hidden:
        wrong.append(
            f"head_dim = {shown(size)}, and lehr has only hidden_size / num_attention_heads = {hidden}/{heads}"
        )
    kinds = plain.get("layer_types") or ()
    if any(kind != "full_attention" for kind in kinds):
        wrong.append(f"layer_types = {shown(sorted(set(map(str, kinds))))}, and lehr has only full_attention")
    return wrong
