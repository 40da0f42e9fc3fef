"""Registries find methods by name: a method is one file in its room, with a frozen config class that builds it.

    OPTIMIZERS = Registry("optimizer", room="optim", base=OptimizerConfig)

    @OPTIMIZERS.register
    class AdamWConfig(OptimizerConfig):
        name: Literal["adamw"] = "adamw"
        beta1: float = 0.9

A field of another section takes any registered method, by name or as a mapping with a `name`:

    norm: Annotated[NormConfig, NORMS.field] = RMSNormConfig()

The modules of the room are imported when a registry is asked for a name that it does not know yet, so a new file is
found without being named anywhere.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from settings.base import Settings
from settings.errors import UserError, nearest

T = TypeVar("T", bound=Settings)


class InvalidMethodError(ValueError):
    """A mistake in the config of a method. Its keys are looked up in the class of the method, `schema`."""

    def __init__(self, schema: type[BaseModel], error: ValidationError) -> None:
        super().__init__(str(error))
        self.schema = schema
        self.error = error


class Registry(Generic[T]):
    """Holds the methods of one kind by name."""

    def __init__(self, kind: str, *, room: str, base: type[T]) -> None:
        self.kind = kind
        self._room = room
        self._base = base
        self._classes: dict[str, type[T]] = {}
        self._complete = False

    def register(self, config_class: type[T]) -> type[T]:
        """Registers a config class under the default of its `name` field; for use as a class decorator."""
        # TypeError, not an assertion: a room can be imported while a config is validated, and pydantic would report a
        # failed assertion as the user's mistake.
        if not issubclass(config_class, self._base):
            raise TypeError(f"{config_class.__name__} is registered as a {self.kind} but is no {self._base.__name__}")
        name = config_class.model_fields["name"].default
        if not isinstance(name, str):
            raise TypeError(f'{config_class.__name__} needs a name with a default: name: Literal["x"] = "x"')
        if other := self._classes.get(name):
            raise TypeError(f"two {self.kind}s are called {name}: {other.__module__} and {config_class.__module__}")
        self._classes[name] = config_class
        return config_class

    def names(self) -> tuple[str, ...]:
        """Returns all registered names, sorted."""
        self._import_room()
        return tuple(sorted(self._classes))

    def __getitem__(self, name: str) -> type[T]:
        self._import_room(name)
        if name not in self._classes:
            raise UserError(f'no {self.kind} is called "{name}"{nearest(name, self._classes)}')
        return self._classes[name]

    def parse(self, value: object) -> T:
        """Returns a config from a name, a mapping with a `name`, or a config.

        Raises UserError, or InvalidMethodError for a mistake in the method's own keys.
        """
        if isinstance(value, self._base):
            return value
        if isinstance(value, str):
            return self._validate(self[value], {})
        if isinstance(value, Mapping):
            if not isinstance(value.get("name"), str):
                raise UserError(f"needs a `name` that says which {self.kind}{nearest('', self.names())}")
            return self._validate(self[value["name"]], dict(value))
        raise UserError(f"must be one of {', '.join(self.names())}, or a mapping with such a `name`")

    def _validate(self, schema: type[T], plain: dict[str, Any]) -> T:
        try:
            return schema.model_validate(plain)
        except ValidationError as error:
            raise InvalidMethodError(schema, error) from None

    @property
    def field(self) -> MethodField:
        """Returns what makes a field take any method of this registry: Annotated[Base, REGISTRY.field]."""
        return MethodField(self)

    @property
    def field_within(self) -> MethodFieldWithin:
        """Returns what makes a field of a method take another method of the same registry."""
        return MethodFieldWithin(self)

    def _import_room(self, wanted: str | None = None) -> None:
        """Imports all modules of the room, or until `wanted` is known, the module of that name first.

        The others may import torch.
        """
        if self._complete or wanted in self._classes:
            return
        package = importlib.import_module(self._room)
        names = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")]
        for name in sorted(names, key=lambda name: name != wanted):
            importlib.import_module(f"{self._room}.{name}")
            if wanted in self._classes:
                return
        self._complete = True


@dataclass(frozen=True)
class MethodField:
    """Makes pydantic read a field through a registry, and describe it as one of the registry's methods."""

    registry: Registry[Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.registry.parse, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Returns the name of a method, or a mapping with the name and further keys of the method."""
        names = self.registry.names()
        methods = [handler(self.registry[name].__pydantic_core_schema__) for name in names]
        return {"anyOf": [{"enum": list(names)}, *({**method, "required": ["name"]} for method in methods)]}


class MethodFieldWithin(MethodField):
    """Is described by the names of the methods alone: a method that holds any method has no finite description."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"enum": list(self.registry.names())}, {"type": "object", "required": ["name"]}]}
