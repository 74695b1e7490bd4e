import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from pykernels import DiagonalGaussianMixture

BATCHES = [(), (4,), (3, 4)]


def pair(batch, dtype=torch.float64):
    """The distribution, and torch's own of the same parameters, which require gradients."""
    loc = torch.randn(*batch, 5, 2, dtype=dtype).requires_grad_()
    scale = (torch.rand(*batch, 5, 2, dtype=dtype) + 0.2).requires_grad_()
    logits = torch.randn(*batch, 5, dtype=dtype).requires_grad_()
    theirs = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(loc, scale), 1))
    return DiagonalGaussianMixture(loc, scale, logits), theirs, (loc, scale, logits)


@pytest.mark.parametrize("batch", BATCHES)
def test_agrees_with_torch(variant, batch):
    ours, theirs, parameters = pair(batch)
    assert (ours.batch_shape, ours.event_shape) == (theirs.batch_shape, theirs.event_shape)
    for sample_shape in ((), (6,), (2, 3)):
        value = torch.randn(*sample_shape, *batch, 2).double()
        results = ours.log_prob(value), theirs.log_prob(value)
        torch.testing.assert_close(*results)
        grads = (torch.autograd.grad(r.sum(), parameters, retain_graph=True) for r in results)
        torch.testing.assert_close(*grads)
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.variance, theirs.variance)
    torch.testing.assert_close(ours.stddev, theirs.stddev)
    torch.testing.assert_close(
        DiagonalGaussianMixture.from_mixture(theirs).log_prob(value), ours.log_prob(value)
    )


@pytest.mark.parametrize("batch", BATCHES)
def test_log_responsibilities(variant, batch):
    ours, theirs, parameters = pair(batch)
    value = torch.randn(6, *batch, 2).double()
    by_component = theirs.component_distribution.log_prob(value.unsqueeze(-2))
    expected = (by_component + theirs.mixture_distribution.logits).log_softmax(-1)
    actual = ours.log_responsibilities(value)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(r.square().sum(), parameters) for r in (actual, expected))
    )


@pytest.mark.parametrize("batch", BATCHES)
def test_samples_have_the_moments(batch):
    ours, _, _ = pair(batch)
    samples = ours.sample((40_000,))
    assert samples.shape == (40_000, *batch, 2) and not samples.requires_grad
    assert ours.sample().shape == (*batch, 2) and ours.sample((2, 3)).shape == (2, 3, *batch, 2)
    error = 5 * ours.stddev / 200
    assert ((samples.mean(0) - ours.mean).abs() < error).all()
    torch.testing.assert_close(samples.var(0), ours.variance, rtol=0.1, atol=0)
    with pytest.raises(NotImplementedError):
        ours.rsample()


@pytest.mark.parametrize("batch", BATCHES)
def test_expand(batch):
    ours, _, _ = pair(batch)
    larger = ours.expand((2, *batch))
    assert larger.batch_shape == (2, *batch)
    assert larger.sample((3,)).shape == (3, 2, *batch, 2)
    assert larger.mean.shape == larger.variance.shape == (2, *batch, 2)
    value = torch.randn(3, 2, *batch, 2).double()
    torch.testing.assert_close(larger.log_prob(value), ours.log_prob(value))
    torch.testing.assert_close(larger.log_responsibilities(value), ours.log_responsibilities(value))
    with pytest.raises(RuntimeError):
        larger.expand((7, *batch))


def test_parameters_may_broadcast_and_logits_may_be_left_out():
    loc = torch.randn(3, 5, 2)
    ours = DiagonalGaussianMixture(loc, torch.tensor(0.5))
    theirs = MixtureSameFamily(Categorical(torch.ones(3, 5)), Independent(Normal(loc, 0.5), 1))
    value = ours.sample((4,))
    torch.testing.assert_close(ours.log_prob(value), theirs.log_prob(value))
    torch.testing.assert_close(ours.variance, theirs.variance)
    shared = DiagonalGaussianMixture(loc[0], torch.rand(3, 1, 2) + 0.1, torch.zeros(1))
    assert shared.batch_shape == (3,) and shared.sample((4,)).shape == (4, 3, 2)
    assert shared.log_prob(value).shape == (4, 3)
    assert shared.log_responsibilities(value).shape == (4, 3, 5)
