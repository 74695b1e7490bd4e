import torch

from vae.networks import GaussianMLP


def test_table_1b_has_704_parameters():
    assert sum(p.numel() for p in GaussianMLP(2, 2, min_scale=1e-6).parameters()) == 704


def test_the_scale_is_floored_and_its_gradient_survives_there():
    network = GaussianMLP(2, 3, min_scale=0.25)
    with torch.no_grad():
        network.heads.bias[3:] = -20.0
    loc, scale = network(torch.randn(5, 2))
    assert loc.shape == scale.shape == (5, 3)
    assert (scale >= 0.25).all() and (scale < 0.26).all()
    scale.sum().backward()
    assert (network.heads.bias.grad[3:] > 0).all()
