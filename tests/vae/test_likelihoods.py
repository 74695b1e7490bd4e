import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from vae import likelihoods


def test_the_bernoulli_log_prob_is_the_negative_cross_entropy_of_grey_pixels_too():
    logits = torch.randn(3, 1, 4, 4)
    for x in (torch.rand(3, 1, 4, 4), (torch.rand(3, 1, 4, 4) < 0.5).float()):
        distribution = likelihoods.bernoulli(logits)
        expected = -binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2, 3))
        torch.testing.assert_close(distribution.log_prob(x), expected)
        torch.testing.assert_close(distribution.mean, torch.sigmoid(logits))
