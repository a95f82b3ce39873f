"""The launch planner by itself: every element of every tensor is covered exactly once, within the limits."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

WORKS = st.lists(
    st.tuples(st.sampled_from([0, 1, 3, 4095, 4096, 4097, 50_000, 10**10]), st.integers(0, 6)), max_size=60
)


@settings(deadline=None, max_examples=300)
@given(works=WORKS, cells=st.integers(2, 40), slots=st.integers(1, 5), chunks=st.integers(3_000_000, 8_000_000))
def test_covers_everything_once(emulated, works, cells, slots, chunks):
    module = emulated[1]
    entry_bytes, slot_bytes = 32, 48
    bytes_ = cells * 40
    plans = module.plan(works, bytes_, entry_bytes, slot_bytes, slots, chunks)
    seen = []
    for entries, groups in plans:
        assert entries
        assert len(groups) == len(set(groups)) <= slots
        assert len(entries) * entry_bytes + len(groups) * slot_bytes <= bytes_
        begin = 0
        for work, chunk_end, tail, slot in entries:
            numel, group = works[work]
            assert groups[slot] == group
            assert 1 <= tail <= module.chunk_size
            assert (chunk_end - begin - 1) * module.chunk_size + tail == numel
            begin = chunk_end
            seen.append(work)
        assert begin <= chunks
    assert seen == [index for index, (numel, _) in enumerate(works) if numel]


def test_a_launch_is_filled_before_the_next_begins(emulated):
    plans = emulated[1].plan([(5, 0)] * 10, 5 * 32, 32, 32, 8, 1000)
    assert [len(entries) for entries, _ in plans] == [4, 4, 2]
