"""Models whose parameters carry diffusers' names, built from its config.json and loaded from its weights.

A model is a builder of graphs and holds no numbers. `from_pretrained` looks at the files, refuses what does not fit,
and makes each parameter start from its array in the file; the arrays are read when a State is made:

    model = ft.models.DiT.from_pretrained("DiT-XL-2-256/transformer", dtype="bfloat16")
    state = ft.State(model.parameters(None))
    ...
    model.save_pretrained("trained", state)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..errors import ArgumentError, StateError
from ..ir.node import Value
from ..nn.module import Module
from ..types import DTypeLike, float32
from ..types import dtype as as_dtype
from .config import Config
from .weights import CONFIG_FILE, Files, write_folder

if TYPE_CHECKING:
    from ..runtime.state import State


class Model(Module):
    """Base class. A subclass sets `config_type` and takes (config, *, dtype) in its constructor.

    config: what it was built from; dtype: of the parameters.
    """

    config_type: ClassVar[type[Config]] = Config

    def __init__(self, config: Any = None, *, dtype: DTypeLike = float32) -> None:
        self.config = self.config_type() if config is None else config
        self.dtype = as_dtype(dtype)

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | Any, *, dtype: DTypeLike = float32) -> Self:
        """A model with parameters at their initial values.

        config: the class's own Config, or a dict with the keys of diffusers' config.json. dtype: of the parameters.
        Raises ArgumentError listing every key that is unknown, unsupported or of the wrong type.
        """
        if isinstance(config, Mapping):
            config = cls.config_type.from_dict(config)
        if not isinstance(config, cls.config_type):
            raise ArgumentError(
                f"config must be a {cls.config_type.__name__} or a dict, got {config!r}", op=cls.__name__
            )
        return cls(config, dtype=dtype)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], *, dtype: DTypeLike | None = None) -> Self:
        """A model with the weights of a folder as diffusers writes it: config.json and safetensors, whole or sharded.

        dtype: of the parameters; what the file holds in another floating type is converted, rounded to nearest even.
        None: the type that the trained weights have in the file.

        Everything is checked now, and read when a State is made of the parameters. A float32 master of a parameter
        starts from the numbers in the file, before they are rounded to the parameter's own type.

        Raises ArgumentError for a configuration that is not supported; StateError for files that are missing or
        damaged, and one that lists every missing, unexpected and mis-shaped name; StateError for dtype=None and weights
        of several types.
        """
        config = cls.config_type.from_dict(_read_config(folder))
        files = Files(folder)
        wanted = dict(cls.from_config(config).named_parameters(None))
        files.check({name: value.type for name, value in wanted.items()})
        if dtype is None:
            dtype = files.common_dtype([name for name, v in wanted.items() if v.node.attrs["trainable"]])
        model = cls.from_config(config, dtype=dtype)
        model.start_from({name: files.initialiser(name) for name in wanted})
        return model

    def config_dict(self) -> dict[str, Any]:
        """The configuration with the keys of diffusers' config.json, `_class_name` included."""
        return self.config.as_dict()

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        state: State,
        *,
        bind: Mapping[Value, Value] | None = None,
        dtype: DTypeLike | None = None,
        max_shard_size: int | str = "10GB",
    ) -> None:
        """Write what `state` holds as a folder that diffusers loads: config.json and safetensors.

        bind: parameter -> parameter of the same state whose numbers are written in its place, as `optimizer.averages`
        or `optimizer.masters`, with their own dtype. dtype: convert all floats to this type; None keeps theirs.
        max_shard_size: bytes, or text such as "10GB"; larger weights are several files and an index.

        A folder that does not exist appears whole. In one that exists, files are replaced one by one; a crash in
        between leaves one that `from_pretrained` refuses or reads whole, never a mixture of shards.
        Raises StateError if a parameter is not in the State, or if the folder cannot be written.
        """
        bind = bind or {}
        values = {name: bind.get(value, value) for name, value in self.named_parameters(None)}
        for (name, value), own in zip(values.items(), self.parameters(None), strict=True):
            if value.shape != own.shape or value.dtype.is_float != own.dtype.is_float:
                raise StateError(f"{name}: {own.type} cannot be written from {value.type}")
        places = {name: state.place(value) for name, value in values.items()}
        write_folder(folder, self.config.as_json(), places, dtype, max_shard_size)


def _read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    path = os.path.join(folder, CONFIG_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise StateError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise StateError(f"{path} holds no JSON object")
    return found
