"""Losses of the tasks, compared with values written by hand."""

import math

import pytest
import torch

from benchmarks.task_library import losses


def test_the_ranking_loss_is_over_the_pairs_of_which_one_is_more_relevant():
    scores, relevance = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    expected = math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))
    assert losses.PairwiseRankingLoss()(scores, relevance).item() == pytest.approx(expected)
    assert losses.PairwiseRankingLoss()(scores, torch.zeros(1, 3)).item() == 0


def test_a_scaled_loss_is_that_many_times_the_loss():
    loss = losses.ScaledLoss(torch.nn.MSELoss(), 0.01)
    assert loss(torch.tensor([1.0, 3.0]), torch.zeros(2)).item() == pytest.approx(0.05)


def test_the_angular_margin_makes_the_true_class_harder():
    cosines, label = torch.tensor([[0.5, 0.5]]), torch.tensor([1])
    assert losses.AngularMarginLoss(10, 0.0)(cosines, label).item() == pytest.approx(math.log(2))
    assert losses.AngularMarginLoss(10, 0.1)(cosines, label).item() == pytest.approx(math.log1p(math.e))


def test_the_temporal_loss_sums_over_all_places_of_the_classes():
    scores = torch.zeros(1, 2, 2)  # two places; class 1 at one of them or at both: three of four ways
    loss = losses.ConnectionistTemporalLoss()(scores, torch.tensor([[1]]))
    assert loss.item() == pytest.approx(-math.log(3 / 4))


def test_the_weighted_losses_weigh_what_their_names_say():
    targets = torch.tensor([[0.0, 0.5], [3.0, 2.0]])
    assert losses.WeightedHuber()(torch.tensor([1.0, 0.0]), targets).item() == pytest.approx((0.5 * 0.5 + 2 * 2.5) / 2)
    outputs, targets = torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[1.0, 1.0]])
    assert losses.ClassesAndValueLoss(10)(outputs, targets).item() == pytest.approx(math.log(2) + 40)
    assert losses.SummedSquares()(torch.ones(2, 3, 4), torch.zeros(2, 3, 4)).item() == 12


def test_the_supervised_contrastive_loss_leaves_out_a_sample_without_a_partner():
    embedded = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    loss = losses.SupervisedContrastiveLoss(0.5)
    assert loss(embedded, torch.tensor([0, 0, 1])).item() == pytest.approx(math.log1p(math.exp(-2)))
    assert loss(embedded, torch.tensor([0, 1, 2])).item() == 0


def test_the_planar_likelihood_is_that_of_torch():
    outputs, target = torch.tensor([[0.5, -1.0, 0.2, -0.4, 0.7]]), torch.tensor([[1.0, 2.0]])
    factor = torch.tensor([[math.exp(0.2), 0.0], [0.7, math.exp(-0.4)]])
    normal = torch.distributions.MultivariateNormal(outputs[0, :2], precision_matrix=factor @ factor.T)
    assert losses.PlanarGaussianNLL()(outputs, target).item() == pytest.approx(-normal.log_prob(target[0]).item())
