"""The tasks on which the recipe may be changed."""

from __future__ import annotations

from torch import nn

from ...task_library import data, models
from ...task_library.definition import BenchmarkTask, Split, build_task
from .sizes import RANGE, few

DEVELOPMENT = Split()


@DEVELOPMENT.task(**RANGE)
def digits_cnn_batch_norm(seed: int) -> BenchmarkTask:
    """A CNN with batch norm on 300 digits."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(12, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(384, 10)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(), few(data.digits(), 300), batch_size=32, steps=500)


@DEVELOPMENT.task(**RANGE)
def digits_lower_half(seed: int) -> BenchmarkTask:
    """An MLP predicts the lower half of a digit from its upper half: squared error, 400 samples."""
    arrays = few(data.digits(), 400)
    upper, lower = ([part[:, 0, rows].flatten(1) for part in arrays[::2]] for rows in (slice(4), slice(4, None)))

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(32, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 32))

    return build_task(seed, model, nn.MSELoss(), (upper[0], lower[0], upper[1], lower[1]), batch_size=40, steps=1000)


@DEVELOPMENT.task(**RANGE)
def diabetes_mlp(seed: int) -> BenchmarkTask:
    """Regression of a noisy target on 242 patients: squared error."""

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(0)
        )

    arrays = few(data.diabetes(standardized=True), 242)
    return build_task(seed, model, nn.MSELoss(), arrays, batch_size=24, steps=600)


@DEVELOPMENT.task(**RANGE, packed=True)
def mnist_mlp_large_batch(seed: int) -> BenchmarkTask:
    """An MLP on 2,000 digits in batches of 500."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.mnist(2000, 2000), batch_size=500, steps=400)


@DEVELOPMENT.task(**RANGE)
def char_gru(seed: int) -> BenchmarkTask:
    """A GRU predicts the next character of prose."""
    text = data.characters(length=8)
    loss_fn = nn.CrossEntropyLoss()
    return build_task(seed, lambda: models.CharGRU(data.n_characters(), 32), loss_fn, text, batch_size=24, steps=300)


# --- test tasks until the recipe changed after a look at them --------------------------------------------------------


@DEVELOPMENT.task(**RANGE)
def digits_mlp_tiny_batch(seed: int) -> BenchmarkTask:
    """An MLP on 400 digits in batches of 8."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    return build_task(seed, model, nn.CrossEntropyLoss(), few(data.digits(), 400), batch_size=8, steps=1500)


@DEVELOPMENT.task(**RANGE)
def breast_cancer_mlp(seed: int) -> BenchmarkTask:
    """An MLP on 169 samples of two classes."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    arrays = few(data.bundled("breast_cancer", 169), 169)
    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=16, steps=600)


@DEVELOPMENT.task(**RANGE, packed=True)
def fashion_cnn(seed: int) -> BenchmarkTask:
    """A CNN with strides, without normalisation, on 2,000 images."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(784, 10)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(), data.fashion(2000, 2000), batch_size=32, steps=300)


@DEVELOPMENT.task(**RANGE, packed=True)
def cifar_cnn_batch_norm(seed: int) -> BenchmarkTask:
    """A CNN with strides and batch norm on 2,000 colour images."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
            *(nn.Conv2d(12, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(1024, 10)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(), data.cifar(2000, 2000), batch_size=32, steps=300)


@DEVELOPMENT.task(**RANGE)
def photograph_denoiser(seed: int) -> BenchmarkTask:
    """A residual CNN removes noise from 8 by 8 patches of photographs: squared error."""

    def model() -> nn.Module:
        inner = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
        return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), models.Residual(*inner), nn.Conv2d(8, 1, 3, padding=1))

    return build_task(seed, model, nn.MSELoss(), few(data.noisy_patches(8), 1000), batch_size=16, steps=400)


# --- test tasks until the search was rewritten -----------------------------------------------------------------------


@DEVELOPMENT.task(**RANGE)
def digits_attention(seed: int) -> BenchmarkTask:
    """A vision transformer on 500 digits of 16 patches, with layer norm and dropout."""
    digits = few(data.digits(), 500)
    loss_fn = nn.CrossEntropyLoss()
    return build_task(seed, lambda: models.PatchAttention(8, 2, 24, 0.1, 10), loss_fn, digits, batch_size=32, steps=300)


@DEVELOPMENT.task(**RANGE)
def text_by_characters(seed: int) -> BenchmarkTask:
    """An MLP classifies snippets of text by their character counts, on every eighth snippet."""
    inputs, targets, val_inputs, val_targets = data.snippets(length=96)
    arrays = inputs[::8], targets[::8], val_inputs, val_targets

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Linear(inputs.shape[1], 48), nn.LayerNorm(48), nn.GELU(), nn.Linear(48, len(data.texts()))
        )

    return build_task(seed, model, nn.CrossEntropyLoss(), arrays, batch_size=32, steps=600)


@DEVELOPMENT.task(**RANGE, packed=True)
def mnist_autoencoder(seed: int) -> BenchmarkTask:
    """An autoencoder of 500 digits with a code of 16 numbers: squared error of every pixel."""
    train, _, val, _ = (part.flatten(1) if part.dim() > 2 else part for part in data.mnist(500, 2000))

    def model() -> nn.Module:
        inner = nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 16), nn.Linear(16, 64), nn.Tanh()
        return nn.Sequential(*inner, nn.Linear(64, 784))

    return build_task(seed, model, nn.MSELoss(), (train, train, val, val), batch_size=25, steps=500)


@DEVELOPMENT.task(**RANGE, packed=True)
def fashion_mlp_dropout(seed: int) -> BenchmarkTask:
    """An MLP with dropout of one half on 1,000 images."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 96), nn.ReLU(), nn.Dropout(0.5), nn.Linear(96, 10))

    return build_task(seed, model, nn.CrossEntropyLoss(), data.fashion(1000, 2000), batch_size=50, steps=500)


@DEVELOPMENT.task(**RANGE)
def photograph_colours(seed: int) -> BenchmarkTask:
    """A network maps positions in a photograph to colours: squared error, sines, 1,000 pixels."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 64), models.Sine(8.0), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))

    return build_task(seed, model, nn.MSELoss(), few(data.pixels(every=8), 1000), batch_size=50, steps=800)


# --- trained with AdamW, too -----------------------------------------------------------------------------------------

ADAMW_DEVELOPMENT = Split(
    {
        make.__name__: DEVELOPMENT[make.__name__]
        for make in (digits_cnn_batch_norm, diabetes_mlp, digits_attention, text_by_characters, mnist_autoencoder)
    }
)
