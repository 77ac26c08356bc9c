"""Random subsets of vectors, and statistics: the same however the batch is split."""

import functools
import operator

import pytest
import torch

from tests.helpers.family import as_set, rand
from vqlab.quantizers.base import CodeStats
from vqlab.quantizers.sampling import exponential_race, smallest_k, uniform_by_content, uniform_by_sample

ORIGIN = torch.zeros(())


def draw(rows, num, seed, center):
    return smallest_k(rows, uniform_by_content(rows, seed, center), num)


def merge(parts, num, seed):
    """Choose from each part, then from what was chosen."""
    rows, keys = zip(*[draw(part, num, seed, ORIGIN) for part in parts], strict=True)
    return smallest_k(torch.cat(rows), torch.cat(keys), num)


@pytest.mark.parametrize("dim", [1, 2, 64])
@pytest.mark.parametrize(("total", "num"), [(100, 10), (100, 100), (5, 20), (1, 1), (333, 40)])
@pytest.mark.parametrize("seed", range(2))
def test_the_choice_from_parts_is_that_from_the_whole(dim, total, num, seed):
    rows = rand(total, dim, seed=seed)
    whole, keys = draw(rows, num, seed, ORIGIN)
    assert whole.shape == (num, dim)
    assert torch.equal(keys[:total], uniform_by_content(rows, seed, ORIGIN).sort().values[:num])
    assert keys.isfinite().sum() == min(num, total)
    assert whole[total:].eq(0).all()
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    for parts in (rows[order].split(max(1, total // 3)), [rows[0::2], rows[1::2]], rows.flip(0).split(7)):
        merged, merged_keys = merge(parts, num, seed)
        assert as_set(merged) == as_set(whole)
        torch.testing.assert_close(merged_keys, keys, rtol=0, atol=2e-5)


def kolmogorov_smirnov(keys):
    """Largest difference between the empirical distribution and the uniform one on [0, 1]."""
    keys = keys.double().sort().values
    steps = torch.arange(len(keys) + 1).double() / len(keys)
    return max((keys - steps[:-1]).abs().max().item(), (keys - steps[1:]).abs().max().item())


@pytest.mark.parametrize("dim", [1, 2, 3, 64, 256])
@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_numbers_by_content_are_almost_uniform(dim, scale):
    rows = scale * rand(20_000, dim, seed=dim)
    for seed in range(4):
        keys = uniform_by_content(rows, seed, ORIGIN)
        assert keys.min() >= 0
        assert keys.max() <= 1
        assert kolmogorov_smirnov(keys) < (0.1 if dim < 3 else 0.03)


@pytest.mark.parametrize("dim", [1, 3, 8, 33])
@pytest.mark.parametrize("total", [29, 1001])
def test_repeats_go_to_the_end(dim, total):
    """One vector fills the batch; the few others must all be chosen, and the repeated one once."""
    others = rand(9, dim, seed=total)
    rows = rand(1, dim, seed=5).expand(total, dim).clone()
    places = torch.randperm(total, generator=torch.Generator().manual_seed(dim))[:9]
    rows[places] = others
    chosen, keys = draw(rows, 12, 0, ORIGIN)
    assert as_set(chosen[:10]) == as_set(torch.cat([others, rand(1, dim, seed=5)]))
    assert torch.equal(keys[:10], keys[:10].sort().values)
    assert torch.equal(chosen[10:], rand(1, dim, seed=5).expand(2, dim))
    merged, _ = merge(rows.split(10), 12, 0)
    assert as_set(merged) == as_set(chosen)


def test_numbers_by_sample_are_splitmix64():
    """Against the published finaliser in Python's unbounded integers."""
    mask = 2**64 - 1
    index, positions, seed = [0, 7, 49_999, 10**9], 5, 12
    keys = uniform_by_sample(torch.tensor(index), positions, seed)
    for b, sample in enumerate(index):
        for place in range(positions):
            x = ((sample * positions + place) * 0x9E3779B97F4A7C15 + seed * 0xD1342543DE82EF95) & mask
            x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
            x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
            assert keys[b * positions + place].item() == (((x ^ (x >> 31)) >> 11) + 0.5) / 2**53


def test_numbers_by_sample_are_uniform_and_independent():
    keys = torch.stack([uniform_by_sample(torch.arange(2000), 64, seed) for seed in range(4)])
    assert all(kolmogorov_smirnov(row) < 0.006 for row in keys)
    assert (torch.corrcoef(keys) - torch.eye(4)).abs().max() < 0.01
    assert torch.corrcoef(torch.stack([keys[0, :-1], keys[0, 1:]]))[0, 1].abs() < 0.01


def test_the_smallest_key_is_chosen_in_proportion_to_the_weights():
    weights = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]).double()
    times = exponential_race(torch.rand(200_000, 5, generator=torch.Generator().manual_seed(0)).double(), weights)
    counts = torch.bincount(times.argmin(1), minlength=5) / 200_000
    torch.testing.assert_close(counts.double(), weights / 10, rtol=0, atol=0.005)
    assert times[:, 0].isinf().all()


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


def test_stack_and_unbind_are_inverse():
    parts = [stats_of(*batch(num, seed=num)) for num in (4, 9, 2)]
    stacked = CodeStats.stack(parts)
    assert [getattr(stacked, name).shape for name in FIELDS] == [(3, 5), (3, 5, 3), (3, 4, 3), (3, 4)]
    for part, again in zip(parts, stacked.unbind(), strict=True):
        assert_same(part, again)
    twice = CodeStats.stack([stacked, stacked])
    assert twice.sums.shape == (2, 3, 5, 3)
    assert_same(twice.unbind()[1].unbind()[2], parts[2])
