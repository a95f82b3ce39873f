"""Losses of the tasks that torch does not have in the form ``loss_fn(outputs, targets)``."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class NegativeLogDensity(nn.Module):
    """The mean of ``-outputs``: the outputs are log densities. Targets are ignored."""

    def forward(self, log_density: Tensor, _: Tensor) -> Tensor:
        return -log_density.mean()


class ScaledLoss(nn.Module):
    """``factor`` times another loss."""

    def __init__(self, loss: nn.Module, factor: float):
        super().__init__()
        self.loss, self.factor = loss, factor

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.factor * self.loss(outputs, targets)


class GaussianNLL(nn.Module):
    """Negative log likelihood of normal distributions, up to a constant.

    The outputs ``[B, 2]`` are the mean and the logarithm of the standard deviation.
    """

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        mean, log_std = outputs.unbind(1)
        return (log_std + 0.5 * ((targets - mean) * (-log_std).exp()).square()).mean()


class TripletLoss(nn.Module):
    """Triplet margin loss of embeddings ``[B, 3, n]``: anchor, positive, negative. Targets are ignored."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = nn.TripletMarginLoss()

    def forward(self, embedded: Tensor, _: Tensor) -> Tensor:
        return self.loss(*embedded.unbind(1))


class DiceAndCrossEntropy(nn.Module):
    """Cross entropy of every pixel plus the Dice loss of every image, for logits and masks ``[B, 1, H, W]``."""

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        shares = logits.sigmoid()
        both, sizes = (shares * masks).sum((1, 2, 3)), (shares + masks).sum((1, 2, 3))
        return functional.binary_cross_entropy_with_logits(logits, masks) + (1 - (2 * both + 1) / (sizes + 1)).mean()


class NegativeELBO(nn.Module):
    """Negative evidence lower bound of a variational autoencoder.

    The outputs are logits of the pixels, means and log variances of the code, side by side. The loss is the sum over
    the pixels plus ``beta`` times the divergence of the code; its mean over the batch.
    """

    def __init__(self, n_code: int, beta: float):
        super().__init__()
        self.n_code, self.beta = n_code, beta

    def forward(self, outputs: Tensor, pixels: Tensor) -> Tensor:
        logits, mean, log_var = outputs.split([outputs.shape[1] - 2 * self.n_code, self.n_code, self.n_code], 1)
        pixelwise = functional.binary_cross_entropy_with_logits(logits, pixels, reduction="none")
        divergence = 0.5 * (mean.square() + log_var.exp() - 1 - log_var)
        return (pixelwise.sum(1) + self.beta * divergence.sum(1)).mean()


class ContrastiveLoss(nn.Module):
    """Symmetric contrastive loss of similarities ``[B, B]``: row i belongs to column i. Targets are ignored."""

    def forward(self, logits: Tensor, _: Tensor) -> Tensor:
        own = torch.arange(len(logits))
        return 0.5 * (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own))


class PinballLoss(nn.Module):
    """Quantile loss: the outputs ``[B, n]`` are quantiles of the targets at ``levels``."""

    def __init__(self, *levels: float):
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels))

    def forward(self, quantiles: Tensor, targets: Tensor) -> Tensor:
        above = targets[:, None] - quantiles
        return torch.maximum(self.levels * above, (self.levels - 1) * above).mean()


class FocalLoss(nn.Module):
    """Focal loss of logits of one class: confident correct outputs weigh little (Lin et al. 2017)."""

    def __init__(self, gamma: float):
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return ((1 - (-losses).exp()) ** self.gamma * losses).mean()


class CumulativeLogitLoss(nn.Module):
    """Loss of ordered classes: output k is the logit that the class is above k."""

    def forward(self, logits: Tensor, grades: Tensor) -> Tensor:
        above = grades[:, None] > torch.arange(logits.shape[1])
        return functional.binary_cross_entropy_with_logits(logits, above.float())


class CoxPartialLikelihood(nn.Module):
    """Negative log partial likelihood of Cox, per observed end.

    The outputs are log risks, the targets ``[B, 2]`` observed times and whether the end was seen.
    """

    def forward(self, log_risks: Tensor, targets: Tensor) -> Tensor:
        latest_first = targets[:, 0].argsort(descending=True)
        log_risks, seen = log_risks[latest_first], targets[latest_first, 1]
        return (seen * (log_risks.logcumsumexp(0) - log_risks)).sum() / seen.sum().clamp(min=1)


