import itertools
import math

import pytest
import torch

from vae import estimators
from vae.estimators import ESTIMATORS, clusters, expected_excess, kl_estimates, standard_normal

COUNT, SIZE, DIMS = 16, 4, 3


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_clusters_do_not_meet_and_their_entropy_is_known(dims):
    encodings = clusters(COUNT, SIZE, dims)
    distances = torch.cdist(encodings.loc, encodings.loc)
    assert ((distances == 0).sum(1) == SIZE).all()
    assert distances[distances > 0].min() > 15 * 0.05
    kl = estimators.exact_kl(encodings, standard_normal(dims), 200)
    cross = (
        0.5 * dims * math.log(2 * math.pi)
        + 0.5 * (encodings.loc.square().sum(1).mean() + dims * 0.05**2).item()
    )
    assert kl == pytest.approx(cross - math.log(COUNT) - encodings.mean_entropy, abs=0.05)


@pytest.mark.parametrize("batch_size", [2, 7, COUNT * SIZE])
def test_measured_biases_are_the_expected_ones(batch_size):
    encodings, prior = clusters(COUNT, SIZE, DIMS), standard_normal(DIMS)
    truth = estimators.exact_kl(encodings, prior, 100)
    found = kl_estimates(encodings, prior, batch_size, 2000, truth)
    for name in ESTIMATORS:
        expected = math.log(COUNT) - expected_excess(name, COUNT, SIZE, batch_size)
        assert abs(found[name].bias - expected) < 4.5 * found[name].bias_error + 1e-4, name
    assert abs(found["exact"].bias) < 4.5 * found["exact"].bias_error + 0.2


def test_one_minibatch_tells_no_error_but_where_that_is_known():
    encodings, prior = clusters(COUNT, SIZE, DIMS), standard_normal(DIMS)
    part, whole = (kl_estimates(encodings, prior, size, 1, 0.0) for size in (7, COUNT * SIZE))
    for name in (*ESTIMATORS, "exact"):
        assert math.isnan(part[name].bias_error) and math.isnan(part[name].deviation), name
        assert math.isnan(whole[name].deviation), name
    known = {name for name, one in whole.items() if one.bias_error == 0}
    assert known == {"hfvae", "mws", "batch"}
    assert math.isnan(whole["mss"].bias_error) and math.isnan(whole["exact"].bias_error)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("batch_size", [2, 3])
def test_expected_excess_by_enumeration(name, batch_size):
    """Every batch of six points in clusters of three, each point in turn being the first."""
    n, size = 6, 3
    total = []
    for batch in itertools.permutations(range(n), batch_size):
        same = [int(other // size == batch[0] // size) for other in batch[1:]]
        m = batch_size - 1
        if name == "hfvae":
            weight = 1 / n + sum(same) * (n - 1) / (n * m)
        elif name == "mss":
            weight = 1 / n + same[0] * (n - m) / (n * m) + sum(same[1:]) / m
        else:
            weight = (1 + sum(same)) / (batch_size if name == "batch" else n * batch_size)
        total.append(-math.log(weight))
    assert expected_excess(name, n // size, size, batch_size) == pytest.approx(sum(total) / len(total))


def test_limits_of_small_batches():
    """Clusters of one: nothing overlaps, and the limits are exact."""
    for name in ESTIMATORS:
        for batch_size in (2, 10):
            limit = estimators.small_batch_limit(name, 50, batch_size)
            assert expected_excess(name, 50, 1, batch_size) == pytest.approx(limit)


def test_what_is_exact_at_the_whole_data_set():
    study = estimators.study(estimators.gaussian_encodings(64, 2, 0.5), standard_normal(2), 200)
    assert list(study.estimates) == [2, 4, 8, 16, 32, 64]
    whole = study.estimates[64]
    assert abs(whole["hfvae"].bias) < 1e-5 and abs(whole["batch"].bias) < 1e-5
    assert whole["mws"].bias == pytest.approx(-math.log(64), abs=1e-4)
    for size in (2, 16):
        assert study.estimates[size]["hfvae"].bias < -3 * study.estimates[size]["hfvae"].bias_error
        assert study.estimates[size]["hfvae"].bias > study.limit("hfvae", size)
        assert study.estimates[size]["hfvae"].negative > 0.5  # of a number that is not
    assert study.truth > 0


def test_the_second_term_is_unbiased_and_skewed():
    skew = estimators.second_term(estimators.gaussian_encodings(256, 5, 0.5), 16, 200)
    assert skew.mean == pytest.approx(1, abs=5 * skew.values.std().item() / len(skew.values) ** 0.5)
    assert skew.median < 0.5
    assert skew.skewness > 1
    assert skew.share_of_top_percent > 0.03


def test_which_divergences_have_a_bias():
    encodings, prior = estimators.gaussian_encodings(512, 4, 0.7), standard_normal(4)
    truth = estimators.nested_truth(encodings, prior, 8192)
    found = estimators.nested(encodings, prior, 8, 1500)
    error = {name: found[name].std().item() / 1500**0.5 for name in truth}
    off = {name: (found[name].mean().item() - truth[name]) / error[name] for name in truth}
    assert abs(off["dimension-wise MMD"]) < 5 and abs(off["whole-vector MMD"]) < 5
    assert off["sliced Wasserstein"] > 10 and off["minibatch inclusive KL"] > 10


def test_signal_to_noise_grows_with_the_batch():
    few, many = (estimators.gradient_to_noise(5, 5, size, 100) for size in (16, 256))
    for name in estimators.MMDS:
        assert 2 < many[name] / few[name] < 8  # four, as the root of the batch size
