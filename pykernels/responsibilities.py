"""How many encodings share a point: statistics of the responsibilities."""

from torch import Tensor

from . import _checks
from ._mixture import statistics
from .reference import responsibilities as _reference
from .reference.responsibilities import ResponsibilityStatistics


def responsibility_statistics(
    value: Tensor, loc: Tensor, scale: Tensor, log_weights: Tensor | None = None
) -> ResponsibilityStatistics:
    r"""Log-density of a mixture of n diagonal Gaussians at B points, and how many components share each point.

    .. math:: \text{perplexity}_b = \exp\Bigl(-\sum_i r_{bi} \log r_{bi}\Bigr)
        \quad\text{and}\quad \text{collision count}_b = \frac1{\sum_i r_{bi}^2},
        \qquad r_{bi} = \frac{w_i \prod_d \mathcal N(z_{bd}; \mu_{id}, \sigma_{id}^2)}{q(z_b)}

    Both are 1 where one component alone explains a point, and n where all do equally (with equal weights); the
    collision count is never the larger. Over points of the mixture, log n - mean(log perplexity) estimates the mutual
    information of component and point; means and quantiles of the two say what that number does not, how many others an
    encoding overlaps (Mathieu et al. 2019, "Disentangling Disentanglement in Variational Autoencoders", appendix D).

    Arguments, gradients, dtypes, determinism, cost and errors are those of `gaussian_mixture_log_prob`; all three come
    from one pass of a kernel.

    Returns:
        A named tuple (log_prob, perplexity, collision_count), each [*batch, B]. The last two are NaN at a point where
        no component has density.

    Example:
        >>> value, loc = torch.zeros(1, 1), torch.tensor([[1.0], [-1.0], [100.0]])
        >>> log_prob, perplexity, collision_count = responsibility_statistics(value, loc, torch.tensor(1.0))
        >>> perplexity, collision_count
        (tensor([2.]), tensor([2.]))
    """
    inputs = _checks.mixture_inputs(value, loc, scale, log_weights)
    return ResponsibilityStatistics(*statistics(*inputs))


def responsibility_statistics_from_log_prob(
    log_prob: Tensor, log_weights: Tensor | None = None
) -> ResponsibilityStatistics:
    r"""The statistics of `responsibility_statistics`, from the log-densities of all pairs of point and encoding.

    .. math:: r_{bi} \propto w_i\, q(z_b \mid x_i)

    For encoders that are no diagonal Gaussians, as those of appendix D of Mathieu et al. 2019.

    Args:
        log_prob: [*batch, B, n], log q(z_b | x_i).
        log_weights: anything that broadcasts to [*batch, n], used as given; None is -log n for each.

    Returns:
        A named tuple (log_prob, perplexity, collision_count), each [*batch, B], float64 for float64 arguments and
        float32 for all others.

    Gradients of any order reach both arguments; a point where no encoding has density gives none. Plain torch: O(B n)
    time and memory.

    Raises:
        TypeError: an argument is no floating-point tensor, or float64 meets another dtype.
        ValueError: shapes or devices do not match, or n is 0.

    Example:
        >>> shares = torch.tensor([[0.5, 0.25, 0.25]])
        >>> _, perplexity, collision_count = responsibility_statistics_from_log_prob(shares.log())
        >>> perplexity, collision_count
        (tensor([2.8284]), tensor([2.6667]))
    """
    return _reference.responsibility_statistics_from_log_prob(*_checks.log_prob_inputs(log_prob, log_weights))
