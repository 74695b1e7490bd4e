"""Minibatch estimates of the aggregate posterior's density: the specification's section 4, entropy estimators, with

    joint[b]       = logsumexp_i( log w[b, i] + sum_d log N(z[b, d]; loc[i, d], scale[i, d]^2) )
    marginal[b, d] = logsumexp_i( log w[b, i] +       log N(z[b, d]; loc[i, d], scale[i, d]^2) ),

where z[b] was drawn from encoding b. Of N encodings in all the minibatch has B, and M = B - 1:

             w[b, b]    w[b, b + 1 mod B]    every other w[b, i]    sum over i
    mws      1/(N B)    1/(N B)              1/(N B)                1/N
    mss      1/N        (N - M)/(N M)        1/M                    1
    hfvae    1/N        (N - 1)/(N M)        (N - 1)/(N M)          1
    batch    1/B        1/B                  1/B                    1
"""

from torch import Tensor

from .mixture import JointAndMarginal, PairWeights, align, mixture_log_prob

ESTIMATORS = ("mws", "mss", "hfvae", "batch")


def minibatch_log_prob(
    z: Tensor, loc: Tensor, scale: Tensor, dataset_size: int, estimator: str
) -> JointAndMarginal:
    """Both equations of the module."""
    z, loc, scale, _ = align(z, loc, scale, None)
    pairs = pair_weights(estimator, loc.shape[-2], dataset_size)
    return JointAndMarginal(*mixture_log_prob(z, loc, scale, None, True, True, pairs, recompute=True))


def pair_weights(estimator: str, batch_size: int, dataset_size: int) -> PairWeights:
    """The module's table."""
    n, b, m = dataset_size, batch_size, batch_size - 1
    if estimator == "mws":
        return PairWeights(own=1 / (n * b), next=1 / (n * b), other=1 / (n * b))
    if estimator == "mss":
        return PairWeights(own=1 / n, next=(n - m) / (n * m), other=1 / m)
    if estimator == "hfvae":
        return PairWeights(own=1 / n, next=(n - 1) / (n * m), other=(n - 1) / (n * m))
    return PairWeights(own=1 / b, next=1 / b, other=1 / b)
