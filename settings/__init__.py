"""How a YAML file and overrides become frozen, typed settings; the registry of methods.

The ground every room may stand on. It imports no other room.
"""

from settings.base import Settings
from settings.compose import compose, parse, read_yaml, to_yaml
from settings.errors import RunError, UserError
from settings.registry import Registry

__all__ = ["Registry", "RunError", "Settings", "UserError", "compose", "parse", "read_yaml", "to_yaml"]
