"""Steps that a GPU replays: the same results as calls, and nothing in them that a recording would miss."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from tests.recordable import Recordable
from tests.vae.test_training import Toy
from vae import divergences
from vae.capture import WARM_UP, Replayed
from vae.experiments import fashion, pinwheel, shapes
from vae.model import VAE
from vae.objectives import Objective, beta_vae, decomposition, wae_mmd
from vae.run import RunFolder, RunOptions
from vae.training import shuffled, single_threaded, step, train

OPTIONS = RunOptions(Path("unused"))


def mlp_objective() -> tuple[VAE, Objective]:
    model = pinwheel.build(pinwheel.Pinwheel(run=OPTIONS, num_points=40))[0]
    divergence = partial(divergences.inclusive_kl, num_samples=20)
    return model, partial(decomposition, alpha=1.0, beta=0.5, divergence=divergence)


def weights_after(batches, wrap: Callable) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The weights after a step for each batch, and what each step returned."""
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1)
    bare_model, objective = mlp_objective()
    model, optimizer = fabric.setup(bare_model, torch.optim.Adam(bare_model.parameters(), 1e-2))
    run = wrap(lambda batch: torch.stack(step(model, batch, objective, optimizer, fabric)).detach())
    returned = [run(batch).clone() for batch in batches]
    return [weight.detach() for weight in bare_model.parameters()], returned


def test_replayed_steps_are_the_same_steps():
    data = torch.randn(36, 2)
    batches = [*data.split(5)] * 2  # the last of each epoch has one point
    recorded = []

    def record(call):
        recorded.append(call)
        return call  # a recording, too, computes nothing before it is replayed

    with single_threaded():
        expected = weights_after(batches, lambda function: function)
        found = weights_after(batches, lambda function: Replayed(function, record))
    assert len(recorded) == 1
    for left, right in zip(expected, found):
        assert all(a.equal(b) for a, b in zip(left, right, strict=True))


def test_a_cpu_trains_by_calls(tmp_path):
    rows = []
    for capture in (False, True):
        torch.manual_seed(0)
        model, objective = mlp_objective()
        folder = RunFolder(Toy(RunOptions(tmp_path / str(capture))))
        fabric = Fabric(accelerator="cpu", devices=1)
        options = {"epochs": 2, "lr": 1e-2, "fabric": fabric, "folder": folder, "capture": capture}
        with single_threaded():
            train(model, shuffled(torch.randn(40, 2), 8), objective, **options)
        rows.append(folder.rows())
    assert rows[0] == rows[1]


def test_what_is_called_and_what_is_replayed():
    called, replays = [], []

    def function(batch):
        called.append(len(batch))
        return batch.sum()

    def record(call):
        def replay():
            replays.append(call())
            return replays[-1]

        return replay

    run = Replayed(function, record)
    batch = torch.ones(4)
    assert [run(batch * k).item() for k in range(WARM_UP)] == [4 * k for k in range(WARM_UP)]
    assert replays == []
    assert run(batch * 7) == 28 and run(torch.ones(2)) == 2 and run(batch * 8) == 32
    assert [replay.item() for replay in replays] == [28, 32]
    assert batch.equal(torch.ones(4))


def test_a_shape_that_does_not_last_is_not_recorded():
    run = Replayed(lambda batch: batch.sum(), lambda call: pytest.fail("recorded"))
    for size in (2, 2, 3, 3, 3, 2):
        assert run(torch.ones(size)) == size


def of_shapes(prior: str) -> tuple[VAE, Objective]:
    config = shapes.Shapes(prior=prior, prior_init="iso", prior_scales="learned", run=OPTIONS)
    return shapes.build(config, torch.empty(0)), beta_vae(2.0)


def of_fashion(gamma: float) -> tuple[VAE, Objective]:
    model = fashion.build(fashion.Fashion(gamma=gamma, run=OPTIONS))
    return model, partial(decomposition, alpha=10.0, beta=1.0, divergence=divergences.dimensionwise_mmd)


def whole_vectors() -> tuple[VAE, Objective]:
    return fashion.build(fashion.Fashion(run=OPTIONS)), wae_mmd(10.0)


@pytest.mark.parametrize(
    ("make", "event"),
    [
        pytest.param(partial(of_shapes, "normal"), (1, 64, 64), id="shapes-normal"),
        pytest.param(partial(of_shapes, "anisotropic"), (1, 64, 64), id="shapes-anisotropic"),
        pytest.param(partial(of_shapes, "student-t"), (1, 64, 64), id="shapes-student-t"),
        pytest.param(partial(of_fashion, 0.0), (1, 32, 32), id="fashion-normal"),
        pytest.param(partial(of_fashion, 0.8), (1, 32, 32), id="fashion-sparse"),
        pytest.param(mlp_objective, (2,), id="pinwheel"),
        pytest.param(whole_vectors, (1, 32, 32), id="whole-vector MMD"),
    ],
)
def test_a_step_waits_for_nothing_and_copies_nothing(make, event):
    """On the device "meta", which computes shapes only: so it is no CPU, whose arguments are checked and read."""
    model, objective = make()
    model = model.to("meta")
    batch = torch.empty(8, *event, device="meta")
    objective(model, batch)  # tables that are copied once, as when a step warms up
    state = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    with Recordable():
        terms = objective(model, batch)
        (-terms.objective).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    now = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    assert all(now[name] is tensor for name, tensor in state.items())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_gpu_trains_alike_with_and_without(tmp_path, gpu, precision):
    rows = []
    for capture in (False, True):
        with torch.device("cpu"):
            torch.manual_seed(0)
            model, objective = of_fashion(0.8)
            images = torch.rand(200, 1, 32, 32)
        fabric = Fabric(accelerator="cuda", devices=1, precision=precision)
        folder = RunFolder(Toy(RunOptions(tmp_path / str(capture))))
        batches = shuffled(images.to(gpu), 32)  # and 8 in the end
        train(
            model.to(gpu),
            batches,
            objective,
            epochs=4,
            lr=1e-3,
            fabric=fabric,
            folder=folder,
            capture=capture,
        )
        rows.append([row["objective"] for row in folder.rows()])
    assert rows[1] == pytest.approx(rows[0], rel=0.02)
    assert rows[1][-1] > rows[1][0]
