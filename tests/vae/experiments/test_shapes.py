import json

import pytest
import torch

from vae import divergences
from vae.cli import main
from vae.data.shapes import shapes as load
from vae.data.shapes import unpack
from vae.experiments import shapes
from vae.experiments.shapes import Shapes, build_prior
from vae.run import RunFolder, RunOptions
from vae.training import single_threaded

SUBSET = ("--subset", "1", "5", "13", "16", "16")  # 96 images
SHORT = (*SUBSET, "--epochs", "2", "--batch-size", "40", "--latent-dim", "4", "--device", "cpu")
FIGURES = {"reconstructions.png", "samples.png", "training.png", "traversals.png"}
KEYS = {
    *("disentanglement", "disentanglement_published", "mig", "sap"),
    *("dci_disentanglement", "dci_completeness", "dci_informativeness"),
    *("log_likelihood", "kl", "iwae", "reconstruction"),
}


# Two epochs of 96 images leave dimensions that hardly vary.
pytestmark = pytest.mark.filterwarnings("ignore:every dimension of the encodings has collapsed")


@pytest.fixture(autouse=True)
def _fewer_votes(monkeypatch, tmp_path):
    for name in ("KIM_MNIH", "PUBLISHED"):
        protocol = getattr(shapes, name)._replace(points=16, votes=200)
        monkeypatch.setattr(shapes, name, protocol)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VAE_DATA", raising=False)


def command(out, *flags):
    with single_threaded():  # enough for sets this small
        return main(["shapes", "--out", str(out), *flags])


def read(out, name="summary.json"):
    return json.loads((out / name).read_text())


@pytest.mark.parametrize("prior", ["normal", "anisotropic", "student-t"])
def test_a_run_fills_its_folder(tmp_path, prior):
    assert command(tmp_path, *SHORT, "--prior", prior) == 0
    mapped = {"disentanglement_mapped", "disentanglement_published_mapped"} if prior == "student-t" else set()
    summary = read(tmp_path)
    assert set(summary) == KEYS | mapped
    assert all(0 <= summary[name] <= 1 for name in KEYS if name.startswith(("dis", "mig", "sap", "dci")))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2] and rows[0]["divergence"] == 0
    density = {"student-t.png"} if prior == "student-t" else set()
    assert {path.name for path in (tmp_path / "figures").iterdir()} == FIGURES | density


LEARNED, STUDENT = ["--prior-scales", "learned"], ["--prior", "student-t"]


