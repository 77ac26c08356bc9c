"""CodeStats: the statistics of parts, put together, are those of the whole."""

import functools
import itertools
import operator

import pytest
import torch

from vqlab.quantizers.stats import CodeStats

FIELDS = ("counts", "sums", "candidates", "keys")


def stats_of(rows, indices, keys, codes=5, num=4):
    """The definition, row by row: (N, D) rows with indices (N,) and keys (N,)."""
    counts, sums = torch.zeros(codes), torch.zeros(codes, rows.shape[1])
    for row, index in zip(rows, indices.tolist(), strict=True):
        counts[index] += 1
        sums[index] += row
    chosen = sorted(range(len(rows)), key=keys.tolist().__getitem__)[:num]
    candidates, best = torch.zeros(num, rows.shape[1]), torch.full((num,), torch.inf, dtype=torch.float64)
    candidates[: len(chosen)], best[: len(chosen)] = rows[chosen], keys[chosen]
    return CodeStats(counts, sums, candidates, best)


def batch(num, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-50, 50, (num, 3), generator=generator).float()  # whole numbers, so that sums are exact
    indices = torch.randint(5, (num,), generator=generator)
    return rows, indices, torch.rand(num, generator=generator, dtype=torch.float64)


def assert_same(first, second):
    for name in FIELDS:
        a, b = getattr(first, name), getattr(second, name)
        assert a.dtype == b.dtype
        assert torch.equal(a, b), name


@pytest.mark.parametrize("sizes", [(20, 30), (1, 1), (2, 0, 7), (3, 1, 50, 2), (0, 0)])
def test_adding_parts_gives_the_statistics_of_the_whole(sizes):
    rows, indices, keys = batch(sum(sizes), seed=1)
    parts = [stats_of(*part) for part in zip(rows.split(sizes), indices.split(sizes), keys.split(sizes), strict=True)]
    assert_same(functools.reduce(operator.add, parts), stats_of(rows, indices, keys))


def test_the_order_and_the_brackets_do_not_matter():
    a, b, c = (stats_of(*batch(num, seed)) for num, seed in [(9, 2), (2, 3), (6, 4)])
    for x, y, z in itertools.permutations((a, b, c)):
        assert_same((x + y) + z, a + b + c)
        assert_same(x + (y + z), a + b + c)


def test_stack_and_unbind_are_inverse():
    parts = [stats_of(*batch(num, seed=num)) for num in (4, 9, 2)]
    stacked = CodeStats.stack(parts)
    assert [getattr(stacked, name).shape for name in FIELDS] == [(3, 5), (3, 5, 3), (3, 4, 3), (3, 4)]
    for part, again in zip(parts, stacked.unbind(), strict=True):
        assert_same(part, again)
    twice = CodeStats.stack([stacked, stacked])
    assert twice.sums.shape == (2, 3, 5, 3)
    assert_same(twice.unbind()[1].unbind()[2], parts[2])


def test_stacks_are_added_part_by_part():
    first, second = ([stats_of(*batch(num, seed=num + shift)) for num in (4, 9, 2)] for shift in (0, 100))
    joined = CodeStats.stack(first) + CodeStats.stack(second)
    for part, a, b in zip(joined.unbind(), first, second, strict=True):
        assert_same(part, a + b)
    nested = CodeStats.stack([CodeStats.stack(first)] * 2) + CodeStats.stack([CodeStats.stack(second)] * 2)
    assert_same(nested.unbind()[1].unbind()[0], first[0] + second[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_empty_statistics(dtype):
    empty = CodeStats.empty(torch.zeros(3, 7, dtype=dtype))
    assert empty.counts.dtype == dtype
    assert empty.keys.dtype == torch.float64
    assert all(getattr(empty, name).numel() == 0 for name in FIELDS)
    assert_same(empty + empty, empty)
    stacked = CodeStats.stack([empty] * 3)
    assert len(stacked.unbind()) == 3
    assert_same((stacked + stacked).unbind()[2], empty)
    assert_same(stacked.synchronized(), stacked)
