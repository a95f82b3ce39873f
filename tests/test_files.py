"""Any text in a file, and any dict, is read as a value or refused by a ValueError that names the entry.

A valid dict is changed at every path, to hostile values and to values of hypothesis, which also makes whole files.
"""

import copy
import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clrfast import BatchSizes, LRCurve, Recipe, Schedule
from clrfast import _saving as saving
from clrfast.batch_size import StepCost
from clrfast.recipe import Study, TrialSpec
from clrfast.schedules import Curve
from tests.helpers.studies import make_settings, make_trial

GONE, MORE = object(), object()
"""In place of a value: leave out the entry; add an unknown entry beside it."""

HOSTILE = [
    *(GONE, MORE, None, True, False, -1, 0, 1, 0.5, 1e-3, 1e300, -1e300, 10**18, 10**400, float("nan"), float("inf")),
    *("", "1e-3", "1000", "abc", "nan", "-inf", "\0", [], {}, [[]], [{}], {"kind": "Constant"}, {"kind": "Nothing"}),
    *([1, "x", None], [3.0, 2.0, 1.0], [[[1.0]]], {"kind": "Scaled", "curve": 1, "factor": [1]}, {"0": 0}),
]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["1e-3", "inf"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def make_curve(n=12):
    lr = np.geomspace(1e-3, 1.0, n)
    loss = np.append(np.linspace(2.0, 1.0, n - 2), [3.0, np.inf])
    curve = LRCurve(lr, loss, 2.0, "diverged", "made by hand", np.linspace(2.0, 1.0, n), "validation loss", 0.9)
    return replace(curve, update_steps=n, extra_forward_passes=1)


def make_study():
    """A study with a trial of every kind, which no search produces."""
    settings = make_settings(
        1000, optimizers=("sgd", "adamw"), find_batch_size=True, seconds=9.0, deadline=99.0, sampler="TPESampler"
    )
    sizes = BatchSizes(8, 4, "memory", "it is full", (StepCost(4, 0.1, 10, 5), StepCost(8, 0.3, 20, 5)))
    curve = make_curve()
    decay = TrialSpec("weight decay/sgd/0/0", "weight decay", "sgd", 3, 0.1, 0.0, (0.95, 0.85), batch_size=4)
    momentum = replace(decay, key="momentum/sgd/0.9/0", stage="momentum", momentum=0.9)
    results = [
        (TrialSpec("range test/sgd", "range test", "sgd", 112), replace(curve, repeats=(make_curve(13),))),
        (TrialSpec("range test/adamw", "range test", "adamw", 112, batch_size=8), curve),
        (TrialSpec("batch size", "batch size", "adamw", 0), sizes),
        (TrialSpec("range test/sgd/weight decay", "range test", "sgd", 112, weight_decay=0.01), curve),
        *((replace(decay, weight_decay=x, repeat=i), 1.0 + x + i) for x in (0.0, 1e-3) for i in (0, 1)),
        *((replace(momentum, momentum=x, repeat=i), 1.0 + i) for x in (0.9, 0.95, (0.9, 0.85)) for i in (0, 1)),
        (replace(decay, key="pair/0", stage="pair", optimizer="adamw", weight_decay=0.1), 0.5),
        (replace(decay, key="pair/1", stage="pair", weight_decay=0.1), 0.6),
    ]
    trials = (
        make_trial(spec, result, i, started=1.0, finished=2.0, seconds_per_step=0.01)
        for i, (spec, result) in enumerate(results)
    )
    return Study(settings, tuple(trials))


def loaded_schedule(data):
    schedule = Schedule.from_dict(data)
    assert Schedule.from_dict(schedule.to_dict()) == schedule
    schedule.table(3)


def dumped(data, path):
    path.write_text(json.dumps(data))
    return path


def schedule_data():
    """A schedule with every kind of curve, one inside another."""
    kinds = [
        {"kind": "Constant", "value": 0.1},
        {"kind": "Linear", "start": 0.1, "end": 0.2, "transition_steps": 4},
        {"kind": "Exponential", "start": 0.1, "end": 0.2, "transition_steps": 4},
        {"kind": "Cosine", "start": 0.1, "end": 0.2, "transition_steps": 4},
        {"kind": "Polynomial", "start": 0.2, "end": 0.1, "transition_steps": 4, "power": 2.0},
        {"kind": "ExponentialDecay", "start": 0.1, "gamma": 0.5, "decay_steps": 2, "stepwise": True},
        {"kind": "InverseSqrt", "start": 0.1, "scale_steps": 4},
        {"kind": "CosineRestarts", "start": 0.1, "end": 0.0, "period_steps": 2, "period_mult": 2},
        {"kind": "Tabulated", "values": [0.1, 0.2]},
        {"kind": "Triangular", "base": 0.1, "peak": 0.2, "up_steps": 2, "down_steps": 2, "amplitude": None},
        {"kind": "Clipped", "curve": {"kind": "Constant", "value": 0.1}, "low": 0.0, "high": 0.5},
        {"kind": "Repeated", "curve": {"kind": "Constant", "value": 0.1}, "period_steps": 3},
        {"kind": "Shifted", "curve": {"kind": "Constant", "value": 0.1}, "by_steps": -3},
        {"kind": "Stretched", "curve": 0.1, "factor": 3},
        {"kind": "Scaled", "curve": 0.1, "factor": 3},
    ]
    missing = set(Curve._kinds) - {kind["kind"] for kind in kinds} - {"Joined", "Function"}
    assert not {name for name in missing if Curve._kinds[name].__module__.startswith("clrfast.")}
    joined = {"kind": "Joined", "curves": kinds, "boundaries": list(range(1, len(kinds)))}
    return {"total_steps": 9, "lr": [joined, kinds[1]], "momentum": 0.9, "weight_decay": [None, "1e-4"]}


FORMATS = ["curve", "recipe", "schedule"]


@pytest.fixture(scope="module")
def formats(tmp_path_factory):
    """For each format a valid dict, and the function that loads it."""
    path = tmp_path_factory.mktemp("files") / "x.json"

    def written(save):
        save(path)
        return json.loads(path.read_text())

    return {
        "curve": (
            written(replace(make_curve(), repeats=(make_curve(13),)).save),
            lambda data: LRCurve.load(dumped(data, path)).save(path),
        ),
        "recipe": (written(make_study().write), lambda data: str(Recipe.load(dumped(data, path)))),
        "schedule": (schedule_data(), loaded_schedule),
    }


def paths(data):
    """The paths to all entries; of a list to the first and the last."""
    if isinstance(data, dict):
        entries = data.items()
    elif isinstance(data, list):
        entries = {i: data[i] for i in (0, len(data) - 1)}.items() if data else ()
    else:
        return
    for key, value in entries:
        yield (key,)
        for path in paths(value):
            yield (key, *path)


def changed(data, path, value):
    data = copy.deepcopy(data)
    *way, last = path
    entry = data
    for key in way:
        entry = entry[key]
    if value is GONE:
        del entry[last]
    elif value is MORE and isinstance(entry, dict):
        entry["unknown"] = 1
    else:
        entry[last] = None if value is MORE else value
    return data


def require_value_or_named(load, data, *names):
    """Accept a value, or a ValueError that names one of ``names``."""
    problem = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, of hostile losses
        try:
            load(data)
        except ValueError as error:
            problem = str(error)
    if problem is not None:
        assert len(problem) < 1500
        assert not names or any(re.search(rf"\b{re.escape(name)}\b", problem) for name in names), problem


@pytest.mark.parametrize("name", FORMATS)
def test_unchanged_data_load(name, formats):
    data, load = formats[name]
    load(data)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "recipe" else []) for name in FORMATS]
)
def test_a_hostile_value_at_any_path_is_accepted_or_its_entry_named(name, formats):
    data, load = formats[name]
    ways = list(paths(data))
    assert len(ways) > 20
    apart = 18 if name == "recipe" else 1  # a recipe takes long to conclude: each path gets two values, in turns
    for index, way in enumerate(ways):
        for value in HOSTILE[index % apart :: apart]:
            require_value_or_named(load, changed(data, way, value), way[0], "unknown")


