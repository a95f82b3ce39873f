"""Numbers, counts and densities of the rows of a table."""

from __future__ import annotations

from torch import nn

from ....task_library import data, models
from ....task_library.definition import BenchmarkTask, Split, build_task
from ....task_library.losses import (
    CoxPartialLikelihood,
    GaussianMixtureNLL,
    GaussianNLL,
    NegativeLogDensity,
    ScaledLoss,
)

REGRESSION = Split()


@REGRESSION.task(low=-6, high=0.5)
def diabetes_mlp(seed: int) -> BenchmarkTask:
    """Regression with standardized targets."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))

    return build_task(seed, model, nn.MSELoss(), data.diabetes(standardized=True), batch_size=32, steps=150)


@REGRESSION.task(low=-7, high=-1)
def diabetes_raw_targets(seed: int) -> BenchmarkTask:
    """Regression with targets around 150: the loss starts at 29,000, and only tiny rates work."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))

    return build_task(seed, model, nn.MSELoss(), data.diabetes(standardized=False), batch_size=32, steps=200)


@REGRESSION.task(low=-8.5, high=-1)
def friedman_sum(seed: int) -> BenchmarkTask:
    """Regression with a loss summed over the batch: the best rate is lower by the batch size."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 48), nn.Tanh(), nn.Linear(48, 1), nn.Flatten(0))

    return build_task(seed, model, nn.MSELoss(reduction="sum"), data.friedman(), batch_size=128, steps=250)


@REGRESSION.task(low=-4, high=2)
def friedman2_ohms(seed: int) -> BenchmarkTask:
    """Absolute error of targets around 500: the output has far to go with bounded gradients."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Linear(4, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 1), nn.Flatten(0))
        )

    return build_task(seed, model, nn.L1Loss(), data.friedman2(), batch_size=64, steps=250)


@REGRESSION.task(low=-5.5, high=1)
def teacher_student(seed: int) -> BenchmarkTask:
    """A ReLU network learns another one."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(0))

    return build_task(seed, model, nn.MSELoss(), data.teacher(), batch_size=64, steps=300)


@REGRESSION.task(low=-5, high=1)
def counts_poisson(seed: int) -> BenchmarkTask:
    """Poisson regression of counts, in batches of 1024."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0))

    return build_task(seed, model, nn.PoissonNLLLoss(), data.counts(), batch_size=1024, steps=150)


@REGRESSION.task(low=-5, high=1)
def uneven_noise(seed: int) -> BenchmarkTask:
    """Mean and standard deviation of a measurement: the negative log likelihood falls below zero."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 48), nn.GELU(), nn.Linear(48, 48), nn.GELU(), nn.Linear(48, 2))

    return build_task(seed, model, GaussianNLL(), data.uneven_noise(), batch_size=50, steps=300)


@REGRESSION.task(low=-4.5, high=1)
def lifetimes_cox(seed: int) -> BenchmarkTask:
    """A survival model with Cox's partial likelihood; some ends are never seen."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 1), nn.Flatten(0))

    return build_task(seed, model, CoxPartialLikelihood(), data.lifetimes(), batch_size=64, steps=250)


@REGRESSION.task(low=-5, high=0)
def arm_mixture(seed: int) -> BenchmarkTask:
    """A mixture density network: the angles of an arm for a position of its hand."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 16))

    return build_task(seed, model, GaussianMixtureNLL(4), data.arm(), batch_size=128, steps=300)


@REGRESSION.task(low=-6, high=0)
def sheet_flow(seed: int) -> BenchmarkTask:
    """A normalizing flow fits the density of points near a sheet: the loss falls below zero."""
    return build_task(
        seed,
        lambda: models.CouplingFlow(6, 24, 4),
        NegativeLogDensity(),
        data.curved_sheet(),
        batch_size=200,
        steps=300,
    )


@REGRESSION.task(low=-3.5, high=2)
def linear_map(seed: int) -> BenchmarkTask:
    """Quadratic: a valley seven octaves wide that ends at the stability limit."""
    return build_task(seed, lambda: nn.Linear(16, 16), nn.MSELoss(), data.linear_map(), batch_size=32, steps=100)


@REGRESSION.task(low=-4, high=2)
def diabetes_bs8(seed: int) -> BenchmarkTask:
    """320 noisy samples: six octaves are about as good, then all is lost at once."""
    loss_fn, arrays = nn.MSELoss(), data.diabetes(standardized=True)
    return build_task(seed, lambda: models.mlp(10, 32, 1, scalar=True), loss_fn, arrays, batch_size=8, steps=100)


@REGRESSION.task(low=-4, high=2)
def diabetes_linear(seed: int) -> BenchmarkTask:
    """Ill-conditioned, batches of 4: the best rate is 0.002, and noise decides."""
    loss_fn, arrays = nn.MSELoss(), data.diabetes(standardized=True)
    return build_task(seed, lambda: models.mlp(10, 1, scalar=True), loss_fn, arrays, batch_size=4, steps=200)


@REGRESSION.task(low=-4, high=2)
def friedman_bs16(seed: int) -> BenchmarkTask:
    """Noisy targets: the best rates are next to ones at which most seeds are lost."""
    loss_fn, arrays = nn.MSELoss(), data.friedman()
    return build_task(seed, lambda: models.mlp(10, 48, 48, 1, scalar=True), loss_fn, arrays, batch_size=16, steps=150)


@REGRESSION.task(low=-3.5, high=2.5)
def friedman_huber(seed: int) -> BenchmarkTask:
    """Bounded gradients: a shelf four octaves wide below the best rate, and a bad end above it without divergence."""

    def model() -> nn.Module:
        return models.mlp(10, 32, 1, activation=nn.Tanh, scalar=True)

    return build_task(seed, model, nn.HuberLoss(delta=0.3), data.friedman(), batch_size=64, steps=120)


@REGRESSION.task(low=-4, high=2)
def teacher_bs8(seed: int) -> BenchmarkTask:
    """Batches of 8 and hardly any label noise: the best rate is one octave below the first lost seeds."""
    loss_fn, arrays = nn.MSELoss(), data.teacher()
    return build_task(seed, lambda: models.mlp(20, 64, 1, scalar=True), loss_fn, arrays, batch_size=8, steps=200)


@REGRESSION.task(low=-4, high=2)
def teacher_bs500(seed: int) -> BenchmarkTask:
    """Four batches an epoch, smooth: the best rate is next to the cliff."""
    loss_fn, arrays = nn.MSELoss(), data.teacher()
    return build_task(seed, lambda: models.mlp(20, 64, 64, 1, scalar=True), loss_fn, arrays, batch_size=500, steps=100)


@REGRESSION.task(low=-2, high=3.5)
def teacher_hundredth(seed: int) -> BenchmarkTask:
    """A hundredth of the loss: the best rate is around 8."""
    loss_fn, arrays = ScaledLoss(nn.MSELoss(), 0.01), data.teacher()
    return build_task(seed, lambda: models.mlp(20, 32, 1, scalar=True), loss_fn, arrays, batch_size=32, steps=200)
