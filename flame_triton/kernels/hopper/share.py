"""How the programs of a persistent kernel share its tiles.

Each tile takes `depth` blocks of work. If the tiles do not fill the last wave, those left over can be cut: their blocks
are dealt to all programs evenly (stream-K, Osama et al. 2023), and the parts of a tile are added up afterwards.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def share(tiles, depth, SPLIT: gl.constexpr):
    """What this program does: (whole tiles, first block and end of its part of the cut tiles).

    Whole tiles are program, program + programs, ...; the blocks of the cut tiles, all in a row, are dealt evenly.
    """
    program = gl.program_id(0)
    programs = gl.num_programs(0)
    if SPLIT:
        cut = tiles % programs
        blocks = cut * depth
        return tiles // programs, blocks * program // programs, blocks * (program + 1) // programs
    else:
        return gl.cdiv(tiles - program, programs), 0, 0


@gluon.jit
def units(whole, begin, end, depth, SPLIT: gl.constexpr):
    """How many tiles and parts of tiles that is: a part of the cut blocks reaches into two tiles at most."""
    count = whole
    if SPLIT:
        if begin < end:
            count += (end + depth - 1) // depth - begin // depth
    return count


@gluon.jit
def unit(i, tiles, whole, begin, end, depth, SPLIT: gl.constexpr):
    """(tile, its first block, their end) of unit i of this program."""
    tile = gl.program_id(0) + i * gl.num_programs(0)
    first = 0
    last = depth
    if SPLIT:
        if i >= whole:
            cut = begin // depth + i - whole
            tile = tiles - tiles % gl.num_programs(0) + cut
            first = gl.maximum(begin - cut * depth, 0)
            last = gl.minimum(end - cut * depth, depth)
    return tile, first, last