@pytest.mark.parametrize("name", FORMATS)
@given(draw=st.data())
@settings(deadline=None, max_examples=50)
def test_any_json_at_a_path_is_accepted_or_its_entry_named(name, formats, draw):
    data, load = formats[name]
    way = draw.draw(st.sampled_from(list(paths(data))))
    require_value_or_named(load, changed(data, way, draw.draw(JSON)), way[0])


@pytest.mark.parametrize("name", FORMATS)
@given(made_up=JSON)
@settings(deadline=None, max_examples=100)
def test_any_json_is_accepted_or_a_value_error(name, formats, made_up):
    require_value_or_named(formats[name][1], made_up)


@pytest.mark.parametrize("load", [LRCurve.load, Recipe.load])
@given(content=st.binary(max_size=64) | st.text().map(str.encode))
@settings(deadline=None, max_examples=50)
def test_any_bytes_are_refused_by_an_error_with_the_path(load, content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"path: .*bytes\.json does not hold a saved"):
        load(path)


@pytest.mark.parametrize("load", [LRCurve.load, Recipe.load])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe\x00", "codec can't decode"),
        ('{"format": "x"}'.encode("utf-16"), "codec can't decode"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"9" * 5000, "integer string conversion"),
        (b"[1]", r"all of it: got \[1\]; give a dict"),
        (b"{}", "format: this entry is missing"),
        (b'{"format": ["clrfast.LRCurve/1"]}', "format: got .* give text"),
    ],
)
def test_other_files_are_refused(load, content, named, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.json does not hold a saved .*{named}"):
        load(path)


@pytest.mark.parametrize("load", [LRCurve.load, Recipe.load])
def test_a_folder_is_a_value_error_and_a_missing_file_an_os_error(load, tmp_path):
    with pytest.raises(ValueError, match=r"does not hold a saved .*it is a folder"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": [0.1, True]}, r"lr\[1\]: got True; give a number"),
        ({"lr": [0.2, 0.1]}, "lr: got .*ascending"),
        ({"loss": [1.0, {}]}, r"loss\[1\]: got {}"),
        ({"metric": 5}, "metric: got 5; give a list"),
        ({"losses": []}, "losses: this entry is unknown; known are lr, loss"),
        ({"repeats": [{"lr": [0.1]}]}, r"repeats\[0\].loss: this entry is missing"),
    ],
)
def test_an_entry_of_a_curve_is_named_by_its_path(changes, message, tmp_path):
    saving.write_json(
        tmp_path / "x.json", "clrfast.LRCurve/1", saving.to_plain(make_curve(2)) | {"metric": None} | changes
    )
    with pytest.raises(ValueError, match=rf"does not hold a saved LRCurve \({message}"):
        LRCurve.load(tmp_path / "x.json")
