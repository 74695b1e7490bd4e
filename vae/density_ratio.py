"""Divergences by density ratios: a network that tells draws of q(z) from others, trained as the encoder is."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call
from torch.nn.functional import softplus

from vae import ranks
from vae.divergences import shuffled_dimensions
from vae.model import Encoding


class DensityRatio(nn.Module):
    """D(q, r) through r(z) ≈ log q(z) / r(z), the logit with which a network takes z for a draw of q.

    `against` is what q is compared with: "prior", draws of p(z), for D(q(z), p(z)); or "shuffled", the batch's draws
    with each dimension permuted by itself, for the total correlation (Kim & Mnih 2018). `measure` is what D is:

        "ratio"  E_q[logit], an estimate of KL(q‖·): FactorVAE's
        "gan"    E_q[softplus(logit)] − log 2, the loss of the generator of WAE-GAN (Tolstikhin et al. 2018)

    Both are 0 where the network sees no difference. Neither nests a logarithm around an average over a minibatch; but
    as the network is never the best one, they err by what it has not learned, and the penalty makes them too small: of
    a total correlation of 0.51 nats it leaves 0.42 at 0.05, and 0.10 at 1; without it the network's noise is 0.06.

    Called in training, it first takes `steps` of its own on the batch at hand, with no gradient for the encoder; then
    it is held still and gives its estimate, with no gradient for itself. What keeps that game stable:

    - the network's slope is penalised, at the draws of both sides, by ½ `penalty` |∇logit|² (Mescheder et al. 2018):
      where q and p do not overlap, logits would else grow without bound, and so would the encoder's gradient;
    - it is ahead of the encoder: several steps to each of the encoder's, with Adam at a rate of its own and without
      momentum, which would keep pushing the way q was a moment ago;
    - it starts from a logit of 0 everywhere, and reads activations that are smooth (SiLU), so that the penalty is too;
    - its loss works on logits, which never saturate as log(1 − sigmoid) would.

    A density ratio that is a part of the model, `model.ratio = DensityRatio(...)`, is in its checkpoints, its optimiser
    with it. The model's optimiser never sees a gradient for it.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        against: Literal["prior", "shuffled"] = "prior",
        measure: Literal["ratio", "gan"] = "ratio",
        hidden_features: int = 128,
        steps: int = 3,
        lr: float = 1e-3,
        penalty: float = 0.05,
    ):
        super().__init__()
        last = nn.Linear(hidden_features, 1)
        self.network = nn.Sequential(
            nn.Linear(latent_dim, hidden_features),
            nn.SiLU(),
            nn.Linear(hidden_features, hidden_features),
            nn.SiLU(),
            last,
        )
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.against, self.measure = against, measure
        self.steps, self.penalty = steps, penalty
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr, betas=(0.0, 0.99))

    def forward(self, prior: Distribution, encoding: Encoding) -> Tensor:
        """D, a scalar: a divergence as `vae.objectives.decomposition` takes it."""
        ranks.parts_are_known("a density ratio")
        if self.training and torch.is_grad_enabled():
            for _ in range(self.steps):
                self.fit(prior, encoding.z.detach())
        logit = self.logit(encoding.z)
        return logit.mean() if self.measure == "ratio" else softplus(logit).mean() - math.log(2)

    def logit(self, z: Tensor) -> Tensor:
        """The estimate of log q(z) / r(z), [B], with a gradient for z only."""
        frozen = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        result: Tensor = functional_call(self.network, frozen, z).squeeze(-1)
        return result

    def fit(self, prior: Distribution, z: Tensor) -> float:
        """One step of the network on the draws z [B, D] of q, and its loss before that."""
        if self.against == "prior":
            with torch.no_grad():
                other = prior.sample(z.shape[:1])
        else:
            other = shuffled_dimensions(z)
        both = torch.cat([z, other]).requires_grad_()
        logit = self.network(both).squeeze(-1)
        of_q, of_other = logit.split(len(z))
        loss = softplus(-of_q).mean() + softplus(of_other).mean()
        if self.penalty:
            (slope,) = torch.autograd.grad(logit.sum(), both, create_graph=True)
            loss = loss + 0.5 * self.penalty * slope.square().sum(-1).mean()
        parameters = list(self.network.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def get_extra_state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)
