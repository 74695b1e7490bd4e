import json

import pytest
import torch

from tests.vae.idx_files import write_fashion
from vae import divergences, figures
from vae.cli import main
from vae.experiments import fashion
from vae.training import single_threaded

SHORT = ("--epochs", "2", "--batch-size", "30", "--latent-dim", "3", "--iwae-samples", "2", "--device", "cpu")
FIGURES = {"magnitudes.png", "reconstructions.png", "samples.png", "traversals.png", "training.png"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_fashion(folder)
    return folder


def command(data, out, *flags):
    with single_threaded():  # enough for sets this small
        return main(["fashion", "--out", str(out), "--data", str(data), *flags])


def read(out, name="summary.json"):
    return json.loads((out / name).read_text())


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert command(data, out, *SHORT) == 0
    return out


def test_a_run_fills_its_folder(whole):
    assert set(read(whole)) == {
        *("hoyer_train", "hoyer_test", "hoyer_prior", "constant_dimensions", "zero_vectors"),
        *("log_likelihood", "kl", "iwae", "reconstruction", "mmd"),
    }
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[-1]["hoyer_test"] == read(whole)["hoyer_test"]
    assert {path.name for path in (whole / "figures").iterdir()} == FIGURES


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_stopped_run_resumes_to_the_same_bits(whole, data, tmp_path, monkeypatch, steps):
    """Stopped in the first epoch, after it, and in the second; the data set has moved meanwhile."""
    calls = 0

    def stop(prior, encoding):
        nonlocal calls
        calls += 1
        if calls > steps:
            raise KeyboardInterrupt
        return original(prior, encoding)

    original = divergences.dimensionwise_mmd
    with monkeypatch.context() as patch:
        patch.setattr(divergences, "dimensionwise_mmd", stop)
        assert command(data, tmp_path / "run", *SHORT) == 130
    assert not (tmp_path / "run" / "summary.json").exists()
    moved = tmp_path / "moved"
    moved.symlink_to(data)
    assert command(moved, tmp_path / "run", "--resume") == 0
    for name in ("metrics.jsonl", "summary.json"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()
    state, expected = (
        torch.load(out / "checkpoint.pt", weights_only=True)["model"] for out in (tmp_path / "run", whole)
    )
    assert all(state[name].equal(value) for name, value in expected.items())


def test_the_divergence_is_that_of_the_batch_against_as_many_draws():
    model = fashion.build(fashion.Fashion(latent_dim=4))
    with torch.no_grad():
        encoding = model.encode(torch.rand(200, 1, 32, 32))
        prior = model.prior()
        far = divergences.dimensionwise_mmd(prior, encoding._replace(z=encoding.z + 5)).item()
        same = divergences.dimensionwise_mmd(prior, encoding._replace(z=prior.sample((200,)))).item()
    assert abs(same) < 0.2 < far


def test_a_large_alpha_brings_the_marginals_to_the_prior(data, tmp_path):
    flags = ["--epochs", "30", *SHORT[2:]]
    for alpha in ("0", "1000"):
        assert command(data, tmp_path / alpha, "--alpha", alpha, *flags) == 0
    without, regularised = (read(tmp_path / alpha)["mmd"] for alpha in ("0", "1000"))
    assert regularised < 0.5 * without


def test_presets_and_flags_over_them(data, tmp_path):
    assert command(data, tmp_path / "a", *SHORT, "--paper-code", "--quick", "--epochs", "1") == 0
    settings = read(tmp_path / "a", "config.json")["settings"]
    assert (settings["alpha"], settings["adam_beta1"], settings["networks"]) == (100, 0.9, "published")
    assert settings["prior_variance"] == pytest.approx(0.0025)
    assert settings["epochs"] == 1
    assert fashion.Fashion.presets["quick"]["epochs"] == 2


def test_sweep(data, tmp_path, capsys, monkeypatch):
    drawn = []

    def record(series, shown, *rest):
        drawn.append((series, shown))
        original(series, shown, *rest)

    original = figures.against
    monkeypatch.setattr(figures, "against", record)
    flags = ["--epochs", "1", *SHORT[2:], "--sweep", "--seeds", "0-1"]
    assert command(data, tmp_path / "run", *flags) == 0
    ((series, shown),) = drawn
    assert set(series) == {"gamma=0", "gamma=0.8"}
    assert set(shown) == {"hoyer_test", "reconstruction", "log_likelihood", "mmd"}
    summary = read(tmp_path / "run")
    assert next(iter(summary)) == "gamma=0 alpha=0" and len(summary) == 6
    assert len(summary["gamma=0.8 alpha=1000"]["hoyer_test"]["values"]) == 2
    assert (tmp_path / "run" / "figures" / "sparsity.png").exists()
    assert (tmp_path / "run" / "gamma-0.8-alpha-100" / "seed-1" / "figures" / "magnitudes.png").exists()
    assert "±" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gamma", "1.5"], "--gamma 1.5 must be between 0 and 1"),
        (["--latent-dim", "1"], "--latent-dim 1 must be 2 or more"),
        (["--prior-variance", "0"], "--prior-variance 0.0 must be positive"),
        (["--adam-beta1", "1"], "--adam-beta1 1.0 must be at least 0 and below 1"),
        (["--batch-size", "59"], "--batch-size 59 leaves one of the 60 images over"),
    ],
)
def test_bad_values_are_named(data, tmp_path, capsys, flags, message):
    assert command(data, tmp_path / "run", *SHORT, *flags) == 2
    assert message in capsys.readouterr().err


def test_a_missing_data_set_says_how_to_get_it(tmp_path, capsys):
    assert command(tmp_path / "nowhere", tmp_path / "run", *SHORT) == 2
    shown = capsys.readouterr().err
    assert "dataset-fashion-mnist" in shown and "--data" in shown
