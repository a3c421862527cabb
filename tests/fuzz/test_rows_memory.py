"""The rows memory, used at random: regions never overlap, and what is pinned stays."""

from __future__ import annotations

import mmap

from hypothesis import given, settings
from hypothesis import strategies as st

from skills.skill_draft.rows_memory import Region, RowsMemory

PAGE = mmap.PAGESIZE
PAGES = 8
WISHES = st.lists(
    st.one_of(
        st.tuples(st.just("want"), st.integers(0, 9), st.integers(1, PAGES * PAGE)),
        st.tuples(st.just("unpin"), st.integers(0, 9), st.none() | st.integers(0, 9)),
        st.tuples(st.just("fail"), st.integers(0, 9), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(WISHES)
def test_regions_never_overlap_and_pinned_ones_stay_whatever_happens(wishes: list[tuple[str, int, int | None]]) -> None:
    memory = RowsMemory(PAGES * PAGE)
    pinned: dict[bytes, tuple[Region, set[int]]] = {}
    for what, number, other in wishes:
        key = b"%d" % number
        match what, other:
            case "want", int(size):
                found = memory.find(key)
                region = found or memory.allocate(key, size)
                if region is None:
                    assert pinned, "only pinned ones leave no room"
                    continue
                region.whole = True
                region.pins.add(number)
                pinned.setdefault(key, (region, set()))[1].add(number)
            case "unpin", _:
                memory.unpin(number, None if other is None else b"%d" % other)
                for name in [b"%d" % other] if other is not None else list(pinned):
                    if name in pinned:
                        pinned[name][1].discard(number)
                        if not pinned[name][1]:
                            del pinned[name]
            case "fail", _:
                if key not in pinned and memory.find(key):
                    memory.free(key)
        regions = sorted(memory._regions.values(), key=lambda region: region.offset)
        ends = [0, *(region.offset + region.size for region in regions)]
        assert all(end <= region.offset for end, region in zip(ends, regions, strict=False))
        assert ends[-1] <= memory.size
        assert all(memory.find(key) is region for key, (region, _) in pinned.items())
    memory.close()
