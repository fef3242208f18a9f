"""The kernel executor: memory to the byte, arena, capture."""

from __future__ import annotations

import gc
import time

import numpy as np
import pytest
import torch
from regression import DEVICES, KERNELS, Regression, floats, numpy
from torch.utils._python_dispatch import TorchDispatchMode

from flame_triton.errors import OutOfMemoryError
from flame_triton.ops.leaf import constant, parameter, stop_gradient
from flame_triton.ops.leaf import input as make_input
from flame_triton.runtime import buffers
from flame_triton.runtime.buffers import CudaGraph, MemoryInfo, Slab, rounded
from flame_triton.runtime.capture import CapturedStep, Saved
from flame_triton.runtime.compile import compile
from flame_triton.runtime.device import Device
from flame_triton.runtime.state import State
from flame_triton.types import TensorType, float32, int32


@pytest.mark.parametrize("device", KERNELS)
def test_peak_bytes_are_the_bytes_handed_out(device: str) -> None:
    gc.collect()
    count = buffers.counter(Device(device).memory)
    before = count.held
    model = Regression(device)
    x2 = stop_gradient(model.w)  # one state value is needed after its update
    step = compile(
        [model.loss, model.w, x2 + constant(np.ones((5, 3), np.float32))],
        [model.x, model.y],
        state=model.state,
        updates=model.updates,
    )
    assert count.held - before == model.state.nbytes, "nothing but the state before the first call"
    outputs = step(*model.arrays)
    gc.collect()
    assert count.held - before == step.peak_bytes
    count.reset_peak()
    del outputs
    outputs = step(*model.arrays)
    assert count.peak - before == step.peak_bytes
    del outputs, step, model, x2
    gc.collect()
    assert count.held == before


@pytest.mark.parametrize("device", KERNELS)
def test_the_arena_grows_with_the_largest_program_of_a_state(device: str) -> None:
    gc.collect()
    count = buffers.counter(Device(device).memory)
    w = parameter((), name="w", init=2)
    state = State([w], device=device)
    small_x, large_x = make_input((4, 4), name="x"), make_input((64, 64), name="x")
    small = compile([], [small_x], state=state, updates={w: w + (small_x @ small_x).sum()})
    array = np.ones((4, 4), np.float32)
    before = count.held
    small(array)
    one = count.held - before
    large = compile((large_x @ large_x).sum() + w, [large_x], state=state)
    assert count.held - before == one, "compiling allocates nothing"
    big = np.ones((64, 64), np.float32)
    assert float(large(big)) == 2 + 64 + 64**3
    small(array)
    assert float(large(big)) == 2 + 2 * 64 + 64**3
    held = count.held - before
    small(array)
    large(big)
    assert count.held - before == held
    del large, small
    gc.collect()


@pytest.mark.parametrize("device", KERNELS)
def test_what_does_not_fit_is_refused_before_the_first_launch(device: str, monkeypatch) -> None:
    model = Regression(device)
    step = model.step()
    before = model.state["w"].tobytes()
    monkeypatch.setattr(buffers, "memory_info", lambda memory: MemoryInfo(1024, 1 << 30))
    with pytest.raises(OutOfMemoryError) as caught:
        step(*model.arrays)
    message = str(caught.value)
    assert f"planned {step.peak_bytes:,} B (arena " in message and "1,024 B are available" in message
    assert "float32[8, 3]" in message and "regression.py" in message
    assert model.state["w"].tobytes() == before
    monkeypatch.undo()
    step(*model.arrays)
    assert model.state["w"].tobytes() != before


@pytest.mark.parametrize("device", DEVICES)
def test_peak_bytes_are_known_before_the_first_call(device: str) -> None:
    model = Regression(device)
    peak = model.step().peak_bytes
    assert peak >= model.state.nbytes + sum(rounded(a.nbytes) for a in model.arrays) + 512


