import pytest
import torch

from benchmarks import ensembles
from vae.model import VAE


@pytest.mark.parametrize("way", [ensembles.vectorised, ensembles.grouped])
def test_a_batched_model_makes_the_same_steps(way):
    images = (torch.rand(2, 8, 1, 64, 64) < 0.1).float()
    found = []
    for train in (ensembles.one_after_another, way):
        torch.manual_seed(0)
        steps = train(ensembles.models(2), images, "32-true")
        torch.manual_seed(1)
        found.append((steps().clone(), steps().clone()))
    for expected, gradients in zip(*found):
        assert gradients.shape == (2, 32, 1, 4, 4)
        error = (gradients - expected).abs().max() / expected.abs().max()
        assert error < 1e-3  # Adam's first steps have the size of the sign of a gradient, however small
    assert not found[0][0].equal(found[0][1])


def test_models_differ_by_seed():
    first, second = ensembles.models(2)
    assert isinstance(first, VAE)
    assert not first.encoder.heads.weight.equal(second.encoder.heads.weight)
