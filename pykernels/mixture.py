"""Log-density of a mixture of diagonal Gaussians."""

from torch import Tensor

from . import _checks
from ._mixture import densities
from .reference.mixture import JointAndMarginal


def gaussian_mixture_log_prob(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None = None
) -> Tensor:
    r"""Log-density of a mixture of n diagonal Gaussians at B points.

    .. math:: \log q(z_b) = \operatorname{logsumexp}_i \Bigl(\log w_i
        + \sum_d \log \mathcal N(z_{bd}; \mu_{id}, \sigma_{id}^2)\Bigr)

    With equal weights and one component per encoded data point this is the log-density of a variational
    auto-encoder's aggregate posterior (Mathieu et al. 2019, "Disentangling Disentanglement in Variational
    Autoencoders", section 6).

    Args:
        value: [*batch, B, D], the points.
        loc: [*batch, n, D], the means.
        scale: standard deviations, positive, in the units of `value`; anything that broadcasts to `loc`.
        log_weights: anything that broadcasts to [*batch, n], used as given, never normalised; None is -log n
            for each. A component of log-weight -inf is absent.

    Returns:
        [*batch, B] in nats, float64 for float64 arguments and float32 for all others. The leading
        dimensions `*batch` broadcast together.

    Gradients reach every argument, in its own shape and dtype; a point whose result is -inf gives none.
    They can be differentiated once more in eager mode; forward mode raises an error. Equal arguments give
    equal bits, from run to run and for any number of threads, on one kind of processor.

    The cost is O(B n D) time and O((B + n) D) memory, the backward pass included: no [B, n] tensor is made.

    Raises:
        TypeError: an argument is no floating-point tensor, or float64 meets another dtype.
        ValueError: shapes or devices do not match, n or D is 0, or a scale is not positive. The last is
            checked for eager CPU tensors only, and while `torch.distributions` validates arguments.

    Example:
        >>> value, loc = torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> gaussian_mixture_log_prob(value, loc, torch.tensor(1.0))
        tensor([-2.3379])
    """
    return densities(*_checks.mixture_inputs(value, loc, scale, log_weights), True, False)[0]


def gaussian_mixture_marginal_log_prob(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None = None
) -> Tensor:
    r"""Log-density of every dimension of a mixture of n diagonal Gaussians, each by itself, at B points.

    .. math:: \log q(z_{bd}) = \operatorname{logsumexp}_i \bigl(\log w_i
        + \log \mathcal N(z_{bd}; \mu_{id}, \sigma_{id}^2)\bigr)

    These are the marginals in the total correlation of Chen et al. 2018, "Isolating Sources of
    Disentanglement in VAEs", equation 2. Arguments, gradients, determinism, cost and errors are those of
    `gaussian_mixture_log_prob`.

    Returns:
        [*batch, B, D] in nats.

    Example:
        >>> value, loc = torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> gaussian_mixture_marginal_log_prob(value, loc, torch.tensor(1.0))
        tensor([[-1.4189, -0.9189]])
    """
    return densities(*_checks.mixture_inputs(value, loc, scale, log_weights), False, True)[0]


def gaussian_mixture_joint_and_marginal_log_prob(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None = None
) -> JointAndMarginal:
    r"""`gaussian_mixture_log_prob` and `gaussian_mixture_marginal_log_prob` in one pass over the pairs.

    .. math:: \log q(z_b) \quad\text{and}\quad \log q(z_{bd})

    Over points of the mixture, joint - marginal.sum(-1) averages to the total correlation (Chen et al. 2018).
    Arguments, gradients, determinism, cost and errors are those of `gaussian_mixture_log_prob`.

    Returns:
        A named tuple (joint [*batch, B], marginal [*batch, B, D]) in nats.

    Example:
        >>> value, loc = torch.ones(1, 2), torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
        >>> joint, marginal = gaussian_mixture_joint_and_marginal_log_prob(value, loc, torch.tensor(1.0))
        >>> joint - marginal.sum(-1)
        tensor([0.4574])
    """
    inputs = _checks.mixture_inputs(value, loc, scale, log_weights)
    return JointAndMarginal(*densities(*inputs, True, True))
