"""Densities as other libraries compute them."""

import numpy as np
import torch
from scipy.stats import gaussian_kde
from sklearn.mixture import GaussianMixture
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from pykernels import gaussian_mixture_log_prob
from tests.cases import mixture_inputs


def test_scipy_gaussian_kde(variant):
    data = np.random.default_rng(0).normal(size=300)
    grid = np.linspace(-4, 4, 101)
    kde = gaussian_kde(data)
    bandwidth = torch.tensor(np.sqrt(kde.covariance[0, 0]))
    ours = gaussian_mixture_log_prob(*(torch.tensor(x)[:, None] for x in (grid, data)), bandwidth)
    torch.testing.assert_close(ours, torch.tensor(kde.logpdf(grid)))


def test_sklearn_score_samples(variant):
    data = np.random.default_rng(0).normal(size=(400, 4)) * [1, 2, 3, 4]
    model = GaussianMixture(5, covariance_type="diag", random_state=0).fit(data)
    value, loc, variance, weights = map(
        torch.tensor, (data, model.means_, model.covariances_, model.weights_)
    )
    ours = gaussian_mixture_log_prob(value, loc, variance.sqrt(), weights.log())
    torch.testing.assert_close(ours, torch.tensor(model.score_samples(data)))


def test_torch_mixture_same_family(variant):
    value, loc, scale, weights = mixture_inputs(60, 40, 6)
    theirs = MixtureSameFamily(Categorical(logits=weights), Independent(Normal(loc, scale), 1))
    ours = gaussian_mixture_log_prob(value, loc, scale, weights.log_softmax(-1))
    torch.testing.assert_close(ours, theirs.log_prob(value))
