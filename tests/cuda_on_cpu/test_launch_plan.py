"""The launch planner by itself: every element of every tensor is covered exactly once, within the limits."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

SIZES = st.sampled_from([0, 1, 3, 4095, 4096, 4097, 50_000, 10**10])
WORKS = st.lists(st.tuples(SIZES, st.integers(0, 6), st.sampled_from([4096, 8192])), max_size=60)


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
            numel, group, chunk = works[work]
            assert groups[slot] == group
            assert 1 <= tail <= chunk
            assert (chunk_end - begin - 1) * chunk + tail == numel
            begin = chunk_end
            seen.append(work)
        assert begin <= chunks
    assert seen == [index for index, (numel, *_) in enumerate(works) if numel]


def test_a_launch_is_filled_before_the_next_begins(emulated):
    plans = emulated[1].plan([(5, 0, 4096)] * 10, 5 * 32, 32, 32, 8, 1000)
    assert [len(entries) for entries, _ in plans] == [4, 4, 2]


@settings(deadline=None, max_examples=200)
@given(n_chunks=st.lists(st.integers(1, 5), min_size=1, max_size=300))
def test_every_block_finds_its_chunk(emulated, n_chunks):
    expected = [(index, k, k == n - 1) for index, n in enumerate(n_chunks) for k in range(n)]
    assert emulated[1].places(np.cumsum(n_chunks).tolist()) == expected


def test_a_block_finds_its_chunk_in_a_full_launch(emulated):
    n_tensors = emulated[0].tensors_per_launch
    assert emulated[1].places(list(range(1, n_tensors + 1))) == [(index, 0, True) for index in range(n_tensors)]
