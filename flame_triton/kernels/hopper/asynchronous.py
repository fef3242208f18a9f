"""What Gluon has no name for: adding to global memory by TMA, and counters that programs wait for."""

from __future__ import annotations

from triton._C.libtriton import ir
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language import _core


@_core.builtin
def add_to_global(tensor_desc, coord, src, _semantic=None):
    """Add a block in shared memory to global memory, elementwise; wait for it as for a TMA store."""
    where = _semantic._convert_to_ir_values(coord, require_i64=False)
    _semantic.builder.create_async_tma_reduce(ir.DESCRIPTOR_REDUCE_KIND.ADD, tensor_desc.handle, where, src.handle)


@gluon.jit
def read_counter(pointer):
    """The int32 at `pointer`; what its writer had stored before is visible to what follows."""
    address = pointer.to(gl.uint64, bitcast=True)
    return gl.inline_asm_elementwise(
        "ld.acquire.gpu.global.b32 $0, [$1];", "=r,l", [address], dtype=gl.int32, is_pure=False, pack=1
    )


@gluon.jit
def stored_then_count(pointer):
    """When the TMA stores and additions of this warp are done and visible, add 1 to the int32 at `pointer`."""
    address = pointer.to(gl.uint64, bitcast=True)
    gl.inline_asm_elementwise(
        """
        {
            .reg .pred leader;
            .reg .b32 lane;
            elect.sync lane|leader, 0xffffffff;
            cp.async.bulk.wait_group 0;
            fence.proxy.async.global;
            @leader red.release.gpu.global.add.s32 [$1], 1;
            mov.b32 $0, 0;
        }
        """,
        "=r,l", [address], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip
