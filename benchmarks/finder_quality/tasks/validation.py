"""Tasks that were not used to choose any constant of a finder."""

from __future__ import annotations

from torch import nn

from ...task_library import data, models
from ...task_library.definition import BenchmarkTask, Split, build_task
from ...task_library.losses import GaussianNLL, NegativeLogDensity, TripletLoss

VALIDATION = Split()

# --- vision -----------------------------------------------------------------------------------------------------------


@VALIDATION.task(low=-8.5, high=-2, packed=True)
def mnist_linear_raw_pixels(seed: int) -> BenchmarkTask:
    """A linear model of pixels from 0 to 255: only tiny rates work."""
    train, train_labels, val, val_labels = data.mnist(8000, 1000)
    arrays = (255 * train, train_labels, 255 * val, val_labels)

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=256, steps=150)


@VALIDATION.task(low=-4, high=2, packed=True)
def mnist_triplet(seed: int) -> BenchmarkTask:
    """Embeddings of digits with a triplet loss."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(196, 64), nn.GELU(), nn.Linear(64, 16))

    return build_task(seed, model, TripletLoss(), data.mnist_triplets(5000, 1000), batch_size=32, steps=250)


@VALIDATION.task(low=-3, high=3.5, packed=True)
def mnist_tied_autoencoder(seed: int) -> BenchmarkTask:
    """An autoencoder with tied weights: cross entropy of every pixel."""
    train, _, val, _ = (part.flatten(1) if part.dim() > 2 else part for part in data.mnist(5000, 500))
    loss_fn = nn.BCEWithLogitsLoss()
    return build_task(
        seed, lambda: models.TiedAutoencoder(784, 64), loss_fn, (train, train, val, val), batch_size=128, steps=250
    )


@VALIDATION.task(low=-4, high=2, packed=True)
def fashion_residual_group_norm(seed: int) -> BenchmarkTask:
    """A residual network with group norm before every convolution."""

    def block() -> nn.Module:
        layers = [
            layer
            for _ in range(2)
            for layer in (nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, bias=False))
        ]
        return models.Residual(*layers)

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 4, stride=4), block(), block()),
            *(nn.GroupNorm(4, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(), data.fashion(6000, 500), batch_size=32, steps=150)


@VALIDATION.task(low=-4, high=2, packed=True)
def cifar_residual_batch_norm(seed: int) -> BenchmarkTask:
    """A residual network with batch norm after every convolution, and label smoothing."""

    def convolution(*arguments: int, **options: int) -> list[nn.Module]:
        layer = nn.Conv2d(*arguments, **options, bias=False)
        return [layer, nn.BatchNorm2d(layer.out_channels)]

    def block() -> list[nn.Module]:
        inner = models.Residual(*convolution(12, 12, 3, padding=1), nn.ReLU(), *convolution(12, 12, 3, padding=1))
        return [inner, nn.ReLU()]

    def model() -> nn.Module:
        return nn.Sequential(
            *(*convolution(3, 12, 4, stride=4), nn.ReLU(), *block(), nn.AvgPool2d(2)),
            *(*block(), nn.Flatten(), nn.Linear(192, 10)),
        )

    loss_fn = nn.CrossEntropyLoss(label_smoothing=0.1)
    return build_task(seed, model, loss_fn, data.cifar(8000, 500), batch_size=64, steps=150)


@VALIDATION.task(low=-4.5, high=1.5, packed=True)
def fashion_patch_attention(seed: int) -> BenchmarkTask:
    """A vision transformer on 16 patches, with dropout."""
    return build_task(
        *(seed, lambda: models.PatchAttention(28, 7, 24, 0.1, 10), nn.CrossEntropyLoss(), data.fashion(6000, 500)),
        batch_size=40,
        steps=150,
    )


@VALIDATION.task(low=-6, high=0)
def photograph_denoiser(seed: int) -> BenchmarkTask:
    """A residual CNN without normalisation removes noise: absolute error of every pixel."""

    def block() -> nn.Module:
        return models.Residual(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))

    def model() -> nn.Module:
        return nn.Sequential(*(nn.Conv2d(1, 8, 3, padding=1), block(), block()), nn.Conv2d(8, 1, 3, padding=1))

    return build_task(seed, model, nn.L1Loss(), data.noisy_patches(10), batch_size=16, steps=200)


# --- text and series --------------------------------------------------------------------------------------------------


@VALIDATION.task(low=-4, high=2.5)
def trigram_bag(seed: int) -> BenchmarkTask:
    """An embedding bag classifies snippets of text by their trigrams, with a margin loss."""

    def model() -> nn.Module:
        return nn.Sequential(nn.EmbeddingBag(1009, 24, mode="mean"), nn.ReLU(), nn.Linear(24, len(data.texts())))

    return build_task(seed, model, nn.MultiMarginLoss(), data.trigrams(128, 1009), batch_size=8, steps=400)


@VALIDATION.task(low=-4, high=2)
def lorenz_lstm(seed: int) -> BenchmarkTask:
    """An LSTM predicts a chaotic series, with Huber's loss."""
    arrays = data.lorenz(2500, length=20, ahead=4)
    return build_task(seed, lambda: models.LSTMRegressor(24), nn.HuberLoss(), arrays, batch_size=32, steps=200)


