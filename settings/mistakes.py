"""The messages for wrong values of a config, in the words of YAML."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from settings.overrides import shorten

# The error types of pydantic whose rule does not depend on the field.
_RULES = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of at most 64 bits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "path_type": "must be a path",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of names to values, such as {name: value}",
    "model_type": "must be a section, such as {key: value}",
    "model_attributes_type": "must be a section, such as {key: value}",
    "invalid_key": "a key must be text; quote it",
}
# The error types whose rule has a number or choices, which pydantic gives.
_RULES_WITH_LIMITS = {
    "greater_than": "must be greater than {gt:,g}",
    "greater_than_equal": "must be at least {ge:,}",
    "less_than": "must be less than {lt:,}",
    "less_than_equal": "must be at most {le:,}",
    "too_short": "must have at least {min_length} item",
    "string_pattern_mismatch": "must match the pattern {pattern}",
}
# The rules of patterns in words.
_PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "must begin with a letter or digit, and may go on with letters, digits, ., _ and -"
}


class KeyMistakeError(ValueError):
    """A wrong value of the key `name` of a section, found by a check of the section."""

    def __init__(self, name: str, value: object, rule: str) -> None:
        super().__init__(f"{name} = {show_value(value)} {rule}")
        self.name = name
        self.value = value
        self.rule = rule


def without_alternatives(location: Sequence[str | int]) -> tuple[str | int, ...]:
    """Returns a location without the parts by which pydantic names the alternatives of a value, such as a union's."""
    return tuple(
        part for part in location if not re.match(r"(literal|lax-or-strict|function-\w+|nullable)\[", str(part))
    )


def show_value(value: object) -> str:
    """Returns a value as YAML would have it: null, true, "text", [1, 2]; a long one is cut."""
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return shorten(json.dumps(_plain(value), ensure_ascii=False, default=str))


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return value


def rule_of(item: Mapping[str, Any]) -> str:
    """Returns the rule that a value breaks, and what to do, for an error of pydantic."""
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "literal_error":
        expected = context["expected"].replace("'", "").replace(" or ", ", ")
        return f"must be one of {expected.replace('True', 'true').replace('False', 'false')}"  # as YAML writes them
    if kind == "string_pattern_mismatch" and context["pattern"] in _PATTERNS:
        return _PATTERNS[context["pattern"]]
    rule = _RULES.get(kind) or _RULES_WITH_LIMITS.get(kind, "").format(**context)
    if not rule:
        return str(item["msg"][:1].lower() + item["msg"][1:])
    if kind == "string_type" and isinstance(value, bool):
        return rule + '; YAML reads no, off, yes and on as false or true, so quote the word, such as "no"'
    if kind == "string_type" and isinstance(value, int | float):
        return rule + f"; quote it: '\"{value}\"'"
    if kind == "tuple_type" and not isinstance(value, Mapping) and value is not None:
        return rule + f", such as [{value if isinstance(value, str) else show_value(value)}]"
    return rule
