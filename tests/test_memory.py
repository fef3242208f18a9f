"""The memory plan: lifetimes, in-place groups, no overlap, quality and speed."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flame_triton.ops  # noqa: F401
from flame_triton.errors import GraphError
from flame_triton.graph import memory
from flame_triton.graph.memory import ALIGNMENT, least_bytes, plan_memory, verify_plan
from flame_triton.graph.plan import KernelRef, Launch, Operand, PointerTable, Schedule, Slot
from flame_triton.ops.leaf import input as make_input
from flame_triton.types import float32

NODE = make_input((2,)).node


def launch(reads: list[Slot], writes: list[Slot], args: tuple = ()) -> Launch:
    return Launch(KernelRef("m", "k"), (1,), args, {}, {}, tuple(reads), tuple(writes), NODE)


def schedule(launches: list[Launch], outputs: list[Slot], updates: list[tuple[Slot, Slot]] | None = None) -> Schedule:
    return Schedule(launches, {}, {}, {}, outputs, updates or [])


def planned(*args) -> Schedule:
    result = schedule(*args)
    plan_memory(result)
    verify_plan(result)
    return result


def arena(nbytes: int, alias: Slot | None = None) -> Slot:
    return Slot("arena", nbytes, alias=alias)


def span(slot: Slot) -> tuple[int, int]:
    return slot.offset, slot.offset + -(-slot.nbytes // ALIGNMENT) * ALIGNMENT


def apart(a: Slot, b: Slot) -> bool:
    return span(a)[1] <= span(b)[0] or span(b)[1] <= span(a)[0]


def test_nothing_to_plan() -> None:
    assert planned([], []).arena_bytes == 0


def test_a_dead_value_gives_its_memory_to_a_later_one() -> None:
    a, b, c = arena(1000), arena(1000), arena(1000)
    plan = planned([launch([], [a]), launch([a], [b]), launch([b], [c])], [c])
    assert a.offset == c.offset
    assert apart(a, b)
    assert plan.arena_bytes == 2 * 1024


def test_operands_and_results_of_one_launch_never_share() -> None:
    a, b = arena(512), arena(512)
    planned([launch([], [a]), launch([a], [b])], [b])
    assert apart(a, b)


def test_outputs_live_to_the_end() -> None:
    a, b, c = arena(512), arena(512), arena(512)
    planned([launch([], [a]), launch([], [b]), launch([b], [c])], [a, c])
    assert apart(a, b) and apart(a, c)


def test_pending_updates_live_to_the_end() -> None:
    new, b, c = arena(512), arena(512), arena(512)
    planned([launch([], [new]), launch([], [b]), launch([b], [c])], [c], [(Slot("state", 512), new)])
    assert apart(new, b) and apart(new, c)


def test_a_result_in_place_shares_and_lengthens_the_life() -> None:
    a, other, last = arena(512), arena(512), arena(512)
    b = arena(500, alias=a)
    c = arena(512, alias=b)
    plan = planned(
        [launch([], [a]), launch([a], [b]), launch([b], [c]), launch([], [other]), launch([c, other], [last])], [last]
    )
    assert a.offset == b.offset == c.offset
    assert apart(c, other)
    assert plan.arena_bytes == 3 * 512


def test_a_result_written_into_state_takes_no_arena() -> None:
    state = Slot("state", 4096)
    new = arena(4096, alias=state)
    assert planned([launch([state], [new])], []).arena_bytes == 0
    assert new.offset == -1


def test_only_arena_slots_are_placed() -> None:
    x, result = Slot("input", 4096), arena(100)
    assert planned([launch([x], [result])], [result]).arena_bytes == 512
    assert x.offset == -1


def test_empty_slots_take_nothing() -> None:
    a, b = arena(0), arena(512)
    assert planned([launch([], [a]), launch([a], [b])], [a, b]).arena_bytes == 512
    assert a.offset == 0


def test_a_large_value_goes_into_the_gap_that_fits_best() -> None:
    wide, narrow, keep, last = arena(4096), arena(1024), arena(512), arena(1024)
    plan = planned(
        [launch([], [wide]), launch([], [narrow]), launch([wide, narrow], [keep]), launch([keep], [last])], [keep, last]
    )
    assert plan.arena_bytes == least_bytes(plan)


def test_verify_sees_an_overlap() -> None:
    a, b = arena(1024), arena(512)
    plan = planned([launch([], [a]), launch([a], [b])], [b])
    b.offset = a.offset + 512
    with pytest.raises(GraphError, match="alive at the same time"):
        verify_plan(plan)


def test_verify_sees_what_lies_outside_or_is_misaligned() -> None:
    a = arena(1024)
    plan = planned([launch([], [a])], [a])
    for offset in (512, 8, -512):
        a.offset = offset
        with pytest.raises(GraphError, match="does not fit"):
            verify_plan(plan)


def test_verify_sees_a_broken_alias() -> None:
    a = arena(512)
    b = arena(512, alias=a)
    plan = planned([launch([], [a]), launch([a], [b])], [b])
    b.offset += 512
    with pytest.raises(GraphError, match="takes over"):
        verify_plan(plan)


def test_verify_sees_a_read_before_any_write() -> None:
    a, b = arena(512), arena(512)
    plan = schedule([launch([a], [b])], [b])
    plan_memory(plan)
    with pytest.raises(GraphError, match="nothing has written"):
        verify_plan(plan)


@pytest.mark.parametrize("wrap", [lambda o: o, lambda o: (1, (o,)), lambda o: PointerTable(((o,),))])
def test_verify_sees_a_pointer_that_is_not_declared(wrap) -> None:
    a, b = arena(512), arena(512)
    plan = schedule([launch([], [a]), launch([], [b], (wrap(Operand(a, float32)),))], [b])
    plan_memory(plan)
    with pytest.raises(GraphError, match="does not declare"):
        verify_plan(plan)


@st.composite
def schedules(draw) -> Schedule:
    """Random launches that read what was written before; some results are written over an operand read for the last
    time, some values are outputs."""
    count = draw(st.integers(1, 40))
    rng = random.Random(draw(st.integers(0, 1 << 30)))
    sizes = [0, 1, 511, 512, 513, 2000, 4096, 10_000]
    made: list[Slot] = []
    over: set[Slot] = set()
    launches = []
    for _ in range(count):
        usable = [s for s in made if s not in over]
        reads = rng.sample(usable, min(len(usable), rng.randrange(4)))
        writes = []
        for _ in range(rng.randrange(1, 3)):
            old = rng.choice(reads) if reads and rng.random() < 0.3 else None
            if old is not None and old not in over:
                over.add(old)
                writes.append(arena(rng.randrange(old.nbytes + 1), alias=old))
            else:
                writes.append(arena(rng.choice(sizes)))
        made += writes
        launches.append(launch(reads, writes))
    outputs = [s for s in made if s not in over and rng.random() < 0.1]
    return schedule(launches, outputs)


def run_on_tags(plan: Schedule) -> None:
    """Execute the plan on an arena whose every 512 bytes remember who wrote them last; every read must find its own."""
    tags: list[Slot | None] = [None] * (plan.arena_bytes // ALIGNMENT)

    def cells(slot: Slot) -> range:
        begin, end = span(slot)
        return range(begin // ALIGNMENT, end // ALIGNMENT)

    def check(slot: Slot) -> None:
        assert all(tags[i] is slot for i in cells(slot))

    for step in plan.launches:
        for slot in step.reads:
            check(slot)
        for slot in step.writes:
            for i in cells(slot):
                tags[i] = slot
        for slot in step.writes:
            check(slot)
    for slot in plan.outputs:
        check(slot)


@given(schedules())
def test_random_schedules_keep_every_value_until_its_last_read(plan: Schedule) -> None:
    plan_memory(plan)
    verify_plan(plan)
    run_on_tags(plan)
    assert plan.arena_bytes >= least_bytes(plan)


@given(schedules(), st.integers(0, 3))
def test_random_schedules_with_few_large_blocks(plan: Schedule, large: int) -> None:
    before = memory.LARGE
    memory.LARGE = large
    try:
        plan_memory(plan)
    finally:
        memory.LARGE = before
    verify_plan(plan)
    run_on_tags(plan)


def training_step(count: int) -> Schedule:
    """A forward pass whose values are all read again, last first, by a backward pass."""
    rng = random.Random(0)
    sizes = [1, 512, 4096, 1 << 20, 1 << 22, 3 * (1 << 20) + 5]
    slots = [arena(rng.choice(sizes)) for _ in range(count)]
    half = count // 2
    forward = [launch(slots[max(0, i - 1) : i], [slots[i]]) for i in range(half)]
    backward = [launch([slots[i - 1], slots[count - 1 - i]], [slots[i]]) for i in range(half, count)]
    return schedule(forward + backward, [slots[-1]])


@pytest.mark.parametrize(("count", "slack"), [(1000, 1.02), (12_000, 1.05)])
def test_a_training_step_is_planned_tightly(count: int, slack: float) -> None:
    plan = training_step(count)
    plan_memory(plan)
    verify_plan(plan)
    assert plan.arena_bytes <= slack * least_bytes(plan)


def test_fifty_thousand_slots_take_seconds() -> None:
    plan = training_step(50_000)
    start = time.perf_counter()
    plan_memory(plan)
    verify_plan(plan)
    assert time.perf_counter() - start < 15  # about 1 s on an idle core
