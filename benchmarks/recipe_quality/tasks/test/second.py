"""The test tasks that were written after results on the first ones were known."""

from __future__ import annotations

from torch import nn

from ....task_library import data, losses, models
from ....task_library.definition import BenchmarkTask, Split, build_task
from ..sizes import ADAMW_RANGE, RANGE, few

SECOND = Split()
"""Trained with SGD."""

ADAMW_SECOND = Split()
"""Trained with AdamW."""


@SECOND.task(**RANGE, packed=True)
def cifar_animals(seed: int) -> BenchmarkTask:
    """A residual network with batch norm tells animals from vehicles in 800 colour images."""
    images, labels, val_images, val_labels = data.cifar(800, 1000)
    animal, val_animal = (((part >= 2) & (part <= 7)).float() for part in (labels, val_labels))

    def block() -> list[nn.Module]:
        inner = models.Residual(
            *(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)),
        )
        return [inner, nn.ReLU()]

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(3, 16, 4, stride=4, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(*block(), *block(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0)),
        )

    arrays = images, animal, val_images, val_animal
    return build_task(seed, model, nn.BCEWithLogitsLoss(), arrays, batch_size=32, steps=250)


@SECOND.task(**RANGE, packed=True)
def mnist_siamese(seed: int) -> BenchmarkTask:
    """A CNN embeds 600 pairs of digits so that their distance tells whether both are of one class."""
    arrays = data.mnist_pairs(600, 1000)
    return build_task(seed, lambda: models.Siamese(14, 8, 16), nn.BCEWithLogitsLoss(), arrays, batch_size=30, steps=400)


@SECOND.task(**RANGE)
def diabetes_quantiles(seed: int) -> BenchmarkTask:
    """Three quantiles of a noisy target of 200 patients, by an MLP with layer norm and dropout."""

    def model() -> nn.Module:
        return models.mlp(10, 48, 48, 3, activation=nn.SiLU, layer_norm=True, dropout=0.1)

    arrays = few(data.diabetes(standardized=True), 200)
    return build_task(seed, model, losses.PinballLoss(0.1, 0.5, 0.9), arrays, batch_size=20, steps=600)


@SECOND.task(**RANGE)
def genetic_motifs(seed: int) -> BenchmarkTask:
    """Convolutions and the maximum over all places find two motifs in 500 genetic sequences of 40 letters."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv1d(4, 24, 8), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten()),
            *(nn.Dropout(0.2), nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 4)),
        )

    return build_task(seed, model, nn.CrossEntropyLoss(), few(data.motifs(40), 500), batch_size=25, steps=600)


@SECOND.task(**RANGE)
def molecules_messages(seed: int) -> BenchmarkTask:
    """Messages between atoms predict a property of 400 molecules: absolute error."""

    def model() -> nn.Module:
        return models.MessagePassing(4, 32, 3)

    return build_task(seed, model, nn.L1Loss(), few(data.molecules(12), 400), batch_size=25, steps=500)


@SECOND.task(**RANGE)
def heaps_set_attention(seed: int) -> BenchmarkTask:
    """Attention over sets of 16 points counts the heaps that they form, on 500 sets."""

    def model() -> nn.Module:
        return models.SetAttention(2, 24, 4)

    return build_task(seed, model, nn.CrossEntropyLoss(), few(data.heaps(16), 500), batch_size=20, steps=300)


@SECOND.task(**RANGE)
def delayed_feedback_causal(seed: int) -> BenchmarkTask:
    """Dilated causal convolutions with weight norm forecast a noisy chaotic series, by 300 stretches of it."""

    def model() -> nn.Module:
        return models.CausalConvolutions(16, (1, 2, 4, 8))

    arrays = few(data.delayed_feedback(32, ahead=4), 300)
    return build_task(seed, model, nn.SmoothL1Loss(), arrays, batch_size=20, steps=400)


@SECOND.task(**RANGE)
def word_ends_lstm(seed: int) -> BenchmarkTask:
    """A bidirectional LSTM finds the ends of words in prose without spaces, by 400 stretches of 16 letters."""
    arrays = few(data.run_together(16), 400)
    return build_task(
        seed, lambda: models.LetterTagger(26, 24), nn.BCEWithLogitsLoss(), arrays, batch_size=16, steps=400
    )


@SECOND.task(**RANGE)
def chords_multilabel(seed: int) -> BenchmarkTask:
    """An MLP with batch norm hears which of ten notes sound in 300 spectra."""

    def model() -> nn.Module:
        return nn.Sequential(
            *(nn.Linear(48, 96, bias=False), nn.BatchNorm1d(96), nn.Hardswish()),
            *(nn.Linear(96, 96, bias=False), nn.BatchNorm1d(96), nn.Hardswish(), nn.Linear(96, 10)),
        )

    return build_task(seed, model, nn.MultiLabelSoftMarginLoss(), few(data.chords(), 300), batch_size=20, steps=800)


@SECOND.task(**RANGE)
def wine_tasting_ordinal(seed: int) -> BenchmarkTask:
    """Gated layers learn the grades of 400 wines as ordered classes, without normalisation."""

    def model() -> nn.Module:
        gated = nn.Linear(11, 128), nn.GLU(), nn.Linear(64, 128), nn.GLU(), nn.Linear(64, 128), nn.GLU()
        return nn.Sequential(*gated, nn.Linear(64, 1), models.OrdinalThresholds(5))

    arrays = few(data.tasted_wines(), 400)
    return build_task(seed, model, losses.CumulativeLogitLoss(), arrays, batch_size=25, steps=800)


@ADAMW_SECOND.task(**ADAMW_RANGE)
def claims_embeddings(seed: int) -> BenchmarkTask:
    """Embeddings of regions and makes, and an MLP with dropout, predict the claims of 1,000 cars: Poisson's loss."""

    def model() -> nn.Module:
        return models.CategoriesAndNumbers((30, 20), 4, 8, 64, 0.1)

    return build_task(seed, model, nn.PoissonNLLLoss(), few(data.claims(), 1000), batch_size=50, steps=800)