@pytest.mark.parametrize(("steps", "flags"), [(1, LEARNED), (3, STUDENT), (4, LEARNED)])
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path, monkeypatch, steps, flags):
    """Stopped in the first epoch, after it, and in the second, of three steps each."""
    monkeypatch.setattr(shapes, "draw", lambda *args: None)
    assert command(tmp_path / "whole", *SHORT, *flags) == 0
    calls = 0

    def stop(prior, encoding):
        nonlocal calls
        calls += 1
        if calls > steps:
            raise KeyboardInterrupt
        return original(prior, encoding)

    original = divergences.nothing
    with monkeypatch.context() as patch:
        patch.setattr(divergences, "nothing", stop)
        assert command(tmp_path / "run", *SHORT, *flags) == 130
    assert command(tmp_path / "run", "--resume") == 0
    for name in ("metrics.jsonl", "summary.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_training_learns_the_shapes(tmp_path, monkeypatch):
    """What a model gains over the logits that fit the mean image best is what it knows of each."""
    monkeypatch.setattr(shapes, "draw", lambda *args: None)
    flags = ["--epochs", "100", "--batch-size", "12", "--lr", "2e-3", "--device", "cpu", "--latent-dim", "4"]
    subset = (3, 5, 20, 16, 16)
    assert command(tmp_path, *flags, "--prior", "normal", "--subset", *map(str, subset)) == 0
    images = unpack(load("", subset).packed)
    mean = images.mean(0).clamp(0.01, 0.99)
    blind = torch.distributions.Bernoulli(mean).log_prob(images).sum().item() / len(images)
    assert read(tmp_path)["log_likelihood"] > 0.5 * blind


def prior_of(**settings):
    packed = load("", (1, 5, 13, 8, 8)).packed
    return build_prior(Shapes(run=RunOptions("unused"), latent_dim=4, **settings), packed)


def test_the_prior_that_is_asked_for():
    assert prior_of(prior="normal", prior_scales="free")().variance.equal(torch.ones(4))
    fixed, learned, free = (prior_of(prior_scales=scales) for scales in ("fixed", "learned", "free"))
    variance = fixed().variance
    assert variance.sum().item() == pytest.approx(4, rel=1e-5) and (variance.diff() < 0).all()
    assert [len(list(prior.parameters())) for prior in (fixed, learned, free)] == [0, 1, 1]
    assert learned().variance.equal(variance)
    iso = prior_of(prior_init="iso", prior_scales="learned")
    torch.testing.assert_close(iso().variance, torch.ones(4))
    assert prior_of(prior="student-t", df=9.0)().base_dist.df.tolist() == [9.0] * 4


def test_with_he_weights_pixels_begin_at_their_mean():
    packed, _ = load("", (1, 5, 13, 16, 16))
    decoder = shapes.build(Shapes(weights="he", prior="normal"), packed).decoder
    assert decoder.body[-1].bias.sigmoid().item() == pytest.approx(unpack(packed).mean().item())


def test_the_paper_s_settings_by_prior():
    options = RunOptions("unused")
    assert Shapes(run=options, prior="normal").schedule == (64, 20)
    assert Shapes(run=options, prior="anisotropic").schedule == (64, 20)
    assert Shapes(run=options, prior="student-t").schedule == (256, 40)
    assert Shapes(run=options, prior="student-t", epochs=3).schedule == (256, 3)


def test_presets_and_flags_over_them(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "draw", lambda *args: None)
    flags = ["--quick", "--paper-code", *SHORT, "--lr", "0.002", "--prior", "student-t"]
    assert command(tmp_path, *flags) == 0
    settings = read(tmp_path, "config.json")["settings"]
    assert (settings["df"], settings["lr"], settings["epochs"]) == (9, 0.002, 2)
    assert settings["subset"] == [1, 5, 13, 16, 16]
    assert Shapes.presets["paper_code"] == {"lr": 5e-4, "batch_size": 64, "epochs": 20, "df": 9.0}


def test_seeds_and_sweep_and_figure_2_of_what_they_left(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shapes, "draw", lambda *args: None)
    flags = [*SHORT[:6], "--epochs", "1", *SHORT[8:], "--seeds", "0-1", "--betas", "4", "--dfs", "3"]
    assert command(tmp_path / "sweep", *flags, "--sweep") == 0
    summary = read(tmp_path / "sweep")
    assert len(summary) == 4
    assert len(summary["prior=student-t df=3 beta=4"]["disentanglement"]["values"]) == 2
    assert (tmp_path / "sweep" / "figures" / "figure2.png").exists()
    assert "±" in capsys.readouterr().out
    child = tmp_path / "sweep" / "prior-student-t-df-3-beta-4"
    assert command(tmp_path / "drawn", "--figure2", str(child), str(tmp_path / "sweep")) == 0
    assert [path.name for path in tmp_path.glob("drawn/*/*")] == ["figure2.png"]

    found = shapes.collect([tmp_path / "sweep", child])
    assert len(found) == 4 and all(set(by_seed) == {0, 1} for by_seed in found.values())
    values = [run["disentanglement"] for run in found["Student-t, $\\nu$ = 3", 4.0].values()]
    assert values == summary["prior=student-t df=3 beta=4"]["disentanglement"]["values"]

    assert command(tmp_path / "x", "--figure2", str(child / "seed-0")) == 2
    assert "has one seed only" in capsys.readouterr().err
    other = [*SHORT, "--lr", "0.002", "--prior", "student-t", "--beta", "2", "--seeds", "0-1"]
    assert command(tmp_path / "other", *other) == 0
    assert command(tmp_path / "x", "--figure2", str(child), str(tmp_path / "other")) == 2
    assert "differ in --epochs, --lr" in capsys.readouterr().err


def finish(out, seed, **settings):
    folder = RunFolder(Shapes(prior="student-t", run=RunOptions(out / f"seed-{seed}", seed=seed), **settings))
    scores = {"disentanglement": 0.2, "disentanglement_mapped": 0.3}
    published = {"disentanglement_published": 0.4, "disentanglement_published_mapped": 0.5}
    folder.finish({"log_likelihood": -100.0 - seed, **scores, **published})


@pytest.mark.parametrize(
    ("paper_code", "values", "words"), [(False, [0.2, 0.3], "held out"), (True, [0.4, 0.5], "published")]
)
def test_figure_2_has_the_score_of_the_runs_protocol(tmp_path, monkeypatch, paper_code, values, words):
    drawn = []
    monkeypatch.setattr(
        shapes.figures, "tradeoff", lambda series, labels, *rest: drawn.append((series, labels))
    )
    for seed in (0, 1):
        finish(tmp_path / "runs", seed, paper_code=paper_code)
    assert command(tmp_path / "drawn", "--figure2", str(tmp_path / "runs")) == 0
    ((series, labels),) = drawn
    assert [points[1.0][1]["mean"] for points in series.values()] == pytest.approx(values)
    assert words in labels[1]


def test_figure_2_mixes_no_protocols(tmp_path, capsys):
    for seed in (0, 1):
        finish(tmp_path / "a", seed, paper_code=True)
        finish(tmp_path / "b", seed, df=5.0)
    assert command(tmp_path / "drawn", "--figure2", str(tmp_path)) == 2
    assert "some of these runs are with --paper-code" in capsys.readouterr().err


def test_figure_2_of_nothing(tmp_path, capsys):
    assert command(tmp_path / "x", "--figure2", str(tmp_path)) == 2
    assert "found no finished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--df", "0"], "--df 0.0 must be positive"),
        (["--batch-size", "0"], "--batch-size 0 must be positive"),
        (["--beta", "-1"], "--beta and all of --betas must be at least 0"),
        (["--subset", "1", "1", "0", "1", "1"], "--subset 1 1 0 1 1 is not one positive step"),
        (["--latent-dim", "200", "--subset", "1", "5", "13", "16", "16"], "--latent-dim 200"),
    ],
)
def test_bad_values_are_named(tmp_path, capsys, flags, message):
    assert command(tmp_path / "run", *flags) == 2
    assert message in capsys.readouterr().err


def test_the_images_that_figures_show_are_large_and_of_every_shape():
    packed, factors = load(steps=(1, 5, 13, 16, 16))
    rows = shapes.large_of_each_shape(factors, 7)
    levels = factors.levels(rows)
    assert levels[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert (levels[:, 1] == 1).all()  # of two scales
    assert len(set(map(tuple, levels[:, 2:].tolist()))) > 1
    area = unpack(packed).mean((1, 2, 3)).reshape(factors.sizes)
    assert unpack(packed[rows]).mean((1, 2, 3)).min() > area[:, 0].max()
