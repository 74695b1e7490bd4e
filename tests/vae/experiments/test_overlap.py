import json

import pytest
import torch

from vae.cli import main
from vae.experiments import overlap
from vae.experiments.overlap import Overlap
from vae.priors import GaussianMixture

FLAGS = ("--num-points", "80", "--modes", "10", "--draws", "4", "--device", "cpu")


def summary(out):
    return json.loads((out / "summary.json").read_text())


def test_encoders_of_equal_information_differ(tmp_path, capsys):
    assert main(["overlap", "--out", str(tmp_path / "run"), *FLAGS, "--information", "2"]) == 0
    found = summary(tmp_path / "run")
    kinds = ["Gaussian", "ball and prior", "modes mixed", "modes apart"]
    for name in kinds:
        assert found[f"{name}, I = 2: mutual_information"] == pytest.approx(2, abs=0.25)
    crowd = {name: found[f"{name}, I = 2: perplexity_mean"] for name in kinds}
    assert crowd["ball and prior"] > 2 * crowd["Gaussian"]
    assert found["Gaussian, I = 2: distance"] < 0.7 * found["modes mixed, I = 2: distance"]
    assert {path.name for path in (tmp_path / "run" / "figures").iterdir()} == {"overlap.png", "shares.png"}
    assert "modes apart, I = 2" in capsys.readouterr().out


def test_a_trained_encoder(tmp_path):
    trained = str(tmp_path / "trained")
    assert main(["pinwheel", "--epochs", "3", "--device", "cpu", "--out", trained]) == 0
    assert main(["overlap", "--out", str(tmp_path / "run"), *FLAGS, "--model", trained]) == 0
    information = [
        value for name, value in summary(tmp_path / "run").items() if name.endswith("mutual_information")
    ]
    assert len(information) == 5
    assert max(information) - min(information) < 0.4


def test_the_ball_is_mixed_with_the_prior_of_the_model(tmp_path):
    trained = str(tmp_path / "trained")
    assert main(["pinwheel", "--epochs", "1", "--device", "cpu", "--out", trained]) == 0
    config = Overlap(model=trained, num_points=80)
    setting = overlap.encoded(config)
    ball = overlap.families(config, setting)["ball and prior"][0](0.5)
    z = torch.randn(20, 2)
    torch.testing.assert_close(ball.prior.log_prob(z), GaussianMixture("cross")().log_prob(z))


def test_without_a_model_the_prior_is_as_wide_as_the_encodings():
    setting = overlap.encoded(Overlap(num_points=80))
    assert not setting.prior.mean.any()
    torch.testing.assert_close(setting.prior.variance, torch.full((2,), setting.size**2))


def test_bad_values_are_named(tmp_path, capsys):
    assert main(["overlap", "--out", str(tmp_path / "run"), "--information", "7"]) == 2
    assert "must be between 0 and the logarithm of --num-points, 5.99" in capsys.readouterr().err