@VALIDATION.task(low=-6, high=0)
def waveforms_sum(seed: int) -> BenchmarkTask:
    """Convolutions along a series, with a cross entropy summed over the batch."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv1d(1, 12, 5, padding=2), nn.GELU(), nn.MaxPool1d(3)),
            *(nn.Conv1d(12, 12, 3), nn.GELU(), nn.Flatten(), nn.Linear(60, 3)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(reduction="sum"), data.waveforms(), batch_size=16, steps=150)


# --- tables -----------------------------------------------------------------------------------------------------------


@VALIDATION.task(low=-4.5, high=1.5)
def quantiles_narrow(seed: int) -> BenchmarkTask:
    """Four narrow layers with tanh, in batches of 4."""

    def model() -> nn.Module:
        layers = [layer for n in (3, 8, 8) for layer in (nn.Linear(n, 8), nn.Tanh())]
        for layer in layers:
            if isinstance(layer, nn.Linear):  # with torch's own, smaller weights one seed hardly trains at any rate
                nn.init.xavier_normal_(layer.weight, gain=nn.init.calculate_gain("tanh"))
        return nn.Sequential(*layers, nn.Linear(8, 4))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.gaussian_quantiles(), batch_size=4, steps=400)


@VALIDATION.task(low=-5.5, high=1)
def multilabel_wide(seed: int) -> BenchmarkTask:
    """One layer of width 4096 with dropout; each of twelve labels on its own."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(40, 4096), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4096, 12))

    return build_task(seed, model, nn.BCEWithLogitsLoss(), data.multilabel(), batch_size=24, steps=150)


@VALIDATION.task(low=-4, high=2)
def friedman2_ohms(seed: int) -> BenchmarkTask:
    """Absolute error of targets around 500: the output has far to go with bounded gradients."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Linear(4, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 1), nn.Flatten(0))
        )

    return build_task(seed, model, nn.L1Loss(), data.friedman2(), batch_size=64, steps=250)


@VALIDATION.task(low=-5, high=1)
def counts_poisson(seed: int) -> BenchmarkTask:
    """Poisson regression of counts, in batches of 1024."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0))

    return build_task(seed, model, nn.PoissonNLLLoss(), data.counts(), batch_size=1024, steps=150)


@VALIDATION.task(low=-5, high=1)
def uneven_noise(seed: int) -> BenchmarkTask:
    """Mean and standard deviation of a measurement: the negative log likelihood falls below zero."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 48), nn.GELU(), nn.Linear(48, 48), nn.GELU(), nn.Linear(48, 2))

    return build_task(seed, model, GaussianNLL(), data.uneven_noise(), batch_size=50, steps=300)


@VALIDATION.task(low=-6, high=0)
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
