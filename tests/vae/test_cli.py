import subprocess
import sys

import pytest

from vae.cli import main


def test_help_lists_the_experiments_without_waiting_for_torch():
    script = (
        "import sys; from vae.cli import main\n"
        "try: main(['--help'])\n"
        "finally: assert not {'torch', 'matplotlib', 'scipy'} & sys.modules.keys()"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert all(name in shown for name in ("pinwheel", "fashion", "shapes"))


FASHION = ["gamma", "prior-variance", "latent-dim", "data", "iwae-samples", "paper-code", "sweep"]


SHAPES = [
    "prior",
    "prior-init",
    "prior-scales",
    "df",
    "subset",
    "data",
    "paper-code",
    "betas",
    "sweep",
    "figure2",
]


@pytest.mark.parametrize(
    ("experiment", "own"),
    [("pinwheel", ["alpha", "prior", "compare"]), ("fashion", ["alpha", *FASHION]), ("shapes", SHAPES)],
)
def test_an_experiment_lists_its_flags(capsys, experiment, own):
    with pytest.raises(SystemExit) as stopped:
        main([experiment, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    shared = ["seed", "seeds", "device", "precision", "out", "quick", "resume"]
    for flag in ["beta", "batch-size", "epochs", "lr", *own, *shared]:
        assert f"--{flag} " in shown or f"--{flag}," in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr", "0"], "--lr 0.0 must be positive"),
        (["--epochs", "-5"], "--epochs -5 must be positive"),
        (["--seeds", "3"], "write them like 0-9"),
        (["--alpha", "nan"], "--alpha nan must be finite"),
        (["--lr", "inf"], "--lr inf must be finite"),
        (["--seed", "7", "--seeds", "0-1"], "--seed 7 is of no use beside --seeds 0-1: give one of them"),
        (["--seed=0", "--seeds=0-1"], "--seed 0 is of no use beside --seeds 0-1"),
        (["--resume"], "holds no run to resume (no such folder): check --out"),
    ],
)
def test_bad_values_are_named_before_anything_is_written(tmp_path, capsys, flags, message):
    out = tmp_path / "run"
    assert main(["pinwheel", "--out", str(out), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_every_number_of_a_list_must_be_finite(tmp_path, capsys):
    assert main(["shapes", "--out", str(tmp_path / "run"), "--betas", "1", "nan"]) == 2
    assert "--betas nan must be finite" in capsys.readouterr().err


def test_an_empty_folder_starts_again(tmp_path, capsys):
    """As a run leaves it that was killed at once."""
    (tmp_path / "run").mkdir()
    flags = ["--epochs", "1", "--num-points", "20", "--batch-size", "20"]
    assert main(["pinwheel", "--out", str(tmp_path / "run"), "--resume", *flags]) == 0
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("flags", [["--prior", "triangle"], ["--alhpa", "1"], ["--epochs", "many"]])
def test_unknown_flags_and_choices_stop_with_a_usage_error(tmp_path, capsys, flags):
    with pytest.raises(SystemExit) as stopped:
        main(["pinwheel", "--out", str(tmp_path / "run"), *flags])
    assert stopped.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_an_unknown_experiment_stops_with_a_usage_error(capsys):
    with pytest.raises(SystemExit):
        main(["pinwhel"])
    assert "pinwheel" in capsys.readouterr().err
