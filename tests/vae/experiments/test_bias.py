import json
import math

import pytest

from vae.cli import main
from vae.estimators import ESTIMATORS, Estimate, Study
from vae.experiments.bias_report import bias_table
from vae.experiments.regularised import OBJECTIVES

TINY = (
    *("--num-points", "64", "--latent-dim", "2", "--batch-size", "16", "--repeats", "4", "--device", "cpu"),
    *("--data-set", "pinwheel", "--train-points", "100", "--weights", "1", "2", "--epochs", "2"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("bias") / "run"
    assert main(["bias", "--out", str(out), *TINY]) == 0
    return out


def test_it_measures_what_it_says(run):
    found = json.loads((run / "summary.json").read_text())
    assert found["8 clusters of 8: hfvae_bias"] == pytest.approx(-0.57, abs=0.4)
    assert found["Gaussian, σ = 0.7: exact_bias"] == pytest.approx(0, abs=0.5)
    assert found["second_term_skewness"] > 0
    for objective in OBJECTIVES:
        assert found[f"{objective}, weight 1: exclusive_kl"] > 0
        assert f"{objective}, weight 1: rmse_bank" in found
    assert found["exact, weight 1: rmse_bank"] < found["bank, weight 1: rmse_bank"]
    names = {path.name for path in (run / "figures").iterdir()}
    assert names == {"estimators.png", "growth.png", "divergences.png", "training.png"}


def test_the_tables_say_it_in_words(run):
    text = (run / "bias.md").read_text()
    for words in (
        "8 clusters of 8, n = 64",
        "trained with a bank",
        "fresher bank, 1",
        "best minibatch / bank",
        "between weights",
    ):
        assert words in text


def test_the_table_has_no_error_of_a_single_minibatch():
    alone = Estimate(-0.1, math.nan, math.nan, 0.2, 0.0)
    several = Estimate(-0.1, 0.02, 0.1, 0.2, 0.0)
    study = Study({size: dict.fromkeys(ESTIMATORS, one) for size, one in ((2, several), (4, alone))}, 1, 2, 8)
    first, second = bias_table(study, {}).rows
    assert first[1] == "-0.100 ± 0.020 (-0.079)" and second[1] == "-0.100 (-0.079)"


def test_a_stopped_study_takes_up_its_finished_trainings(run, capsys):
    summary = (run / "summary.json").read_bytes()
    (run / "summary.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in run.glob("training/*/checkpoint.pt")}
    assert len(before) == 2 * len(OBJECTIVES)
    assert main(["bias", "--out", str(run), "--resume"]) == 0
    assert (run / "summary.json").read_bytes() == summary
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "5000"], "--batch-size 5000 is more than --num-points or --train-points"),
        (
            ["--batch-size", "13", "--train-points", "1300", "--num-points", "10"],
            "--num-points 10 must be 64 or more",
        ),
        (["--train-points", "8193"], "leaves one of --train-points 8193 over"),
        (["--weights", "0"], "--weights and --lr must be positive"),
    ],
)
def test_bad_values_are_named(tmp_path, capsys, flags, message):
    assert main(["bias", "--out", str(tmp_path / "run"), *flags]) == 2
    assert message in capsys.readouterr().err
