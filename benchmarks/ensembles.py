"""Several seeds of `vae shapes` as one batched model, in two ways, to be timed against one after another.

Each is made of models and of images [seeds, B, 1, 64, 64], and is a call that makes one step of every seed and returns
the gradients of their first layers, [seeds, 32, 1, 4, 4], which must agree.
"""

from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits

from vae.experiments.shapes import Shapes, build
from vae.model import VAE
from vae.objectives import beta_vae
from vae.training import step

CONFIG = Shapes(prior="normal")
LATENT = CONFIG.latent_dim
STRIDED = {"kernel_size": 4, "stride": 2, "padding": 1}


def models(seeds: int, device: str = "cpu") -> list[VAE]:
    return [build(CONFIG, torch.empty(0)).to(device) for _ in range(seeds)]


def optimiser(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, CONFIG.lr, amsgrad=True, fused=True)


def one_after_another(members: list[VAE], images: Tensor, precision: str) -> Callable[[], Tensor]:
    """As --seeds trains them."""
    fabric = Fabric(accelerator=images.device.type, devices=1, precision=precision)
    prepared = [fabric.setup(member, optimiser(member.parameters())) for member in members]

    def all_steps() -> Tensor:
        for (model, adam), x in zip(prepared, images):
            step(model, x, beta_vae(CONFIG.beta), adam, fabric)
        return torch.stack([member.encoder.body[0].weight.grad for member in members])

    return all_steps


def vectorised(members: list[VAE], images: Tensor, precision: str) -> Callable[[], Tensor]:
    """By torch.func: parameters stacked, the loss of one model mapped over them."""
    fabric = Fabric(accelerator=images.device.type, devices=1, precision=precision)
    parameters, buffers = torch.func.stack_module_state(members)
    adam = optimiser(parameters.values())
    blueprint = _Objective(members[0])

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, noise: Tensor) -> Tensor:
        state = {f"model.{name}": value for name, value in (parameters | buffers).items()}
        return -torch.func.functional_call(blueprint, state, (x, noise))

    def all_steps() -> Tensor:
        noise = torch.randn(*images.shape[:2], LATENT, device=images.device)
        with fabric.autocast():
            gradients = torch.vmap(torch.func.grad(loss))(parameters, buffers, images, noise)
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        adam.step()
        return gradients["encoder.body.0.weight"]

    return all_steps


class _Objective(nn.Module):
    """The β-VAE's objective of one model with its noise given, which vmap would not draw as is done outside of it."""

    def __init__(self, model: VAE):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        loc, scale = self.model.encoder(x)
        logits = self.model.decoder(loc + scale * noise)
        return objective(logits, x, loc, scale).mean()


def objective(logits: Tensor, x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """[..., B] for one model or several."""
    log_likelihood = -binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(-3).sum(-1)
    prior = Normal(torch.zeros_like(loc), torch.ones_like(loc), validate_args=False)
    kl = kl_divergence(Normal(loc, scale, validate_args=False), prior).sum(-1)
    return log_likelihood - CONFIG.beta * kl


def grouped(members: list[VAE], images: Tensor, precision: str) -> Callable[[], Tensor]:
    """By convolutions with a group for each seed, and batched matrix products."""
    fabric = Fabric(accelerator=images.device.type, devices=1, precision=precision)
    bare_model = GroupedShapes(members)
    model, adam = fabric.setup(bare_model, optimiser(bare_model.parameters()))

    def all_steps() -> Tensor:
        adam.zero_grad()
        loc, scale, logits = model(images)
        fabric.backward(-objective(logits, images, loc, scale).mean(1).sum())
        adam.step()
        return bare_model.encode[0].weight.grad.unflatten(0, (bare_model.seeds, -1))

    return all_steps


class GroupedShapes(nn.Module):
    """The networks of Table 1a for several seeds at once, with the weights of the models given."""

    def __init__(self, members: list[VAE]):
        super().__init__()
        self.seeds = len(members)
        encoders, decoders = [m.encoder for m in members], [m.decoder for m in members]
        convolutions = [_grouped(nn.Conv2d, [e.body[i] for e in encoders]) for i in (0, 2, 4, 6)]
        self.encode = nn.Sequential(*(part for c in convolutions for part in (c, nn.ReLU())))
        self.features = _Linears([e.body[9] for e in encoders])
        self.heads = _Linears([e.heads for e in encoders])
        self.widen = nn.ModuleList(_Linears([d.body[i] for d in decoders]) for i in (0, 2))
        convolutions = [_grouped(nn.ConvTranspose2d, [d.body[i] for d in decoders]) for i in (5, 7, 9)]
        last = _grouped(nn.ConvTranspose2d, [d.body[11] for d in decoders])
        self.decode = nn.Sequential(*(part for c in convolutions for part in (c, nn.ReLU())), last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[seeds, B, D] twice, and logits like x [seeds, B, 1, 64, 64]."""
        seeds, size = x.shape[:2]
        encoded = self.encode(x.squeeze(2).transpose(0, 1))
        encoded = encoded.unflatten(1, (seeds, -1)).transpose(0, 1).flatten(2)
        loc, log_variance = self.heads(self.features(encoded)).float().chunk(2, dim=-1)
        scale = (0.5 * log_variance).exp() + 1e-6
        z = loc + scale * torch.randn_like(loc)
        for layer in self.widen:
            z = layer(z).relu()
        z = z.transpose(0, 1).reshape(size, seeds * 64, 4, 4)
        return loc, scale, self.decode(z).float().transpose(0, 1).unsqueeze(2)


class _Linears(nn.Module):
    def __init__(self, layers: list[nn.Linear]):
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.T for layer in layers]).detach())
        self.bias = nn.Parameter(torch.stack([layer.bias for layer in layers]).unsqueeze(1).detach())

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


def _grouped(kind: Any, layers: list[Any]) -> nn.Module:
    """One layer with a group for each of those given."""
    groups, first = len(layers), layers[0]
    joined = kind(groups * first.in_channels, groups * first.out_channels, **STRIDED, groups=groups)
    joined.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]).detach())
    joined.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]).detach())
    return joined
