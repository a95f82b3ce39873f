"""The series of a run and of a range test reach real loggers, which return them as they were."""

import math

import numpy as np
import pytest
import torch

import clrfast
from tests.helpers.curves import make_curve

STEPS = 5


@pytest.fixture(scope="module")
def control():
    """The control of a short run; its second update has no loss."""
    param = torch.nn.Parameter(torch.ones(2))
    optimizer = clrfast.SGD([param], schedule=clrfast.one_cycle(0.1, STEPS), clip_norm=1.0)
    for step in range(STEPS):
        param.grad = torch.ones(2)
        optimizer.step(loss=None if step == 1 else 1 / (1 + step))
    return optimizer.control


def wanted(control, curve):
    """The series that a logger must return: values by step, by name."""
    of_run = {"loss": control.losses.tolist(), "grad_norm": control.grad_norms.tolist()}
    of_run |= dict(zip(("lr", "momentum", "weight_decay"), control.host_table[:, 0].T.tolist(), strict=True))
    of_test = {"lr": curve.lr, "loss": curve.loss, "smoothed_loss": curve.smoothed}
    series = {
        **{f"clrfast/{name}": values for name, values in of_run.items()},
        **{f"lr_range_test/{name}": values.tolist() for name, values in of_test.items()},
        "lr_range_test/suggested_lr": [curve.suggest().max_lr],
    }
    return {
        name: {step: value for step, value in enumerate(values) if math.isfinite(value)}
        for name, values in series.items()
    }


@pytest.fixture
def curve():
    return make_curve()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard(control, curve, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        assert control.log_to(writer) == STEPS
        curve.log_to(writer)
    events = EventAccumulator(str(tmp_path)).Reload()
    found = {tag: {each.step: each.value for each in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    as_float32 = {
        name: {step: float(np.float32(value)) for step, value in each.items()}
        for name, each in wanted(control, curve).items()
    }
    assert found == as_float32


def test_mlflow(control, curve, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny comes without a database
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with mlflow.start_run() as run:
        control.log_to(mlflow)
        curve.log_to(mlflow)
    client, series = mlflow.MlflowClient(), wanted(control, curve)
    assert client.get_run(run.info.run_id).data.metrics.keys() == series.keys()
    for name, values in series.items():
        assert {each.step: each.value for each in client.get_metric_history(run.info.run_id, name)} == values


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["module", "run"])
def test_wandb(control, curve, tmp_path, monkeypatch, kind):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(mode="offline", dir=tmp_path, project="clrfast")
    writer = wandb if kind == "module" else run
    run.log({"epoch": 1}, step=100)  # W&B then takes no step below 100
    control.log_to(writer)
    curve.log_to(writer)
    summary, step = dict(run.summary), run.step
    run.finish()
    assert step == 100 + STEPS + len(curve.lr)  # no row was refused; the first one joins the open step 100
    for name, values in wanted(control, curve).items():
        assert summary[name] == list(values.values())[-1]
    assert (summary["clrfast/step"], summary["lr_range_test/step"]) == (STEPS - 1, len(curve.lr) - 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("kind", ["module", "run"])
def test_trackio(control, curve, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # read when the module is imported
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    run = trackio.init(project="clrfast", name=f"{tmp_path.name} {kind}", embed=False, auto_log_cpu=False)
    writer = trackio if kind == "module" else run
    control.log_to(writer)
    curve.log_to(writer)
    trackio.finish()
    found = {}
    for row in SQLiteStorage.get_logs("clrfast", run.name):
        for name, value in row.items():
            if "/" in name:
                found.setdefault(name, {})[row["step"]] = value
    assert found == wanted(control, curve)
