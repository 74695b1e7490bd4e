"""The disentanglement score of Kim and Mnih (2018, §4 and appendix B): do factors have dimensions of their own?"""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from vae.data.factors import Factors

POINTS_AT_A_TIME = 2**18


class Protocol(NamedTuple):
    points: int
    """Points per vote that share the value of one factor, L."""
    votes: int
    """Votes that the classifier is made of."""
    held_out_votes: int
    """Votes that it is scored on; 0: on its own."""
    min_std: float
    """Dimensions whose standard deviation over the data is below this are dropped; constant ones always are."""


KIM_MNIH = Protocol(points=64, votes=10_000, held_out_votes=5_000, min_std=0.05)
PUBLISHED = Protocol(points=1_000, votes=20_000, held_out_votes=0, min_std=0.0)
"""As the code published with the paper of this package has it."""


def factor_score(encodings: Tensor, factors: Factors, protocol: Protocol = KIM_MNIH, seed: int = 0) -> float:
    """How often a fixed factor is told from the dimension that varies least.

    For each vote a factor and a value of it are drawn, and L points that have it (all, where there are no more than
    L; else with replacement). The vote is (d, k): dimension d has the least variance over them, relative to that
    over the data, and k is the factor. Each dimension stands for the factor it has the most votes for; the score is
    how often that is right.

    encodings: [n, D], the encoders' means for all n points of `factors`, in their order. Factors of one value are
    left out. 1 where every factor has dimensions of its own. By chance, with 5 factors and D = 10: 0.200 held out,
    0.212 under PUBLISHED. 0, with a warning, where every dimension is dropped. The same for the same `seed`;
    dimensions may be permuted, scaled (above `min_std`) and negated. Takes O(votes · L · D) time, and the
    memory of the encodings twice.
    """
    if encodings.dim() != 2 or len(encodings) != factors.count:
        raise ValueError(f"encodings must be [{factors.count}, D], got {tuple(encodings.shape)}")
    std = encodings.double().std(0)
    kept = (encodings.amax(0) != encodings.amin(0)) & (std >= protocol.min_std)
    if not kept.any():
        warnings.warn("every dimension of the encodings has collapsed: the score is 0", stacklevel=2)
        return 0.0
    normalised = (encodings[:, kept] / std[kept].to(encodings.dtype)).contiguous()
    generator = torch.Generator(encodings.device).manual_seed(seed)
    votes = _votes(normalised, factors, protocol.points, protocol.votes, generator)
    scored = votes
    if protocol.held_out_votes:
        scored = _votes(normalised, factors, protocol.points, protocol.held_out_votes, generator)
    correct = scored.gather(1, votes.argmax(1, keepdim=True))
    return (correct.sum() / scored.sum()).item()


def _votes(
    encodings: Tensor, factors: Factors, points: int, count: int, generator: torch.Generator
) -> Tensor:
    """How many of `count` votes are for each dimension and factor, [D, factors]."""
    device = encodings.device
    varying = [factor for factor, size in enumerate(factors.sizes) if size > 1]
    drawn = torch.randint(len(varying), (count,), generator=generator, device=device)
    result = torch.zeros(encodings.shape[1], len(factors.sizes), dtype=torch.int64, device=device)
    for factor, votes in zip(varying, drawn.bincount(minlength=len(varying)).tolist()):
        size = factors.sizes[factor]
        sharing = factors.count // size
        for part in _parts(votes, max(1, POINTS_AT_A_TIME // min(points, sharing))):
            level = torch.randint(size, (part, 1), generator=generator, device=device)
            if sharing <= points:
                number = torch.arange(sharing, device=device)
            else:
                number = torch.randint(sharing, (part, points), generator=generator, device=device)
            rows = factors.sharing(factor, level, number)
            # Half the time of encodings[rows].var(1); which is least needs no divisor.
            seen = encodings.index_select(0, rows.flatten()).unflatten(0, rows.shape)
            squares = (seen - seen.mean(1, keepdim=True)).square().sum(1)
            result[:, factor] += squares.argmin(1).bincount(minlength=len(result))
    return result


def _parts(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