@ADAMW_SECOND.task(**ADAMW_RANGE)
def facts_completion(seed: int) -> BenchmarkTask:
    """Embeddings of 80 entities and eight relations complete facts, by 900 of them."""

    def model() -> nn.Module:
        return models.FactCompletion(80, 8, 32)

    return build_task(seed, model, nn.CrossEntropyLoss(), few(data.facts(80, 8), 900), batch_size=50, steps=800)


@ADAMW_SECOND.task(**ADAMW_RANGE)
def dates_translation(seed: int) -> BenchmarkTask:
    """An encoder and a decoder with cross attention bring 500 written dates into one form."""

    def model() -> nn.Module:
        return models.Translator(len(data.DATE_CHARACTERS), data.DATE_LENGTHS, 24, 0.1)

    return build_task(seed, model, nn.CrossEntropyLoss(), few(data.dates(), 500), batch_size=20, steps=200)


@ADAMW_SECOND.task(**ADAMW_RANGE)
def moons_diffusion(seed: int) -> BenchmarkTask:
    """A diffusion model of two crescents: an MLP that knows the time predicts the noise on 500 points."""

    def model() -> nn.Module:
        return models.TimeModulatedMLP(2, 48, 3)

    return build_task(seed, model, nn.MSELoss(), few(data.diffused_moons(), 500), batch_size=50, steps=800)


@ADAMW_SECOND.task(**ADAMW_RANGE, packed=True)
def cifar_super_resolution(seed: int) -> BenchmarkTask:
    """A residual CNN with group norm doubles the resolution of colour images, by 100 of them: absolute error."""

    def model() -> nn.Module:
        inner = nn.Conv2d(24, 24, 3, padding=1), nn.GroupNorm(4, 24), nn.SiLU(), nn.Conv2d(24, 24, 3, padding=1)
        return nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1), models.Residual(*inner), nn.Conv2d(24, 12, 3, padding=1), nn.PixelShuffle(2)
        )

    return build_task(seed, model, nn.L1Loss(), data.cifar_halved(100, 800), batch_size=10, steps=300)


@ADAMW_SECOND.task(**ADAMW_RANGE, packed=True)
def fashion_class_token(seed: int) -> BenchmarkTask:
    """A vision transformer of two blocks, with dropout and a token for the class, on 600 images of 16 patches."""

    def model() -> nn.Module:
        return models.ClassTokenTransformer(28, 7, 24, 2, 0.1, 10)

    return build_task(seed, model, nn.CrossEntropyLoss(), data.fashion(600, 800), batch_size=20, steps=200)
