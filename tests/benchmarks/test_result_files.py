"""Rows and caches survive their files."""

import math

from benchmarks.result_files import read_cache, read_rows, rounded, write_cache, write_rows


def test_rows_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "folder" / "rows.json"
    assert read_rows(path) == []
    write_rows(path, [{"a": 1}, {"b": None}])
    assert read_rows(path) == [{"a": 1}, {"b": None}]


def test_a_cache_keeps_six_digits_and_infinity(tmp_path):
    path = tmp_path / "cache.json"
    assert read_cache(path) == {}
    write_cache(path, {"b": {"losses": [math.inf, 1.23456789]}, "a": 2})
    assert read_cache(path) == {"a": 2.0, "b": {"losses": [math.inf, 1.23457]}}
    assert [*read_cache(path)] == ["a", "b"]
    assert not path.with_suffix(".tmp").exists()


def test_no_path_means_no_cache():
    write_cache(None, {"a": 1})
    assert read_cache(None) == {}


def test_numbers_are_rounded_to_four_digits():
    assert rounded(0.000123456) == 0.0001235