class Operators(TorchDispatchMode):
    """Notes every torch operator that runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.add(function.overloadpacket.__name__)
        if function.overloadpacket.__name__ == "copy_":
            assert args[0].dtype == args[1].dtype
        return function(*args, **(kwargs or {}))


HOLDING_BYTES = {
    "empty", "new_empty", "set_", "view", "slice", "select", "as_strided", "detach", "lift_fresh", "copy_",
}  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_torch_computes_nothing(device: str) -> None:
    model = Regression(device)
    on_device = torch.from_numpy(model.arrays[0]).to(model.state.device.memory)
    step = model.step()
    if device == "cuda":
        step(*model.arrays)  # while a graph is recorded, torch prepares its own random numbers
    with Operators() as operators:
        for _ in range(3):
            step(*model.arrays)
        step(on_device, model.arrays[1])
        step(*model.arrays, borrow=True)
        step.find_non_finite(*model.arrays)
        model.state["w"]
    assert operators.seen <= HOLDING_BYTES, operators.seen


# --- capture ---


class Recorded:
    """Stands in for a CUDA graph: remembers what to run, and runs it when it is replayed."""

    def __init__(self, memory: str, record) -> None:
        self._record = record

    def replay(self) -> None:
        self._record()


def test_capture_advances_what_it_changes_once(monkeypatch) -> None:
    monkeypatch.setattr("flame_triton.runtime.capture.CudaGraph", Recorded)
    place, other = Slab([TensorType((3,), int32), TensorType((2,), float32)], "cpu").places
    for each in (place, other):
        each.write(np.ones(each.type.shape, each.type.dtype.numpy))
    runs = []

    def run() -> None:
        runs.append(place.read())
        place.write(place.read() * 2)

    step = CapturedStep(run, [place, other], "cpu")
    step()
    assert place.read().tolist() == [2, 2, 2] and len(runs) == 2
    step()
    assert place.read().tolist() == [4, 4, 4] and len(runs) == 3


def test_a_warm_up_that_fails_changes_nothing(monkeypatch) -> None:
    monkeypatch.setattr("flame_triton.runtime.capture.CudaGraph", Recorded)
    (place,) = Slab([TensorType((3,), int32)], "cpu").places
    place.write(np.ones(3, np.int32))

    def run() -> None:
        place.write(np.zeros(3, np.int32))
        raise RuntimeError("no such kernel")

    step = CapturedStep(run, [place], "cpu")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no such kernel"):
            step()
        assert place.read().tolist() == [1, 1, 1]


def test_without_room_for_a_copy_the_first_call_is_the_warm_up(monkeypatch) -> None:
    monkeypatch.setattr("flame_triton.runtime.capture.CudaGraph", Recorded)
    monkeypatch.setattr(buffers, "memory_info", lambda _: MemoryInfo(1023, 1 << 30))
    (place,) = Slab([TensorType((3,), int32)], "cpu").places
    place.write(np.ones(3, np.int32))
    runs = []

    def run() -> None:
        runs.append(place.read())
        place.write(place.read() * 2)

    step = CapturedStep(run, [place], "cpu")
    for calls, number in ((1, 2), (2, 4), (3, 8)):
        step()
        assert place.read().tolist() == [number] * 3 and len(runs) == calls


@pytest.mark.parametrize("available", [1 << 30, 0])
@pytest.mark.parametrize("memory", ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def test_saved_bytes_come_back_from_the_device_or_the_host(memory: str, available: int, monkeypatch) -> None:
    monkeypatch.setattr(buffers, "memory_info", lambda _: MemoryInfo(available, 1 << 30))
    places = Slab([TensorType((3,), int32), TensorType((2,), float32)], memory).places
    nan = np.array([0x7FC00001, 0x7FA00000], np.uint32).view(np.float32)  # a quiet and a signalling NaN
    places[0].write(np.arange(3, dtype=np.int32))
    places[1].write(nan)
    saved = Saved(places, memory)
    for place in places:
        place.write(np.zeros(place.type.shape, place.type.dtype.numpy))
    saved.restore()
    assert places[0].read().tolist() == [0, 1, 2] and places[1].read().tobytes() == nan.tobytes()


@pytest.mark.gpu
def test_a_cuda_graph_replays_copies() -> None:
    source, target = Slab([TensorType((1024,), float32)] * 2, "cuda:0").places
    graph = CudaGraph("cuda:0", lambda: target.copy_from(source))
    for seed in range(3):
        source.write(floats(1024, seed=seed))
        graph.replay()
        assert np.array_equal(target.read(), floats(1024, seed=seed))


@pytest.mark.gpu
def test_captured_and_uncaptured_runs_agree_to_the_bit() -> None:
    one, two = Regression("cuda"), Regression("cuda")
    captured, plain = one.step(), two.step(capture=False)
    for seed in range(4):
        arrays = floats(8, 5, seed=seed), floats(8, 3, seed=seed + 10)
        assert numpy(captured(*arrays)).tobytes() == numpy(plain(*arrays)).tobytes()
    assert one.state["w"].tobytes() == two.state["w"].tobytes()


@pytest.mark.gpu
def test_calls_on_different_streams_are_ordered() -> None:
    model = Regression("cuda")
    step = model.step()
    other = Regression("cuda")
    ordinary = other.step()
    for i in range(6):
        with torch.cuda.stream(torch.cuda.Stream()):
            loss = step(*model.arrays)
            torch.cuda.current_stream().synchronize()
        assert numpy(loss) == numpy(ordinary(*model.arrays)), i


@pytest.mark.gpu
def test_a_replay_costs_the_host_little() -> None:
    model = Regression("cuda")
    step = model.step()
    arrays = [torch.from_numpy(a).cuda() for a in model.arrays]
    for _ in range(20):
        step(*arrays)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(200):
        step(*arrays)
    elapsed = (time.perf_counter() - start) / 200
    torch.cuda.synchronize()
    assert elapsed < 500e-6  # the aim is 100 us; a busy host gets some slack
