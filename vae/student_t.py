"""The Student-t distribution with what torch's lacks: cdf, icdf, and its KL from a normal."""

import functools
import math
from collections.abc import Callable
from typing import Any, cast

import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Chi2, Normal, register_kl
from torch.distributions import StudentT as TorchStudentT
from torch.distributions.utils import broadcast_all
from torch.types import _size

# The trapezoidal rule at 65 points of the standard normal, 0.25 apart, to ±8. For a function that is analytic to a
# distance of `a` from the real line it errs by the order of exp(−2π a / 0.25); log p has its singularities at
# loc ± i √df scale.
_POINTS = torch.linspace(-8, 8, 65, dtype=torch.float64)
_WEIGHTS = torch.softmax(-0.5 * _POINTS.square(), 0)


class StudentT(TorchStudentT):
    """torch's StudentT(df, loc, scale) with `cdf` and `icdf`, which have float64's precision in the lower tail.

    They are computed by scipy on the CPU, and have no gradient. KL(Normal‖StudentT) is registered with torch.
    """

    def __init__(
        self,
        df: Tensor,
        loc: Tensor | float = 0.0,
        scale: Tensor | float = 1.0,
        validate_args: bool | None = None,
    ):
        # torch's own always looks whether df is positive, for which a GPU would have to be waited for.
        self.df, self.loc, self.scale = broadcast_all(df, loc, scale)
        self._chi2 = Chi2(self.df, validate_args=validate_args)
        super(TorchStudentT, self).__init__(self.df.shape, validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: Any = None) -> "StudentT":
        new = self._get_checked_instance(StudentT, _instance)  # type: ignore[no-untyped-call]
        super().expand(batch_shape, new)  # type: ignore[no-untyped-call]
        return cast(StudentT, new)

    def cdf(self, value: Tensor) -> Tensor:
        return self._by_scipy(scipy.special.stdtr, (value - self.loc) / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        return self.loc + self.scale * self._by_scipy(scipy.special.stdtrit, value)

    def to_normal(self, value: Tensor) -> Tensor:
        """Φ⁻¹(cdf(value)): the point of the standard normal that has as much below it. Exact in both tails."""
        standardised = (value - self.loc) / self.scale
        below = self._by_scipy(_lower_normal, -standardised.abs())
        return -standardised.sign() * below

    def _by_scipy(self, function: Callable[..., Any], argument: Tensor) -> Tensor:
        df, value = (item.detach().double().cpu().numpy() for item in (self.df, argument))
        return torch.as_tensor(function(df, value)).to(argument)


def _lower_normal(df: NDArray[Any], value: NDArray[Any]) -> NDArray[Any]:
    result: NDArray[Any] = scipy.special.ndtri(scipy.special.stdtr(df, value))
    return result


@functools.cache
def _rule(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Copied to a device once: a recorded step must not copy."""
    return _POINTS.to(device, dtype), _WEIGHTS.to(device, dtype)


@register_kl(Normal, StudentT)  # type: ignore[untyped-decorator]
def _kl_normal_student_t(p: Normal, q: StudentT) -> Tensor:
    """−H[p] − E_p[log q], the second by quadrature.

    With r = (scale of p) / (√df · scale of q), the error is below 1e-11 (df + 1) for r ≤ 1, 5e-7 (df + 1) for r ≤ 2
    and 1e-3 (df + 1) for r ≤ 5, plus the dtype's rounding. Differentiable in all parameters; 65 terms an element.
    """
    points, weights = _rule(p.loc.dtype, p.loc.device)
    standardised = ((p.loc - q.loc).unsqueeze(-1) + p.scale.unsqueeze(-1) * points) / q.scale.unsqueeze(-1)
    tail = (weights * torch.log1p(standardised.square() / q.df.unsqueeze(-1))).sum(-1)
    df = q.df.double()  # float32 would lose what large df have in common
    log_normaliser = torch.lgamma(0.5 * (df + 1)) - torch.lgamma(0.5 * df) - 0.5 * (math.pi * df).log()
    result: Tensor = 0.5 * (q.df + 1) * tail - log_normaliser.to(p.loc) + q.scale.log() - p.entropy()
    return result
