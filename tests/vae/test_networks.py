import pytest
import torch
from torch import nn

from vae.networks import (
    DCGANDecoder,
    DCGANEncoder,
    GaussianMLP,
    ShapesDecoder,
    ShapesEncoder,
    draw_he_weights,
)


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_table_1b_has_704_parameters():
    assert count(GaussianMLP(2, 2, min_scale=1e-6)) == 704


def test_table_1c_has_369700_and_267200_parameters():
    assert count(DCGANEncoder(50, min_scale=1e-6)) == 369_700
    assert count(DCGANDecoder(50)) == 267_200
    networks = nn.ModuleList([DCGANEncoder(50, min_scale=1e-6), DCGANDecoder(50)])
    biased = [name for name, p in networks.named_parameters() if p.dim() == 1 and "body" not in name]
    assert biased == ["0.heads.bias"]


def test_table_1a_has_249172_and_298017_parameters():
    encoder, decoder = ShapesEncoder(10, min_scale=1e-6), ShapesDecoder(10)
    assert (count(encoder), count(decoder)) == (249_172, 298_017)
    loc, scale = encoder(torch.rand(3, 1, 64, 64))
    assert loc.shape == scale.shape == (3, 10) and (scale > 1e-6).all()
    assert decoder(loc).shape == (3, 1, 64, 64)
    # No ReLU after the encoder's layer of 128: with one, half of what enters the heads would be 0.
    assert (encoder.body(torch.rand(3, 1, 64, 64)) < 0).any()


def test_the_encoder_of_shapes_has_a_log_variance():
    encoder = ShapesEncoder(2, min_scale=0.0)
    with torch.no_grad():
        before = encoder(torch.ones(1, 1, 64, 64))[1]
        encoder.heads.bias[2:] += torch.tensor(4.0).log()
        torch.testing.assert_close(encoder(torch.ones(1, 1, 64, 64))[1], 2 * before)


def test_the_published_networks_lack_the_first_norm_and_draw_their_weights():
    encoder = DCGANEncoder(50, min_scale=1e-6, norm_first=False, weight_std=0.02)
    assert count(encoder) == 369_700 - 64
    for network in (encoder, DCGANDecoder(50, weight_std=0.02)):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                deviation = 0.02 * (2 * module.weight.numel()) ** -0.5
                assert module.weight.std().item() == pytest.approx(0.02, abs=5 * deviation)
    assert encoder.heads.bias.abs().max() == 0


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: ShapesEncoder(10, min_scale=0.0).body, (64, 1, 64, 64)),
        (lambda: ShapesDecoder(10).body, (64, 10)),
    ],
)
def test_signals_keep_their_size_through_layers_with_he_weights(make, shape):
    body, signal = make(), torch.randn(shape)
    assert body(signal).std() < 0.2  # torch's weights
    draw_he_weights(body)
    # Each layer passes on twice the mean square that a ReLU, which halves it, will leave of it.
    assert 0.5 < body(signal).std() / 2**0.5 < 2


def test_images_to_an_encoding_and_back():
    loc, scale = DCGANEncoder(5, min_scale=0.25)(torch.rand(3, 1, 32, 32))
    assert loc.shape == scale.shape == (3, 5)
    assert (scale > 0.25).all()
    assert DCGANDecoder(5)(loc).shape == (3, 1, 32, 32)


def test_weights_lie_channels_last_also_when_they_are_loaded():
    encoder = DCGANEncoder(5, min_scale=0.25)
    encoder.load_state_dict({k: v.contiguous() for k, v in encoder.state_dict().items()})
    assert encoder.heads.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("size", "networks"),
    [
        (32, lambda: (DCGANEncoder(5, min_scale=0.25), DCGANDecoder(5))),
        (64, lambda: (ShapesEncoder(5, min_scale=0.25), ShapesDecoder(5))),
    ],
)
def test_autocast_changes_the_precision_of_the_work_not_of_the_encoding(size, networks):
    x = torch.rand(3, 1, size, size)
    encoder, decoder = (network.eval() for network in networks())
    exact = decoder(encoder(x)[0])
    with torch.autocast("cpu", torch.bfloat16):
        loc, scale = encoder(x)
        image = decoder(loc)
    assert {tensor.dtype for tensor in (loc, scale, image)} == {torch.float32}
    assert 0 < (image - exact).abs().max() < 10 * torch.finfo(torch.bfloat16).eps * exact.abs().max()


def test_the_scale_is_floored_and_its_gradient_survives_there():
    network = GaussianMLP(2, 3, min_scale=0.25)
    with torch.no_grad():
        network.heads.bias[3:] = -20.0
    loc, scale = network(torch.randn(5, 2))
    assert loc.shape == scale.shape == (5, 3)
    assert (scale >= 0.25).all() and (scale < 0.26).all()
    scale.sum().backward()
    assert (network.heads.bias.grad[3:] > 0).all()
