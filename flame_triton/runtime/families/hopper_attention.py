"""Launches of the Hopper attention kernels."""

from __future__ import annotations

from collections.abc import Sequence

from ...graph.plan import Argument, Descriptor, KernelRef, Operand, Slot
from ...ir.node import Value
from ...kernels.hopper import attention_configs as configs
from ...kernels.hopper.attention_configs import BLOCK_N, HopperBackward, HopperForward
from ...kernels.portable.attention_configs import Problem
from ...types import DType, float32, int32
from .attention_call import Call

_FORWARD = KernelRef("flame_triton.kernels.hopper.attention", "attention_forward")
_BACKWARD = KernelRef("flame_triton.kernels.hopper.attention_backward", "attention_backward")
_PREPARE = KernelRef("flame_triton.kernels.hopper.attention_tail", "prepare")
_FINISH = KernelRef("flame_triton.kernels.hopper.attention_tail", "finish")
_COMBINE = KernelRef("flame_triton.kernels.hopper.attention_tail", "combine")
_ADD_PARTS = KernelRef("flame_triton.kernels.hopper.attention_tail", "add_parts")

_ROWS = 64  # queries and keys from which the kernels' start pays


def serves(call: Call) -> bool:
    """True if the kernels can run the node: 16-bit operands that TMA can read, a positive scale, no dropout."""
    target, problem, attrs = call.lowering.target, call.problem, call.node.attrs
    if target.interpreted or target.arch != 90 or problem.dtype not in ("bfloat16", "float16"):
        return False
    if attrs["dropout"] or attrs["scale"] <= 0 or not problem.L or not problem.S:
        return False
    if not all(_indexable(call.extras[name], problem) for name in ("bias", "mask") if name in call.extras):
        return False
    count = 3 if call.node.op.name == "attention" else 4
    return all(_descriptor(call, x, 64, rows_first=i == 3) is not None for i, x in enumerate(call.node.inputs[:count]))


def large(problem: Problem) -> bool:
    """True if the kernels pay."""
    return min(problem.L, problem.S) >= _ROWS


def _indexable(extra: tuple[object, ...], problem: Problem) -> bool:
    """True if the scores of one head lie within 32-bit offsets."""
    strides = [s for s in extra[3:] if isinstance(s, int)]
    return strides[0] * problem.L + strides[1] * problem.S < 1 << 31


