import pytest
import torch

from vae.data.shapes import shapes, unpack
from vae.pca import singular_values


def in_batches(data, size):
    return lambda: data.split(size)


def test_images_of_shapes_against_an_exact_decomposition():
    packed = shapes("", (1, 2, 5, 6, 8)).packed
    images = unpack(packed).flatten(1).double()
    exact = torch.linalg.svdvals(images - images.mean(0))[:10]
    found = singular_values(lambda: map(unpack, packed.split(500)), 10)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=0)
    assert (found <= exact * (1 + 1e-6)).all()


def test_a_spectrum_that_falls_slowly():
    data = torch.randn(300, 200, dtype=torch.float64) * torch.arange(1, 201).double().rsqrt()
    exact = torch.linalg.svdvals(data - data.mean(0))[:5]
    torch.testing.assert_close(singular_values(in_batches(data, 77), 5, passes=8), exact, rtol=1e-3, atol=0)


def test_the_mean_does_not_count_and_batches_do_not_matter():
    data = torch.randn(50, 4, 3, dtype=torch.float64)
    values = singular_values(in_batches(data, 50), 3)
    torch.testing.assert_close(singular_values(in_batches(data + 100, 7), 3), values)
    torch.testing.assert_close(values, torch.linalg.svdvals((data - data.mean(0)).flatten(1))[:3])


def test_data_of_low_rank_have_zeros():
    data = torch.randn(40, 2, dtype=torch.float64) @ torch.randn(2, 9, dtype=torch.float64)
    values = singular_values(in_batches(data, 8), 4)
    assert (values[:2] > 1).all() and (values[2:] < 1e-5).all()


@pytest.mark.parametrize("shape", [(3, 9), (9, 3)])
def test_fewer_values_than_asked_for_is_an_error(shape):
    with pytest.raises(ValueError, match="fewer than the 4 singular values"):
        singular_values(in_batches(torch.randn(shape), 2), 4)


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    singular_values(in_batches(torch.ones(5, 6), 2), 2)
    assert torch.get_rng_state().equal(state)
