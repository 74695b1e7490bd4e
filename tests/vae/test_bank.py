import pytest
import torch
from lightning_fabric import Fabric
from torch.distributions import Independent, Normal

from pykernels import exclusive_kl, kl_decomposition
from tests.vae.test_training import Toy
from vae.bank import EncodingBank
from vae.experiments.pinwheel import Pinwheel, build
from vae.model import Encoding
from vae.objectives import decomposition
from vae.run import RunFolder, RunOptions
from vae.training import shuffled, single_threaded, train

PRIOR = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)


def encoding(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    loc, noise = torch.randn(2, n, 2, generator=generator)
    scale = 0.1 + 0.3 * torch.rand(n, 2, generator=generator)
    return Encoding(loc, scale, loc + scale * noise)


def rows(encoding, index):
    return Encoding(*(item[index] for item in encoding))


def test_a_fresh_bank_gives_the_exact_value():
    everything, index = encoding(50), torch.tensor([4, 49, 0])
    bank, batch = EncodingBank(everything), rows(everything, index)
    exact = exclusive_kl(batch.z, everything.loc, everything.scale, PRIOR)
    torch.testing.assert_close(bank.exclusive_kl(PRIOR, batch, index=index), exact)
    terms = kl_decomposition(batch.z, everything.loc, everything.scale, PRIOR, index=index)
    found = bank.decomposed_kl(PRIOR, batch, index=index, total_correlation=2.0, dimensionwise_kl=3.0)
    torch.testing.assert_close(found, 2 * terms.total_correlation + 3 * terms.dimensionwise_kl)


def test_a_batch_refreshes_its_own_rows_before_it_is_measured():
    stale, now, index = encoding(50), encoding(50, seed=1), torch.tensor([4, 49, 0])
    bank = EncodingBank(stale)
    loc, scale = (torch.clone(item) for item in stale[:2])
    loc[index], scale[index] = now.loc[index], now.scale[index]
    value = bank.exclusive_kl(PRIOR, rows(now, index), index=index)
    assert bank.loc.equal(loc) and bank.scale.equal(scale)
    assert not stale.loc.equal(loc)
    wider = (scale.square() + 0.05 * (now.loc - stale.loc)[index].square().mean(0)).sqrt()
    wider[index] = scale[index]
    torch.testing.assert_close(value, exclusive_kl(now.z[index], loc, wider, PRIOR))


def test_what_has_not_been_seen_is_as_much_wider_as_rows_move():
    """And no wider once they stand still."""
    bank = EncodingBank(encoding(40))
    for _ in range(150):
        moved = Encoding(bank.loc + torch.tensor([0.3, 0.0]), bank.scale, bank.loc)
        bank.refresh(torch.arange(40), moved)
    index = torch.arange(5)
    _, scale = bank.mixture(index, rows(Encoding(bank.loc, bank.scale, bank.loc), index))
    grown = scale.square() - bank.scale.square()
    torch.testing.assert_close(grown[5:].mean(0), torch.tensor([0.09 * 0.95, 0.0]), rtol=0.01, atol=1e-6)
    assert not grown[:5].any()
    for _ in range(300):
        bank.refresh(torch.arange(40), Encoding(bank.loc, bank.scale, bank.loc))
    assert bank.drift.max() < 1e-6


def test_points_are_encoded_anew_in_turn():
    bank, seen = EncodingBank(encoding(10)), []

    def encode(index):
        seen.append(index.tolist())
        return rows(encoding(10, seed=1), index)

    for _ in range(3):
        bank.refresh_next(4, encode)
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
    assert bank.loc.equal(encoding(10, seed=1).loc)


def test_a_stale_bank_errs_downwards():
    """By KL(q‖q̃), though every batch refreshes its own rows."""
    now = encoding(400)
    moved = Encoding(now.loc + 0.5 * now.scale * torch.randn(400, 2), now.scale * 1.3, now.z)
    errors = []
    for index in torch.randperm(400).split(8):
        batch = rows(now, index)
        exact = exclusive_kl(batch.z, now.loc, now.scale, PRIOR)
        errors.append((EncodingBank(moved).exclusive_kl(PRIOR, batch, index=index) - exact).item())
    errors = torch.tensor(errors)
    assert errors.mean() < -3 * errors.std() / len(errors) ** 0.5


def test_its_gradient_is_that_of_the_exact_divergence():
    """On average over draws: here 40,000 from each of six encodings, three batches of two."""
    loc, scale, _ = (item.double().requires_grad_() for item in encoding(6))
    noise = torch.randn(6, 40_000, 2).double()
    prior = Independent(Normal(torch.zeros(2).double(), torch.ones(2).double()), 1)
    z = loc.unsqueeze(1) + scale.unsqueeze(1) * noise
    exact = torch.autograd.grad(
        exclusive_kl(z.flatten(0, 1), loc, scale, prior), (loc, scale), retain_graph=True
    )
    bank = EncodingBank(Encoding(loc, scale, loc))
    total = 0
    for index in torch.arange(6).split(2):
        repeated = index.repeat_interleave(40_000)
        batch = Encoding(loc[repeated], scale[repeated], z[index].flatten(0, 1))
        total += bank.exclusive_kl(prior, batch, index=repeated) / 3
    ours = torch.autograd.grad(total, (loc, scale))
    torch.testing.assert_close(torch.cat(ours), torch.cat(exact), rtol=0.03, atol=0.01)
    assert torch.cat(exact).abs().max() > 0.1


def run(out, *, resume=False, stop_after=None):
    folder, fabric = RunFolder(Toy(RunOptions(out, resume=resume))), Fabric(accelerator="cpu", devices=1)
    torch.manual_seed(7)
    model, points, _, _ = build(Pinwheel(num_points=100))
    model.bank = EncodingBank.of(model, points.split(40))
    steps = 0

    def objective(model, index):
        nonlocal steps
        if steps == stop_after:
            raise KeyboardInterrupt
        steps += 1

        def divergence(prior, encoding):
            return model.bank.exclusive_kl(prior, encoding, index=index)

        return decomposition(model, points[index], alpha=1.0, beta=0.0, divergence=divergence)

    with single_threaded():
        train(
            model, shuffled(torch.arange(100), 30), objective, epochs=6, lr=1e-3, fabric=fabric, folder=folder
        )
    return model.state_dict(), folder.rows()


def test_as_part_of_a_model_it_resumes_with_it(tmp_path):
    state, metrics = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop_after=9)
    resumed, resumed_metrics = run(tmp_path / "stopped", resume=True)
    assert resumed_metrics == metrics
    assert {"bank.loc", "bank.scale"} <= state.keys()
    assert all(resumed[name].equal(value) for name, value in state.items())
