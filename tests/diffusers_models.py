"""Our models against diffusers' own, in float64 on the CPU: outputs and the gradient of every parameter.

diffusers computes some parts in float32 whatever the model's dtype (sinusoids, rotary tables, the variance of an RMS
norm). `Lifted` computes those in float64 too, so that what remains is our error and not theirs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import flame_triton as ft

torch = pytest.importorskip("torch")

from diffusers_alone import diffusers  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._pytree import tree_map  # noqa: E402

Array = np.ndarray[Any, Any]


class Lifted(TorchFunctionMode):
    """Within it, whatever torch is asked to make or convert in float32 is float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def wider(x: Any) -> Any:
            return torch.float64 if x is torch.float32 else x

        func = torch.Tensor.double if func is torch.Tensor.float else func
        return func(*tree_map(wider, args), **tree_map(wider, kwargs or {}))


def theirs(name: str, config: Mapping[str, Any], seed: int = 0, dtype: Any = torch.float64) -> Any:
    """diffusers' model called `name`, with random weights everywhere: zeros at first would hide what is behind them."""
    module = getattr(diffusers, name)(**config).to(dtype).eval()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            fan_in = math.prod(parameter.shape[1:]) if parameter.ndim > 1 else 16
            drawn = rng.standard_normal(tuple(parameter.shape)) / math.sqrt(fan_in)
            parameter.copy_(torch.from_numpy(drawn + (1.0 if "norm" in _leaf(_) and parameter.ndim == 1 else 0.0)))
    return module


def shapes_of(name: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """name -> shape of all that diffusers' model stores; nothing is allocated."""
    with torch.device("meta"):
        module = getattr(diffusers, name)(**{k: v for k, v in config.items() if not k.startswith("_")})
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _leaf(name: str) -> str:
    """ "norm_q" of "blocks.0.attn.norm_q.weight"; nothing for a bias."""
    *_, owner, kind = ["", *name.split(".")]
    return owner if kind == "weight" else ""


def arrays_of(module: Any) -> dict[str, Array]:
    """A state_dict as arrays; bfloat16 by way of float32, which holds it exactly."""
    return {k: (v.float() if v.dtype == torch.bfloat16 else v).detach().numpy() for k, v in module.state_dict().items()}


Call = Callable[..., Any]


def run_theirs(
    module: Any, inputs: Mapping[str, Array], probe: Array, lifted: bool, fixed: Mapping[str, Array] | None = None
) -> tuple[Array, dict[str, Array]]:
    """The output, and d sum(output * probe) / d each parameter, and "input" for the first input.

    fixed: further arguments, which are no inputs of ours.
    """
    tensors = _tensors(inputs)
    first = next(iter(tensors.values())).requires_grad_()
    scope: contextlib.AbstractContextManager[Any] = Lifted() if lifted else contextlib.nullcontext()
    with scope:
        out = module(**tensors, **_tensors(fixed), return_dict=False)[0]
        (out * torch.from_numpy(probe)).sum().backward()
    grads = {name: p.grad.numpy() for name, p in module.named_parameters()}
    return out.detach().numpy(), {"input": first.grad.numpy(), **grads}


def _tensors(arrays: Mapping[str, Array] | None) -> dict[str, Any]:
    return {name: torch.from_numpy(np.array(array)) for name, array in (arrays or {}).items()}


def run_ours(
    model: Any,
    arrays: Mapping[str, Array],
    inputs: Mapping[str, Array],
    probe: Array,
    call: Call | None = None,
    *,
    device: str | None = "reference",
) -> tuple[Array, dict[str, Array]]:
    """The same of our model: `call(model, *inputs)`, by default model(*inputs). The reference computes in float64,
    other devices in the model's own dtype; None: that of this process's kernels.
    """
    values = [ft.input(a.shape, ft.dtype(a.dtype), name=name) for name, a in inputs.items()]
    out = call(model, *values) if call else model(*values)
    names = [name for name, _ in model.named_parameters()]
    kind = "float64" if device == "reference" else "float32"
    loss = ft.sum(ft.cast(out, kind) * ft.constant(probe, kind))
    grads = ft.grad(loss, [values[0], *model.parameters()])
    state = ft.State(model.parameters(None), device=device)
    model.load_state_dict(state, arrays)
    wide: dict[str, Any] = {"dtype": "float64"} if device == "reference" else {}
    program = ft.compile([out, *grads], values, state=state, device=device, **wide)
    y, *found = (np.asarray(tensor.cpu()) for tensor in program(*inputs.values()))
    return y, dict(zip(["input", *names], found, strict=True))


def differences(
    found: Mapping[str, Array], expected: Mapping[str, Array], floor: float = 1e-6
) -> Iterator[tuple[str, float]]:
    """(name, largest difference over the largest element), which is taken to be no smaller than `floor` times that of
    all: a gradient that is zero in exact arithmetic (a key's bias, which softmax does not see) is noise on both sides.
    """
    assert set(found) == set(expected)
    scales = {name: float(np.abs(array).max()) for name, array in expected.items()}
    least = floor * max(scales.values())
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        yield name, float(np.abs(found[name] - array).max()) / max(scales[name], least)


def assert_parity(
    model: type[Any],
    config: Mapping[str, Any],
    inputs: Mapping[str, Array],
    *,
    call: Call | None = None,
    fixed: Mapping[str, Array] | None = None,
    lifted: bool = True,
    tolerance: float = 1e-9,
) -> None:
    """Output and all gradients of `model` agree with diffusers' class on random weights.

    inputs: by the names of diffusers' forward, in the order of ours; `call(model, *inputs)` for another way to call it.
    fixed: what diffusers' forward takes besides.
    """
    module = theirs(model.config_type.class_name, config)
    ours = model.from_config(dict(module.config), dtype="float64")
    with torch.no_grad():
        shape = module(**_tensors(inputs), **_tensors(fixed), return_dict=False)[0].shape
    probe = np.random.default_rng(1).standard_normal(tuple(shape))
    expected, expected_grads = run_theirs(module, inputs, probe, lifted, fixed)
    found, grads = run_ours(ours, arrays_of(module), inputs, probe, call)
    errors = dict(differences({"output": found}, {"output": expected}))
    errors |= dict(differences(grads, expected_grads))
    wrong = {name: error for name, error in errors.items() if not error <= tolerance}
    assert not wrong, f"beyond {tolerance}: {wrong}"
