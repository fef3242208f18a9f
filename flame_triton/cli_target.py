"""What a command works on: the demo's step, or what a function of the user's returns."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from .errors import ArgumentError
from .ir.graph import Graph
from .ir.node import Value


def step_of(target: str, digits: Mapping[str, Any] | None = None) -> tuple[Graph, Mapping[Value, Value]]:
    """The graph and the state updates that `digits` or MODULE:FUNCTION names. Raises ArgumentError if there is none.

    FUNCTION takes nothing and returns a Graph, a Value, several Values, or a pair of that and a dict of updates.
    digits: fields of DigitsConfig for the demo's step.
    """
    if target == "digits":
        from .train.digits_model import DigitsConfig, training_graph

        step = training_graph(DigitsConfig(**(digits or {})))
        return Graph((step.images, step.labels), (step.loss, step.optimizer.grad_norm)), step.updates
    made = _result_of(target)
    updates: Mapping[Value, Value] = {}
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Mapping):
        made, updates = made
    if isinstance(made, Graph):
        return made, updates
    outputs = (made,) if isinstance(made, Value) else tuple(made) if isinstance(made, list | tuple) else ()
    if not all(isinstance(v, Value) for v in outputs) or not (outputs or updates):
        kind = type(made).__name__
        raise ArgumentError(f"{target} must return a Graph or Values, with or without a dict of updates, got {kind}")
    needed = Graph((), (*outputs, *updates.values())).nodes
    return Graph(tuple(n.out for n in needed if n.op.name == "input"), outputs), updates


def _result_of(target: str) -> Any:
    """What MODULE:FUNCTION returns; the module is looked for in the current folder first."""
    module_name, _, function_name = target.partition(":")
    if not module_name or not function_name:
        raise ArgumentError(f"expected 'digits' or MODULE:FUNCTION, got {target!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        try:
            function = getattr(import_module(module_name), function_name)
        except ImportError as error:
            raise ArgumentError(f"{module_name} cannot be imported: {error}") from error
        except AttributeError:
            raise ArgumentError(f"{module_name} has no {function_name}") from None
        return function()
    finally:
        sys.path.pop(0)
