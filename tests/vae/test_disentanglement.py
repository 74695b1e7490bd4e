import pytest
import torch

from vae.data.factors import Factors
from vae.data.shapes_render import ALL
from vae.disentanglement import KIM_MNIH, PUBLISHED, Protocol, factor_score

FACTORS = Factors(("shape", "scale", "orientation", "x", "y"), (3, 4, 8, 6, 6))
PROTOCOLS = [KIM_MNIH._replace(votes=2_000, held_out_votes=1_000), PUBLISHED._replace(votes=2_000)]


def oracle(factors=FACTORS):
    """One factor per dimension."""
    return factors.levels(torch.arange(factors.count)).float()


def rotated(encodings):
    standardised = (encodings - encodings.mean(0)) / encodings.std(0)
    return standardised @ torch.linalg.qr(torch.randn(5, 5)).Q


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_encoder_that_separates_the_factors_has_1(protocol):
    encodings = oracle()
    assert factor_score(encodings, FACTORS, protocol) == 1
    changed = encodings[:, [3, 0, 4, 2, 1]] * torch.tensor([2.0, -0.5, 100.0, 1.0, -3.0]) + 7
    assert factor_score(changed, FACTORS, protocol) == 1
    with_noise = torch.cat([torch.randn(FACTORS.count, 3), changed], dim=1)
    assert factor_score(with_noise, FACTORS, protocol) == 1
    twice = torch.cat([changed, changed.exp().clamp(max=9)[:, :2], changed[:, :1].square()], dim=1)
    assert factor_score(twice, FACTORS, protocol) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_rotation_lowers_it(protocol):
    assert factor_score(rotated(oracle()), FACTORS, protocol) < 0.9


def test_two_factors_in_one_dimension_lose_one_of_them():
    """x and y are both told by the sum of them, or not at all: 4 of 5 votes are right at best."""
    encodings = oracle()
    merged = torch.cat([encodings[:, :3], encodings[:, 3:].sum(1, keepdim=True)], dim=1)
    assert factor_score(merged, FACTORS) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("protocol", "chance"), [(KIM_MNIH, 0.200), (PUBLISHED, 0.212)])
def test_encodings_that_know_nothing_have_the_level_of_chance(protocol, chance):
    """On the full set of 737,280 points, or what the sample happens to hold shows under the larger protocol."""
    encodings = torch.randn(ALL.count, 10)
    assert factor_score(encodings, ALL, protocol) == pytest.approx(chance, abs=0.01)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_does_not_change_when_dimensions_are_scaled(protocol):
    encodings = rotated(oracle())
    scaled = encodings * torch.tensor([8.0, 0.25, -2.0, 64.0, 0.5])  # exact in binary
    assert factor_score(scaled, FACTORS, protocol) == factor_score(encodings, FACTORS, protocol)


def test_dimensions_that_collapsed_never_win():
    encodings = oracle()
    n = FACTORS.count
    constant = torch.full((n, 2), 0.3)
    assert factor_score(torch.cat([constant, encodings], dim=1), FACTORS, PUBLISHED) == 1
    # What is left of the factors in a dimension of little variance would win where it is not dropped.
    faint = 0.04 * (encodings[:, :1] == 0)
    spoiled = torch.cat([faint, encodings[:, 1:]], dim=1)
    alone = encodings[:, 1:]
    assert factor_score(spoiled, FACTORS, KIM_MNIH) == factor_score(alone, FACTORS, KIM_MNIH)
    assert factor_score(spoiled, FACTORS, PUBLISHED) > factor_score(alone, FACTORS, PUBLISHED)


def test_nothing_left_is_0_with_a_warning():
    with pytest.warns(UserWarning, match="every dimension of the encodings has collapsed"):
        assert factor_score(torch.zeros(FACTORS.count, 3), FACTORS) == 0
    with pytest.warns(UserWarning, match="every dimension"):
        assert factor_score(0.01 * oracle(), FACTORS) == 0


def test_factors_of_one_value_are_left_out():
    factors = Factors(FACTORS.names, (1, 4, 1, 6, 6))
    assert factor_score(oracle(factors)[:, [1, 3, 4]], factors) == 1


def test_by_hand_where_every_vote_sees_all_points():
    """With all points of a value in each vote, nothing is random but which factor is asked for how often."""
    factors = Factors(("a", "b"), (2, 2))
    encodings = torch.tensor([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.1]])
    # a = 0: the variances are 0 and large; a = 1 likewise. b = 0: large and 0; b = 1: large and nearly 0.
    assert factor_score(encodings, factors, Protocol(10, 200, 0, 0.0)) == 1
    same = encodings[:, [0, 0]]
    # Both dimensions are a: b is told by neither, and the lower index wins a tie.
    votes = factor_score(same, factors, Protocol(10, 2000, 0, 0.0))
    assert votes == pytest.approx(0.5, abs=0.05)


def test_the_same_seed_is_the_same_score_and_the_global_generator_is_left_alone():
    encodings = rotated(oracle())
    state = torch.get_rng_state()
    found = {factor_score(encodings, FACTORS, seed=seed) for seed in (0, 0, 1, 2)}
    assert len(found) in (2, 3) and torch.get_rng_state().equal(state)


@pytest.mark.parametrize("shape", [(10, 3), (FACTORS.count,)])
def test_encodings_of_other_points_are_refused(shape):
    with pytest.raises(ValueError, match=rf"encodings must be \[{FACTORS.count}, D\], got"):
        factor_score(torch.zeros(shape), FACTORS)
