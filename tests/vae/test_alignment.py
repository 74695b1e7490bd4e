import math

import pytest
import sklearn.metrics
import torch

from vae import alignment
from vae.alignment import dci, mutual_information_gap, separated_predictability
from vae.data.factors import Factors

FACTORS = Factors(("shape", "scale", "orientation", "x", "y"), (3, 4, 5, 6, 6))


def oracle():
    return FACTORS.levels(torch.arange(FACTORS.count)).float()


def rotated():
    standardised = (oracle() - oracle().mean(0)) / oracle().std(0)
    return standardised @ torch.linalg.qr(torch.randn(5, 5)).Q


def everything(encodings):
    found = dci(encodings, FACTORS)
    return [
        mutual_information_gap(encodings, FACTORS),
        separated_predictability(encodings, FACTORS),
        *found,
    ]


def test_an_encoder_that_separates_the_factors():
    noise = torch.randn(FACTORS.count, 2)
    encodings = torch.cat([noise, oracle()[:, [4, 0, 2, 1, 3]] * torch.tensor([1.0, -2, 0.1, 5, 1])], dim=1)
    mig, sap, disentanglement, completeness, informativeness = everything(encodings)
    assert mig > 0.97  # but for what 20 bins of noise seem to know of 2160 points
    assert sap > 0.85  # one interval each, and a third of the shapes are guessed
    assert min(disentanglement, completeness) > 0.98 and informativeness > 0.99


def test_a_rotation_lowers_all_but_what_is_known_in_all():
    separated, mixed = everything(oracle()), everything(rotated())
    for before, after in zip(separated[:4], mixed[:4]):
        assert after < 0.7 * before


def test_encodings_that_know_nothing():
    mig, sap, disentanglement, completeness, informativeness = everything(torch.randn(FACTORS.count, 10))
    assert max(mig, sap) < 0.03 and max(disentanglement, completeness) < 0.1
    assert informativeness == pytest.approx((1 / 3 + 1 / 4 + 1 / 5 + 1 / 6 + 1 / 6) / 5, abs=0.05)


def test_a_factor_that_two_dimensions_know_has_no_gap_and_is_not_complete():
    encodings = oracle()
    twice = torch.cat([encodings, encodings], dim=1)
    mig, sap, disentanglement, completeness, _ = everything(twice)
    assert mig == pytest.approx(0, abs=1e-9) and sap == pytest.approx(0, abs=1e-9)
    assert disentanglement > 0.98 and completeness < 0.8


def test_mutual_information_against_scikit_learn():
    a, b = torch.randint(7, (500,)), torch.randint(4, (500,))
    b[:200] = a[:200] % 4
    found = alignment._mutual_information(a, b, 7, 4).item()
    assert found == pytest.approx(sklearn.metrics.mutual_info_score(a, b), rel=1e-9)


def test_the_gap_by_hand():
    """Dimension 0 is x; dimension 1 is whether x is above its middle, of which it tells log 2."""
    factors = Factors(("x",), (4,))
    encodings = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 1.0], [3.0, 1.0]])
    gap = (math.log(4) - math.log(2)) / math.log(4)
    assert mutual_information_gap(encodings, factors) == pytest.approx(gap)


def test_the_squared_correlation_by_hand():
    factors = Factors(("x",), (5,))
    x = torch.arange(5.0)
    encodings = torch.stack([2 - 3 * x, (x - 2).square(), torch.zeros(5)], dim=1)
    assert separated_predictability(encodings, factors) == pytest.approx(1)


def test_the_best_thresholds_by_trying_all():
    z, levels = torch.randn(60), torch.randint(3, (60,))
    z[levels == 1] += 1.5
    found = alignment._threshold_accuracy(z, levels, 3, candidates=60).item()
    best = 0
    cuts = sorted([*z.tolist(), math.inf])
    for order in alignment.permutations(range(3)):
        for i, low in enumerate(cuts):
            for high in cuts[i:]:
                predicted = torch.where(z < low, order[0], torch.where(z < high, order[1], order[2]))
                best = max(best, (predicted == levels).sum().item())
    assert found == pytest.approx(best / 60)


def test_points_of_one_place_are_on_one_side_of_a_threshold():
    """Sorted by row, a constant dimension would tell every shape."""
    levels = torch.arange(300) // 100
    assert alignment._threshold_accuracy(torch.zeros(300), levels, 3).item() == pytest.approx(1 / 3)


def test_constant_dimensions_and_single_values_are_harmless():
    factors = Factors(FACTORS.names, (3, 1, 5, 1, 4))
    levels = factors.levels(torch.arange(factors.count)).float()
    encodings = torch.cat([torch.zeros(factors.count, 1), levels[:, [0, 2, 4]]], dim=1)
    assert mutual_information_gap(encodings, factors) == pytest.approx(1)
    assert separated_predictability(encodings, factors) > 0.8
    assert dci(encodings, factors).disentanglement > 0.9
