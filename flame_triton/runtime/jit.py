"""Triton functions: put Triton into this process's mode, and find the function that a KernelRef names."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

from .. import config
from ..codegen.cache import PACKAGE, load_module
from ..errors import CompileError, DeviceError
from ..graph.plan import Descriptor, KernelRef
from .stable import settle

_WRAPPED = ("triton", "flame_triton.kernels", PACKAGE)
_COMPILED_ONLY = "triton.experimental.gluon"


@cache
def prepare() -> None:
    """Import triton and make sure that it compiles or interprets, as `config.interpreted` has decided.

    Triton chooses at its first import, which may have been somebody else's. Its own library can be made interpreted
    afterwards, function by function; it cannot be made compiled: that raises DeviceError.
    """
    interpreted = config.interpreted()
    import triton
    import triton.language as tl

    _name_launchers_apart()
    compiled = isinstance(tl.sum, triton.JITFunction)
    if interpreted and compiled:
        _interpret()
    elif not interpreted and not compiled:
        raise DeviceError(
            "triton was imported with TRITON_INTERPRET=1 before flame_triton chose to compile kernels for the GPU; "
            "unset TRITON_INTERPRET, or set FLAME_INTERPRET=1 to interpret them"
        )


def _name_launchers_apart() -> None:
    """Triton 3.6 builds a launcher for each signature, a C extension, and gives all of them one name. CPython keeps one
    module object for a name and fills it anew at each load, so threads that load kernels side by side could take each
    other's launcher. With names of their own they are different modules."""
    from triton.backends.nvidia import driver

    build: Any = driver.compile_module_from_src
    if getattr(build, "names_apart", False):
        return

    def compile_module_from_src(src: str, name: str, *args: Any, **options: Any) -> Any:
        if name != "__triton_launcher":
            return build(src, name, *args, **options)
        own = f"{name}_{hashlib.sha256(src.encode()).hexdigest()[:16]}"
        return build(src.replace(name, own), own, *args, **options)

    compile_module_from_src.names_apart = True  # type: ignore[attr-defined]
    driver.compile_module_from_src = compile_module_from_src


def _interpret() -> None:
    """Re-wrap every compiled function of triton's library and of our kernels as an interpreted one."""
    import triton
    from triton import knobs
    from triton.runtime.interpreter import InterpretedFunction

    knobs.runtime.interpret = True
    found: list[tuple[Any, str, Any]] = []
    for name, module in list(sys.modules.items()):
        ours = any(name == root or name.startswith(f"{root}.") for root in _WRAPPED)
        if ours and module is not None and not name.startswith(_COMPILED_ONLY):
            found += [(module, key, f) for key, f in vars(module).items() if isinstance(f, triton.JITFunction)]
    # A compiled function is hashed by its source and that of its callees: tell them apart by identity.
    wrapped = {id(function): InterpretedFunction(function.fn) for _, _, function in found}
    for module, key, function in found:
        setattr(module, key, wrapped[id(function)])


_held: dict[KernelRef, Any] = {}


def hold(ref: KernelRef, function: Any) -> None:
    """Make `ref`, which has a digest, mean a function that its module need not have under that name."""
    _held[ref] = function


@cache
def resolve(ref: KernelRef) -> Any:
    """The @jit function that `ref` names: imported, or from a generated module.

    Raises CompileError if there is no such function, DeviceError if it was decorated while triton was in the other
    mode.
    """
    prepare()
    if ref in _held:
        return _in_mode(ref, _held[ref])
    if ref.source is not None:
        module = load_module(ref.module, ref.source)
    else:
        try:
            module = importlib.import_module(ref.module)
        except ImportError as error:
            raise CompileError(f"the kernel module {ref.module} cannot be imported: {error}") from error
    function = getattr(module, ref.name, None)
    if function is None:
        raise CompileError(f"the module {ref.module} has no kernel called {ref.name!r}")
    return _in_mode(ref, function)


def _in_mode(ref: KernelRef, function: Any) -> Any:
    """The function. Raises DeviceError if it was decorated while triton was in the other mode."""
    import triton

    compiled = isinstance(function, triton.JITFunction)
    if compiled and config.interpreted():
        raise DeviceError(
            f"the kernel {ref.module}.{ref.name} was made for the GPU, and this process interprets kernels; import "
            "flame_triton before triton, and give every compiled-only kernel a portable twin"
        )
    if type(function).__name__ == "InterpretedFunction" and not config.interpreted():
        raise DeviceError(
            f"the kernel {ref.module}.{ref.name} was made for Triton's interpreter, and this process compiles kernels; "
            "import flame_triton before triton"
        )
    if compiled:
        settle(function)
    return function


@dataclass(frozen=True)
class Parameters:
    """The parameters of a Triton function: names in order, those on whose value (1 or not, a multiple of 16 or not) it
    is not specialised, and those on whose divisibility alone it is not."""

    names: tuple[str, ...]
    not_by_value: frozenset[str]
    not_by_alignment: frozenset[str]


@cache
def parameters(ref: KernelRef) -> Parameters:
    """The parameters of the function that `ref` names."""
    function = resolve(ref)
    names = tuple(function.arg_names)
    options = getattr(function, "kwargs", None) or vars(function)  # of an interpreted, of a compiled function

    def named(key: str) -> frozenset[str]:
        return frozenset(names[n] if isinstance(n, int) else n for n in options.get(key) or ())

    return Parameters(names, named("do_not_specialize"), named("do_not_specialize_on_alignment"))


def constexprs_of(ref: KernelRef) -> frozenset[str]:
    """The parameters of the function that `ref` names that are annotated as constexpr."""
    found = inspect.get_annotations(resolve(ref).fn)
    return frozenset(n for n, a in found.items() if "constexpr" in (a if isinstance(a, str) else repr(a)))


def descriptor(argument: Descriptor, base: Any) -> Any:
    """The TMA descriptor of an array whose first element is that of the tensor `base`, as Gluon kernels take it."""
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    layout: Any = gl.NVMMASharedLayout.get_default_for(list(argument.block), getattr(gl, argument.operand.dtype.name))
    return TensorDescriptor(base, list(argument.shape), list(argument.strides), list(argument.block), layout)


def known_trouble() -> str | None:
    """A sentence on a combination of versions that is known to fail in the interpreter, or None."""
    import numpy
    import triton

    if config.interpreted() and _version(triton.__version__) < (3, 7) and _version(numpy.__version__) >= (2, 4):
        return (
            f"triton {triton.__version__} does not interpret loops with NumPy {numpy.__version__}: install numpy<2.4 "
            "or triton>=3.7"
        )
    return None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])
