import json

import pytest

from vae.cli import main

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


def test_bad_values_are_named(tmp_path, capsys):
    assert main(["overlap", "--out", str(tmp_path / "run"), "--information", "7"]) == 2
    assert "must be between 0 and the logarithm of --num-points, 5.99" in capsys.readouterr().err
