import torch
from torch import nn
from torch.distributions import Independent, Normal

from vae import likelihoods
from vae.model import VAE, encode_all, evaluating
from vae.networks import DCGANDecoder, DCGANEncoder


def small():
    prior = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    return VAE(DCGANEncoder(3, min_scale=1e-6), DCGANDecoder(3), prior, likelihoods.laplace)


def test_evaluating_turns_gradients_and_batch_statistics_off_and_back():
    model = nn.BatchNorm1d(2)
    for before in (True, False):
        model.train(before)
        with evaluating(model):
            assert not model.training and not torch.is_grad_enabled()
        assert model.training == before and torch.is_grad_enabled()


def test_the_mode_comes_back_after_an_error():
    model = nn.BatchNorm1d(2)
    try:
        with evaluating(model):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert model.training


def test_encodings_do_not_depend_on_how_the_data_are_cut():
    model, x = small(), torch.rand(7, 1, 32, 32)
    model(x)  # running statistics that are not those it starts with
    whole = encode_all(model, [x])
    for size in (1, 3):
        parts = encode_all(model, x.split(size))
        torch.testing.assert_close((parts.loc, parts.scale), (whole.loc, whole.scale))
        assert parts.z.shape == (7, 3)


def test_the_laplace_likelihood_of_images_is_one_number_each():
    x, loc = torch.rand(2, 5, 1, 4, 4)
    log_prob = likelihoods.laplace(loc).log_prob(x)
    expected = -(x - loc).abs().sum((1, 2, 3)) / 0.1 - 16 * torch.tensor(0.2).log()
    torch.testing.assert_close(log_prob, expected)
    assert likelihoods.laplace(loc).mean.equal(loc)