def _descriptor(call: Call, value: Value, rows: int, *, rows_first: bool = False) -> Descriptor | None:
    """TMA's view of q, k, v or g (stored rows first) as [batch, heads, rows, E]; None if it cannot read it."""
    operand, *strides = call.whole(value)
    shape = list(value.shape)
    if rows_first:
        shape[1], shape[2] = shape[2], shape[1]
        strides[1], strides[2] = strides[2], strides[1]
    size = value.dtype.itemsize
    lead = -(-shape[3] * size // 16) * 16 // size
    strides = [lead if d == 1 else s for d, s in zip(shape[:3], strides[:3], strict=True)]
    aligned = all(n * size % 16 == 0 for n in (operand.offset, *strides))
    if not aligned or min(strides) <= 0 or max(strides) * size >= 1 << 40:
        return None
    return Descriptor(operand, tuple(shape), (*strides, 1), (1, 1, rows, configs.width_of(call.problem)))


def _read(call: Call, value: Value, rows: int, *, rows_first: bool = False) -> Descriptor:
    found = _descriptor(call, value, rows, rows_first=rows_first)
    assert found is not None, "decided by serves"
    return found


def _result(call: Call, value: Value, rows: int) -> Descriptor:
    """A result [batch, rows, heads, E], dense, as [batch, heads, rows, E]."""
    batch, length, heads, width = value.shape
    strides = (length * heads * width, width, heads * width, 1)
    operand = Operand(call.lowering.slots[value], value.dtype)
    return Descriptor(operand, (batch, heads, length, width), strides, (1, 1, rows, configs.width_of(call.problem)))


def _masks(call: Call) -> tuple[Argument, Argument, Argument]:
    """lengths_ptr, bias, mask."""
    unused = Operand(call.lowering.slot(call.node.inputs[0]), int32)
    lengths = call.extras["lengths"][0] if "lengths" in call.extras else unused
    return lengths, call.extras.get("bias", ()), call.extras.get("mask", ())


def uneven(call: Call) -> bool:
    """True if blocks of queries see different numbers of keys."""
    return call.band > 0 or "lengths" in call.extras


def _constants(call: Call, even: bool) -> dict[str, object]:
    return {
        "SCALE": call.node.attrs["scale"],
        "EVEN": even and not uneven(call),
        "GROUP": call.problem.heads // call.problem.kv_heads,
        "HAS_LENGTHS": "lengths" in call.extras,
        "HAS_BIAS": "bias" in call.extras,
        "HAS_MASK": "mask" in call.extras,
        "BAND": call.band,
    }


def forward(call: Call, config: HopperForward) -> None:
    """One launch; a second one where the last tiles are cut along the keys."""
    lowering, node, problem = call.lowering, call.node, call.problem
    q, k, v = node.inputs[:3]
    o, lse = node.outputs
    width, processors = configs.width_of(problem), lowering.target.processors
    programs, cut = config.programs(problem, processors), config.cut(problem, processors)
    rows = 2 * programs * config.block_m
    work = [Slot("arena", rows * width * 4), Slot("arena", 2 * rows * 4)] if cut else []
    unused = lowering.slot(q)
    pointers = _pointers(work or [unused, unused], (float32, float32))
    results = [Operand(lowering.slots[x], x.dtype) for x in (o, lse)]
    lowering.emit(
        node, _FORWARD, (programs,),
        [
            _read(call, q, 64), _read(call, k, config.BLOCK_N), _read(call, v, config.BLOCK_N), _result(call, o, 64),
            results[1], *_masks(call), *call.bounds, problem.batch, problem.heads, problem.L, problem.S, *pointers,
        ],
        {
            **_constants(call, problem.S % config.BLOCK_N == 0),
            "CONSUMERS": config.CONSUMERS,
            "BLOCK_N": config.BLOCK_N,
            "STAGES": config.STAGES,
            "TURNS": config.TURNS,
            "TOGETHER": config.TOGETHER,
            "SPLIT": bool(cut),
            "SHARED_OUT": config.SHARED_OUT,
            "Q_IN_REGISTERS": config.Q_IN_REGISTERS,
            "REGISTERS": config.registers,
        },
        config.options, [lowering.slot(x) for x in node.inputs], [*(lowering.slots[x] for x in (o, lse)), *work],
        "hopper attention",
    )  # fmt: skip
    if cut:
        lowering.emit(
            node, _COMBINE, (cut, config.block_m // 16),
            [*pointers, *results, programs, config.tiles(problem), problem.heads, problem.L],
            {
                "DEPTH": config.depth(problem), "PARTS": configs.parts(programs, cut), "TILE_M": config.block_m,
                "BLOCK_L": 16, "E": problem.E, "BLOCK_E": width,
            },
            {"num_warps": 4}, work, [lowering.slots[x] for x in (o, lse)], "hopper attention, cut tiles",
        )  # fmt: skip


class _Work:
    """Scratch memory of the backward pass: row statistics, counters, and dq in float32."""

    def __init__(self, problem: Problem, block_m: int) -> None:
        heads = problem.batch * problem.heads
        self.blocks = -(-problem.L // block_m)
        self.rows = self.blocks * block_m
        self.lse, self.delta = (Slot("arena", heads * self.rows * 4) for _ in range(2))
        self.counters = Slot("arena", heads * self.blocks * 4)
        self.dq = Slot("arena", heads * problem.L * problem.E * 4)
        self._heads, self._block = heads, block_m

    @property
    def slots(self) -> list[Slot]:
        return [self.lse, self.delta, self.counters, self.dq]

    def statistic(self, slot: Slot) -> Descriptor:
        """lse or delta."""
        return Descriptor(Operand(slot, float32), (self._heads, self.rows), (self.rows, 1), (1, self._block))


def backward(call: Call) -> None:
    """Statistics in the form that TMA takes, the gradients, dk and dv of tiles that were cut, and dq rounded."""
    lowering, node, problem = call.lowering, call.node, call.problem
    ordered = getattr(lowering, "deterministic", True)
    processors = lowering.target.processors
    config = lowering.choose(
        node, "attention", {**call.facts("backward"), "ordered": ordered},
        lambda: configs.backward_configs(problem, uneven(call), processors, ordered),
        lambda: configs.backward_heuristic(problem, uneven(call), processors),
    )  # fmt: skip
    dq, *_ = node.outputs
    work = _Work(problem, config.BLOCK_M)
    heads = problem.batch * problem.heads
    tile = {"E": problem.E, "BLOCK_L": 64, "BLOCK_E": configs.width_of(problem)}
    lse, delta = node.inputs[4:6]
    lowering.emit(
        node, _PREPARE, (-(-work.rows // 64), heads),
        [call.whole(lse), call.whole(delta), *_pointers(work.slots, (float32, float32, int32, float32)),
         problem.heads, problem.L, work.rows, work.blocks],
        {**tile, "ZERO": not ordered or uneven(call)}, {"num_warps": 4}, [lowering.slot(x) for x in node.inputs],
        work.slots, "hopper attention, row statistics",
    )  # fmt: skip
    _emit_backward(call, config, work, ordered)
    lowering.emit(
        node, _FINISH, (-(-problem.L // 64), heads),
        [Operand(work.dq, float32), Operand(lowering.slots[dq], dq.dtype), problem.heads, problem.L],
        {"SCALE": node.attrs["scale"], **tile}, {"num_warps": 4}, [work.dq], [lowering.slots[dq]],
        "hopper attention, dq rounded",
    )  # fmt: skip


def _emit_backward(call: Call, config: HopperBackward, work: _Work, ordered: bool) -> None:
    """The pass over the scores, and what joins the parts of cut tiles."""
    lowering, node, problem = call.lowering, call.node, call.problem
    q, k, v, g = node.inputs[:4]
    results = node.outputs[1:]
    width, processors = configs.width_of(problem), lowering.target.processors
    programs, cut = config.programs(problem, processors), config.cut(problem, processors)
    cut_work = [Slot("arena", 2 * programs * 2 * BLOCK_N * width * 4)] if cut else []
    cut_pointer = Operand(cut_work[0] if cut else lowering.slot(q), float32)
    written = [lowering.slots[x] for x in results]
    sums = Descriptor(
        Operand(work.dq, float32), (problem.batch, problem.heads, problem.L, problem.E),
        (problem.heads * problem.L * problem.E, problem.L * problem.E, problem.E, 1),
        (1, 1, 64, config.dq_width(width)),
    )  # fmt: skip
    lowering.emit(
        node, _BACKWARD, (programs,),
        [
            _read(call, q, config.BLOCK_M), _read(call, k, 64), _read(call, v, 64),
            _read(call, g, config.BLOCK_M, rows_first=True), work.statistic(work.lse), work.statistic(work.delta), sums,
            *(_result(call, x, 64) for x in results), Operand(work.counters, int32), *_masks(call), *call.bounds,
            problem.batch, problem.kv_heads, problem.L, problem.S, cut_pointer,
        ],
        {
            **_constants(call, problem.S % BLOCK_N == 0),
            "ORDERED": ordered,
            "SPLIT": bool(cut),
            "TOGETHER": config.TOGETHER,
            "BLOCK_M": config.BLOCK_M,
            "STAGES": config.STAGES,
            "SLOTS": config.SLOTS,
        },
        {"num_warps": 4}, [*map(lowering.slot, node.inputs), *work.slots],
        [*written, work.dq, work.counters, *cut_work], "hopper attention backward",
    )  # fmt: skip
    if cut:
        lowering.emit(
            node, _ADD_PARTS, (cut, BLOCK_N // 16, 2),
            [cut_pointer, *(Operand(slot, x.dtype) for slot, x in zip(written, results, strict=True)), programs,
             config.tiles(problem), problem.batch * problem.kv_heads, problem.kv_heads, problem.S],
            {
                "TOGETHER": config.TOGETHER, "SCALE": node.attrs["scale"], "DEPTH": config.depth(problem),
                "PARTS": configs.parts(programs, cut),
                "TILE_N": BLOCK_N, "BLOCK_S": 16, "E": problem.E, "BLOCK_E": width,
            },
            {"num_warps": 4}, cut_work, written, "hopper attention backward, cut tiles",
        )  # fmt: skip


def _pointers(slots: Sequence[Slot], dtypes: Sequence[DType]) -> list[Operand]:
    return [Operand(slot, dtype) for slot, dtype in zip(slots, dtypes, strict=True)]