class GaussianMixtureNLL(nn.Module):
    """Negative log likelihood of a mixture of ``n`` isotropic normal distributions.

    The outputs are ``[B, n * (2 + size of a target)]``: a logit, the logarithm of the standard deviation and the mean
    of each.
    """

    def __init__(self, n: int):
        super().__init__()
        self.n = n

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        size = targets.shape[1]
        logits, log_std, mean = outputs.unflatten(1, (self.n, 2 + size)).split([1, 1, size], 2)
        squares = ((targets[:, None] - mean) * (-log_std).exp()).square().sum(2)
        normal = -0.5 * squares - size * (log_std[:, :, 0] + 0.5 * math.log(2 * math.pi))
        return -(logits[:, :, 0].log_softmax(1) + normal).logsumexp(1).mean()


class ConnectionistTemporalLoss(nn.Module):
    """Negative log likelihood of a sequence of classes that may lie anywhere in the scores (Graves et al. 2006).

    The scores are ``[B, T, 1 + classes]``, of no class first; the targets are the classes ``[B, n]``, from 1.
    """

    def forward(self, scores: Tensor, targets: Tensor) -> Tensor:
        n, length = scores.shape[:2]
        lengths = torch.full((n,), length), torch.full((n,), targets.shape[1])
        return functional.ctc_loss(scores.log_softmax(2).transpose(0, 1), targets, *lengths)


class PairwiseRankingLoss(nn.Module):
    """Logistic loss of every pair of documents of a query of which one is more relevant; summed over a query's pairs.

    The scores and the relevances are ``[B, documents]``.
    """

    def forward(self, scores: Tensor, relevance: Tensor) -> Tensor:
        above, more_relevant = (part[:, :, None] - part[:, None, :] for part in (scores, relevance))
        return ((more_relevant > 0) * functional.softplus(-above)).sum((1, 2)).mean()


class AngularMarginLoss(nn.Module):
    """Cross entropy of ``scale`` times cosines ``[B, classes]``; that of the true class has to win by ``margin``."""

    def __init__(self, scale: float, margin: float):
        super().__init__()
        self.scale, self.margin = scale, margin

    def forward(self, cosines: Tensor, labels: Tensor) -> Tensor:
        reduced = cosines - self.margin * functional.one_hot(labels, cosines.shape[1])
        return functional.cross_entropy(self.scale * reduced, labels)


class WeightedHuber(nn.Module):
    """Huber's loss with a weight for every sample. The targets ``[B, 2]`` are values and weights."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        values, weights = targets.unbind(1)
        return (weights * functional.huber_loss(outputs, values, reduction="none")).mean()


class SummedSquares(nn.Module):
    """Squared error summed over every sample, and the mean over the batch."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().flatten(1).sum(1).mean()


class ClassesAndValueLoss(nn.Module):
    """Cross entropy of a class, plus ``weight`` times the squared error of a number.

    The outputs are the scores of the classes and the number; the targets ``[B, 2]`` the class and the number.
    """

    def __init__(self, weight: float):
        super().__init__()
        self.weight = weight

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        classes = functional.cross_entropy(outputs[:, :-1], targets[:, 0].long())
        return classes + self.weight * functional.mse_loss(outputs[:, -1], targets[:, 1])


class SupervisedContrastiveLoss(nn.Module):
    """Contrastive loss of embeddings ``[B, n]`` that draws samples of a class together (Khosla et al. 2020).

    The loss is the mean over the samples that share their class with another one.
    """

    def __init__(self, temperature: float):
        super().__init__()
        self.temperature = temperature

    def forward(self, embedded: Tensor, labels: Tensor) -> Tensor:
        unit = functional.normalize(embedded, dim=1)
        itself = torch.eye(len(labels), dtype=torch.bool)
        similar = (unit @ unit.T / self.temperature).masked_fill(itself, -math.inf)
        log_share = similar.log_softmax(1).masked_fill(itself, 0.0)
        same = (labels[:, None] == labels) & ~itself
        n_same = same.sum(1)
        return -((same * log_share).sum(1) / n_same.clamp(min=1)).sum() / (n_same > 0).sum().clamp(min=1)


class PlanarGaussianNLL(nn.Module):
    """Negative log likelihood of correlated normal distributions in the plane.

    The outputs ``[B, 5]`` are the two means, the logarithms of the diagonal of the Cholesky factor of the inverse
    covariance, and the entry below the diagonal.
    """

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        log_diagonal, below = outputs[:, 2:4], outputs[:, 4]
        first, second = (targets - outputs[:, :2]).unbind(1)
        diagonal = log_diagonal.exp()
        # The inverse covariance is factor @ factor.T with factor = [[diagonal 0, 0], [below, diagonal 1]].
        squares = (diagonal[:, 0] * first + below * second).square() + (diagonal[:, 1] * second).square()
        return (0.5 * squares - log_diagonal.sum(1) + math.log(2 * math.pi)).mean()
