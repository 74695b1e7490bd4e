"""Minibatch estimates of the aggregate posterior's log-density."""

from torch import Tensor

from . import _checks
from ._mixture import densities
from .reference.minibatch import ESTIMATORS
from .reference.mixture import JointAndMarginal


def minibatch_log_prob(
    z: Tensor, loc: Tensor, scale: Tensor, dataset_size: int, estimator: str
) -> JointAndMarginal:
    r"""Estimate, from a minibatch of B encodings, of the log-density of the mixture of all N, at their own points.

    .. math:: \log \hat q(z_b) = \operatorname{logsumexp}_i \Bigl(\log w_{bi}
        + \sum_d \log \mathcal N(z_{bd}; \mu_{id}, \sigma_{id}^2)\Bigr)
        \quad\text{and}\quad
        \log \hat q(z_{bd}) = \operatorname{logsumexp}_i \bigl(\log w_{bi}
        + \log \mathcal N(z_{bd}; \mu_{id}, \sigma_{id}^2)\bigr),

    where z_b was drawn from encoding b, and M = B - 1 in the weights:

    ========= ======= ================== ================ ==============================================
    estimator own, b  next, b + 1 mod B  every other one  its source; the estimate of q(z_b)
    ========= ======= ================== ================ ==============================================
    "hfvae"   1/N     (N - 1)/(N M)      (N - 1)/(N M)    Esmaeili et al. 2019 (Mathieu et al. 2019,
                                                          equation 11b); unbiased, see below
    "mss"     1/N     (N - M)/(N M)      1/M              stratified sampling, Chen et al. 2018; unbiased,
                                                          more variable: "hfvae" is its mean over where
                                                          the odd one is
    "mws"     1/(N B) 1/(N B)            1/(N B)          weighted sampling, Chen et al. 2018; biased: its
                                                          weights sum to 1/N
    "batch"   1/B     1/B                1/B              the minibatch as if it were all; biased
    ========= ======= ================== ================ ==============================================

    "Unbiased" is q given z_b and its own encoding, the others being drawn without replacement from the remaining
    N - 1. The logarithm of an unbiased estimate is biased downwards all the same, and the entropy -mean(joint) upwards;
    it never exceeds log N - mean(log q(z_b|x_b)). Published implementations differ: those of stratified sampling put
    the weight 1/N into column 0 instead of the diagonal.

    Args:
        z: [B, D], point b drawn from encoding b; further leading dimensions `*batch` are minibatches of their own.
        loc: [B, D], the means of the encodings.
        scale: standard deviations, positive, in the units of `z`; anything that broadcasts to `loc`.
        dataset_size: N, with 2 <= B <= N.
        estimator: "hfvae", "mss", "mws" or "batch".

    Returns:
        A named tuple (joint [B], marginal [B, D]) in nats, both from one pass over the pairs.

    Gradients, dtypes, determinism, cost and errors are those of `gaussian_mixture_log_prob` with n = B: O(B^2 D) time
    and O(B D) memory.

    Raises:
        TypeError: an argument is no floating-point tensor, float64 meets another dtype, or dataset_size is no integer.
        ValueError: shapes or devices do not match, not 2 <= B <= dataset_size, an unknown estimator, or a scale that is
            not positive.

    Example:
        >>> z = torch.tensor([[0.0], [1.0]])
        >>> minibatch_log_prob(z, z, torch.tensor(1.0), 10, "hfvae").joint
        tensor([-1.3561, -1.3561])
    """
    inputs, size = _checks.minibatch_inputs(z, loc, scale, dataset_size, estimator, ESTIMATORS)
    return JointAndMarginal(*densities(*inputs, None, True, True, estimator, size))
