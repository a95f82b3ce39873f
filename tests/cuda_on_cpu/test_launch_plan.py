"""The launch plans cover every element of every tensor exactly once, within the limits."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

SIZES = st.sampled_from([0, 1, 3, 4095, 4096, 4097, 50_000, 10**10])
TENSORS = st.lists(st.tuples(SIZES, st.integers(0, 6), st.sampled_from([4096, 8192])), max_size=60)


@settings(deadline=None, max_examples=300)
@given(
    tensors=TENSORS, cells=st.integers(2, 40), max_groups=st.integers(1, 5), chunks=st.integers(3_000_000, 8_000_000)
)
def test_the_plans_cover_every_element_once_and_within_the_limits(emulated, tensors, cells, max_groups, chunks):
    module = emulated[1]
    tensor_bytes, group_bytes = 32, 48
    bytes_ = cells * 40
    plans = module.plan(tensors, bytes_, tensor_bytes, group_bytes, max_groups, chunks)
    seen = []
    for planned, groups in plans:
        assert planned
        assert len(groups) == len(set(groups)) <= max_groups
        assert len(planned) * tensor_bytes + len(groups) * group_bytes <= bytes_
        begin = 0
        for index, chunk_end, tail, group_index in planned:
            numel, group, chunk = tensors[index]
            assert groups[group_index] == group
            assert 1 <= tail <= chunk
            assert (chunk_end - begin - 1) * chunk + tail == numel
            begin = chunk_end
            seen.append(index)
        assert begin <= chunks
    assert seen == [index for index, (numel, *_) in enumerate(tensors) if numel]


def test_a_launch_is_filled_before_the_next_begins(emulated):
    plans = emulated[1].plan([(5, 0, 4096)] * 10, 5 * 32, 32, 32, 8, 1000)
    assert [len(planned) for planned, _ in plans] == [4, 4, 2]


@settings(deadline=None, max_examples=200)
@given(n_chunks=st.lists(st.integers(1, 5), min_size=1, max_size=300))
def test_every_block_finds_its_chunk(emulated, n_chunks):
    expected = [(index, k, k == n - 1) for index, n in enumerate(n_chunks) for k in range(n)]
    assert emulated[1].find_chunks(np.cumsum(n_chunks).tolist()) == expected


def test_a_block_finds_its_chunk_in_a_full_launch(emulated):
    n_tensors = emulated[0].sgd_tensors_per_launch
    assert emulated[1].find_chunks(list(range(1, n_tensors + 1))) == [(index, 0, True) for index in range(n_tensors)]
