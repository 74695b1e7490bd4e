import math

import torch

from vae.data.pinwheel import pinwheel


def test_each_arm_has_its_share():
    points, arms = pinwheel(400)
    assert points.shape == (400, 2)
    assert arms.bincount().tolist() == [100] * 4


def test_without_noise_across_the_arm_a_point_lies_on_its_clockwise_spiral():
    points, arms = pinwheel(1000, radial_std=0.1, tangential_std=0.0)
    radius = points.norm(dim=1)
    expected = -(arms * math.pi / 2 + 0.25 * radius.exp())
    turns = (torch.atan2(points[:, 1], points[:, 0]) - expected) / (2 * math.pi)
    torch.testing.assert_close(turns, turns.round(), atol=1e-6, rtol=0)


def test_deviations_are_03_along_and_01_across():
    points, _ = pinwheel(200_000)
    # Turning keeps lengths: E|x|² = 1 + 0.3² + 0.1², and the arms' symmetry puts the mean at the centre.
    assert abs(points.square().sum(1).mean() - 1.10) < 0.01
    assert points.mean(0).norm() < 0.01
    narrow, _ = pinwheel(200_000, radial_std=0.0)
    assert abs(narrow.square().sum(1).mean() - 1.01) < 0.001


def test_the_generator_decides_the_draw():
    first, second = (pinwheel(generator=torch.Generator().manual_seed(seed))[0] for seed in (3, 3))
    assert first.equal(second)
    assert not first.equal(pinwheel(generator=torch.Generator().manual_seed(4))[0])
