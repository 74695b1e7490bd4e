import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from vae import likelihoods
from vae.metrics import assignment_accuracy, evaluate, student_t_interval
from vae.model import VAE


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
    result = evaluate(
        VAE(Encoder(), Decoder(), prior, likelihoods.gaussian), x, num_samples=2000, chunk_size=7
    )
    exact = Normal(0.0, (1 + variance) ** 0.5).log_prob(x).sum(1).mean().item()
    assert result["iwae"] == pytest.approx(exact, abs=1e-5)
    assert result["log_likelihood"] - result["kl"] == pytest.approx(exact, abs=0.02)
    assert result["reconstruction"] == pytest.approx(
        (x * variance / (1 + variance)).square().sum(1).mean().item()
    )
