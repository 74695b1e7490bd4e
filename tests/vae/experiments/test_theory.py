import json

import pytest
import torch

from vae.cli import main
from vae.experiments import finished
from vae.experiments.finished import Finished
from vae.likelihoods import gaussian
from vae.model import VAE
from vae.networks import GaussianMLP
from vae.priors import Gaussian, StudentT

QUICK = ("--quick", "--device", "cpu")


def summary(out):
    return json.loads((out / "summary.json").read_text())


@pytest.mark.parametrize(
    "flags", [(), ("--latent-dim", "1", "--betas", "0.5"), ("--seed", "3", "--latent-dim", "5")]
)
def test_every_statement_holds_to_rounding_and_rotations_do_not(tmp_path, capsys, flags):
    assert main(["theory", "--out", str(tmp_path / "run"), *QUICK, *flags]) == 0
    found = summary(tmp_path / "run")
    assert found["largest_residual"] < 1e-10
    assert found["smallest_change"] > 1e-4
    shown = capsys.readouterr().out
    assert "Theorem 2 (eq 6)" in shown and "FAILS" not in shown
    assert {path.name for path in (tmp_path / "run" / "figures").iterdir()} == {
        "residuals.png",
        "rotation.png",
    }


def test_a_trained_model_is_checked_too(tmp_path, capsys):
    trained = str(tmp_path / "trained")
    assert main(["pinwheel", "--epochs", "3", "--device", "cpu", "--out", trained]) == 0
    assert main(["theory", "--out", str(tmp_path / "run"), *QUICK, "--model", trained]) == 0
    found = summary(tmp_path / "run")
    assert found["largest_residual"] < 1e-10
    assert found["Corollary 1 (eq 4), model of vae pinwheel: isotropic Gaussian"] < 1e-10
    assert found["generic rotation, model of vae pinwheel: Gaussian mixture"] > 1e-4
    capsys.readouterr()
    assert main(["theory", "--out", str(tmp_path / "other"), "--model", str(tmp_path)]) == 2
    assert "is no run folder with a trained model" in capsys.readouterr().err


@pytest.fixture
def with_prior(monkeypatch):
    """Stands in for a run of `vae shapes` with the prior given."""

    def stand_in(prior):
        model = VAE(GaussianMLP(2, 3, min_scale=1e-6), GaussianMLP(3, 2, min_scale=0.1), prior, gaussian)
        loaded = Finished("shapes", model, torch.randn(20, 2))
        monkeypatch.setattr(finished, "load", lambda folder: loaded)

    return stand_in


@pytest.mark.parametrize("learned", ["fixed", "learned"])
def test_a_trained_model_is_checked_under_its_own_gaussian_prior(tmp_path, with_prior, learned):
    with_prior(Gaussian(torch.tensor([1.0, 0.0, -2.0]), learned))
    assert main(["theory", "--out", str(tmp_path / "run"), *QUICK, "--model", "run"]) == 0
    found = summary(tmp_path / "run")
    assert found["largest_residual"] < 1e-10
    for statement in ("Theorem 1 (eq 3)", "Corollary 1 (eq 4)", "Corollary 2, ∇L_β = Jᵀ∇L_{H,β}"):
        for kind in ("isotropic", "anisotropic"):
            assert found[f"{statement}, model of vae shapes: {kind} Gaussian"] < 1e-10
    assert found["generic rotation, model of vae shapes: anisotropic Gaussian"] > 1e-4


def test_a_beta_whose_annealed_prior_has_no_mass_is_refused(tmp_path, capsys, with_prior):
    """β(ν + 1) ≤ 1: of the random networks' Student-t prior, ν = 5, or of the model's own."""
    with_prior(StudentT(3, df=3.0))
    for betas, model, df in ((["1", "0.15"], [], 5), (["1", "0.2"], ["--model", "run"], 3)):
        flags = [*QUICK, "--betas", *betas, *model]
        assert main(["theory", "--out", str(tmp_path / str(df)), *flags]) == 2
        message = capsys.readouterr().err
        assert f"--betas {betas[1]} is too low" in message and f"ν = {df}" in message
        assert "β(ν + 1) must be above 1" in message


@pytest.mark.parametrize(
    ("flags", "message"), [(["--betas", "0"], "--betas 0.0"), (["--draws", "0"], "--draws 0")]
)
def test_bad_values_are_named(tmp_path, capsys, flags, message):
    assert main(["theory", "--out", str(tmp_path / "run"), *flags]) == 2
    assert message in capsys.readouterr().err
