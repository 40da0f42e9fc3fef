"""Overrides of a config: `section.key=value` sets a key, and `~section.key` removes one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from settings.errors import UserError, nearest

REMOVE = "~"


def apply_override(config: DictConfig, override: str) -> None:
    """Applies one override to the config. Raises UserError if it has another form or fits no key.

    A value is YAML and replaces the value of the key as a whole. `optim.lr=1` over `optim: adamw` keeps the name. An
    item of a list is named by its number.
    """
    if override.startswith(REMOVE):
        _remove(config, override)
        return
    key, equals, text = override.partition("=")
    key = key.strip()
    try:
        override.encode()
    except UnicodeEncodeError:
        raise UserError(f'override "{override}" is no UTF-8 text; rename the path or convert the text') from None
    if not equals or not _is_key(key):
        raise UserError(f'override "{override}" must have the form section.key=value, or ~section.key to remove a key')
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
        assert isinstance(value, dict)
        parent = key.rpartition(".")[0]
        if parent and isinstance(name := OmegaConf.select(config, parent), str):
            OmegaConf.update(config, parent, {"name": name}, force_add=True)
        OmegaConf.update(config, key, value["value"], merge=False, force_add=True)
    except IndexError:
        raise UserError(f'override "{override}": {_no_such_item(config, override)}') from None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError) as error:
        raise UserError(f'override "{override}" cannot be applied: {one_line(error)}') from None


def section_override(key: str, section: Mapping[str, Any]) -> str:
    """Returns the override that replaces a whole section by plain values, such as `schedule={name: cosine}`."""
    text = yaml.safe_dump(dict(section), default_flow_style=True, sort_keys=False, width=10**6)
    return f"{key}={text.strip()}"


def is_override(word: str) -> bool:
    """Returns whether a word of the command line has the form of an override."""
    return "=" in word or word.startswith(REMOVE)


def is_set_by(key: str, override: str) -> bool:
    """Returns whether an override sets this dotted key, or the section that holds it."""
    return "=" in override and f"{key}.".startswith(f"{_target(override)}.")


def changes(key: str, override: str) -> bool:
    """Returns whether an override sets or removes this dotted key, the section that holds it, or a key within it."""
    target = _target(override)
    return f"{key}.".startswith(f"{target}.") or f"{target}.".startswith(f"{key}.")


def _target(override: str) -> str:
    """Returns the dotted key that an override sets or removes: `filters.0.name` for `filters[0].name=a`."""
    return override.partition("=")[0].removeprefix(REMOVE).strip().replace("[", ".").replace("]", "")


def _no_such_item(config: DictConfig, override: str) -> str:
    """Returns the message about an override of an item that a list of the config does not have."""
    parts = _target(override).split(".")
    for count, number in enumerate(parts[1:], start=1):
        key = ".".join(parts[:count])
        items = OmegaConf.select(config, key)
        if isinstance(items, ListConfig) and not -len(items) <= int(number) < len(items):
            has = f"{len(items)} item{'' if len(items) == 1 else 's'}"
            return f"the config has no {key}.{number}; {key} has {has}, counted from 0"
    raise AssertionError(f"no index of {override} is out of range")


def _remove(config: DictConfig, override: str) -> None:
    key = override.removeprefix(REMOVE).strip()
    if not _is_key(key) or "=" in key:
        raise UserError(f'override "{override}" must have the form ~section.key, without a value')
    parent, _, last = key.replace("[", ".").replace("]", "").rpartition(".")
    try:
        section: Any = OmegaConf.select(config, parent) if parent else config
    except OmegaConfBaseException as error:
        raise UserError(f'override "{override}" cannot be applied: {one_line(error)}') from None
    if isinstance(section, DictConfig) and (name := _key_in(section, last)) is not None:
        del section[name]
    elif isinstance(section, ListConfig) and last.isdecimal() and int(last) < len(section):
        del section[int(last)]
    else:
        known = [str(name) for name in section] if isinstance(section, DictConfig) else []
        raise UserError(f'override "{override}" removes nothing: the config has no key {key}{nearest(last, known)}')


def _key_in(section: DictConfig, name: str) -> Any:
    """Returns the key of this name; a key of YAML may also be a number or true."""
    return next((key for key in section if str(key) == name), None)


def _is_key(key: str) -> bool:
    """Returns whether the text is a key such as `data.filters[0].name`."""
    return re.fullmatch(r"[^.\[\]]+(\.[^.\[\]]+|\[[^.\[\]]+\])*", key) is not None


def one_line(error: Exception) -> str:
    """Returns the message of an error in one line, without OmegaConf's own lines about the node."""
    text = str(error).partition("\n    full_key:")[0]
    return shorten(" ".join(text.split()), 300)


def shorten(text: str, most: int = 120) -> str:
    """Returns the text, cut after `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
