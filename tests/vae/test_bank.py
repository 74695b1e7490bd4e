import math

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
from vae.ranks import Shard
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


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["loc", "scale"])
def test_what_is_not_finite_is_not_put_in(bad, field):
    """The batch's own value tells; the rest of the bank goes on as if it had not come."""
    everything, index = encoding(50), torch.tensor([4, 49, 0])
    bank, moved = EncodingBank(everything), encoding(50, seed=1)
    prior = Independent(Normal(torch.zeros(2), torch.ones(2), validate_args=False), 1)
    bank.refresh(torch.arange(10, 20), rows(moved, slice(10, 20)))
    drift = bank.drift
    batch = rows(moved, index)
    getattr(batch, field)[1, 0] = bad
    batch = batch._replace(z=batch.loc + batch.scale * torch.randn(3, 2))
    assert not bank.exclusive_kl(prior, batch, index=index).isfinite()
    assert bank.loc[49].equal(everything.loc[49]) and bank.scale[49].equal(everything.scale[49])
    assert bank.loc[[4, 0]].equal(moved.loc[[4, 0]])
    if field == "loc":
        assert bank.drift[0] == drift[0] > 0
    assert bank.exclusive_kl(PRIOR, rows(moved, index[:1]), index=index[:1]).isfinite()


def test_a_displacement_beyond_all_numbers_does_not_stay():
    bank, index = EncodingBank(encoding(50)), torch.tensor([7])
    bank.refresh(index, Encoding(torch.full((1, 2), 1e30), torch.ones(1, 2), torch.ones(1, 2)))
    bank.refresh(index, rows(encoding(50), index))
    assert not bank.drift.any()


def test_evaluation_does_not_change_it():
    stale, now, index = encoding(50), encoding(50, seed=1), torch.tensor([4, 49, 0])
    bank = EncodingBank(stale)
    before = {name: item.clone() for name, item in bank.state_dict().items()}
    bank.eval()
    value = bank.exclusive_kl(PRIOR, rows(now, index), index=index)
    bank.decomposed_kl(PRIOR, rows(now, index), index=index, total_correlation=1.0)
    assert all(item.equal(before[name]) for name, item in bank.state_dict().items())
    loc, scale = (torch.clone(item) for item in stale[:2])
    loc[index], scale[index] = now.loc[index], now.scale[index]
    torch.testing.assert_close(value, exclusive_kl(now.z[index], loc, scale, PRIOR))
    bank.refresh(index, rows(now, index))  # asked for by name
    assert bank.loc.equal(loc) and bank.scale.equal(scale)


def test_it_moves_and_converts_with_the_model():
    model = torch.nn.ModuleList([EncodingBank(encoding(5))]).double()
    assert {item.dtype for item in (model[0].loc, model[0].scale, model[0].drift)} == {torch.float64}


def test_whole_numbers_of_either_kind_are_an_index():
    everything, index = encoding(50), torch.tensor([4, 49, 0])
    batch = rows(encoding(50, seed=1), index)
    values = [
        EncodingBank(everything).decomposed_kl(PRIOR, batch, index=kind, total_correlation=1.0)
        for kind in (index, index.int())
    ]
    assert values[0].equal(values[1])


def test_repeated_points_may_differ_by_rounding():
    index = torch.tensor([4, 7, 4])
    batch = rows(encoding(50, seed=1), index)
    batch.loc[2] *= 1 + 1e-6
    EncodingBank(encoding(50)).refresh(index, batch)


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        ([4, 9, 0], TypeError, r"index must be a tensor of int64 or int32, but came as list"),
        (torch.ones(3, dtype=torch.bool), TypeError, r"index .* came as torch\.bool: .*mask\.nonzero"),
        (torch.arange(2), ValueError, r"index must have shape \[B\], .* \[2\] and encoding\.loc \[3, 2\]"),
        (torch.tensor(4), ValueError, r"index must have shape \[B\], .* \[\]"),
        (torch.tensor([4, 50, 0]), ValueError, "index must be between 0 and 49, .* but has 50"),
        (torch.tensor([4, -1, 0]), ValueError, "index must be between 0 and 49, .* but has -1"),
        (torch.tensor([4, 0, 4]), ValueError, "index must name a data point once"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_wrong_index_is_named_before_anything_changes(index, error, message, training):
    bank, batch = EncodingBank(encoding(50)).train(training), encoding(3, seed=1)
    before = {name: item.clone() for name, item in bank.state_dict().items()}
    with pytest.raises(error, match=message):
        bank.exclusive_kl(PRIOR, batch, index=index)
    assert all(item.equal(before[name]) for name, item in bank.state_dict().items())


@pytest.mark.parametrize(
    ("loc", "scale", "error", "message"),
    [
        (torch.zeros(3), torch.ones(3), ValueError, r"encoding\.loc must have shape \[B, "),
        (
            torch.zeros(3, 2),
            torch.tensor(1.0),
            ValueError,
            r"encoding\.scale must have .*\[\]: use scale\.expand_as",
        ),
        (torch.zeros(3, 2), -torch.ones(3, 2), ValueError, r"encoding\.scale must be positive .* -1\.0"),
        (
            torch.zeros(3, 2),
            torch.ones(3, 2).double(),
            TypeError,
            r"encoding\.scale must be torch\.float32|floating",
        ),
    ],
)
def test_wrong_encodings_are_named(loc, scale, error, message):
    with pytest.raises(error, match=message):
        EncodingBank(Encoding(loc, scale, loc))
    with pytest.raises(error, match=message):
        EncodingBank(encoding(50)).refresh(torch.arange(3), Encoding(loc, scale, loc))


def test_a_bank_begins_with_finite_encodings_of_its_own_shard():
    everything = encoding(50)
    with pytest.raises(ValueError, match="encoding must hold the shard's 20 data points, but holds 50"):
        EncodingBank(everything, Shard(0, 20, 50))
    everything.loc[3, 1] = math.nan
    with pytest.raises(ValueError, match=r"encoding\.loc and encoding\.scale must be finite"):
        EncodingBank(everything)


def test_a_shard_alone_is_refused():
    """Where no part of a batch is held, the other ranks' encodings would be left out in silence."""
    batch, index = encoding(3), torch.arange(3)
    bank = EncodingBank(encoding(20), Shard(0, 20, 50))
    for call in (bank.refresh, bank.mixture):
        with pytest.raises(
            ValueError, match=r"must be called while all ranks hold .*20 of 50.*shard\.holding"
        ):
            call(index, batch)
    with pytest.raises(ValueError, match="none is held"):
        bank.exclusive_kl(PRIOR, batch, index=index)


@pytest.mark.parametrize("n", [20, 200])
def test_the_state_of_a_bank_of_another_size_is_refused(n):
    bank = EncodingBank(encoding(50))
    with pytest.raises(RuntimeError, match=rf"size mismatch for loc: .* \[50, 2\].* \[{n}, 2\]"):
        bank.load_state_dict(EncodingBank(encoding(n)).state_dict())
    assert bank.loc.equal(encoding(50).loc)


def test_a_state_without_encodings_is_refused():
    bank = EncodingBank(encoding(50))
    state = {name: item for name, item in bank.state_dict().items() if name != "scale"}
    with pytest.raises(RuntimeError, match=r"Missing key.*\"scale\""):
        bank.load_state_dict(state)
    assert bank.load_state_dict(state, strict=False).missing_keys == ["scale"]


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
