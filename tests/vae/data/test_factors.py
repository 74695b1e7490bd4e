import itertools

import torch

from vae.data.factors import Factors

FACTORS = Factors(("a", "b", "c"), (2, 3, 4))


def test_rows_are_in_the_order_of_nested_loops():
    expected = list(itertools.product(range(2), range(3), range(4)))
    rows = torch.arange(FACTORS.count)
    assert FACTORS.levels(rows).tolist() == [list(levels) for levels in expected]
    assert FACTORS.index(torch.tensor(expected)).equal(rows)
    assert FACTORS.levels(rows.view(4, 6)).shape == (4, 6, 3)


def test_points_that_share_a_level_are_numbered_in_the_order_of_their_rows():
    levels = FACTORS.levels(torch.arange(FACTORS.count))
    for factor, size in enumerate(FACTORS.sizes):
        number = torch.arange(FACTORS.count // size)
        found = FACTORS.sharing(factor, torch.arange(size)[:, None], number)
        for level in range(size):
            assert found[level].equal((levels[:, factor] == level).nonzero()[:, 0])
