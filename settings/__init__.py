"""The ground that every room may import: configs, the registry of methods, the two errors, and files.

`base` and `compose` turn a YAML file and overrides into frozen, typed settings; `registry` finds methods by name;
`declarations` says which keys may change when a run goes on; `differences` lists where two configs differ; `errors`
holds what is shown without a traceback; `files` writes files that appear complete or not at all. It imports no room.
"""

from settings.base import Settings
from settings.compose import compose, parse, read_yaml, to_yaml
from settings.declarations import may_change, may_move
from settings.errors import RunError, UserError
from settings.registry import Registry

__all__ = [
    "Registry",
    "RunError",
    "Settings",
    "UserError",
    "compose",
    "may_change",
    "may_move",
    "parse",
    "read_yaml",
    "to_yaml",
]
