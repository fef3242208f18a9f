"""flame_triton: static graphs of ops, reverse-mode gradients as graphs, and Triton kernels that run them.

A model is a pure graph of ops on symbolic Values (`input`, `parameter`, everything below); `grad` is a function from
graph to graph; `evaluate` runs a graph on NumPy in float64. Names and arguments are NumPy's for mathematics and
torch.nn.functional's for networks.
"""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import config

# Triton fixes at its first import whether kernels are compiled or interpreted: decide before anybody imports it.
config.interpreted()

from .graph.autodiff import grad
from .graph.evaluate import evaluate
from .graph.fused import fused
from .ir.node import Value
from .ops import public as _public
from .ops.public import *
from .types import (
    DType,
    bfloat16,
    bool_,
    dtype,
    float8_e4m3fn,
    float8_e5m2,
    float16,
    float32,
    float64,
    int32,
    int64,
    uint8,
)

if TYPE_CHECKING:
    from . import diffusion, models, nn, optim, testing
    from .runtime.bundle import load_bundle
    from .runtime.compile import compile
    from .runtime.program import Program
    from .runtime.state import State

# What needs torch is loaded when it is first asked for, so that `import flame_triton` and --help stay quick.
_LATER = {
    "compile": ".runtime.compile",
    "load_bundle": ".runtime.bundle",
    "Program": ".runtime.program",
    "State": ".runtime.state",
    "models": ".models",
    "nn": ".nn",
    "optim": ".optim",
    "testing": ".testing",
    "diffusion": ".diffusion",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'flame_triton' has no attribute {name!r}")
    module = import_module(_LATER[name], __name__)
    found = getattr(module, name) if name in ("compile", "load_bundle", "Program", "State") else module
    globals()[name] = found
    return found


# fmt: off
__all__ = [
    "__version__", "compile", "Program", "State", "nn", "optim", "testing", "grad", "evaluate", "Value", "DType",
    "dtype", "float64", "float32", "bfloat16", "float16", "int64", "int32", "uint8", "bool_", "fused",
    "float8_e4m3fn", "float8_e5m2", "load_bundle",
    "diffusion",
    "models",
]
# fmt: on
__all__ += _public.__all__
