"""Device time by kernel, on events as a profiler gives them."""

import pytest

from benchmarks.speed.kernels import Event, by_kernel, function_of
from benchmarks.tables.optimizer import kernel_summary

NAMES = {
    "void clrfast::(anonymous namespace)::update_kernel<float, clrfast::Entry>(clrfast::Launch)": "update_kernel",
    "clrfast::advance_kernel(clrfast::Advance)": "advance_kernel",
    "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::Metadata<3>, F<float>>(x)": (
        "multi_tensor_apply_kernel"
    ),
    "Memset (Device)": "Memset",
    "Memcpy DtoD (Device -> Device)": "DtoD",
    "aten::mul_": "aten::mul_",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_function_of_a_kernel_is_its_bare_name(name):
    assert function_of(name) == NAMES[name]


def events(*steps):
    """Steps of ``(name, length, gap before it)``, each after a fill and a sleep."""
    now, found = 0.0, []
    for step in steps:
        for name, length, gap in [("fill<int>(x)", 50, 5), ("spin_kernel(long)", 100, 1), *step]:
            found.append(Event(name, now + gap, now + gap + length))
            now += gap + length
    return found


SEPARATORS = {"fill<int>(x)", "spin_kernel(long)"}


def test_times_are_medians_over_the_steps_and_gaps_lie_between_launches():
    step = [("advance(a)", 3.5, 7), ("update<float>(u)", 4, 0.5), ("update<double>(u)", 1, 0.25)]
    slow = [("advance(a)", 9, 7), ("update<float>(u)", 40, 2), ("update<double>(u)", 10, 3)]
    found = by_kernel(reversed(events(step, slow, step)), SEPARATORS)
    assert found == {
        "launches": 3,
        "kernels": [{"name": "advance", "count": 1, "us": 3.5}, {"name": "update", "count": 2, "us": 5}],
        "gap_us": 0.75,
    }
    assert kernel_summary(found) == "1 advance 3.5 us, 2 update 5.0 us, gaps 0.8 us"


def test_a_fill_of_the_step_itself_counts():
    assert by_kernel(events([("fill<float>(x)", 2, 1)]), SEPARATORS)["kernels"] == [
        {"name": "fill", "count": 1, "us": 2}
    ]


def test_steps_without_launches_have_zeros():
    assert by_kernel(events([], []), SEPARATORS) == {"launches": 0, "kernels": [], "gap_us": 0}
