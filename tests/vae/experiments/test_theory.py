import json

import pytest

from vae.cli import main

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


@pytest.mark.parametrize(
    ("flags", "message"), [(["--betas", "0"], "--betas 0.0"), (["--draws", "0"], "--draws 0")]
)
def test_bad_values_are_named(tmp_path, capsys, flags, message):
    assert main(["theory", "--out", str(tmp_path / "run"), *flags]) == 2
    assert message in capsys.readouterr().err
