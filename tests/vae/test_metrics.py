import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from vae import likelihoods
from vae.metrics import assignment_accuracy, evaluate, hoyer, student_t_interval
from vae.model import VAE
from vae.priors import Sparse


def test_the_matching_of_clusters_to_labels_is_found():
    labels = torch.arange(400) % 4
    assert assignment_accuracy(labels, (labels + 1) % 4) == 1
    assert assignment_accuracy(labels, labels // 2) == 0.5
    assert assignment_accuracy(labels, torch.zeros(400, dtype=torch.long)) == 0.25
    # Each label's best cluster is 0, but only one may have it: 3 + 1 of 9.
    assert (
        assignment_accuracy(torch.tensor([0] * 3 + [1] * 6), torch.tensor([0] * 5 + [1] + [0] * 3)) == 5 / 9
    )


def test_student_t_interval_against_a_table():
    mean, half_width = student_t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3
    assert half_width == pytest.approx(2.776445 * (2.5 / 5) ** 0.5, abs=1e-5)


def test_student_t_interval_of_one_value_is_refused():
    with pytest.raises(ValueError, match="at least 2 values, got 1"):
        student_t_interval([1.0])


def test_evaluate_on_a_linear_gaussian_model_is_exact():
    """With the true posterior, every importance weight is p(x) itself."""
    variance = 0.25

    class Encoder(nn.Module):
        def forward(self, x):
            scale = (variance / (1 + variance)) ** 0.5
            return x / (1 + variance), torch.full_like(x, scale)

    class Decoder(nn.Module):
        def forward(self, z):
            return z, torch.full_like(z, variance**0.5)

    prior = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    x = torch.randn(30, 2)
    model = VAE(Encoder(), Decoder(), prior, likelihoods.gaussian)
    result = evaluate(model, x.split(7), num_samples=2000)
    exact = Normal(0.0, (1 + variance) ** 0.5).log_prob(x).sum(1).mean().item()
    assert result["iwae"] == pytest.approx(exact, abs=1e-5)
    assert result["log_likelihood"] - result["kl"] == pytest.approx(exact, abs=0.02)
    assert result["reconstruction"] == pytest.approx(
        (x * variance / (1 + variance)).square().sum(1).mean().item()
    )


def test_evaluate_weighs_every_point_alike_and_leaves_the_model_as_it_was():
    """Its loc depends on a batch's statistics in training, and on what was gathered in evaluation."""

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x):
            loc = self.norm(x)
            return loc, torch.full_like(loc, 1e-3)

    class Decoder(nn.Module):
        def forward(self, z):
            return z, torch.ones_like(z)

    prior = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    model = VAE(Encoder(), Decoder(), prior, likelihoods.gaussian)
    with torch.no_grad():
        model.encoder.norm.running_mean.fill_(3.0)
    x = torch.randn(10, 2)
    results = [evaluate(model, x.split(size), num_samples=1)["reconstruction"] for size in (10, 9, 1)]
    expected = (x - 3) / (1 + model.encoder.norm.eps) ** 0.5
    assert results == pytest.approx([(x - expected).square().sum(1).mean().item()] * 3)
    assert model.training and model.encoder.norm.num_batches_tracked == 0


def test_hoyer_against_its_formula():
    y = (torch.randn(40, 6) * torch.arange(1.0, 7.0) + 0.5).double()
    expected = 0.0
    for row in y / y.std(0):
        expected += (6**0.5 - row.abs().sum() / row.square().sum() ** 0.5) / (6**0.5 - 1) / 40
    assert hoyer(y).hoyer == pytest.approx(expected.item(), rel=1e-12)


def test_hoyer_of_one_dimension_each_is_1_and_of_equal_magnitudes_0():
    assert hoyer(torch.eye(8)).hoyer == pytest.approx(1)
    assert hoyer(torch.randn(50, 8).sign()).hoyer == pytest.approx(0, abs=1e-3)


def test_hoyer_does_not_change_with_the_scale_of_a_dimension():
    y = torch.randn(100, 5, dtype=torch.float64)
    scaled = y * torch.tensor([1e-12, 1e-3, 1.0, 1e3, 1e12])
    assert hoyer(scaled).hoyer == pytest.approx(hoyer(y).hoyer, rel=1e-9)


@pytest.mark.parametrize(("gamma", "expected"), [(0.0, 0.231), (0.8, 0.420)])
def test_hoyer_of_the_priors_at_50_dimensions(gamma, expected):
    assert hoyer(Sparse(50, gamma)().sample((50_000,))).hoyer == pytest.approx(expected, abs=1e-3)


def test_hoyer_leaves_constant_dimensions_out_and_reports_them():
    y = torch.randn(30, 4)
    with_constants = torch.cat([y, torch.full((30, 1), 0.1), torch.zeros(30, 2)], 1)
    assert hoyer(with_constants) == (hoyer(y).hoyer, 3, 0)


def test_hoyer_counts_a_zero_vector_as_0_and_reports_it():
    y = torch.cat([torch.eye(4), -torch.eye(4), torch.zeros(2, 4)])
    assert hoyer(y) == (pytest.approx(0.8), 0, 2)


@pytest.mark.parametrize("y", [torch.randn(20, 1), torch.zeros(20, 5), torch.randn(1, 5)])
def test_hoyer_without_two_dimensions_that_vary_is_an_error(y):
    with pytest.raises(ValueError, match=r"2 or more dimensions that vary over the points, .* have \d"):
        hoyer(y)
