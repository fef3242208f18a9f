"""What a model is built from: frozen dataclasses whose fields are the keys of diffusers' config.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from ..errors import ArgumentError


@dataclass(frozen=True)
class Config:
    """Base class. A subclass's fields are diffusers' own, with diffusers' defaults: a key that a file lacks means that.

    class_name: `_class_name` in config.json; also_called: other classes whose files describe this model, and the keys
    by which they say so.
    fixed: keys that would change the mathematics, and the only value of each that is supported. outdated: the same
    for keys that only older files have. ignored: keys that change nothing here, and the value that is written.
    """

    class_name: ClassVar[str] = ""
    also_called: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    fixed: ClassVar[Mapping[str, Any]] = {}
    outdated: ClassVar[Mapping[str, Any]] = {}
    ignored: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def from_dict(cls, keys: Mapping[str, Any]) -> Self:
        """From the content of a config.json. Keys that begin with an underscore are the file's own business.

        Raises ArgumentError listing every key that is unknown, unsupported or of the wrong type.
        """
        cls._check_class(keys)
        known = {field.name for field in dataclasses.fields(cls)}
        fixed = {**cls.outdated, **cls.fixed}
        problems: list[str] = []
        values: dict[str, Any] = {}
        for key, value in keys.items():
            if key in known:
                values[key] = tuple(value) if isinstance(value, list) else value
            elif key in fixed:
                if value != fixed[key]:
                    problems.append(f"{key} = {value!r}: only {fixed[key]!r} is supported")
            elif key not in cls.ignored and not key.startswith("_"):
                problems.append(f"{key} = {value!r}: unknown to {cls.class_name}")
        problems += cls._misfits(values)
        if problems:
            raise ArgumentError("the configuration does not fit:\n  " + "\n  ".join(problems), op=cls.__name__)
        return cls(**values)

    @classmethod
    def _check_class(cls, keys: Mapping[str, Any]) -> None:
        """Raises ArgumentError for the configuration of another class."""
        name = keys.get("_class_name", cls.class_name)
        told = {cls.class_name: {}, **cls.also_called}.get(name)
        if told is None or any(keys.get(key) != value for key, value in told.items()):
            sign = "".join(f", or a {name} with {key} = {value!r}" for key, value in (told or {}).items())
            raise ArgumentError(
                f"the configuration is that of a {name}, expected a {cls.class_name}{sign}", op=cls.__name__
            )

    @classmethod
    def _misfits(cls, values: Mapping[str, Any]) -> list[str]:
        """One line for each value of the wrong type."""
        hints = get_type_hints(cls)
        return [
            f"{key} = {value!r}: expected {getattr(hints[key], '__name__', hints[key])}"
            for key, value in values.items()
            if not _fits(value, hints[key])
        ]

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if problems := self._misfits(values) or self.contradictions():
            raise ArgumentError("the configuration does not fit:\n  " + "\n  ".join(problems), op=type(self).__name__)

    def contradictions(self) -> list[str]:
        """One line for every value that makes no sense; a subclass says which."""
        return []

    def as_dict(self) -> dict[str, Any]:
        """The content of a config.json that diffusers builds the same model from."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        whole = {**self.fixed, **self.ignored, **values}
        ordered = {key: list(v) if isinstance(v, tuple) else v for key, v in sorted(whole.items())}
        return {"_class_name": self.class_name, **ordered}

    def as_json(self) -> str:
        """The text of config.json."""
        return json.dumps(self.as_dict(), indent=2) + "\n"


def _fits(value: Any, hint: Any) -> bool:
    """True if `value` is what a field's type says: int, float, bool, str, X | None, tuple[int, ...]."""
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if get_origin(hint) is tuple:
        inner, *more = get_args(hint)
        sized = more == [...] or (isinstance(value, tuple) and len(value) == 1 + len(more))
        return isinstance(value, tuple) and sized and all(_fits(v, inner) for v in value)
    if parts := get_args(hint):
        return any(_fits(value, part) for part in parts)
    return isinstance(value, hint)


def positive(config: Config, *names: str) -> list[str]:
    """One line for each of these fields that is set and less than 1."""
    values = {name: getattr(config, name) for name in names}
    return [f"{name} = {v}: must be at least 1" for name, v in values.items() if v is not None and v < 1]
